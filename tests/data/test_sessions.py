"""Histories that are cut into sessions, and the whole sessions recovered from sliding windows."""

from __future__ import annotations

from recbole_llm.data.sessions import whole_sessions
from tests.data.build import table_of, windows


def test_windows_are_undone(tmp_path):
    table = windows(tmp_path, (9, 3, 14))
    people = [str(name).rpartition("#")[0] for name in table.user_tokens]
    sessions = whole_sessions(table)
    assert sessions[0] == 0
    for user in range(1, table.n_users + 1):
        assert sessions[user] == people.index(people[user])
    plain = table_of(tmp_path, [("u", "i", 1), ("u", "j", 2), ("v", "j", 3)])
    assert whole_sessions(plain).tolist() == [0, 1, 2]
