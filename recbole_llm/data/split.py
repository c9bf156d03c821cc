"""Splits: which interactions train, and which cases validate and test.

A protocol's ``split`` key names one of the functions here. All of them work on the canonical order of
``Interactions``, so that the same cases serve every model and every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.data.interactions import Interactions
from recbole_llm.errors import UserError


@dataclass(frozen=True)
class Cases:
    """``m`` evaluation cases: a visible history each, and what comes after it.

    Attributes:
        user: ``(m,)`` int64 user ids.
        start, end: ``(m,)`` rows ``start:end`` of the interactions are the visible history.
        target_offsets: ``(m + 1,)``; case ``c`` owns ``target_rows[target_offsets[c]:target_offsets[c + 1]]``.
        target_rows: rows of the interactions that are to be predicted.
        candidates: ``(m, c)`` item ids that are ranked, or ``None`` for all items.
    """

    user: np.ndarray
    start: np.ndarray
    end: np.ndarray
    target_offsets: np.ndarray
    target_rows: np.ndarray
    candidates: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def single_target(self) -> bool:
        """Whether every case has exactly one target, the row after its history."""
        return len(self.target_rows) == len(self) and bool(np.all(self.target_rows == self.end))


@dataclass(frozen=True)
class Split:
    """Training rows and evaluation cases.

    Attributes:
        train_rows: rows that models may learn from, ascending.
        train_targets: those of them that have a history to be predicted from.
        valid, test: cases for model selection and for the final numbers.
    """

    train_rows: np.ndarray
    train_targets: np.ndarray
    valid: Cases
    test: Cases


def _one_target(table: Interactions, rows: np.ndarray) -> Cases:
    """Cases that predict each of ``rows`` from everything the user did before."""
    user = np.asarray(table.user[rows], dtype=np.int64)
    return Cases(user, table.offsets[user], rows, np.arange(len(rows) + 1, dtype=np.int64), rows)


def leave_one_out(table: Interactions, options: Mapping[str, Any]) -> Split:
    """Each user's last item tests, the one before it validates, the others train.

    Users with fewer than three interactions only train: a test case needs a validation case and a
    history, the same users for every model. RecBole tests two-item users with general models but not
    with sequential ones.
    """
    offsets = np.asarray(table.offsets)
    lengths = np.diff(offsets)
    evaluated = np.flatnonzero(lengths >= 3)
    last = offsets[evaluated + 1] - 1
    held_out = np.zeros(len(table), dtype=bool)
    held_out[last] = held_out[last - 1] = True
    train_rows = np.flatnonzero(~held_out)
    first = np.zeros(len(table), dtype=bool)
    first[offsets[:-1][lengths > 0]] = True
    return Split(train_rows, train_rows[~first[train_rows]], _one_target(table, last - 1), _one_target(table, last))


SPLITS: dict[str, Callable[[Interactions, Mapping[str, Any]], Split]] = {"loo": leave_one_out}


def split_interactions(table: Interactions, values: Mapping[str, Any]) -> Split:
    """The split that a protocol's settings ask for.

    Raises:
        UserError: nothing is left to train on or to test.
    """
    split = SPLITS[values["split"]](table, values)
    if not len(split.train_rows) or not len(split.test):
        raise UserError(
            f"--protocol={values['protocol']} leaves {len(split.train_rows)} training interactions and "
            f"{len(split.test)} test cases of this dataset: it is too small for it."
        )
    return split
