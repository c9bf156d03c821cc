"""Metric names: which there are, whether higher is better, how tables write them. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from recbole_llm.errors import UserError, did_you_mean

# Computed from the rank of each target, at any cut-off, at any time after the run.
RANK_METRICS = {"hit": "Hit", "ndcg": "NDCG", "mrr": "MRR", "recall": "Recall", "precision": "Precision", "map": "MAP"}

# Computed from ranks in the whole list, without a cut-off.
UNCUT_METRICS = {"gauc": "GAUC"}

# Computed from the first K places of all lists, during the test evaluation only.
LIST_METRICS = {
    "itemcoverage": "ItemCoverage",
    "giniindex": "GiniIndex",
    "shannonentropy": "ShannonEntropy",
    "averagepopularity": "AveragePopularity",
    "tailpercentage": "TailPercentage",
    "novelty": "Novelty",
    "serendipity": "Serendipity",
    "ildcategories": "ILDCategories",
    "ildvectors": "ILDVectors",
    "miscalibration": "Miscalibration",
    "exposureratio": "ExposureRatio",
    "ugf": "UGF",
}
NEED_CATEGORIES = ("ildcategories", "miscalibration")
NEED_VECTORS = ("ildvectors",)

_LOWER_IS_BETTER = ("giniindex", "averagepopularity", "miscalibration", "ugf")
_TITLES = RANK_METRICS | UNCUT_METRICS | LIST_METRICS


def parse_metric(text: str) -> tuple[str, int]:
    """``NDCG@10`` to ``("ndcg", 10)``; a metric without a cut-off has cut-off 0.

    Raises:
        UserError: the metric is unknown, or lacks the positive cut-off that it needs.
    """
    name, at, cut = text.lower().partition("@")
    if name in UNCUT_METRICS and not at:
        return name, 0
    if name not in RANK_METRICS and name not in LIST_METRICS:
        raise UserError(f"metric {text!r}: known are {', '.join(_TITLES)}.{did_you_mean(name, _TITLES)}")
    if not cut.isdecimal() or len(cut) > 9 or int(cut) < 1:  # int() refuses thousands of digits
        raise UserError(f"metric {text!r}: write it as {name}@10, with a cut-off of 1 or more.")
    return name, int(cut)


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of ``metric`` is better, as RecBole has it for its own metrics."""
    return metric.lower().partition("@")[0] not in _LOWER_IS_BETTER


def needs_lists(metric: str) -> bool:
    """Whether ``metric`` is computed from the recommended lists, not from the ranks of the targets."""
    return metric.lower().partition("@")[0] in LIST_METRICS


def metric_title(metric: str) -> str:
    """``ndcg@10`` to ``NDCG@10``, as RecBole writes it."""
    name, at, cut = metric.partition("@")
    return _TITLES.get(name.lower(), name) + at + cut


def sort_metrics(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split configured names into (metrics from ranks, as given; metrics that need lists, as RecBole writes them).

    >>> sort_metrics(["Hit", "giniindex", "NDCG"])
    (['Hit', 'NDCG'], ['GiniIndex'])
    """
    split = [part.strip() for name in names for part in str(name).split(",")]
    listed = [LIST_METRICS[name.lower()] for name in split if needs_lists(name)]
    return [name for name in split if not needs_lists(name)], list(dict.fromkeys(listed))


def check_margin(margin: float | None) -> None:
    """Raise a ``UserError`` if a margin is given and is no difference of a metric that could count as none."""
    if margin is not None and not 0 < margin < float("inf"):
        raise UserError(f"--margin={margin:g}: give a difference of the metric above 0, such as 0.005.")
