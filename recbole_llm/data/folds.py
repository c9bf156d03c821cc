"""Users in folds, so that what is made for a user can be made by a model that has not seen that user."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from recbole_llm.data.interactions import Interactions, token_hashes
from recbole_llm.data.split import Cases, Split


def fold_of_users(table: Interactions, split: Split, folds: int) -> np.ndarray:
    """The fold of each user id, ``(n_users + 1,)`` int64; -1 for users without training interactions.

    Folds differ in size by one user at most; a stable hash of the name decides. Where histories are cut into
    sessions, all sessions of a person are in one fold.
    """
    users = np.unique(np.asarray(table.user)[split.train_rows])
    names = table.user_tokens[users]
    if "sessions" in table.facts:
        names = np.array([str(name).rpartition("#")[0] for name in names], dtype=np.str_)
    people, person = np.unique(names, return_inverse=True)
    place = np.empty(len(people), dtype=np.int64)
    place[np.argsort(token_hashes(people), kind="stable")] = np.arange(len(people))
    found = np.full(len(table.user_tokens), -1, dtype=np.int64)
    found[users] = place[person] % folds
    return found


def without_fold(table: Interactions, split: Split, fold: int, folds: int) -> Split:
    """The split whose training and validation know nothing of one fold's users."""
    left_out = fold_of_users(table, split, folds) == fold

    def kept(rows: np.ndarray) -> np.ndarray:
        return rows[~left_out[table.user[rows]]]

    return replace(
        split,
        train_rows=kept(split.train_rows),
        train_targets=kept(split.train_targets),
        valid=_of_others(split.valid, left_out),
    )


def _of_others(cases: Cases, left_out: np.ndarray) -> Cases:
    others = ~left_out[cases.user]
    return cases if others.all() else cases.select(np.flatnonzero(others))


def rows_digest(rows: np.ndarray) -> str:
    """A short hash of row numbers."""
    return hashlib.sha256(np.ascontiguousarray(rows, dtype="<i8").tobytes()).hexdigest()[:16]
