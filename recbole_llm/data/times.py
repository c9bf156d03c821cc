"""What the numbers in a time column mean: their unit, whether they compare between users, and how many are tied.

Files hold seconds, milliseconds, dates or mere counts. Days, gaps and cuts need seconds; protocols that order users
need times from one clock. Both are inferred from the numbers once, when a file is read, and stored as facts, from which
messages and the record are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from recbole_llm.errors import UserError
from recbole_llm.utils.text import counted

EARLIEST, LATEST = 473_385_600, 4_102_444_800  # 1985 and 2100, in seconds: the range of clock times
MOST = 0.9  # share of the rows that must fit a unit, several units or a date format for it to be recognised
HALF = 0.5  # a unit that more than this share of the rows fits is the unit of all
UNITS = {1: "seconds", 1_000: "milliseconds", 1_000_000: "microseconds", 1_000_000_000: "nanoseconds"}
# Dates written as whole numbers, by number of digits. Those of ten also look like seconds of 2032 to 2036.
DATES = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
FORMS = {8: "YYYYMMDD", 10: "YYYYMMDDHH", 12: "YYYYMMDDHHMM", 14: "YYYYMMDDHHMMSS"}
# Units above the second are reported but never converted to seconds: mere counts may reach these numbers, too.
LARGER_UNITS = {"minutes": 60, "hours": 3_600, "days": 86_400}
_RECENT = (757_382_400, 2_145_916_800)  # 1994 and 2038, in seconds: the range of times of a larger unit
ALIKE = 0.95  # times of which this share of the users begins (or ends) at one time are not a clock's
_HOUR = 3_600  # in the unit of the times; equal steps of an hour and more may be days or weeks
_FEW = 10  # users; with fewer, beginning at one time says nothing


# ---- unit -----------------------------------------------------------------------------------------


def in_seconds(time: np.ndarray, where: str) -> tuple[np.ndarray, dict[str, int]]:
    """Times in seconds if their unit can be recognised, otherwise unchanged.

    Args:
        time: ``(n,)`` int64 or float64, finite.
        where: file and column, for messages.

    Returns:
        The times, and facts: ``times_per_second`` (for a unit below the second), ``times_as_dates`` (number of digits)
        and ``times_off`` (rows that do not fit the unit or date format of the others; among dates they become 0). There
        are no facts if all times are seconds or the unit is unknown.

    Raises:
        UserError: some rows are in one unit and some in another.
    """
    if not len(time):
        return time, {}
    inside = {unit: (time >= EARLIEST * unit) & (time < LATEST * unit) for unit in UNITS}
    dates = {digits: _are_dates(time, digits) for digits in DATES}
    digits = next((digits for digits, found in dates.items() if found.mean() >= MOST), None)
    if digits is not None:
        off = int((~dates[digits]).sum())
        return _from_dates(time, digits), {"times_as_dates": digits} | ({"times_off": off} if off else {})
    # Dates of ten digits are left out: seconds of 2032 to 2036 would count as two forms.
    found = {UNITS[unit]: rows for unit, rows in inside.items()}
    found |= {f"dates ({FORMS[digits]})": rows for digits, rows in dates.items() if digits != 10}
    there = {name: int(rows.sum()) for name, rows in found.items() if rows.any()}
    if len(there) > 1 and sum(there.values()) >= MOST * len(time):
        counts = ", ".join(f"{counted(count, 'row')} of {name}" for name, count in there.items())
        raise UserError(f"{where}: the times are of several units ({counts}); write all of them in seconds.")
    unit = next((unit for unit, rows in inside.items() if rows.mean() > HALF), None)
    if unit is None:
        return time, {}
    off = int(len(time) - inside[unit].sum())
    facts = {"times_per_second": unit} if unit > 1 else {}
    return _divided(time, unit), facts | ({"times_off": off} if off else {})


def _divided(time: np.ndarray, unit: int) -> np.ndarray:
    if unit == 1:
        return time
    whole = time // unit
    return whole.astype(np.int64) if np.array_equal(whole * unit, time) else time / unit


def _are_dates(time: np.ndarray, digits: int) -> np.ndarray:
    """``(n,)`` bool: which numbers are dates of so many digits: 20140131, or a date followed by the time of day."""
    low, high = 1985 * 10 ** (digits - 4), 2100 * 10 ** (digits - 4)
    found = (time >= low) & (time < high) if time.dtype.kind == "i" else np.zeros(len(time), dtype=bool)
    if found.any():
        found[found] = _parsed(time[found], digits).notna().to_numpy()
    return found


def _parsed(time: np.ndarray, digits: int) -> pd.Series:
    found, places = np.unique(time, return_inverse=True)
    parsed = pd.to_datetime(pd.Series(found.astype(str)), format=DATES[digits], errors="coerce", utc=True)
    return parsed.iloc[places].reset_index(drop=True)


def _from_dates(time: np.ndarray, digits: int) -> np.ndarray:
    parsed = _parsed(time, digits).fillna(pd.Timestamp(0, tz="UTC"))
    return parsed.dt.as_unit("s").astype("int64").to_numpy()


def larger_unit(time: np.ndarray) -> str:
    """Advice on times that seem to be minutes, hours or days since 1970; empty for other times.

    Such times order interactions as well as seconds do, so only code that counts seconds or days calls this.

    Args:
        time: ``(n,)`` as :func:`in_seconds` returned them.
    """
    for name, seconds in LARGER_UNITS.items():
        if ((time >= _RECENT[0] / seconds) & (time < _RECENT[1] / seconds)).mean() >= MOST:
            return f"they look like {name} since 1970; multiply them by {seconds:,}"
    return ""


# ---- between users ----------------------------------------------------------------------------------


def comparison_facts(user: np.ndarray, time: np.ndarray) -> dict[str, int]:
    """Signs that times do not compare between users; empty if there are none.

    Such times count within each user (from 0 or 1, in steps of ten, with gaps), are measured from each user's first
    or to each user's last interaction, or are all the same. Clock times can also begin alike, if all users come every
    day of a month.

    Args:
        user: ``(n,)`` ids in canonical order: user by user.
        time: ``(n,)`` of the same rows, ascending within a user.
    """
    first, last = _ends(user)
    users = len(first)
    if users < 2:
        return {}
    if time.min() == time.max():
        return {"one_time_for_all": 1}
    begins_alike, ends_alike = _most_common(time[first]), _most_common(time[last])
    steps = np.diff(time)[user[1:] == user[:-1]]
    rising = steps[steps > 0]
    several = last > first
    if _of_a_clock(time):
        # Counts 1, 2, 3, ... added to a date: by a clock, users would not begin in one second and go on in equal steps.
        alike = users >= _FEW and begins_alike >= ALIKE and len(rising) > 0 and rising.min() == rising.max() < _HOUR
        return {"times_count_within_users": 1} if alike else {}
    if len(rising) and begins_alike >= 0.5:
        values, counts = np.unique(rising, return_counts=True)
        step = values[counts.argmax()]
        counted = (time[last] - time[first])[several] == step * (last - first)[several]
        if counted.mean() > 0.5:
            return {"times_count_within_users": 1}
        # A count that lost rows has gaps, but still rises with every row and is about as long as a history.
        longest = int((last - first).max()) + 1
        spread = (time.max() - time.min()) / step
        if len(rising) == len(steps) and spread < 2 * longest and ends_alike < 0.5 and users >= _FEW:
            return {"times_count_within_users": 1}
    if users >= _FEW and max(begins_alike, ends_alike) >= ALIKE:
        return {"times_begin_alike": 1} if begins_alike >= ALIKE else {"times_end_alike": 1}
    return {}


def _ends(user: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last row of each user, for rows sorted by user."""
    new = np.ones(len(user), dtype=bool)
    new[1:] = user[1:] != user[:-1]
    first = np.flatnonzero(new)
    return first, np.append(first[1:], len(user))[: len(first)] - 1


def _of_a_clock(time: np.ndarray) -> bool:
    """Whether most numbers are times of 1985 to 2100 in some unit, or dates: mere counts do not get that far."""
    ranges = [(EARLIEST * unit, LATEST * unit) for unit in UNITS]
    ranges += [(1985 * 10 ** (digits - 4), 2100 * 10 ** (digits - 4)) for digits in DATES]
    return any(float(((time >= low) & (time < high)).mean()) >= MOST for low, high in ranges)


def _most_common(values: np.ndarray) -> float:
    """The share of the most common value."""
    return float(np.unique(values, return_counts=True)[1].max()) / len(values)


_INCOMPARABLE = {
    "one_time_for_all": "all interactions have one and the same time",
    "times_count_within_users": "the times of this dataset only count within each user (1, 2, 3, ...)",
    "times_begin_alike": "the histories of nearly all users begin at one and the same time, so that the times of this "
    "dataset count from each user's first interaction",
    "times_end_alike": "the histories of nearly all users end at one and the same time, so that the times of this "
    "dataset count to each user's last interaction",
}


def why_incomparable(facts: Mapping[str, Any]) -> str:
    """Why times do not compare between users, in words; empty if they do."""
    return next((text for fact, text in _INCOMPARABLE.items() if facts.get(fact)), "")


# ---- ties -------------------------------------------------------------------------------------------


def users_tied(user: np.ndarray, time: np.ndarray) -> tuple[int, int]:
    """The number of users with two or more interactions, and of those who have all of theirs at one time.

    Args:
        user, time: as :func:`comparison_facts` takes them.
    """
    first, last = _ends(user)
    several = last > first
    return int(several.sum()), int((time[first] == time[last])[several].sum())


# ---- what is said -----------------------------------------------------------------------------------


def notices(facts: Mapping[str, Any]) -> list[str]:
    """What was found when reading and the user should know, one line each."""
    found = []
    if count := facts.get("rows_repeated"):
        verbs = ("repeats", "is", "it") if count == 1 else ("repeat", "are", "them")
        found.append(
            f"{counted(count, 'row')} {verbs[0]} another one (same user, item and time) and {verbs[1]} left out; "
            f"--rm_dup_inter=keep keeps {verbs[2]}"
        )
    if count := facts.get("lines_alike"):
        own_parts = "held_out" in facts
        mend = "take them out of the files" if own_parts else "--rm_dup_inter=first keeps one row of a user and an item"
        verb = "repeats" if count == 1 else "repeat"
        found.append(
            f"{counted(count, 'line')} {verb} an earlier line exactly, and all are kept: without times a line given "
            f"twice looks like an item taken again. If lines were given twice, {mend}"
        )
    if unit := facts.get("times_per_second"):
        found.append(f"times are in {UNITS[unit]} and are read as seconds")
    if digits := facts.get("times_as_dates"):
        found.append(f"times are dates ({FORMS[digits]}) and are read as seconds")
    if count := facts.get("times_off"):
        found.append(
            f"{counted(count, 'row')} with times before 1985 or after 2099, or impossible dates, unlike the others: "
            "are they missing there?"
        )
    return found


def warnings(facts: Mapping[str, Any]) -> list[str]:
    """What a reader of the results must know, one line each."""
    found = []
    if count := facts.get("targets_in_earlier_part"):
        found.append(
            f"{count:,} of {facts['held_out']:,} held-out rows stand in an earlier part too (same user and item)"
        )
    if count := facts.get("targets_before_training"):
        found.append(
            f"{count:,} of {facts['held_out']:,} held-out rows are earlier than what their user has in training"
        )
    if facts.get("without_times"):
        return [*found, "there are no times: the order of the file stands, whatever that is"]
    several, tied = facts.get("users_of_several", 0), facts.get("users_tied_throughout", 0)
    if 2 * tied <= several or not tied:
        return found
    return [
        *found,
        f"the order of interactions is a tie throughout for {tied:,} of {several:,} users "
        f"({facts.get('rows_tied_in_time', 0):,} interactions share user and time with another): a hash decides it",
    ]


def day_of(time: float) -> str:
    """A time in seconds as a date, or as a plain number if it is no clock time."""
    if not EARLIEST <= time < LATEST:
        return f"{time:g}"
    return datetime.fromtimestamp(float(time), UTC).strftime("%Y-%m-%d" if time % 86_400 == 0 else "%Y-%m-%dT%H:%M:%SZ")
