"""Lists of titles: whose history a list is, and whether it contains items that may not be shown.

Prompts name no user, so a list is compared with all histories, in two ways.

Titles in a row: a list belongs to the user whose history has most of the list's runs of three titles, all read in the
same direction. Runs in that user's visible history, in that direction, are accounted for, whatever other histories
contain; the other runs are compared with the hidden ones.

Titles in any order: a list whose titles are all in one history, some of them only in its hidden part, belongs to that
history if most neighbours in the list are neighbours there, or if it has most of the history's titles and no visible
history has them all. It does not if a visible history has all the titles and as many of the neighbours. A list that
mixes histories, or offers candidates, has titles that no single history has. A list from a visible history has all its
neighbours there, even where times are equal: prompts and this check read the interactions in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from recbole_llm.data.interactions import Interactions

RUN = 3  # titles in a row that distinguish one history from most others
MANY = 6  # titles that identify a history in any order if they are more than half of it
TITLES_AT_ONCE = 8  # that are looked up in histories
FORWARDS, BACKWARDS = 1, -1

Occurrences = tuple[np.ndarray, np.ndarray]  # users of a run, and whether it ends in an item that is hidden there


class TitleRuns:
    """The runs of all histories.

    Args:
        table: the interactions.
        titles: each item's title, by item id; an empty one is in no run.
        limits: ``(n_users + 2,)``, the first row of each user that may not be shown.
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
        self._hidden_before = np.concatenate(([0], np.cumsum(self._hidden)))
        self._any_order = _AnyOrder(np.asarray(known, dtype=np.int64), table, np.asarray(limits))

    @property
    def hidden(self) -> int:
        """How many different runs end in a hidden item."""
        return len(np.unique(self._code[self._hidden]))

    def leak(self, titles: Sequence[str]) -> int:
        """The user whose hidden item a list shows; 0 for none.

        There are three kinds of leak: a run that only the hidden part of its user's history has, a run that is hidden
        in every history that has it, and a title, anywhere in the list, that only the hidden part of its history has.
        """
        ids = np.array([self._ids.get(title.casefold(), -1) for title in titles], dtype=np.int64)
        return self._of_runs(ids) or self._any_order.leak(ids)

    def _of_runs(self, ids: np.ndarray) -> int:
        """The user whose hidden run a list has; 0 for none."""
        places = {FORWARDS: self._places(ids), BACKWARDS: self._places(ids[::-1])}
        if not any((self._hidden_before[ends] > self._hidden_before[begins]).any() for begins, ends in places.values()):
            return 0  # no run is hidden anywhere, as of most lists: their owner does not matter
        found = {direction: self._found(*bounds) for direction, bounds in places.items()}
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

    def _places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last place, exclusive, of each run of a list among all runs."""
        codes = self._codes(ids)
        begins, ends = (np.searchsorted(self._code, codes, side) for side in ("left", "right"))
        ends[codes < 0] = begins[codes < 0]
        return begins, ends

    def _found(self, begins: np.ndarray, ends: np.ndarray) -> list[Occurrences]:
        """Where each run of a list occurs."""
        return [(self._user[begin:end], self._hidden[begin:end]) for begin, end in zip(begins, ends, strict=True)]

    def _codes(self, ids: np.ndarray) -> np.ndarray:
        """``(n - 2,)`` one number for each run of three; negative where a title is unknown."""
        if len(ids) < RUN:
            return ids[:0]
        parts = [ids[place : len(ids) - RUN + 1 + place] for place in range(RUN)]
        code = (parts[0] * self._n_titles + parts[1]) * self._n_titles + parts[2]
        return np.where(np.min(parts, axis=0) < 0, -1, code)


def _owner(found: dict[int, list[Occurrences]]) -> tuple[int, int]:
    """The user and the direction that account for most runs of a list; visible runs break ties."""
    runs, visible = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for direction, occurrences in found.items():
        for users, hidden in occurrences:
            runs.update((user, direction) for user in {*users.tolist()})
            visible.update((user, direction) for user in {*users[~hidden].tolist()})
    return max(runs, key=lambda key: (runs[key], visible[key]), default=(0, FORWARDS))


class _AnyOrder:
    """Which histories have all titles of a list.

    Args:
        known: number of each item's title; negative for none.
        table: the interactions.
        limits: as for :class:`TitleRuns`.
    """

    def __init__(self, known: np.ndarray, table: Interactions, limits: np.ndarray) -> None:
        self._titles, user = known[np.asarray(table.item)], np.asarray(table.user, dtype=np.int64)
        self._begins, self._limits = np.asarray(table.offsets), limits
        self._n_titles, self._n_users = int(known.max(initial=-1)) + 1, len(limits)
        code = self._titles * self._n_users + user
        shown = np.arange(len(user)) < limits[user]
        self._held, self._held_visibly = (np.unique(code[(self._titles >= 0) & part]) for part in (True, shown))

    def leak(self, ids: np.ndarray) -> int:
        """The user whose history accounts for a list that no visible history accounts for; 0 for none."""
        wanted = np.unique(ids[ids >= 0])
        if len(wanted) < 2:
            return 0
        holders = self._holders(wanted)
        shown = _have(self._held_visibly, self._codes(wanted, holders))
        visible, suspects = holders[shown], holders[~shown]
        if not len(suspects):
            return 0
        pairs = {user: self._neighbours(ids, user, int(self._begins[user + 1])) for user in suspects.tolist()}
        owner = max(pairs, key=lambda user: pairs[user])
        honest = max((self._neighbours(ids, user, int(self._limits[user])) for user in visible.tolist()), default=-1)
        told = 2 * pairs[owner] > len(ids) - 1 or (not len(visible) and self._is_most(wanted, owner))
        return owner if told and pairs[owner] > honest else 0

    def _is_most(self, wanted: np.ndarray, user: int) -> bool:
        """Whether some titles are at least ``MANY`` and more than half of a user's titles."""
        whole = self._titles[self._begins[user] : self._begins[user + 1]]
        return len(wanted) >= MANY and 2 * len(wanted) > len(np.unique(whole[whole >= 0]))

    def _holders(self, wanted: np.ndarray) -> np.ndarray:
        """The users whose histories have all of some titles, ascending."""
        begins, ends = (np.searchsorted(self._held, bound * self._n_users) for bound in (wanted, wanted + 1))
        rarest = int(np.argmin(ends - begins))
        users = self._held[begins[rarest] : ends[rarest]] % self._n_users
        for titles in np.array_split(wanted, -(-len(wanted) // TITLES_AT_ONCE)):  # few users have the first ones
            users = users[_have(self._held, self._codes(titles, users))]
        return users

    def _codes(self, titles: np.ndarray, users: np.ndarray) -> np.ndarray:
        """``(n_titles, n_users)`` one number for each title and user."""
        return titles[:, None] * self._n_users + users

    def _neighbours(self, ids: np.ndarray, user: int, end: int) -> int:
        """How many pairs of neighbours in a list are also neighbours in a user's history before row ``end``.

        The list is read in both directions; the larger number counts.
        """
        own = self._pairs(self._titles[self._begins[user] : end])
        return max(int(np.isin(self._pairs(line), own).sum()) for line in (ids, ids[::-1]))

    def _pairs(self, ids: np.ndarray) -> np.ndarray:
        """One number for each pair of neighbouring titles that are both known."""
        first, second = ids[:-1], ids[1:]
        return (first * self._n_titles + second)[(first >= 0) & (second >= 0)]


def _have(held: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """``(n_users,)`` whether all numbers of a column are among the sorted ``held``."""
    if not len(held):
        return np.zeros(codes.shape[1], dtype=bool)
    places = np.minimum(np.searchsorted(held, codes), len(held) - 1)
    return np.asarray((held[places] == codes).all(axis=0))
