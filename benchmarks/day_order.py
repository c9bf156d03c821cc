"""The order of one day's reviews in published sequences: Amazon's times are days, so something else decides it.

    python -m benchmarks.day_order --dataset=beauty --times=beauty-times --data_path=FOLDER

FOLDER holds a folder of each dataset. The published sequences have no times, so they are joined with the same reviews
that have times: items by their titles, users by their sets of items. Titles of several items, and users with the same
set as another user, are left out.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from benchmarks.common import arguments, report
from recbole_llm.data.atomic import read_table
from recbole_llm.data.catalog import locate
from recbole_llm.errors import UserError


@dataclass
class DayOrder:
    """What was counted.

    Attributes:
        users: users that could be joined.
        pairs: consecutive interactions in a published sequence that are of one day.
        ascending: pairs whose item ids ascend.
        last_pairs, last_ascending: the same for the last two interactions of each sequence; leave-one-out tests the
            last one.
    """

    users: int = 0
    pairs: int = 0
    ascending: int = 0
    last_pairs: int = 0
    last_ascending: int = 0


def sequences(name: str, folder: str | None) -> tuple[pd.DataFrame, pd.Series]:
    """Interactions (``user_id``, ``item_id``, ``timestamp``) in order of time, and titles that only one item has.

    Raises:
        UserError: the dataset has no titles.
    """
    location = locate(name, folder)
    if location.file("item") is None:
        raise UserError(f"{name} has no .item file, so no titles to join by.")
    rows = read_table(location.interactions, ["user_id", "item_id", "timestamp"])
    titles = read_table(location.file("item"), ["item_id", "title"]).set_index("item_id")["title"]
    return rows.sort_values(["user_id", "timestamp"], kind="stable"), titles[~titles.duplicated(keep=False)]


def measure(options: argparse.Namespace) -> DayOrder:
    """Count the pairs."""
    published, titles = sequences(options.dataset, options.data_path)
    timed, titles_of_timed = sequences(options.times, options.data_path)
    ids = pd.Series(titles.index, index=titles.to_numpy())
    timed["item_id"] = timed["item_id"].map(titles_of_timed.map(ids))
    timed = timed.dropna(subset="item_id")
    known = set(timed["item_id"])
    days = {user: dict(zip(rows["item_id"], rows["timestamp"], strict=True)) for user, rows in timed.groupby("user_id")}
    users_of: dict[frozenset[str], list[str]] = {}
    for user, day_of in days.items():
        users_of.setdefault(frozenset(day_of), []).append(user)
    found = DayOrder()
    for _, items in published.groupby("user_id")["item_id"]:
        order = items.tolist()
        users = users_of.get(frozenset(item for item in order if item in known), [])
        if len(users) != 1:
            continue
        day_of = days[users[0]]
        pairs = list(pairwise(order))
        one_day = [item in day_of and day_of[item] == day_of.get(following) for item, following in pairs]
        upwards = [same and item < following for same, (item, following) in zip(one_day, pairs, strict=True)]
        found.users += 1
        found.pairs += sum(one_day)
        found.ascending += sum(upwards)
        found.last_pairs += one_day[-1]
        found.last_ascending += upwards[-1]
    return found


def main() -> None:
    """Count, print, write."""
    options = arguments(__doc__ or "", dataset="beauty", times="beauty-times")
    found: dict[str, Any] = asdict(measure(options))
    share = 100 * found["ascending"] / max(1, found["pairs"])
    report("day-order", options, [list(found.values())], list(found), found, share, " %")


if __name__ == "__main__":
    main()
