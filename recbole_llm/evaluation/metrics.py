"""Metrics from ranks: first per case, then the mean.

Names and definitions are RecBole's (evaluator/metrics.py). With tied scores every value is the exact
expectation over the order of the ties (McSherry and Najork, ECIR 2008); without ties it is RecBole's
value.

In the formulas, a group of tied items has ``s`` members, ``m`` of them targets, and ``g`` items score higher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from math import comb

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import UNCUT_METRICS, needs_lists, parse_metric
from recbole_llm.evaluation.ranks import Ranks

Metric = Callable[[Ranks, int], np.ndarray]


@cache
def _prefix(kind: str, length: int) -> np.ndarray:
    """Sums of the first ``0..length`` gains by rank: ``1/log2(r+1)`` or ``1/r``."""
    rank = np.arange(1, length + 1)
    gain = 1.0 / np.log2(rank + 1) if kind == "dcg" else 1.0 / rank
    return np.concatenate([[0.0], np.cumsum(gain)])


def _chance(ranks: Ranks, k: int) -> np.ndarray:
    """``(t,)`` probability that each target is among the first ``k``."""
    size = ranks.tied.astype(np.int64) + 1
    return np.clip(k - ranks.higher.astype(np.int64), 0, size) / size


def _expected_gain(ranks: Ranks, k: int, kind: str) -> np.ndarray:
    """``(t,)`` expected gain of each target, zero beyond rank ``k``."""
    low = np.minimum(ranks.higher.astype(np.int64), k)
    high = np.minimum(ranks.higher.astype(np.int64) + ranks.tied + 1, k)
    sums = _prefix(kind, k)
    return (sums[high] - sums[low]) / (ranks.tied.astype(np.int64) + 1)


def _sum_by_case(values: np.ndarray, ranks: Ranks) -> np.ndarray:
    return np.add.reduceat(values, ranks.offsets[:-1]) if len(values) else values


def _targets(ranks: Ranks) -> np.ndarray:
    return np.diff(ranks.offsets)


def recall(ranks: Ranks, k: int) -> np.ndarray:
    """Share of a case's targets among the first ``k``."""
    return _sum_by_case(_chance(ranks, k), ranks) / _targets(ranks)


def precision(ranks: Ranks, k: int) -> np.ndarray:
    """Share of the first ``k`` places that hold targets."""
    return _sum_by_case(_chance(ranks, k), ranks) / k


def ndcg(ranks: Ranks, k: int) -> np.ndarray:
    """Discounted gain of the targets, ``1/log2(rank+1)`` each, divided by the gain of the best possible list."""
    ideal = _prefix("dcg", k)[np.minimum(_targets(ranks), k)]
    return _sum_by_case(_expected_gain(ranks, k, "dcg"), ranks) / ideal


def hit(ranks: Ranks, k: int) -> np.ndarray:
    """Whether any target is among the first ``k``: ``1 - C(s-m, k-g) / C(s, k-g)`` for the best group."""
    if np.all(_targets(ranks) == 1):
        return _chance(ranks, k)
    return _per_case(ranks, (_first(ranks) < k).astype(np.float64), lambda groups: _hit_of(groups, k))


def mrr(ranks: Ranks, k: int) -> np.ndarray:
    """One over the rank of the first target, zero beyond ``k``."""
    if np.all(_targets(ranks) == 1):
        return _expected_gain(ranks, k, "reciprocal")
    first = _first(ranks)
    return _per_case(ranks, np.where(first < k, 1.0 / (first + 1), 0.0), lambda groups: _mrr_of(groups, k))


def average_precision(ranks: Ranks, k: int) -> np.ndarray:
    """Sum of the precision at the ranks of the targets, divided by ``min(targets, k)``."""
    if np.all(_targets(ranks) == 1):
        return _expected_gain(ranks, k, "reciprocal")
    return _per_case(ranks, _untied_precision(ranks, k), lambda groups: _map_of(groups, k))


def gauc(ranks: Ranks, k: int = 0) -> np.ndarray:
    """Probability that a target is ranked above a non-target; ties count half.

    RecBole weights each case by its number of targets. These values include the weight, so that their plain
    mean is RecBole's GAUC. Cases that rank only targets have weight 0.

    Raises:
        UserError: the number of ranked items was not stored.
    """
    if len(ranks.pool) != len(ranks):
        raise UserError("gauc needs the number of ranked items, which files of an earlier version do not hold.")
    targets = _targets(ranks)
    others = ranks.pool - targets
    place = _sum_by_case(ranks.higher + ranks.tied / 2 + 1, ranks)
    pairs = (ranks.pool + 1) * targets - targets * (targets + 1) / 2 - place
    weight = np.where(others > 0, targets, 0)
    return pairs / np.maximum(others, 1) * (weight > 0) * len(ranks) / max(1, weight.sum())


def _first(ranks: Ranks) -> np.ndarray:
    """``(m,)`` number of items above the best target of each case."""
    return np.minimum.reduceat(ranks.higher.astype(np.int64), ranks.offsets[:-1]) if len(ranks) else np.zeros(0)


def _untied_precision(ranks: Ranks, k: int) -> np.ndarray:
    """Average precision of cases as if no target were tied."""
    case = np.repeat(np.arange(len(ranks)), _targets(ranks))
    order = np.lexsort((ranks.higher, case))
    number = np.arange(len(case)) - ranks.offsets[:-1][case] + 1  # place among its case's targets, best first
    higher = ranks.higher[order].astype(np.int64)
    values = np.where(higher < k, number / (higher + 1), 0.0)
    return _sum_by_case(values, ranks) / np.minimum(_targets(ranks), k)


Group = tuple[int, int, int]  # items above, size, targets


def _per_case(ranks: Ranks, untied: np.ndarray, value: Callable[[list[Group]], float]) -> np.ndarray:
    """``untied`` for cases without ties; for the others, ``value`` of their groups of tied items."""
    out = untied.copy()
    for case in np.flatnonzero(_sum_by_case(ranks.tied, ranks)):
        own = slice(ranks.offsets[case], ranks.offsets[case + 1])
        above, members = np.unique(np.stack([ranks.higher[own], ranks.tied[own] + 1]), axis=1, return_counts=True)
        out[case] = value([(int(g), int(s), int(m)) for (g, s), m in zip(above.T, members, strict=True)])
    return out


def _hit_of(groups: list[Group], k: int) -> float:
    above, size, targets = groups[0]
    places = min(max(k - above, 0), size)
    return 1.0 - comb(size - targets, places) / comb(size, places)


def _mrr_of(groups: list[Group], k: int) -> float:
    above, size, targets = groups[0]
    last = min(size - targets + 1, k - above)
    ways = comb(size, targets)
    return sum(comb(size - j, targets - 1) / ways / (above + j) for j in range(1, last + 1))


def _map_of(groups: list[Group], k: int) -> float:
    total, before = 0.0, 0
    for above, size, targets in groups:
        place = np.arange(1, min(size, max(k - above, 0)) + 1)
        together = (targets - 1) / (size - 1) if size > 1 else 0.0
        precision_here = (before + 1 + (place - 1) * together) / (above + place)
        total += targets / size * float(precision_here.sum())
        before += targets
    return total / min(before, k)


METRICS: dict[str, Metric] = {
    "hit": hit,
    "ndcg": ndcg,
    "mrr": mrr,
    "recall": recall,
    "precision": precision,
    "map": average_precision,
}


def per_case(ranks: Ranks, metric: str) -> np.ndarray:
    """``(m,)`` float64 values of one metric, such as ``ndcg@10``, case by case.

    Raises:
        UserError: the metric is unknown, does not follow from ranks, or needs ranks that were not computed.
    """
    name, k = parse_metric(metric)
    if not ranks.reach(k):
        raise UserError(
            f"{metric}: these ranks were looked for up to place {ranks.cut_off} (decode: bounded); run it again with a "
            "larger topk, or with decode: exact."
        )
    if needs_lists(name):
        raise UserError(f"{metric} follows from whole lists, not from ranks: it is computed during a run only.")
    return gauc(ranks) if name == "gauc" else METRICS[name](ranks, k)


def summarise(ranks: Ranks, metrics: Iterable[str], topk: Iterable[int]) -> dict[str, float]:
    """The mean of each metric at each cut-off, keyed as in RecBole (``ndcg@10``)."""
    found: dict[str, float] = {}
    for metric in metrics:
        for k in topk:
            key = metric.lower() if metric.lower() in UNCUT_METRICS else f"{metric.lower()}@{k}"
            found[key] = float(per_case(ranks, key).mean())
    return found
