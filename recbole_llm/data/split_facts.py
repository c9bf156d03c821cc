"""What a record says about its split: cold users and items, and how much of the training is later than the test."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np

from recbole_llm.data.interactions import Interactions
from recbole_llm.data.split import Split, cold_cases
from recbole_llm.data.times import EARLIEST, LATEST, day_of, why_incomparable
from recbole_llm.utils.text import counted


def cold_counts(table: Interactions, split: Split) -> dict[str, int]:
    """Counts of test cases whose user, and test targets whose item, is not in training, and of targets left out."""
    trained = np.zeros(table.n_items + 1, dtype=bool)
    trained[np.asarray(table.item)[split.train_rows]] = True
    return {
        "user_cases": int(cold_cases(table, split, split.test).sum()),
        "item_targets": int((~trained[np.asarray(table.item)[split.test.target_rows]]).sum()),
        "targets_without_history": int(split.without_history.get("test", 0)),
    }


def targets_in_history(table: Interactions, split: Split) -> int:
    """How many test targets already occur in their case's history, because users take an item again.

    A target is ranked even where seen items are not, so that a model which repeats histories finds it.
    """
    cases, rows = split.test, split.test.target_rows
    owner = np.repeat(np.arange(len(cases)), np.diff(cases.target_offsets))
    user, item = np.asarray(table.user).astype(np.int64), np.asarray(table.item)
    _, pair = np.unique(user * (table.n_items + 1) + item, return_inverse=True)
    places = np.sort(pair * len(table) + np.arange(len(table)))  # by user and item, then by row
    begins = pair[rows] * len(table) + cases.start[owner]
    ends = pair[rows] * len(table) + cases.end[owner]
    return int((np.searchsorted(places, begins) < np.searchsorted(places, ends)).sum())


def later_training(table: Interactions, split: Split) -> float | None:
    """The share of the training interactions that are later than a test target, on average over the targets.

    A model trained on them has seen what was unknown when the target was due: 24 % on Beauty under
    leave-one-out, nothing under a global time split.

    Returns:
        ``None`` if times are missing or do not compare between users.
    """
    if table.time is None or why_incomparable(table.facts):
        return None
    time = np.asarray(table.time)
    training, targets = np.sort(time[split.train_rows]), time[split.test.target_rows]
    if not len(training) or not len(targets):
        return None
    earlier = np.searchsorted(training, targets, side="right") / len(training)
    return round(float(1 - earlier.mean()), 4)


def targets_after(table: Interactions, split: Split, day: date) -> float | None:
    """The share of the test targets that are later than a day, such as an LLM's knowledge cut-off.

    Returns:
        ``None`` if times are missing, do not compare between users, or are no clock times.
    """
    time = None if table.time is None or why_incomparable(table.facts) else np.asarray(table.time)
    if time is None or not len(split.test.target_rows):
        return None
    targets = time[split.test.target_rows]
    if not ((targets >= EARLIEST) & (targets < LATEST)).all():
        return None
    end = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC).timestamp()
    return round(float((targets >= end).mean()), 4)


def cut_days(split: Split) -> dict[str, str]:
    """The cuts of a global time split as dates, only the test cut after a refit; empty for other splits."""
    if split.cuts is None:
        return {}
    both = {"valid": day_of(split.cuts.valid), "test": day_of(split.cuts.test)}
    return both if split.cuts.valid < split.cuts.test else {"test": both["test"]}


def split_warnings(table: Interactions, split: Split, ready: bool = False) -> list[str]:
    """What a reader of results must know about the cases of a global time split or of ready parts."""
    if split.cuts is None:
        later = later_training(table, split) if ready else None
        found = [f"{later:.0%} of the training is later than a test target, on average"] if later else []
        cold = ready and any(cold_counts(table, split).values())
        return [*found, *(_cold(table, split) if cold else [])]
    days = cut_days(split)
    trained = days.get("valid", days["test"])
    first, *rest = _cold(table, split)
    return [f"trained before {trained}, tested from {days['test']} on; {first}", *rest]


def _cold(table: Interactions, split: Split) -> list[str]:
    """How many cases and targets are cold, and how many targets are no cases, in words."""
    counts, cases, targets = cold_counts(table, split), len(split.test), len(split.test.target_rows)
    found = [
        f"{counts['user_cases']:,} of {cases:,} cases are of users without a training interaction; "
        f"{counts['item_targets']:,} of {targets:,} targets are items without one"
    ]
    if counts["targets_without_history"]:
        without = counted(counts["targets_without_history"], "target")
        found.append(f"not counted as cases: {without} with no earlier interaction")
    return found
