"""Sessions: histories cut at days, at gaps or into sliding windows, and the way back to people and whole sessions.

A session takes the place of a user. It is named ``user#1``, ``user#2``, ... in time order, and the fact ``sessions`` of
a table says that its users are sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from recbole_llm.data.interactions import PAD_TOKEN, Interactions
from recbole_llm.data.times import larger_unit
from recbole_llm.errors import UserError
from recbole_llm.utils.arrays import joined_ranges

DAY = 86_400  # seconds


def cut_sessions(table: Interactions, rule: Mapping[str, Any]) -> Interactions:
    """Cut histories by a rule.

    Args:
        table: interactions in canonical order, times in seconds.
        rule: ``by: day`` starts a session with each UTC day; ``gap`` (seconds) starts one when more than that has
            passed since the *first* item of the current session, as in LLM-DMsRec's released code;
            ``window`` cuts sessions longer than that many items into sliding windows of that length, as
            PO4ISR does; ``min_length`` drops shorter ones.

    Returns:
        Interactions whose users are the sessions; rows repeat where windows overlap.

    Raises:
        UserError: the rule needs times that the dataset does not have, or leaves nothing.
    """
    if table.time is None:
        raise UserError("sessions are cut by time: name the column of times with --TIME_FIELD.")
    user, time = np.asarray(table.user), np.asarray(table.time)
    if (rule.get("by") == "day" or rule.get("gap")) and (unit := larger_unit(time)):
        raise UserError(
            "sessions are cut by times in seconds since 1970, and this dataset's are "
            f"{time.min():g} to {time.max():g}: {unit}, or take a protocol without sessions, such as loo."
        )
    new = np.ones(len(table), dtype=bool)
    new[1:] = user[1:] != user[:-1]
    if rule.get("by") == "day":
        new[1:] |= time[1:] // DAY != time[:-1] // DAY
    if rule.get("gap"):
        _cut_by_gap(new, time, float(rule["gap"]))
    begin = np.flatnonzero(new)
    length = np.diff(np.append(begin, len(table)))
    if rule.get("window"):
        begin, length = _windows(begin, length, int(rule["window"]))
    kept = length >= int(rule.get("min_length", 1))
    begin, length = begin[kept], length[kept]
    if not len(begin):
        raise UserError("the session rule leaves no session; loosen min_length.")
    return _renamed(table, joined_ranges(begin, length), begin, length)


def _cut_by_gap(new: np.ndarray, time: np.ndarray, gap: float) -> None:
    """Mark a new session wherever more than ``gap`` has passed since the session's first item."""
    for begin, end in zip(np.flatnonzero(new), np.append(np.flatnonzero(new)[1:], len(new)), strict=True):
        first = begin
        while True:
            first = first + int(np.searchsorted(time[first:end], time[first] + gap, side="right"))
            if first >= end:
                break
            new[first] = True


def _windows(begin: np.ndarray, length: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """First rows and lengths of the windows of sessions; a session no longer than a window stays whole."""
    count = np.maximum(length - window + 1, 1)
    return joined_ranges(begin, count), np.minimum(np.repeat(length, count), window)


def _renamed(table: Interactions, rows: np.ndarray, begin: np.ndarray, length: np.ndarray) -> Interactions:
    """Interactions whose users are sessions, given by first row and length; ``rows`` are the rows of all of them."""
    owner = np.asarray(table.user)[begin]
    number = np.arange(len(begin)) - np.searchsorted(owner, owner, side="left") + 1
    names = [f"{token}#{n}" for token, n in zip(table.user_tokens[owner], number, strict=True)]
    session = np.repeat(np.arange(1, len(begin) + 1, dtype=np.int32), length)
    return replace(
        table,
        user=session,
        item=np.asarray(table.item)[rows],
        time=None if table.time is None else np.asarray(table.time)[rows],
        extra={name: np.asarray(values)[rows] for name, values in table.extra.items()},
        offsets=np.concatenate([[0, 0], np.cumsum(length)]).astype(np.int64),
        user_tokens=np.array([PAD_TOKEN, *names], dtype=np.str_),
        facts={**table.facts, "sessions": len(begin)},
    )


def people_of(table: Interactions, users: np.ndarray) -> np.ndarray:
    """Names of the people behind users: user names, without the session number if histories are cut into sessions."""
    names = table.user_tokens[users]
    if "sessions" not in table.facts:
        return names
    return np.array([str(name).rpartition("#")[0] for name in names], dtype=np.str_)


def later_windows(table: Interactions) -> np.ndarray:
    """``(n_users + 1,)`` bool: sessions that are the previous session moved on by one interaction."""
    offsets, found = np.asarray(table.offsets), np.zeros(len(table.user_tokens), dtype=bool)
    if "sessions" not in table.facts or table.time is None:
        return found
    lengths = np.diff(offsets)
    people = people_of(table, np.arange(len(table.user_tokens)))
    alike = (lengths[2:] == lengths[1:-1]) & (people[2:] == people[1:-1])
    rows, owner = np.arange(len(table)), np.asarray(table.user)
    twin = np.maximum(rows - lengths[owner] + 1, 0)  # row of the same interaction in the previous session
    same = np.ones(len(table), dtype=bool)
    for column in (table.item, table.time):
        same &= np.asarray(column) == np.asarray(column)[twin]
    same[offsets[1:] - 1] = True  # the last one is new
    found[2:] = alike & np.logical_and.reduceat(same, offsets[2:-1])
    return found


def whole_sessions(table: Interactions) -> np.ndarray:
    """``(n_users + 1,)`` int64: for each window, the first window of its session; for other users, the user itself.

    Sliding windows of one session thus become one session again.
    """
    users = np.arange(len(table.user_tokens))
    return np.maximum.accumulate(np.where(later_windows(table), 0, users))


def earlier_windows_first(table: Interactions, order: np.ndarray, bound: int) -> np.ndarray:
    """The order, changed so that no later window of a session trains while an earlier one is held out.

    Windows overlap, so a later window in training would contain the target of an earlier, held-out one. This can
    happen because windows that end in the same second are ordered by a hash.

    Args:
        table: interactions of sessions.
        order: session ids by their last interaction.
        bound: how many sessions, from the first, train.
    """
    if table.time is None or "sessions" not in table.facts or not 0 < bound < len(order):
        return order
    last = np.asarray(table.time)[np.asarray(table.offsets)[order + 1] - 1]
    tied = np.flatnonzero(last == last[bound])
    people = people_of(table, order[tied])
    order = order.copy()
    for person in np.unique(people[tied < bound]):
        places = tied[people == person]
        before = int((places < bound).sum())
        own = np.sort(order[places])  # ids ascend along a session
        if set(order[places[:before]]) != set(own[:before]):
            order[places] = own
    return order
