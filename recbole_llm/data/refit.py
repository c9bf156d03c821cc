"""The split of a refit, which also trains on validation data once settings and number of epochs are chosen.

Test cases do not change. Nor does what features and prompts may show, because they were made for the original split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from recbole_llm.data.interactions import Interactions
from recbole_llm.data.sessions import people_of
from recbole_llm.data.split import Cuts, Split, of_windows, positions


def with_validation(table: Interactions, split: Split, options: Mapping[str, Any]) -> Split:
    """The split that also trains on the histories and targets of the validation cases.

    Under a global time split, that is everything before the second cut. If whole users or sessions validate, all their
    rows train. The validation cases are kept because they say what may be shown of their rows; nothing is selected on
    them any more.
    """
    trains = np.zeros(len(table), dtype=bool)
    trains[split.train_rows] = True
    if split.cuts is not None:
        trains |= np.asarray(table.time) < split.cuts.test
    elif split.valid_rows is not None:
        trains[split.valid_rows] = True
    else:
        cases = split.valid
        for begin, end in zip(cases.start.tolist(), cases.whole_end.tolist(), strict=True):
            trains[begin:end] = True
    if options["split"] == "temporal":
        trains &= ~_tested(table, split)  # windows overlap: an interaction may be in several sessions
    rows = np.flatnonzero(trains)
    shortest = max(1, int(options.get("min_history", 1))) if options["split"] == "user_split" else 1
    found = replace(
        split,
        train_rows=rows,
        train_targets=rows[positions(table, rows) >= shortest],
        cuts=None if split.cuts is None else Cuts(split.cuts.test, split.cuts.test),
    )
    return of_windows(table, found, options) if options["split"] == "temporal" else found


def _tested(table: Interactions, split: Split) -> np.ndarray:
    """``(n,)`` bool: rows that are the same interaction of the same person as a test target."""
    user = np.asarray(table.user)
    known, place = np.unique(user, return_inverse=True)
    frame = pd.DataFrame({"person": people_of(table, known)[place], "item": np.asarray(table.item)})
    if table.time is not None:
        frame["time"] = np.asarray(table.time)
    index = pd.MultiIndex.from_frame(frame)
    return np.asarray(index.isin(index[split.test.target_rows]))
