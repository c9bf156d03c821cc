"""Sessions: a user's history cut into the pieces that session-based methods work on.

A session becomes a user of its own: ids and offsets are made anew, the rows stay in their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from recbole_llm.data.interactions import PAD_TOKEN, Interactions
from recbole_llm.errors import UserError

DAY = 86_400


def cut_sessions(table: Interactions, rule: Mapping[str, Any]) -> Interactions:
    """Cut histories by a rule.

    Args:
        table: interactions in canonical order, times in seconds.
        rule: ``by: day`` starts a session with each UTC day; ``gap`` (seconds) starts one where that much
            has passed since the *first* item of the running session, as LLM-DMsRec's released code has it;
            ``window`` cuts sessions longer than that many items into sliding windows of that length, as
            PO4ISR does; ``min_length`` drops shorter ones.

    Raises:
        UserError: the rule needs times that the dataset does not have, or leaves nothing.
    """
    if table.time is None:
        raise UserError("sessions are cut by time: load the time column (load_col).")
    user, time = np.asarray(table.user), np.asarray(table.time)
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
    rows = np.repeat(begin - np.cumsum(length) + length, length) + np.arange(int(length.sum()))
    return _renamed(table, rows, begin, length)


def _cut_by_gap(new: np.ndarray, time: np.ndarray, gap: float) -> None:
    """Mark a new session wherever ``gap`` has passed since the session's first item."""
    for begin, end in zip(np.flatnonzero(new), np.append(np.flatnonzero(new)[1:], len(new)), strict=True):
        first = begin
        while True:
            first = first + int(np.searchsorted(time[first:end], time[first] + gap, side="right"))
            if first >= end:
                break
            new[first] = True


def _windows(begin: np.ndarray, length: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    count = np.maximum(length - window + 1, 1)
    starts = np.repeat(begin, count) + np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return starts, np.minimum(np.repeat(length, count), window)


def _renamed(table: Interactions, rows: np.ndarray, begin: np.ndarray, length: np.ndarray) -> Interactions:
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
