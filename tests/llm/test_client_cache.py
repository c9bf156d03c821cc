"""The client's cache: an answered question is never sent again."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from recbole_llm.llm.cache import ResponseCache, StoredAnswers
from recbole_llm.llm.chat import ChatAnswer
from recbole_llm.llm.client import Client
from tests.llm.chat import ask, asked, asking, endpoint_at, numbered
from tests.processes import start
from tests.stub_server import Call, Reply, StubServer


def test_a_second_run_asks_nothing(cache: ResponseCache) -> None:
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url)
        Client(endpoint, cache).run(numbered(0, 30))
        usage = Client(endpoint, cache).run(numbered(0, 30))
    assert len(server.calls) == 30
    assert (usage.cached, usage.requests, usage.tokens_in, usage.price) == (30, 0, 0, 0.0)


def test_another_model_or_temperature_is_asked_anew(cache: ResponseCache) -> None:
    with StubServer() as server:
        for changes in ({}, {"model": "other"}, {"temperature": 0.7}):
            Client(endpoint_at(server.base_url, **changes), cache).run([asking("hello")])
    assert len(server.calls) == 3


def test_a_script_is_sent_none_where_the_cache_has_no_answer(cache: ResponseCache) -> None:
    assert StoredAnswers(endpoint_at("http://127.0.0.1:1/v1"), cache).result(asking("never asked")) is None


def test_the_cache_gives_what_the_run_gave(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(text="kept", finish_reason="length")) as server:
        endpoint = endpoint_at(server.base_url)
        Client(endpoint, cache).run([asking("hello")])
    answers = StoredAnswers(endpoint, cache)
    found = answers.result(asking("hello"))
    assert found == ChatAnswer("kept", "length", server.tokens_in, server.tokens_out)
    assert answers.used == {asked("hello").key: found}


def test_processes_share_one_cache(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    with StubServer() as server:
        children = [start(ask, server.base_url, path, 10 * n, 10 * n + 60, 4) for n in range(3)]
        assert [child.wait(300) for child in children] == [0, 0, 0]
        before = len(server.calls)
        with ResponseCache(path) as cache:
            usage = Client(endpoint_at(server.base_url), cache).run(numbered(0, 80))
        assert (len(server.calls), usage.cached) == (before, 80)


def test_after_a_kill_nothing_is_asked_twice_but_what_was_under_way(tmp_path: Path) -> None:
    path, at_once = tmp_path / "responses.sqlite", 4
    held: set[bytes] = set()

    def reply(call: Call) -> Reply:
        if 25 <= call.number < 25 + at_once:
            held.add(call.raw)
            return Reply(how="hang")
        return Reply()

    with StubServer(reply) as server:
        child = start(ask, server.base_url, path, 0, 60, at_once)
        server.wait_until(lambda _: len(held) == at_once)  # all of the client's slots wait for an answer
        child.send_signal(signal.SIGKILL)
        assert child.wait(300) == -signal.SIGKILL
        assert start(ask, server.base_url, path, 0, 60, at_once).wait(300) == 0
    times = server.times_asked()
    assert len(times) == 60
    assert {body for body, count in times.items() if count > 1} == held
    assert max(times.values()) == 2


def test_what_is_sent_is_valid_unicode_json(cache: ResponseCache) -> None:
    text = 'café "quoted" {braces} \\ 日本'
    with StubServer() as server:
        Client(endpoint_at(server.base_url), cache).run([asking(text)])
    assert json.loads(server.calls[0].raw)["messages"][0]["content"] == text
