"""The pace of requests: pauses, requests and tokens per minute, concurrency, limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from recbole_llm.llm.budget import Budget
from recbole_llm.llm.cache import ResponseCache, StoredAnswers
from recbole_llm.llm.chat import Script
from recbole_llm.llm.client import Client, _retry_after
from tests.llm.chat import asking, endpoint_at, first_only, met, numbered, question
from tests.stub_server import Call, Reply, StubServer

# ---- pauses ----------------------------------------------------------------------------------------


def test_nothing_is_sent_between_a_429_and_its_retry_after(cache: ResponseCache) -> None:
    def reply(call: Call) -> Reply:
        together = {"when": lambda server: len(server.calls) >= 4}  # no answer until four are in flight
        if call.number == 0:
            return Reply(status=429, headers={"Retry-After": "1"}, **together)
        return Reply(when=lambda server: len(server.calls) >= 4 and server.calls[0].status == 429)

    with StubServer(reply) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=4), cache, known=met()).run(numbered(0, 12))
    assert usage.failed == 0
    assert len(server.calls) == 13
    refused = server.calls[0]
    assert all(call.arrived - refused.answered >= 1.0 for call in server.calls[4:])


def test_a_503_waits_as_long_as_it_asks_for(cache: ResponseCache) -> None:
    with StubServer(first_only(Reply(status=503, headers={"Retry-After": "1"}))) as server:
        Client(endpoint_at(server.base_url), cache).run([asking("hello")])
    assert server.calls[1].arrived - server.calls[0].answered >= 1.0


def test_retry_after_is_read_in_all_its_forms() -> None:
    assert _retry_after({"retry-after": "7"}) == 7.0
    assert _retry_after({"retry-after": "0.25"}) == 0.25
    assert _retry_after({"retry-after": "-3"}) == 0.0
    assert _retry_after({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    assert _retry_after({"retry-after": "soon"}) is None
    assert _retry_after({}) is None
    later = datetime.now(UTC) + timedelta(hours=1)
    assert 3500 < (_retry_after({"retry-after": format_datetime(later, usegmt=True)}) or 0) <= 3600
    assert _retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0


@pytest.mark.parametrize("asked", ["0", "-3", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_pause_of_nothing_leaves_the_pause_to_us(cache: ResponseCache, asked: str) -> None:
    client = Client(endpoint_at("http://127.0.0.1:1/v1"), cache)
    pauses = [client._pause(attempt, {"retry-after": asked}, cool_down=False) for attempt in (1, 5)]
    assert pauses[0] >= 0.25
    assert pauses[1] >= 4.0


def test_requests_a_minute_are_kept(cache: ResponseCache) -> None:
    began = time.monotonic()
    with StubServer() as server:
        Client(endpoint_at(server.base_url, requests_per_minute=120), cache).run(numbered(0, 121))
    assert server.calls[-1].arrived - began >= 0.5  # 120 at once, then two per second


def test_tokens_a_minute_are_kept(cache: ResponseCache) -> None:
    began = time.monotonic()
    rest = 15_100 - question("question 0").estimated_tokens()
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url, tokens_per_minute=60_000)
        Client(endpoint, cache).run(asking(f"question {n}", max_tokens=rest) for n in range(4))
    assert server.calls[-1].arrived - began >= 0.4  # 400 tokens above the limit, at a thousand per second


# ---- how many at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 200])
def test_as_many_requests_as_allowed_are_under_way_and_never_more(cache: ResponseCache, limit: int) -> None:
    def reply(call: Call) -> Reply:
        return Reply(when=lambda server: server.most_at_once >= limit)

    with StubServer(reply) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=limit), cache, known=met()).run(numbered(0, limit + 40))
    assert usage.failed == 0
    assert server.most_at_once == limit


def test_connections_are_kept_open(cache: ResponseCache) -> None:
    with StubServer() as server:
        Client(endpoint_at(server.base_url, concurrency=3), cache).run(numbered(0, 60))
    assert server.connections <= 3


def test_identical_questions_under_way_are_sent_once(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    finished = []
    with StubServer(lambda call: Reply(text="once", when=lambda server: len(server.calls) >= 2)) as server:
        scripts = [*(asking("same", answers) for _ in range(9)), asking("other", answers)]
        usage = Client(endpoint_at(server.base_url, concurrency=10), cache, known=met()).run(
            scripts, lambda: finished.append(1)
        )
    assert sorted(server.times_asked().values()) == [1, 1]
    assert len(finished) == 10
    assert usage.requests == 2


def test_identical_questions_share_a_failure(cache: ResponseCache) -> None:
    received = []

    def script() -> Script:
        received.append((yield question("same")))

    with StubServer(lambda call: Reply(status=500)) as server:
        usage = Client(endpoint_at(server.base_url, attempts=1), cache).run(script() for _ in range(5))
    assert received == [None] * 5
    assert (len(server.calls), usage.failed) == (1, 1)


def test_scripts_are_taken_as_places_become_free(cache: ResponseCache) -> None:
    taken = []

    def scripts() -> Iterator[Script]:
        for number in range(30):
            taken.append(number)
            yield asking(f"question {number}")

    ahead = []

    def reply(call: Call) -> Reply:
        ahead.append(len(taken) - len(server.answered_calls()))
        return Reply()

    with StubServer(reply) as server:
        Client(endpoint_at(server.base_url, concurrency=3), cache).run(scripts())
    assert len(taken) == 30
    assert max(ahead) <= 3


def test_chains_of_different_items_do_not_wait_for_one_another(cache: ResponseCache) -> None:
    """B's second question is sent before A's first question is answered."""

    def chain(item: str) -> Script:
        first = yield question(f"{item} first")
        assert first is not None
        yield question(f"{item} second, after {first.content}")

    def reply(call: Call) -> Reply:
        if call.question == "A first":
            return Reply(when=lambda server: any(c.question.startswith("B second") for c in server.calls))
        return Reply()

    with StubServer(reply) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=2), cache, known=met()).run([chain("A"), chain("B")])
    assert usage.failed == 0
    asked = [call.question.split(",")[0] for call in server.calls]
    assert asked.index("B second") < asked.index("A second")


def test_a_chain_hands_the_first_answer_to_the_second_question(cache: ResponseCache) -> None:
    def chain() -> Script:
        first = yield question("topic?")
        assert first is not None
        second = yield question(f"more about {first.content}")
        assert second is not None
        return second.content

    with StubServer(lambda call: Reply(text=f"<{call.question}>")) as server:
        endpoint = endpoint_at(server.base_url)
        Client(endpoint, cache).run([chain()])
        assert StoredAnswers(endpoint, cache).result(chain()) == "<more about <topic?>>"
    assert len(server.calls) == 2


# ---- limits ----------------------------------------------------------------------------------------


def test_max_requests_stops_and_keeps_every_answer(cache: ResponseCache) -> None:
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url, concurrency=4)
        usage = Client(endpoint, cache, Budget(max_requests=10)).run(numbered(0, 50))
        assert usage.requests == len(server.calls) == len(cache) == 10
        assert usage.stopped == "--max_requests=10 is reached"
        rest = Client(endpoint, cache).run(numbered(0, 50))
    assert (rest.cached, rest.requests, rest.stopped) == (10, 40, "")
    assert max(server.times_asked().values()) == 1


def test_max_requests_zero_sends_nothing(cache: ResponseCache) -> None:
    with StubServer() as server:
        usage = Client(endpoint_at(server.base_url), cache, Budget(max_requests=0)).run(numbered(0, 5))
    assert server.calls == []
    assert usage.stopped


def test_max_cost_is_not_exceeded_and_every_answer_paid_for_is_kept(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(text="x" * 30)) as server:
        endpoint = endpoint_at(server.base_url, concurrency=4, price_in=1000.0, price_out=10_000.0)
        usage = Client(endpoint, cache, Budget(max_cost=2.0)).run(numbered(0, 200))
        assert usage.stopped.startswith("--max_cost=2.0 is reached")
        spent = (1000 * server.tokens_in + 10_000 * server.tokens_out) / 1e6
        assert usage.price == pytest.approx(spent)
        assert 1.0 < spent <= 2.0
        assert len(cache) == len(server.answered_calls()) == len(server.calls) == usage.requests
        rest = Client(endpoint, cache, Budget(max_cost=100.0)).run(numbered(0, 200))
    assert rest.cached == usage.requests
    assert max(server.times_asked().values()) == 1


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_cost_reckons_with_a_longer_answer_that_extra_allows(cache: ResponseCache, name: str) -> None:
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url, price_out=1.0, extra={name: 100_000})
        usage = Client(endpoint, cache, Budget(max_cost=0.05)).run([asking("hello", max_tokens=50)])
        assert server.calls == []
    assert usage.stopped == "--max_cost=0.05 is reached (0.0000 US$ spent, the next request may cost 0.1)"


def test_a_limit_below_the_first_request_says_what_that_may_cost(cache: ResponseCache) -> None:
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url, price_in=0.0, price_out=1.0)
        usage = Client(endpoint, cache, Budget(max_cost=0.05)).run([asking("hello", max_tokens=100_000)])
    assert usage.stopped == "--max_cost=0.05 is reached (0.0000 US$ spent, the next request may cost 0.1)"
    assert server.calls == []


def test_an_unusable_response_is_not_asked_for_again_beyond_the_limit(cache: ResponseCache) -> None:
    spoilt = {"choices": [], "usage": {"prompt_tokens": 100_000, "completion_tokens": 100_000}}
    with StubServer(lambda call: Reply(body=spoilt)) as server:
        endpoint = endpoint_at(server.base_url, price_in=1.0, price_out=1.0)
        script = asking("hello", max_tokens=100_000)  # 0.1 US$ reserved, 0.2 US$ spent
        usage = Client(endpoint, cache, Budget(max_cost=0.25)).run([script])
    assert usage.stopped == "--max_cost=0.25 is reached (0.2000 US$ spent)"
    assert len(server.calls) == 1


def test_answers_in_the_cache_cost_nothing_of_a_limit(cache: ResponseCache) -> None:
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url, price_in=1.0)
        Client(endpoint, cache, Budget(max_cost=1.0)).run(numbered(0, 20))
        usage = Client(endpoint, cache, Budget(max_cost=0.0, max_requests=0)).run(numbered(0, 20))
    assert (usage.cached, usage.price, usage.stopped) == (20, 0.0, "")
