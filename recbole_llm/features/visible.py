"""What prompts and offline rules may look at: for each user the rows before anything that is evaluated."""

from __future__ import annotations

import numpy as np

from recbole_llm.data.interactions import Interactions
from recbole_llm.data.split import Split

# What of a user a feature's answers may stand on: nothing, what precedes the asked row, all that may be shown.
ITEMS_ALONE, PREFIX, TRAINING = VISIBLE = ("none", "prefix", "training")


def visible_ends(table: Interactions, split: Split) -> np.ndarray:
    """``(n_users + 2,)`` int64: a user's rows ``offsets[u]:ends[u]`` may be shown, whatever they are used for.

    A user who is evaluated shows what stands before the first validation or test target; a user who only trains
    shows all training rows. So one answer a user serves training, validation and test alike, and no target of
    validation or test has ever been in a prompt.
    """
    offsets = np.asarray(table.offsets)
    ends = offsets.copy()
    np.maximum.at(ends, np.asarray(table.user)[split.train_rows], split.train_rows + 1)
    first_target = np.full(len(offsets), len(table), dtype=np.int64)
    for cases in (split.valid, split.test):
        np.minimum.at(first_target, cases.user, cases.end)
    evaluated = first_target < len(table)
    ends[evaluated] = first_target[evaluated]
    return ends


def training_lists(table: Interactions, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The training items of each user who has any, in order.

    Returns:
        Users ``(m,)`` ascending, offsets ``(m + 1,)`` and items ``(n_train,)`` in compressed rows.
    """
    user = np.asarray(table.user)[split.train_rows]
    users, counts = np.unique(user, return_counts=True)
    return users, np.concatenate([[0], np.cumsum(counts)]), np.asarray(table.item)[split.train_rows]
