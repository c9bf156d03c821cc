"""Metrics of recommended lists: which items they hold, how evenly, and how popular these are.

The metrics defined here need one number per item: how many lists hold it among their first K. One pass over
the scores therefore keeps counters, never lists. Definitions are RecBole's (evaluator/metrics.py:453-760);
``Novelty`` is the mean self-information over all places.

If scores are tied at the edge of a list, a fixed random order of the items decides, never their ids.
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
    """Counts from one pass over all lists.

    Attributes:
        topk: cut-offs, ascending.
        counts: ``(len(topk), n_items)`` int64, the number of lists that hold each item among their first places.
        train_counts: ``(n_items,)`` training interactions of each item id, 0 for the padding.
        tail_ratio: share of the trained items that form the tail; above 1, the largest training count of a tail item.
        means: by name, ``(len(topk),)`` values of the metrics that do not follow from counts, ``nan`` if undefined.
    """

    topk: list[int]
    counts: np.ndarray
    train_counts: np.ndarray
    tail_ratio: float = TAIL_RATIO
    means: dict[str, np.ndarray] = field(default_factory=dict)

    def summarise(self, metrics: Iterable[str]) -> dict[str, float]:
        """Each metric at each cut-off, keyed as in RecBole (``giniindex@10``); metrics without a value are left out."""
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
    """Share of the item ids (including the padding, as in RecBole) that occur in some list."""
    return np.count_nonzero(counts) / len(counts)


def gini_index(lists: ListCounts, counts: np.ndarray) -> float:
    """Inequality of the items' counts: 0 if all are equal, near 1 if a few items fill all lists."""
    ordered = np.sort(counts)
    place = np.arange(1, len(counts) + 1)
    return float((2 * place - len(counts) - 1) @ ordered) / max(1, ordered.sum()) / len(counts)


def shannon_entropy(lists: ListCounts, counts: np.ndarray) -> float:
    """Entropy (natural logarithm) of the items' shares, divided by the number of listed items, as in RecBole."""
    share = counts[counts > 0] / max(1, counts.sum())
    return float(-(share * np.log(share)).sum() / max(1, len(share)))


def average_popularity(lists: ListCounts, counts: np.ndarray) -> float:
    """Mean number of training interactions of the items in the lists."""
    return float(counts @ lists.train_counts) / max(1, counts.sum())


def tail_percentage(lists: ListCounts, counts: np.ndarray) -> float:
    """Share of the places filled by tail items, the trained items with the fewest interactions.

    Ties at the edge of the tail go to the smaller id, as in RecBole.
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

    An item without training interactions is treated as having one.
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
