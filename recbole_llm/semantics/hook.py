"""The hook: make sure that the features a model reads exist, making only what is missing."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from recbole_llm.data.catalog import DatasetLocation, file_sha256
from recbole_llm.errors import UserError
from recbole_llm.semantics.encode import Encoder, encode_texts
from recbole_llm.semantics.features.base import Context, Progress, StageOne
from recbole_llm.semantics.items import read_item_texts
from recbole_llm.semantics.llm.cache import ResponseCache
from recbole_llm.semantics.llm.endpoint import OFFLINE, Endpoint, load_endpoint
from recbole_llm.semantics.reader import SemanticFeatures
from recbole_llm.semantics.registry import FEATURES
from recbole_llm.semantics.store import SemanticFolder
from recbole_llm.semantics.versions import feature_versions
from recbole_llm.settings import Settings

logger = logging.getLogger(__name__)

Watch = Callable[[str], AbstractContextManager[None]]


def chosen_endpoint(settings: Settings) -> Endpoint | None:
    """The endpoint of ``--llm``, ``None`` for the offline rule.

    Raises:
        UserError: an unknown source, or a paid one without ``--max_cost``.
    """
    if settings["llm"] == OFFLINE:
        return None
    changes = {key: settings.get(key) for key in ("llm_model", "llm_base_url", "llm_concurrency")}
    endpoint = load_endpoint(settings["llm"], changes)
    if endpoint.paid and settings.get("max_cost") is None:
        raise UserError(
            f"--llm={endpoint.name} costs money ({endpoint.price_in} and {endpoint.price_out} US$ for a million tokens "
            "in and out): give --max_cost=5.00 or another limit."
        )
    return endpoint


def _identity(
    settings: Settings,
    location: DatasetLocation,
    dataset: Any,
    endpoint: Endpoint | None,
    stage_one: StageOne | None,
    encoder: Encoder,
) -> dict[str, Any]:
    """All that the features are made from; the offline rule looks at sentence vectors too."""
    names = settings.method.features
    keys = sorted({key for name in names for key in FEATURES[name].settings_keys})
    item_file = location.file("item")
    split = dataset.split
    return {
        "dataset": location.name,
        "inter_sha256": dataset.sha256,
        "item_sha256": file_sha256(item_file) if item_file else None,
        "text": settings.get("text"),
        "protocol": settings["protocol"],
        "split": {
            "train_rows": len(split.train_rows),
            "valid_cases": len(split.valid),
            "test_cases": len(split.test),
            "rows_sha256": hashlib.sha256(
                b"".join(
                    np.ascontiguousarray(part, dtype="<i8").tobytes()
                    for part in (split.train_rows, split.valid.end, split.test.end)
                )
            ).hexdigest()[:16],
        },
        "llm": {"name": endpoint.name, "model": endpoint.model, "temperature": endpoint.temperature}
        if endpoint
        else {"name": OFFLINE, "encoder": encoder.id},
        "features": feature_versions(names),
        "settings": {key: settings.get(key) for key in keys},
        "stage_one": stage_one.key if stage_one else None,
    }


def ensure_features(
    settings: Settings,
    location: DatasetLocation,
    dataset: Any,
    stage_one: StageOne | None,
    progress: Progress,
    watch: Watch,
) -> SemanticFeatures:
    """Make what is missing of the features that the settings' model reads.

    Args:
        settings: of the run.
        location: where the dataset lies; files go to its ``home``.
        dataset: with ``table``, ``split`` and ``sha256``.
        stage_one: the prerequisite model, trained only if a missing feature needs it.
        progress: wraps loops for a progress bar.
        watch: times the phases ``llm`` and ``encode``.

    Raises:
        UserError: the source of answers, the encoder or a file cannot be used.
    """
    endpoint = chosen_endpoint(settings)
    encoder = Encoder(str(settings["encoder"]), "mean", int(settings["encoder_max_length"]))
    identity = _identity(settings, location, dataset, endpoint, stage_one, encoder)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:12]
    home = location.home / "semantics"
    source = endpoint.name if endpoint else OFFLINE
    folder = SemanticFolder(home / f"{settings['protocol']}-{source}-{digest}", location.stem, identity)
    items = read_item_texts(location, dataset.table, settings.get("text"))

    def vectors_of(texts: Sequence[str], pooling: str) -> np.ndarray:
        with watch("encode"):
            device = str(dataset.config["device"])
            return encode_texts(texts, replace(encoder, pooling=pooling), home / "vectors.sqlite", device, progress)

    def encode() -> np.ndarray:
        known = folder.vectors(encoder.id)
        if known is None:
            known = vectors_of(folder.texts.texts, encoder.pooling)
            folder.write_vectors(encoder.id, known)
            folder.save_manifest()
        return known

    wanted = dict.fromkeys(("itemtext", *settings.method.features))
    missing = [name for name in wanted if not _is_made(folder, name)]
    if missing:
        cache = ResponseCache(home / "responses.sqlite") if endpoint else None
        try:
            context = Context(
                settings,
                dataset.table,
                dataset.split,
                items,
                folder,
                endpoint,
                cache,
                stage_one,
                progress,
                encode,
                vectors_of,
            )
            for name in missing:
                _make(FEATURES[name], context, watch)
        finally:
            if cache is not None:
                cache.close()
    encode()
    return SemanticFeatures(
        folder, dataset.table, encoder.id, settings["semantics"], _facts(folder, encoder), int(settings["seed"])
    )


def _is_made(folder: SemanticFolder, name: str) -> bool:
    entry = folder.manifest["features"].get(name)
    return entry is not None and not entry.get("stopped") and all(folder.has(file) for file in FEATURES[name].files)


def _make(feature: Any, context: Context, watch: Watch) -> None:
    logger.info("making %s for %s", feature.name, context.folder.path.name)
    before = vars(context.usage).copy()
    phase = "llm" if context.endpoint is not None and feature.prompts else "features"
    with watch(phase):
        facts = feature.build(context)
    usage = {
        name: round(value - before[name], 6) if isinstance(value, float) else value - before[name]
        for name, value in vars(context.usage).items()
        if isinstance(value, (int, float))
    }
    context.folder.commit(feature.name, {**facts, "usage": usage, "stopped": context.usage.stopped})
    if context.usage.stopped:
        raise UserError(
            f"stopped: {context.usage.stopped}. The {usage['requests'] + usage['cached']} answers so far are kept; "
            "run the same command with a higher limit to go on."
        )


def _facts(folder: SemanticFolder, encoder: Encoder) -> dict[str, Any]:
    """What the record says of the features."""
    llm = folder.identity["llm"]
    features = folder.manifest["features"]
    usages = [entry["usage"] for entry in features.values() if "usage" in entry]
    total = {
        name: sum(usage.get(name, 0) for usage in usages)
        for name in ("requests", "cached", "failed", "tokens_in", "tokens_out")
    }
    return {
        "llm": llm["name"],
        "llm_model": llm.get("model"),
        "encoder": encoder.id,
        "folder": str(folder.path),
        "manifest_sha256": file_sha256(folder.path / "manifest.json"),
        "coverage": {name: entry["coverage"] for name, entry in features.items() if "coverage" in entry},
        "price": round(sum(usage.get("price", 0.0) for usage in usages), 6),
        **total,
    }
