"""Compressed storage of answers: nothing is lost, and files of the first format are converted."""

from __future__ import annotations

import json
import lzma
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.llm import cache as cache_module
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer, ChatRequest
from recbole_llm.llm.exchange import export_answers, import_answers
from recbole_llm.llm.packing import GROWTH
from tests.llm.chat import asked

PUBLISHED = Path(__file__).parents[2] / "dataset" / "ml-100k" / "answers"
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
MESSAGES = st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), min_size=1, max_size=4).map(tuple)
REQUESTS = st.builds(
    ChatRequest,
    prompt=TEXT,
    messages=MESSAGES,
    schema=st.none() | st.dictionaries(TEXT, st.integers() | TEXT, max_size=2),
    max_tokens=st.integers(0, 99),
    model=TEXT,
    temperature=st.sampled_from([None, 0.0, 0, 0.7]),
    settings=st.dictionaries(TEXT, TEXT | st.floats(allow_nan=False, allow_subnormal=False), max_size=2),
)
ANSWERS = st.builds(
    ChatAnswer, TEXT, TEXT, st.integers(0, 9), st.integers(0, 9), TEXT, st.integers(0, 9), reasoning=st.integers(0, 9)
)


def long_ones(count: int, size: int = 400) -> list[tuple[ChatRequest, ChatAnswer]]:
    """Questions of one prompt with recurring words, and their answers."""
    opening = ({"role": "system", "content": "Answer. " * 100}, {"role": "user", "content": "An example " * 50})
    found = []
    for number in range(count):
        words = " ".join(
            f"Title {(number * 7 + place * place) % 97} (19{place % 90 + 10})" for place in range(size // 20)
        )
        question = replace(asked(words), messages=(*opening, {"role": "user", "content": f"{number}: {words}"}))
        found.append((question, ChatAnswer(f"of {words[:200]}", "stop", 500 + number, 50)))
    return found


@settings(max_examples=30)  # few, because each example makes a file
@given(st.lists(st.tuples(REQUESTS, ANSWERS), max_size=6))
def test_whatever_is_kept_comes_out_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[ChatRequest, ChatAnswer]]
) -> None:
    path = tmp_path_factory.mktemp("packing") / "c.sqlite"
    with ResponseCache(path) as cache:
        for request, answer in pairs:
            cache.put(request, answer)
    with ResponseCache(path) as cache:
        wanted: dict[str, tuple[ChatRequest, ChatAnswer]] = {}
        for request, answer in pairs:
            wanted.setdefault(request.key, (request, answer))
        assert len(cache) == len(wanted)
        for key, (request, answer) in wanted.items():
            assert cache.get(key) == answer
            assert cache.pending(key) == request
        assert {row["key"]: row["request"] for row in cache.rows()} == {k: r.body() for k, (r, _) in wanted.items()}


def test_dictionaries_come_and_earlier_rows_are_still_read(tmp_path: Path) -> None:
    pairs = long_ones(1700)
    assert sum(len(request.messages[-1]["content"]) for request, _ in pairs) > GROWTH[-1]
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        for request, answer in pairs:
            cache.put(request, answer)
        # One frame without a dictionary, two with.
        assert cache._run("SELECT count(*) FROM frames").fetchone()[0] == 3
        assert all(cache.get(request.key) == answer for request, answer in pairs)
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        assert [row["answer"]["tokens_in"] for row in cache.rows()] == [
            answer.tokens_in for _, answer in sorted(pairs, key=lambda pair: pair[0].key)
        ]
        assert len(cache.sample("test@1", "m", 50)) == 50


def test_a_second_question_shares_the_frame_of_the_first(tmp_path: Path) -> None:
    first = long_ones(1)[0][0]
    more = ({"role": "assistant", "content": "no"}, {"role": "user", "content": "again"})
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        for request in (first, replace(first, messages=(*first.messages, *more))):
            cache.put(request, ChatAnswer("a", "stop", 1, 1))
        assert cache._run("SELECT count(*) FROM frames").fetchone()[0] == 1
        assert {len(row["request"]["messages"]) for row in cache.rows()} == {3, 5}


def test_an_answer_takes_less_than_a_kilobyte(tmp_path: Path) -> None:
    """ISRF asks 7,821 questions about ml-100k, most of them of 500 to 4,000 characters."""
    pairs = long_ones(3000, 4000)
    path = tmp_path / "c.sqlite"
    with ResponseCache(path) as cache:
        for request, answer in pairs:
            cache.put(request, answer)
    whole = sum(len(json.dumps(request.body())) for request, _ in pairs) / len(pairs)
    assert path.stat().st_size / len(pairs) < 1000 < whole / 4


def test_processes_that_add_frames_at_once_read_each_others(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "c") as one, ResponseCache(tmp_path / "c") as other:
        pairs = long_ones(600)
        for number, (request, answer) in enumerate(pairs):
            (one, other)[number % 2].put(replace(request, prompt=f"p{number % 5}@1"), answer)
        for cache in (one, other):
            assert len(list(cache.rows())) == 600


def test_what_is_rolled_back_leaves_no_row_without_its_frame(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "c") as cache:
        with pytest.raises(KeyboardInterrupt), cache.at_one_go():
            cache.put(asked("hello"), ChatAnswer("a", "stop", 1, 1))
            raise KeyboardInterrupt
        cache.put(asked("other"), ChatAnswer("b", "stop", 1, 1))
        assert cache.get(asked("other").key) == ChatAnswer("b", "stop", 1, 1)
        assert len(list(cache.rows())) == 1


# ---- the first format ---------------------------------------------------------------------------

OLD = """
CREATE TABLE answers (key TEXT PRIMARY KEY, model TEXT NOT NULL, prompt TEXT NOT NULL, request TEXT NOT NULL,
    answer TEXT NOT NULL, created TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pending (key TEXT PRIMARY KEY, request TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE batches (id TEXT PRIMARY KEY, base_url TEXT NOT NULL, requests INTEGER NOT NULL, likely REAL NOT NULL,
    status TEXT NOT NULL, created TEXT NOT NULL) WITHOUT ROWID;
"""
MADE = "2026-11-21T10:53:27+00:00"


def old_file(path: Path, pairs: Iterable[tuple[ChatRequest, ChatAnswer]], waiting: Iterable[ChatRequest] = ()) -> None:
    """Write a cache file in the first format."""
    with sqlite3.connect(path) as connection:
        connection.executescript(OLD)
        for request, answer in pairs:
            row = (request.key, request.model, request.prompt, json.dumps(request.body()), json.dumps(answer.stored()))
            connection.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", (*row, MADE))
        for request in waiting:
            connection.execute("INSERT INTO pending VALUES (?, ?)", (request.key, json.dumps(request.body())))
    connection.close()


def check_moved(path: Path, pairs: list[tuple[ChatRequest, ChatAnswer]]) -> None:
    """Check that every answer was moved exactly once and unchanged."""
    with ResponseCache(path) as cache:
        rows = {row["key"]: row for row in cache.rows()}
        assert len(cache) == len(rows) == len(pairs)
        for request, answer in pairs:
            assert rows[request.key]["request"] == request.body()
            assert rows[request.key]["answer"] == answer.stored()
            assert rows[request.key]["created"] == MADE
        assert cache._run("SELECT count(*) FROM answers").fetchone()[0] == 0


def test_a_file_of_the_first_format_is_packed(tmp_path: Path) -> None:
    pairs, path = long_ones(1200), tmp_path / "c.sqlite"
    waiting = [pairs[0][0], asked("waiting")]
    old_file(path, pairs, waiting)
    size = path.stat().st_size
    check_moved(path, pairs)
    with ResponseCache(path) as cache:
        assert [cache.pending(request.key) for request in waiting] == waiting
        assert cache.get(waiting[1].key) is None
    assert path.stat().st_size < size / 5


def test_what_is_no_answer_in_such_a_file_stays_where_it_is(tmp_path: Path) -> None:
    pairs, path = long_ones(3), tmp_path / "c.sqlite"
    old_file(path, pairs)
    with sqlite3.connect(path) as connection:
        for key, request in (("k", "{}"), ("l", "not JSON"), ("m", json.dumps(pairs[0][0].body()))):
            connection.execute("INSERT INTO answers VALUES (?, 'm', 'p', ?, ?, ?)", (key, request, "{}", MADE))
    connection.close()
    for _ in range(2):
        with ResponseCache(path) as cache:
            assert len(cache) == 3
            assert cache._run("SELECT count(*) FROM answers").fetchone()[0] == 3


def killed(path: Path, after: int) -> None:
    """Convert an old file, killing this process in the middle of a chunk."""
    moved, repack = 0, ResponseCache._repack_row
    cache_module.CHUNK = 7

    def row(self: ResponseCache, *values: Any) -> bool:
        nonlocal moved
        moved += 1
        if moved > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return repack(self, *values)

    ResponseCache._repack_row = row  # type: ignore[method-assign]
    ResponseCache(path)


@pytest.mark.parametrize("after", [0, 3, 7, 31])
def test_a_kill_while_it_is_packed_loses_nothing(tmp_path: Path, after: int) -> None:
    pairs, path = long_ones(40), tmp_path / "c.sqlite"
    old_file(path, pairs)
    child = multiprocessing.get_context("fork").Process(target=killed, args=(path, after))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    check_moved(path, pairs)


def test_two_processes_pack_one_file(tmp_path: Path) -> None:
    pairs, path = long_ones(900), tmp_path / "c.sqlite"
    old_file(path, pairs)
    children = [multiprocessing.get_context("fork").Process(target=ResponseCache, args=(path,)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0, 0]
    check_moved(path, pairs)


def test_an_export_of_a_packed_file_has_the_lines_of_the_published_one(tmp_path: Path) -> None:
    (published,) = PUBLISHED.glob("qwen*.eimf_interests@2.*.jsonl.xz")
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        import_answers(cache, published)
        export_answers(cache, tmp_path / "again.jsonl")

    stored = [json.loads(line) for line in lzma.decompress(published.read_bytes()).splitlines()]
    stated = {"price", "licence"}  # by the store, which an export does not read
    assert [json.loads(line) for line in (tmp_path / "again.jsonl").read_bytes().splitlines()] == [
        {name: value for name, value in line.items() if name not in stated} for line in stored
    ]
