"""Histories that are cut into sessions, and the whole sessions recovered from sliding windows."""

from __future__ import annotations

import pytest

from recbole_llm.data.sessions import cut_sessions, whole_sessions
from recbole_llm.errors import UserError
from tests.data.build import table_of, windows

MIDNIGHT = 1_400_025_600  # 2014-05-14


def told(table):
    """The names of the sessions with their items."""
    tokens = table.item_tokens[table.item]
    return {
        str(table.user_tokens[user]): "".join(tokens[table.offsets[user] : table.offsets[user + 1]])
        for user in range(1, table.n_users + 1)
    }


@pytest.fixture
def visits(tmp_path):
    """Makes a table of two people; v acts a second after u's last interaction, so only the name separates them."""

    def make(*seconds):
        rows = [("u", item, MIDNIGHT + second) for item, second in zip("abcdefgh", seconds, strict=False)]
        last = rows[-1][2]
        return table_of(tmp_path, [*rows, ("v", "x", last + 1), ("v", "y", last + 2)])

    return make


def test_a_day_begins_at_midnight_utc(visits):
    table = cut_sessions(visits(-2, -1, 0, 86_399, 86_400), {"by": "day"})
    assert told(table) == {"u#1": "ab", "u#2": "cd", "u#3": "e", "v#1": "xy"}
    assert table.facts["sessions"] == 4


def test_a_gap_counts_from_the_first_item_of_the_session(visits):
    """With a gap of 100 an item at 100 still belongs to the first session, and the second begins at 101."""
    table = cut_sessions(visits(0, 60, 100, 101, 150, 201, 202), {"gap": 100})
    assert told(table) == {"u#1": "abc", "u#2": "def", "u#3": "g", "v#1": "xy"}


def test_sessions_shorter_than_the_least_are_left_out_and_the_others_counted(visits):
    table = cut_sessions(visits(0, 500, 510, 520, 900, 910), {"gap": 100, "min_length": 2})
    assert told(table) == {"u#1": "bcd", "u#2": "ef", "v#1": "xy"}
    with pytest.raises(UserError, match="the session rule leaves no session; loosen min_length"):
        cut_sessions(visits(0, 500), {"gap": 100, "min_length": 3})


def test_longer_sessions_become_windows(visits):
    table = cut_sessions(visits(0, 1, 2, 3, 4), {"window": 3})
    assert told(table) == {"u#1": "abc", "u#2": "bcd", "u#3": "cde", "v#1": "xy"}
    assert told(cut_sessions(visits(0, 1, 2), {"window": 3})) == {"u#1": "abc", "v#1": "xy"}


def test_windows_are_undone(tmp_path):
    table = windows(tmp_path, (9, 3, 14))
    people = [str(name).rpartition("#")[0] for name in table.user_tokens]
    sessions = whole_sessions(table)
    assert sessions[0] == 0
    for user in range(1, table.n_users + 1):
        assert sessions[user] == people.index(people[user])
    plain = table_of(tmp_path, [("u", "i", 1), ("u", "j", 2), ("v", "j", 3)])
    assert whole_sessions(plain).tolist() == [0, 1, 2]
