"""Concurrent commands send the same question only once, and answers are stored as soon as they arrive."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.llm.cache import ResponseCache, owner_of_claims
from recbole_llm.llm.chat import ChatAnswer, ChatRequest
from recbole_llm.llm.client import Client
from tests.llm.chat import asked, asking, endpoint_at, met, numbered
from tests.stub_server import Call, Reply, StubServer

OURS, THEIRS = owner_of_claims(), "elsewhere/1/mark"
GONE = f"{owner_of_claims().rsplit('/', 2)[0]}/{2**22 + 1}/mark"  # above Linux's largest process id


class Watched(ResponseCache):
    """A cache that counts lookups and refused claims."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self.looks = self.refused = 0
        self.looks_at_put: list[int] = []
        self.on_refused: Callable[[], object] = lambda: None

    def get(self, key: str) -> ChatAnswer | None:
        self.looks += 1
        return super().get(key)

    def put(self, request: ChatRequest, answer: ChatAnswer) -> None:
        self.looks_at_put.append(self.looks)
        super().put(request, answer)

    def claim(self, key: str, owner: str) -> bool:
        taken = super().claim(key, owner)
        if not taken:
            self.refused += 1
            self.on_refused()
        return taken


# ---- claims -------------------------------------------------------------------------------------


def test_a_claimed_question_is_not_claimed_by_another(cache: ResponseCache) -> None:
    assert cache.claim("k", OURS)
    assert cache.claim("k", OURS)
    assert not cache.claim("k", THEIRS)
    assert cache.claim("l", THEIRS)
    assert not cache.claim("l", OURS)


def test_a_claim_that_was_given_back_is_free(cache: ResponseCache) -> None:
    cache.claim("k", THEIRS)
    cache.drop_claim("k", OURS)  # has no effect on another's claim
    assert not cache.claim("k", OURS)
    cache.drop_claim("k", THEIRS)
    assert cache.claim("k", OURS)


def test_a_claim_runs_out_unless_it_is_renewed(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "c", lease=-1.0) as late, ResponseCache(tmp_path / "c") as cache:
        late.claim("k", THEIRS)
        late.claim("l", THEIRS)
        assert cache.claim("k", OURS)
        cache.renew_claims(THEIRS)
        assert not cache.claim("l", OURS)


def test_the_claim_of_another_container_is_not_judged_by_the_process_ids_of_this_one(cache: ResponseCache) -> None:
    host = socket.gethostname()  # also theirs, if both use the host's network
    for number, space in enumerate(("", " pid:[1]")):
        assert cache.claim(str(number), f"{host}{space}/{2**22 + 1}/mark")
        assert cache.claim(str(number), OURS) == (OURS.rsplit("/", 2)[0] == f"{host}{space}")


def test_a_claim_ends_with_its_process(cache: ResponseCache) -> None:
    cache.claim("k", GONE)
    assert cache.claim("k", OURS)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Watched, Watched]]:
    """The same cache, opened by two commands."""
    with Watched(tmp_path / "c", lease=0.3) as first, Watched(tmp_path / "c", lease=0.3) as second:
        yield first, second


def both(server: StubServer, pair: tuple[Watched, Watched], answers: list[dict[str, Any]], count: int) -> list[Any]:
    """Run two commands that ask the same questions concurrently."""

    def run(number: int) -> Any:
        scripts = (asking(f"question {n}", answers[number]) for n in range(count))
        endpoint = endpoint_at(server.base_url, concurrency=count, attempts=1)
        return Client(endpoint, pair[number], known=met()).run(scripts)

    pair[1].on_refused = server.look_again
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, 0)
        server.wait_until(lambda found: len(found.calls) == count)
        second = pool.submit(run, 1)
        return [first.result(), second.result()]


def test_two_commands_ask_a_question_once(pair: tuple[Watched, Watched]) -> None:
    answers: list[dict[str, Any]] = [{}, {}]
    reply = Reply(text="fine", when=lambda server: pair[1].refused > 0)
    with StubServer(lambda call: reply) as server:
        usages = both(server, pair, answers, 5)
        assert len(server.calls) == 5
    assert answers[0] == answers[1] == {f"question {n}": "fine" for n in range(5)}
    assert [(usage.requests, usage.cached) for usage in usages] == [(5, 0), (0, 5)]


def test_a_claim_is_renewed_as_long_as_its_question_is_under_way(pair: tuple[Watched, Watched]) -> None:
    answers: list[dict[str, Any]] = [{}, {}]
    reply = Reply(text="fine", when=lambda server: pair[1].refused >= 5)  # takes longer than the claim's lease
    with StubServer(lambda call: reply) as server:
        both(server, pair, answers, 1)
        assert len(server.calls) == 1


def test_what_the_other_command_got_no_answer_to_is_asked_again(pair: tuple[Watched, Watched]) -> None:
    def reply(call: Call) -> Reply:
        if call.number:
            return Reply(text="fine")
        return Reply(status=400, when=lambda server: pair[1].refused > 0)

    answers: list[dict[str, Any]] = [{}, {}]
    with StubServer(reply) as server:
        both(server, pair, answers, 1)
        assert len(server.calls) == 2
    assert answers == [{"question 0": None}, {"question 0": "fine"}]


def test_no_claim_outlives_its_command(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(status=400) if call.number % 3 == 0 else Reply()) as server:
        Client(endpoint_at(server.base_url, concurrency=2), cache).run(numbered(0, 9))
    assert all(cache.claim(asked(f"question {n}").key, THEIRS) for n in range(9))


# ---- kept as they come --------------------------------------------------------------------------


def test_answers_are_kept_while_cached_ones_are_walked_through(tmp_path: Path) -> None:
    count = 5000
    with Watched(tmp_path / "c") as cache:
        for number in range(count):
            cache.put(asked(f"question {number}"), ChatAnswer("kept", "stop", 1, 1))
        cache.looks, cache.looks_at_put = 0, []
        with StubServer() as server:
            scripts = (*numbered(count, count + 5), *numbered(0, count))
            usage = Client(endpoint_at(server.base_url, concurrency=8), cache).run(scripts)
        assert (usage.requests, usage.cached) == (5, count)
        assert max(cache.looks_at_put) < count  # regression: answers were stored only after the last lookup
