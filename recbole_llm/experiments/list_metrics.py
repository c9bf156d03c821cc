"""A run's metrics of the recommended lists: what they need from the dataset, and what to do if that is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import LIST_METRICS, NEED_CATEGORIES, NEED_VECTORS
from recbole_llm.evaluation.ranks import Ranks, item_popularity
from recbole_llm.evaluation.subgroups import user_gap
from recbole_llm.features.encoder import default_encoder, encode_texts
from recbole_llm.features.items import ItemTexts, item_texts
from recbole_llm.settings.layers import Settings
from recbole_llm.training.lists import ItemCategories, TopLists
from recbole_llm.utils.yaml import properties_folder, read_yaml


def list_counter(
    settings: Settings, location: DatasetLocation, dataset: Any, config: Mapping[str, Any]
) -> tuple[TopLists | None, list[str]]:
    """Counters for the list metrics that a run asks for, and notes on those that cannot be computed.

    Args:
        settings: of the run.
        location: where the dataset lies.
        dataset: with interactions and split.
        config: RecBole's form of the settings.

    Raises:
        UserError: a metric that was asked for by name needs categories or titles that the dataset does not have.
    """
    names = [name.lower() for name in config["list_metrics"]]
    if not names:
        return None, []
    categories = vectors = None
    missing: dict[str, str] = {}
    if {*NEED_CATEGORIES, *NEED_VECTORS} & set(names) and location.file("item") is None:
        missing = dict.fromkeys(NEED_CATEGORIES, "categories") | dict.fromkeys(NEED_VECTORS, "titles")
    elif {*NEED_CATEGORIES, *NEED_VECTORS} & set(names):
        texts = item_texts(settings.values, location, dataset.table)
        if not any(texts.categories):
            missing |= dict.fromkeys(NEED_CATEGORIES, "categories")
        elif set(NEED_CATEGORIES) & set(names):
            categories = ItemCategories.of(texts.categories)
        if not texts.named:
            missing |= dict.fromkeys(NEED_VECTORS, "titles")
        elif set(NEED_VECTORS) & set(names):
            vectors = _title_vectors(texts, dataset.table.item_tokens, location, str(config["device"]))
    notes = [_left_out(name, missing[name], settings, location) for name in names if name in missing]
    counts, _ = item_popularity(dataset.table.item[dataset.split.train_rows], dataset.item_num)
    kept = [name for name in names if name not in missing]
    return TopLists(config["topk"], counts, config["tail_ratio"], kept, categories, vectors), notes


def _left_out(name: str, lack: str, settings: Settings, location: DatasetLocation) -> str:
    """The note on a default metric that cannot be computed; an error if the user asked for it."""
    title = LIST_METRICS[name]
    reason = f"{location.name} has no item {lack} (columns of .item that the dataset's text: settings name)"
    by_default = settings.origin.get("list_metrics", "").startswith("properties/")
    if not by_default or title not in read_yaml(properties_folder() / "overall.yaml")["list_metrics"]:
        raise UserError(f"--list_metrics={title}: {reason}.")
    return f"{title} left out: {reason}"


def _title_vectors(texts: ItemTexts, tokens: Sequence[str], location: DatasetLocation, device: str) -> np.ndarray:
    """``(n_items, d)`` vectors of the items' titles, zero for items without one; encoded once per dataset.

    They come from the default encoder for every model, whatever it reads itself, so that rows are comparable.
    """
    titled = texts.titled(tokens)
    found = encode_texts([texts.title[item] for item in titled], default_encoder(), location.vectors, device)
    vectors = np.zeros((len(tokens), found.shape[1]), dtype=np.float32)
    vectors[titled] = found
    return vectors


def list_metrics_of(lists: TopLists, ranks: Ranks, names: Sequence[str]) -> dict[str, float]:
    """The list metrics after the test, from the counters; the gap between groups of users comes from the ranks."""
    found = lists.totals().summarise(names)
    if "ugf" in {name.lower() for name in names}:
        gaps = {f"ugf@{k}": user_gap(ranks, f"ndcg@{k}") for k in lists.topk}
        found |= {name: value for name, value in gaps.items() if np.isfinite(value)}
    return found
