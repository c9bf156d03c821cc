"""Metrics of subgroups of test cases: popular and rare items, short and long histories, cold items and users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.names import parse_metric
from recbole_llm.evaluation.ranks import Ranks, only_targets

SUBGROUPS = (
    *("head items", "tail items", "cold items", "short histories", "long histories"),
    *("warm users and items", "cold users"),
)


def subgroup(ranks: Ranks, name: str) -> Ranks:
    """The ranks of one subgroup.

    Head items are the fifth with most training interactions; cold items have none and belong to the tail;
    histories are short up to the median of the test cases. Cold users have no training interaction; if there are
    none, the group of warm users and items is empty.
    """
    if name == "head items":
        return only_targets(ranks, ranks.head)
    if name == "tail items":
        return only_targets(ranks, ~ranks.head)
    if name == "cold items":
        return only_targets(ranks, ranks.train_count == 0)
    if name in ("warm users and items", "cold users"):
        cold = ranks.cold_user if len(ranks.cold_user) else np.zeros(len(ranks), dtype=bool)
        if name == "cold users" or not cold.any():
            return ranks.select(np.flatnonzero(cold))
        known = np.repeat(~cold, np.diff(ranks.offsets))
        return only_targets(ranks, known & (ranks.train_count > 0))
    short = ranks.history <= np.median(ranks.history)
    return ranks.select(np.flatnonzero(short if name == "short histories" else ~short))


def user_gap(ranks: Ranks, metric: str) -> float:
    """How much better one half of the users is served: ``|mean over long histories - mean over short ones|``.

    User-oriented group fairness (Li, Chen, Fu, Ge and Zhang, "User-oriented Fairness in Recommendation", WWW 2021).
    Users are grouped by activity, here at the median of the visible histories; ``nan`` if none is above the median.
    """
    parts = [subgroup(ranks, name) for name in ("long histories", "short histories")]
    if not all(len(part) for part in parts):
        return float("nan")
    first, second = (float(per_case(part, metric).mean()) for part in parts)
    return abs(first - second)


def subgroup_means(runs: Sequence[Ranks], metric: str) -> dict[str, tuple[int, float]]:
    """For each subgroup, its number of cases and the metric's mean over the runs.

    The mean is ``nan`` without cases, or if the ranks do not reach the metric's cut-off.
    """
    found = {}
    reached = all(run.reach(parse_metric(metric)[1]) for run in runs)
    for name in SUBGROUPS:
        parts = [subgroup(run, name) for run in runs]
        values = [float(per_case(part, metric).mean()) for part in parts if len(part) and reached]
        found[name] = (len(parts[0]), float(np.mean(values)) if values else float("nan"))
    return found
