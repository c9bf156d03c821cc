"""The cache of answers."""

from __future__ import annotations

import multiprocessing
import pickle
import secrets
import zlib
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from recbole_llm.errors import NoRoomError, UserError
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer, ChatRequest
from tests.llm.chat import asked, endpoint_at, question

ANSWER = ChatAnswer('{"a": "café; 日本"}', "stop", 12, 3)
HELLO = asked("hello")


def test_an_answer_comes_back_as_it_was(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        cache.put(HELLO, ANSWER)
        found = cache.get(HELLO.key)
    assert found == ANSWER


def test_an_unknown_key_has_no_answer(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        assert cache.get("k") is None


def test_answers_outlive_the_process(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "deep" / "c.sqlite") as cache:
        cache.put(HELLO, ANSWER)
    with ResponseCache(tmp_path / "deep" / "c.sqlite") as cache:
        assert len(cache) == 1
        assert cache.get(HELLO.key) is not None


def test_the_first_answer_of_a_key_stays(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        cache.put(HELLO, ANSWER)
        cache.put(HELLO, ChatAnswer("later", "stop", 1, 1))
        found = cache.get(HELLO.key)
    assert found is not None
    assert found.content == ANSWER.content


def test_rows_come_out_as_plain_json_with_the_whole_request(tmp_path: Path) -> None:
    request = asked("hello", schema={"type": "object"})
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        cache.put(request, ANSWER, created=1_800_000_000)
        row = next(cache.rows())
    assert row == {
        "key": request.key,
        "request": request.body(),
        "answer": {"content": ANSWER.content, "finish_reason": "stop", "tokens_in": 12, "tokens_out": 3},
        "created": "2027-01-15T08:00:00+00:00",
    }


def test_questions_of_a_batch_are_no_answers_until_they_come(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        cache.put_pending([HELLO, asked("other")])
        assert (len(cache), cache.get(HELLO.key), list(cache.rows())) == (0, None, [])
        assert cache.pending(HELLO.key) == HELLO
        cache.put(HELLO, ANSWER)
        cache.put_pending([HELLO])
        assert (len(cache), cache.get(HELLO.key)) == (1, ANSWER)


@pytest.mark.parametrize("damage", [b"", b"x", zlib.compress(b"[]"), pickle.dumps(ANSWER)])
def test_a_damaged_row_is_no_answer_and_is_replaced(tmp_path: Path, damage: bytes) -> None:
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        cache.put(asked("other"), ANSWER)
        cache.put(HELLO, ANSWER)
        cache._run("UPDATE kept SET body = ? WHERE key = ?", (damage, bytes.fromhex(HELLO.key)))
        assert [row["key"] for row in cache.rows()] == [asked("other").key]
        assert cache.get(HELLO.key) is None
        cache.put(HELLO, ANSWER)
        assert cache.get(HELLO.key) == ANSWER


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    with ResponseCache(path) as cache:
        cache.put(HELLO, ANSWER)
        cache._run("PRAGMA user_version = 99")
    with pytest.raises(UserError, match=r"c\.sqlite was made by a newer version"):
        ResponseCache(path)


def put_long(cache: ResponseCache) -> None:
    cache.put(asked("longer"), ChatAnswer(secrets.token_hex(50_000), "stop", 1, 1))


FULL = {
    "an answer": put_long,
    "requests of a batch": lambda cache: cache.put_pending([asked(secrets.token_hex(50_000))]),
    "a batch": lambda cache: cache.put_batch("b" * 100_000, "http://h/v1", 1, 1.0, "open"),
    "a claim": lambda cache: cache.claim("k" * 100_000, "me"),
}


@pytest.mark.parametrize("fill", FULL.values(), ids=FULL)
def test_a_full_disk_is_named_and_what_is_there_stays(tmp_path: Path, fill: Callable[[ResponseCache], object]) -> None:
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        cache.put(HELLO, ANSWER)
        cache._connection.execute("PRAGMA max_page_count = 1")  # the file cannot grow
        with pytest.raises(NoRoomError, match=r"c\.sqlite cannot be written \(database or disk is full\)"):
            fill(cache)
        assert cache.get(HELLO.key) == ANSWER
        cache._connection.execute("PRAGMA max_page_count = 100000")
        put_long(cache)
        assert len(cache) == 2


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_text("this is not SQLite, whatever its name says; " * 100)
    with pytest.raises(UserError, match=r"c\.sqlite cannot be used .*repair it .*move it away"):
        ResponseCache(path)


def test_the_key_depends_on_all_that_an_answer_depends_on() -> None:
    keys = {
        HELLO.key,
        endpoint_at("http://h/v1", model="other").addressed(question("hello")).key,
        endpoint_at("http://h/v1", temperature=0.5).addressed(question("hello")).key,
        asked("hello!").key,
        asked("hello", max_tokens=51).key,
        asked("hello", schema={"type": "object"}).key,
        replace(HELLO, prompt="test@2").key,
    }
    assert len(keys) == 7
    assert replace(HELLO, again=True).key == HELLO.key


def test_the_key_is_the_same_on_every_machine() -> None:
    request = ChatRequest("p@1", ({"role": "user", "content": "é"},), None, 5, "m")
    assert request.key == ChatRequest("p@1", ({"content": "é", "role": "user"},), None, 5, "m").key
    assert request.key == "c67185ba8d0e56390dbb311ba776f325650a35fee088dc1fd315cb946ec47007"


def open_many(folder: Path, number: int, together: Barrier) -> None:
    """Open new cache files at the same moment as other processes, and write to each."""
    for file in range(25):
        together.wait(300)
        with ResponseCache(folder / f"{file}.sqlite") as cache:
            cache.put(asked(f"hello {number}"), ANSWER)


def test_processes_open_a_new_file_at_the_same_moment(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(4)
    children = [context.Process(target=open_many, args=(tmp_path, n, together)) for n in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    for file in range(25):
        with ResponseCache(tmp_path / f"{file}.sqlite") as cache:
            assert len(cache) == 4


def test_chinese_is_guessed_at_more_tokens_a_character_than_english() -> None:
    assert question("推荐系统" * 10).estimated_tokens() == question("a" * 120).estimated_tokens() == 34
