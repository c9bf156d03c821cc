"""Metrics of the lists that a model shows: which items, how evenly, how popular.

All of them follow from one number an item: how many lists hold it among their first K. So one pass over
the scores keeps counters, never lists. Definitions are RecBole's (evaluator/metrics.py:453-760), ``Novelty``
is the mean self-information of the places.

Where equal scores meet at the edge of a list, a fixed random order of the items decides, never their ids.
Places that no item can fill (everything else is masked) stay empty; RecBole fills them with masked items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from recbole_llm.evaluation.names import parse_metric

TAIL_RATIO = 0.1  # RecBole's default


class TopLists:
    """Counts, for each item and each cut-off, the lists that hold the item.

    Args:
        topk: cut-offs.
        train_counts: ``(n_items,)`` training interactions of each item id, 0 for the padding.
        tail_ratio: share of the trained items that are the tail; above 1, the largest count of a tail item.
    """

    def __init__(self, topk: Iterable[int], train_counts: np.ndarray, tail_ratio: float | None = None) -> None:
        self.topk = sorted(set(topk))
        self.train_counts = np.asarray(train_counts)
        self.tail_ratio = tail_ratio if tail_ratio and tail_ratio > 0 else TAIL_RATIO
        self._counts: torch.Tensor | None = None
        self._orders: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def add(self, scores: torch.Tensor, candidates: torch.Tensor | None = None) -> None:
        """Count the lists of a block.

        Args:
            scores: ``(B, n)`` float, ``-inf`` for what is not ranked.
            candidates: ``(B, n)`` item ids of the columns; the columns are all items when ``None``.
        """
        width = min(self.topk[-1] + 1, scores.shape[1])
        values, places = scores.topk(width, dim=1)
        tied = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        for k in self.topk:
            if k < width:
                tied |= (values[:, k - 1] == values[:, k]) & torch.isfinite(values[:, k])
        if bool(tied.any()):
            lines = tied.nonzero().squeeze(1)
            order = self._order(scores.shape[1], scores.device)
            again = scores[lines][:, order].topk(width, dim=1)
            values[lines], places[lines] = again.values, order[again.indices]
        items = places if candidates is None else candidates.gather(1, places)
        filled = values > -torch.inf
        if self._counts is None:
            shape = (len(self.topk), len(self.train_counts))
            self._counts = torch.zeros(shape, dtype=torch.int64, device=scores.device)
        for number, k in enumerate(self.topk):
            chosen = items[:, :k][filled[:, :k]]
            self._counts[number] += torch.bincount(chosen, minlength=self._counts.shape[1])

    def _order(self, length: int, device: torch.device) -> torch.Tensor:
        if length not in self._orders:
            generator = torch.Generator().manual_seed(length)
            self._orders[length] = torch.randperm(length, generator=generator).to(device)
        return self._orders[length]

    def counts(self, k: int) -> np.ndarray:
        """``(n_items,)`` int64: lists that hold each item among their first ``k``."""
        if self._counts is None:
            return np.zeros(len(self.train_counts), dtype=np.int64)
        return self._counts[self.topk.index(k)].cpu().numpy()

    def summarise(self, metrics: Iterable[str]) -> dict[str, float]:
        """Each metric at each cut-off, keyed as RecBole does (``giniindex@10``)."""
        found: dict[str, float] = {}
        for metric in metrics:
            for k in self.topk:
                key = f"{metric.lower()}@{k}"
                found[key] = _METRICS[parse_metric(key)[0]](self, self.counts(k))
        return found


def item_coverage(lists: TopLists, counts: np.ndarray) -> float:
    """Share of the item ids (RecBole counts the padding too) that some list holds."""
    return np.count_nonzero(counts) / len(counts)


def gini_index(lists: TopLists, counts: np.ndarray) -> float:
    """Inequality of the items' counts: 0 all alike, towards 1 a few items fill all lists."""
    ordered = np.sort(counts)
    place = np.arange(1, len(counts) + 1)
    return float((2 * place - len(counts) - 1) @ ordered) / max(1, ordered.sum()) / len(counts)


def shannon_entropy(lists: TopLists, counts: np.ndarray) -> float:
    """Entropy (natural logarithm) of the items' shares, divided by the number of listed items as RecBole has it."""
    share = counts[counts > 0] / max(1, counts.sum())
    return float(-(share * np.log(share)).sum() / max(1, len(share)))


def average_popularity(lists: TopLists, counts: np.ndarray) -> float:
    """Mean number of training interactions of the items in the lists."""
    return float(counts @ lists.train_counts) / max(1, counts.sum())


def tail_percentage(lists: TopLists, counts: np.ndarray) -> float:
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


def novelty(lists: TopLists, counts: np.ndarray) -> float:
    """Mean over the places of ``-log2`` of the item's share of all training interactions.

    An item without training interactions counts as one with a single interaction.
    """
    known = np.maximum(lists.train_counts, 1)
    information = -np.log2(known / max(1, lists.train_counts.sum()))
    return float(counts @ information) / max(1, counts.sum())


_METRICS: dict[str, Callable[[TopLists, np.ndarray], float]] = {
    "itemcoverage": item_coverage,
    "giniindex": gini_index,
    "shannonentropy": shannon_entropy,
    "averagepopularity": average_popularity,
    "tailpercentage": tail_percentage,
    "novelty": novelty,
}
