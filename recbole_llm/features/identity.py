"""What the features of a folder are made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.data.split import CUT_BY, split_identity
from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.features.encoder import Encoder, default_encoder
from recbole_llm.features.feature import Prerequisite
from recbole_llm.features.items import ItemTexts
from recbole_llm.features.lookup import find_feature
from recbole_llm.features.pseudonyms import REAL
from recbole_llm.features.vectors import digest
from recbole_llm.llm.endpoint import OFFLINE, Endpoint
from recbole_llm.settings.identity import tells_apart
from recbole_llm.settings.layers import Settings, takes_any_key
from recbole_llm.utils.files import check_file, file_sha256


def identity(
    settings: Settings,
    location: DatasetLocation,
    dataset: Any,
    endpoint: Endpoint | None,
    stage_one: Prerequisite | None,
    encoder: Encoder,
    items: ItemTexts,
) -> dict[str, Any]:
    """Everything that the features of a run are made from; another identity means another folder.

    Versions of features and prompts are left out: they make single features of a folder stale. The encoder is
    included for the offline rule, which reads sentence vectors.

    Args:
        settings: the run's settings.
        location: where the dataset is.
        dataset: with ``split``, ``sha256`` and ``reading()``.
        endpoint: the endpoint that is asked; ``None`` for the offline rule.
        stage_one: the model that the features depend on.
        encoder: the text encoder.
        items: the items' texts.

    Raises:
        UserError: a file of profiles or vectors does not exist, or a feature depends on a setting that the model lacks.
    """
    names = settings.method.features
    _check_keys(settings)
    keys = sorted({key for feature in map(find_feature, names) for key in feature.settings_keys})
    item_file = location.file("item")
    fills = endpoint is not None and settings["fill"] == OFFLINE
    clusters = any(getattr(find_feature(name), "clusters_vectors", False) for name in names)
    other = clusters and endpoint is not None and encoder.id != default_encoder().id  # older folders: the default
    reading = dataset.reading()
    return {
        "dataset": location.name,
        "inter_sha256": dataset.sha256,
        "item_sha256": file_sha256(item_file) if item_file else None,
        "text": settings.get("text"),
        **({"text_found_by": items.found_by} if items.found_by else {}),
        **_profiles_identity(settings),
        **_vectors_identity(settings),
        **({"titles": [settings["titles"], settings["titles_seed"]]} if settings["titles"] != REAL else {}),
        **({"answer_share": settings["answer_share"]} if settings["answer_share"] != 1 else {}),
        "protocol": settings["protocol"],
        "split": split_identity(dataset.split),
        **({"cut_by": {key: settings[key] for key in CUT_BY}} if dataset.split.cuts is not None else {}),
        "llm": endpoint.identity if endpoint else {"name": OFFLINE, "encoder": encoder.id},
        "features": list(names),
        "settings": {k: settings.get(k) for k in keys if tells_apart(k, settings.get(k), settings.definitions)},
        "stage_one": stage_one.key if stage_one else None,
        # With a stride, older versions used the answer to an earlier prefix for a tested position.
        **({"tested_positions": "asked"} if settings.get("intent_stride", 1) != 1 else {}),
        **({"fill": {"name": OFFLINE, "encoder": encoder.id}} if fills else {}),
        **({"encoder": encoder.id} if other and not fills else {}),
        **({"reading": reading} if reading else {}),
    }


def _check_keys(settings: Settings) -> None:
    """Refuse a mistyped key: a change of the setting that was meant would leave the features as they are."""
    known = {*settings.values, *settings.definitions}
    if takes_any_key(settings.method):
        return
    for feature in map(find_feature, settings.method.features):
        for key in feature.settings_keys:
            if key not in known:
                raise UserError(
                    f"the feature {feature.name}: settings_keys names {key!r}, and {settings.method.name} has no such "
                    f"setting.{did_you_mean(key, known)}"
                )


def _profiles_identity(settings: Settings) -> dict[str, Any]:
    path = settings.get("profiles")
    if not path:
        return {}
    # Older versions ignored text in brackets even if a whole title matched.
    found = {"by": settings["profiles_by"], **({"titles": "whole"} if settings["profiles_by"] == "title" else {})}
    return {"profiles": {"sha256": file_sha256(check_file("--profiles", Path(path))), **found}}


def _vectors_identity(settings: Settings) -> dict[str, Any]:
    found = [digest(Path(path)) for path in settings.get("vectors") or ()]
    return {"vectors": found} if found else {}
