"""Titles in a row: whose history a list of titles is, and whether it holds what may not be shown.

Prompts name no user. A list belongs to the user whose history has most of the list's runs of three titles, read in one
direction from the first title to the last. Runs that this user's visible history has in that direction are accounted
for, whatever other histories hold; the other runs are held against what is hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from recbole_llm.data.interactions import Interactions

RUN = 3  # titles in a row that tell one history from most others
FORWARDS, BACKWARDS = 1, -1

Occurrences = tuple[np.ndarray, np.ndarray]  # users of a run, and whether it ends in an item that is hidden there


class TitleRuns:
    """The runs of all histories.

    Args:
        table: the interactions.
        titles: of each item, by its id; an empty one is in no run.
        limits: ``(n_users + 2,)``, a user's rows from there on may not be shown.
    """

    def __init__(self, table: Interactions, titles: Sequence[str], limits: np.ndarray) -> None:
        self._ids: dict[str, int] = {}
        known = [self._ids.setdefault(title.casefold(), len(self._ids)) if title else -1 for title in titles]
        self._n_titles = len(self._ids)  # its cube is below 2^63 for two million titles
        user, rows = np.asarray(table.user, dtype=np.int64), np.arange(len(table))
        code = self._codes(np.asarray(known, dtype=np.int64)[np.asarray(table.item)])
        first, last = rows[: len(code)], rows[len(rows) - len(code) :]
        within = (code >= 0) & (user[first] == user[last])
        order = np.argsort(code[within], kind="stable")
        self._code, self._user = code[within][order], user[last][within][order]
        self._hidden = (last >= np.asarray(limits)[user[last]])[within][order]

    @property
    def hidden(self) -> int:
        """How many different runs end in a hidden item."""
        return len(np.unique(self._code[self._hidden]))

    def leak(self, titles: Sequence[str]) -> int:
        """The user whose hidden item a list shows after the items before it; 0 for none.

        A run that the list's own user has not shown yet is a leak. So is one that no user's history may show.
        """
        ids = np.array([self._ids.get(title.casefold(), -1) for title in titles], dtype=np.int64)
        found = {FORWARDS: self._found(ids), BACKWARDS: self._found(ids[::-1])}
        owner, direction = _owner(found)
        for users, hidden in found[direction]:
            own = users == owner
            if (own & ~hidden).any():
                continue
            if own.any():
                return owner
            if len(users) and hidden.all():
                return int(users[0])
        return 0

    def _found(self, ids: np.ndarray) -> list[Occurrences]:
        """Where each run of a list occurs."""
        codes = self._codes(ids)
        begins, ends = (np.searchsorted(self._code, codes, side) for side in ("left", "right"))
        ends[codes < 0] = begins[codes < 0]
        return [(self._user[begin:end], self._hidden[begin:end]) for begin, end in zip(begins, ends, strict=True)]

    def _codes(self, ids: np.ndarray) -> np.ndarray:
        """``(n - 2,)`` one number for each run of three; negative where a title is unknown."""
        if len(ids) < RUN:
            return ids[:0]
        parts = [ids[place : len(ids) - RUN + 1 + place] for place in range(RUN)]
        code = (parts[0] * self._n_titles + parts[1]) * self._n_titles + parts[2]
        return np.where(np.min(parts, axis=0) < 0, -1, code)


def _owner(found: dict[int, list[Occurrences]]) -> tuple[int, int]:
    """The user and the direction that account for most runs of a list; of equals, for most visible ones."""
    runs, visible = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for direction, occurrences in found.items():
        for users, hidden in occurrences:
            runs.update((user, direction) for user in {*users.tolist()})
            visible.update((user, direction) for user in {*users[~hidden].tolist()})
    return max(runs, key=lambda key: (runs[key], visible[key]), default=(0, FORWARDS))
