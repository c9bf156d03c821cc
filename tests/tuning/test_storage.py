"""Storages that hold something else or end in an incomplete line."""

from __future__ import annotations

import pickle
import sqlite3
from pathlib import Path

import pytest

from recbole_llm.errors import UserError
from recbole_llm.tuning.storage import open_storage, storage_address, storage_errors
from tests.tuning.searchers import study_of, take_part

JUNK = {
    "a pickle": pickle.dumps([1, 2]) + b"\n",
    "words": b"started at noon\nended at one\n",
    "words without an end": b"started at noon",
    "JSON of something else": b'[1, 2]\n{"a": 1}\n',
    "unknown operations": b'{"op_code": 99}\n',
    "operations without their values": b'{"op_code": 4}\n',
    "junk after a good line": b'{"op_code": 0, "worker_id": "a", "study_name": "s", "directions": [2]}\n\xff\xfe\n[]\n',
}


@pytest.mark.parametrize("junk", JUNK)
def test_a_journal_of_something_else_is_refused_and_stays_as_it_is(workspace: Path, junk: str) -> None:
    path = workspace / "a.log"
    path.write_bytes(JUNK[junk])
    with pytest.raises(UserError, match=r"a\.log is not a journal of searches: move it away"):
        open_storage(storage_address("a.log", workspace))
    assert path.read_bytes() == JUNK[junk]


def test_half_a_line_at_the_end_of_a_journal_is_left_out(tiny: Path) -> None:
    """A kill or a full disk leaves such a line; the next one would be appended to it, and neither could be read."""
    assert take_part(study_of("a.log", 2)) == 2
    with Path("a.log").open("ab") as stream:
        stream.write(b'{"op_code": 4, "worker')
    assert take_part(study_of("a.log", 3)) == 1
    assert len(study_of("a.log", 3).ended()) == 3


def test_tables_of_something_else_are_told_in_a_line(tiny: Path) -> None:
    connection = sqlite3.connect("a.sqlite3")
    connection.execute("CREATE TABLE studies (a int)")
    connection.commit()
    kept = open_storage(storage_address("a.sqlite3", Path("results")))
    message = r"a\.sqlite3 is no storage of searches that can be used \(.*study_name\): move it away"
    with pytest.raises(UserError, match=message) as caught, storage_errors(kept):
        study_of("a.sqlite3", 1)
    assert "\n" not in str(caught.value)
