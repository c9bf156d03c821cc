"""Metrics of the lists that a model shows: which items, how evenly, how popular.

All of them follow from one number an item: how many lists hold it among their first K. So one pass over
the scores keeps counters, never lists. Definitions are RecBole's (evaluator/metrics.py:453-760), ``Novelty``
is the mean self-information of the places.

Where equal scores meet at the edge of a list, a fixed random order of the items decides, never their ids.
Places that no item can fill (everything else is masked) stay empty; RecBole fills them with masked items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from recbole_llm.evaluation.names import parse_metric

TAIL_RATIO = 0.1  # RecBole's default


@dataclass(frozen=True)
class ListCounts:
    """What a pass over all lists has counted.

    Attributes:
        topk: cut-offs, ascending.
        counts: ``(len(topk), n_items)`` int64, the lists that hold each item among their first places.
        train_counts: ``(n_items,)`` training interactions of each item id, 0 for the padding.
        tail_ratio: share of the trained items that are the tail; above 1, the largest count of a tail item.
        means: ``(len(topk),)`` values of the metrics that are not of counts, ``nan`` where there is none.
    """

    topk: list[int]
    counts: np.ndarray
    train_counts: np.ndarray
    tail_ratio: float = TAIL_RATIO
    means: dict[str, np.ndarray] = field(default_factory=dict)

    def summarise(self, metrics: Iterable[str]) -> dict[str, float]:
        """Each metric at each cut-off, keyed as RecBole does (``giniindex@10``); what has no value is left out."""
        found: dict[str, float] = {}
        for metric in metrics:
            for number, k in enumerate(self.topk):
                name, _ = parse_metric(f"{metric}@{k}")
                if name in _METRICS:
                    found[f"{name}@{k}"] = _METRICS[name](self, self.counts[number])
                elif name in self.means and np.isfinite(self.means[name][number]):
                    found[f"{name}@{k}"] = float(self.means[name][number])
        return found


def item_coverage(lists: ListCounts, counts: np.ndarray) -> float:
    """Share of the item ids (RecBole counts the padding too) that some list holds."""
    return np.count_nonzero(counts) / len(counts)


def gini_index(lists: ListCounts, counts: np.ndarray) -> float:
    """Inequality of the items' counts: 0 all alike, towards 1 a few items fill all lists."""
    ordered = np.sort(counts)
    place = np.arange(1, len(counts) + 1)
    return float((2 * place - len(counts) - 1) @ ordered) / max(1, ordered.sum()) / len(counts)


def shannon_entropy(lists: ListCounts, counts: np.ndarray) -> float:
    """Entropy (natural logarithm) of the items' shares, divided by the number of listed items as RecBole has it."""
    share = counts[counts > 0] / max(1, counts.sum())
    return float(-(share * np.log(share)).sum() / max(1, len(share)))


def average_popularity(lists: ListCounts, counts: np.ndarray) -> float:
    """Mean number of training interactions of the items in the lists."""
    return float(counts @ lists.train_counts) / max(1, counts.sum())


def tail_percentage(lists: ListCounts, counts: np.ndarray) -> float:
    """Share of the places that tail items fill: the trained items with fewest interactions.

    Among equals at the edge of the tail the smaller id belongs to it, as in RecBole.
    """
    trained = np.flatnonzero(lists.train_counts)
    if lists.tail_ratio > 1:
        tail = trained[lists.train_counts[trained] <= lists.tail_ratio]
    else:
        ordered = trained[np.argsort(lists.train_counts[trained], kind="stable")]
        tail = ordered[: max(int(len(ordered) * lists.tail_ratio), 1)]
    return float(counts[tail].sum()) / max(1, counts.sum())


def novelty(lists: ListCounts, counts: np.ndarray) -> float:
    """Mean over the places of ``-log2`` of the item's share of all training interactions.

    An item without training interactions counts as one with a single interaction.
    """
    known = np.maximum(lists.train_counts, 1)
    information = -np.log2(known / max(1, lists.train_counts.sum()))
    return float(counts @ information) / max(1, counts.sum())


_METRICS: dict[str, Callable[[ListCounts, np.ndarray], float]] = {
    "itemcoverage": item_coverage,
    "giniindex": gini_index,
    "shannonentropy": shannon_entropy,
    "averagepopularity": average_popularity,
    "tailpercentage": tail_percentage,
    "novelty": novelty,
}
