"""Files that are written atomically: complete or not at all."""

from __future__ import annotations

import sqlite3

import pytest

from recbole_llm.errors import UserError
from recbole_llm.utils.files import database_error, open_database, whole_file


def test_bytes_arrive_under_the_name(tmp_path):
    with whole_file(tmp_path / "a.bin") as stream:
        stream.write(b"\x00\r\n\xff")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\r\n\xff"


def test_text_is_utf8_with_plain_line_ends(tmp_path):
    with whole_file(tmp_path / "a.txt", "w") as stream:
        stream.write("Crème\nbrûlée\n")
    assert (tmp_path / "a.txt").read_bytes() == "Crème\nbrûlée\n".encode()


def test_missing_folders_are_made(tmp_path):
    with whole_file(tmp_path / "new" / "er" / "a.txt", "w") as stream:
        stream.write("x")
    assert (tmp_path / "new" / "er" / "a.txt").read_text() == "x"


def test_the_name_does_not_exist_before_the_block_ends(tmp_path):
    with whole_file(tmp_path / "a.txt", "w") as stream:
        stream.write("half")
        stream.flush()
        assert not (tmp_path / "a.txt").exists()


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def write_half():
        with whole_file(tmp_path / "a.txt", "w") as stream:
            stream.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_an_older_file_is_replaced(tmp_path):
    (tmp_path / "a.txt").write_text("old, and longer")
    with whole_file(tmp_path / "a.txt", "w") as stream:
        stream.write("new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_folder_of_that_name_is_an_error_before_anything_is_written(tmp_path):
    def write():
        with whole_file(tmp_path, "w"):
            raise AssertionError("the block is entered")

    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        write()
    assert not list(tmp_path.iterdir())


def test_two_writers_of_one_name_do_not_mix(tmp_path):
    with whole_file(tmp_path / "a.txt", "w") as first, whole_file(tmp_path / "a.txt", "w") as second:
        first.write("1" * 10)
        second.write("2" * 5)
        first.flush()
        second.flush()
    assert (tmp_path / "a.txt").read_text() == "1" * 10  # the writer that closes last wins
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("file:{}?mode=rw", "another process holds it: run the same command again when that has ended"),
        ("file:{}?mode=ro", "it and its folder have to be readable and writable"),
    ],
)
def test_a_database_that_is_sound_is_not_to_be_moved_away(tmp_path, address, advice):
    path = tmp_path / "answers.sqlite3"
    open_database(path, "CREATE TABLE kept (answer)", isolation_level=None).execute("BEGIN IMMEDIATE")
    other = sqlite3.connect(address.format(path), uri=True, timeout=0)
    with pytest.raises(sqlite3.OperationalError) as error:
        other.execute("INSERT INTO kept VALUES (1)")
    assert str(database_error(path, error.value)).endswith(f"; {advice}.")
