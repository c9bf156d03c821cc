"""Asking an endpoint, against a real server on the loopback interface."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.semantics.llm.budget import Budget
from recbole_llm.semantics.llm.cache import ChatAnswer, ResponseCache
from recbole_llm.semantics.llm.client import (
    DEAD_AFTER,
    HOPELESS_AFTER,
    THROTTLED_TIMES,
    Client,
    Script,
    _retry_after,
    replay,
)
from tests.semantics.chat import asking, endpoint_at, numbered, question
from tests.stub_server import Call, Reply, StubServer

ROOT = Path(__file__).parents[2]
KEY = "sk-test-0123456789abcdef"
AT_ONCE = {"retry-after-ms": "1"}
SPOILT_BODIES: dict[str, Any] = {
    "a web page": "<html>busy</html>",
    "half of a JSON text": '{"choices": [{"mess',
    "a list": [],
    "choices as text": {"choices": "none"},
    "a choice that is null": {"choices": [None]},
    "a message that is text": {"choices": [{"message": "hello"}]},
    "content that is a list": {"choices": [{"message": {"content": ["a"]}}]},
}
FAULTS = {
    **{f"HTTP {status}": Reply(status=status, headers=AT_ONCE) for status in (408, 409, 429, 500, 502, 503, 529)},
    "time-out": Reply(how="hang"),
    "closed connection": Reply(how="close"),
    "body cut off": Reply(how="cut"),
    "no completion": Reply(body={"choices": []}),
}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ResponseCache]:
    with ResponseCache(tmp_path / "responses.sqlite") as opened:
        yield opened


@pytest.fixture
def with_key(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Changes of an endpoint that has a key; the server repeats it where it can."""
    monkeypatch.setenv("STUB_KEY", KEY)
    return {"key_env": "STUB_KEY"}


def first_only(fault: Reply) -> Any:
    """Reply with a fault to the first request, with an answer to all others."""
    return lambda call: fault if call.number == 0 else Reply(text="fine")


def echo_of_the_key(status: int) -> Any:
    """Servers tell which key they refuse."""
    return lambda call: Reply(
        status=status,
        headers=AT_ONCE,
        body={"error": {"message": f"Incorrect API key provided: {call.headers['authorization']}"}},
    )


# ---- answers ------------------------------------------------------------------------------------


def test_each_script_is_sent_its_own_answer(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    with StubServer(lambda call: Reply(text=f"answer to {call.question}")) as server:
        Client(endpoint_at(server.base_url), cache).run(asking(str(n), answers) for n in range(20))
    assert answers == {str(n): f"answer to {n}" for n in range(20)}


def test_the_body_says_what_the_endpoint_and_the_request_say(cache: ResponseCache) -> None:
    schema = {"type": "object"}
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url, model="large", temperature=0.5, extra={"top_k": 1})
        Client(endpoint, cache).run([asking("hello", max_tokens=7, schema=schema)])
    assert server.calls[0].path == "/v1/chat/completions"
    assert server.calls[0].body == {
        "model": "large",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.5,
        "max_tokens": 7,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        "top_k": 1,
    }


def test_servers_without_schemas_are_asked_for_an_object(cache: ResponseCache) -> None:
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url, response_format="json_object")
        Client(endpoint, cache).run([asking("hello", schema={"type": "object"})])
    assert server.calls[0].body["response_format"] == {"type": "json_object"}


def test_servers_without_formats_are_asked_for_none(cache: ResponseCache) -> None:
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url, response_format="none", max_tokens_field="max_completion_tokens")
        Client(endpoint, cache).run([asking("hello", max_tokens=7, schema={"type": "object"})])
    assert "response_format" not in server.calls[0].body
    assert server.calls[0].body["max_completion_tokens"] == 7


def test_the_key_travels_in_the_header_alone(cache: ResponseCache, with_key: dict[str, Any]) -> None:
    with StubServer() as server:
        Client(endpoint_at(server.base_url, **with_key), cache).run([asking("hello")])
    assert server.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY.encode() not in server.calls[0].raw


def test_totals_are_what_the_server_counted(cache: ResponseCache) -> None:
    def reply(call: Call) -> Reply:
        if call.number % 4 == 1:
            return Reply(status=500, headers=AT_ONCE)
        return Reply(text="word " * (call.number % 7))

    with StubServer(reply) as server:
        endpoint = endpoint_at(server.base_url, attempts=9, price_in=2.0, price_out=8.0)
        usage = Client(endpoint, cache).run(numbered(0, 40))
    assert (usage.tokens_in, usage.tokens_out) == (server.tokens_in, server.tokens_out)
    assert usage.price == pytest.approx((2 * server.tokens_in + 8 * server.tokens_out) / 1e6)
    assert usage.requests == 40
    assert usage.attempts == len(server.calls)
    assert usage.errors == {"HTTP 500": len(server.calls) - 40}


def test_tokens_are_estimated_where_the_server_does_not_count(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(body={"choices": [{"message": {"content": "x" * 40}}]})) as server:
        usage = Client(endpoint_at(server.base_url), cache).run([asking("y" * 80)])
    assert (usage.tokens_in, usage.tokens_out) == (24, 10)


def test_half_an_emoji_in_an_answer_is_kept_as_a_question_mark(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    body = '{"choices": [{"message": {"content": "good \\ud83d"}, "finish_reason": "length"}]}'
    with StubServer(lambda call: Reply(body=body)) as server:
        Client(endpoint_at(server.base_url), cache).run([asking("hello", answers)])
    assert answers == {"hello": "good ?"}


def test_an_answer_without_content_is_an_empty_answer(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    body = {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}
    with StubServer(lambda call: Reply(body=body)) as server:
        Client(endpoint_at(server.base_url), cache).run([asking("hello", answers)])
    assert answers == {"hello": ""}


# ---- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_retried_and_ends_answered(cache: ResponseCache, fault: Reply) -> None:
    answers: dict[str, Any] = {}
    with StubServer(first_only(fault)) as server:
        timeout = 0.4 if fault.how == "hang" else 20.0
        usage = Client(endpoint_at(server.base_url, timeout=timeout), cache).run([asking("hello", answers)])
    assert answers == {"hello": "fine"}
    assert (usage.requests, usage.attempts, usage.failed) == (1, 2, 0)
    assert sum(usage.errors.values()) == 1


def test_faults_that_stay_end_counted_as_failed_and_the_rest_is_answered(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    faults = FAULTS | {name: Reply(body=body) for name, body in SPOILT_BODIES.items()}
    with StubServer(lambda call: faults.get(call.question, Reply(text="fine"))) as server:
        endpoint = endpoint_at(server.base_url, timeout=2.0, attempts=2, concurrency=100)
        usage = Client(endpoint, cache).run(asking(text, answers) for text in [*faults, "hello"])
    assert answers == {**dict.fromkeys(faults), "hello": "fine"}
    assert usage.failed == len(faults)
    throttled = 2 * THROTTLED_TIMES  # a 429 alone says nothing against a request
    assert usage.attempts == len(server.calls) == 2 * (len(faults) - 1) + throttled + 1
    assert sum(usage.errors.values()) == usage.attempts - 1
    assert len(cache) == 1


def test_a_server_that_is_not_there_ends_counted_as_failed(cache: ResponseCache) -> None:
    with StubServer() as server:
        gone = server.base_url
    usage = Client(endpoint_at(gone, attempts=2), cache).run([asking("hello")])
    assert usage.failed == 1
    assert usage.errors == {"broken connection": 2}


def test_what_failed_is_asked_again_by_the_next_run(cache: ResponseCache) -> None:
    with StubServer(first_only(Reply(status=500))) as server:
        endpoint = endpoint_at(server.base_url, attempts=1)
        first = Client(endpoint, cache).run([asking("hello")])
        second = Client(endpoint, cache).run([asking("hello")])
    assert (first.failed, second.failed) == (1, 0)
    assert len(server.calls) == 2


MIXED = [
    Reply(status=429, headers=AT_ONCE),
    Reply(status=500, headers=AT_ONCE),
    Reply(how="close"),
    Reply(how="cut"),
    Reply(body='{"choices": [{"mess'),
    Reply(text='{"intents": ["a', finish_reason="length"),
]


def test_with_three_faults_in_ten_every_request_ends_and_none_is_asked_after_its_success(cache: ResponseCache) -> None:
    """All kinds of faults in turn, and two requests that hang until they time out."""
    turns = iter(range(10_000))
    hung: set[str] = set()

    def reply(call: Call) -> Reply:
        if call.question in ("question 7", "question 70") and call.question not in hung:
            hung.add(call.question)
            return Reply(how="hang")
        turn = next(turns)
        return MIXED[turn // 10 % len(MIXED)] if turn % 10 in (1, 4, 7) else Reply(text="word " * (turn % 9))

    with StubServer(reply) as server:
        endpoint = endpoint_at(server.base_url, timeout=6.0, attempts=8, concurrency=16, price_in=1.0)
        usage = Client(endpoint, cache).run(numbered(0, 200))
    succeeded: set[str] = set()
    for call in server.calls:
        assert call.question not in succeeded
        if call.tokens_in:  # the stub gave a completion
            succeeded.add(call.question)
    assert len(succeeded) + usage.failed == 200
    assert len(cache) == len(succeeded)
    assert (usage.tokens_in, usage.tokens_out) == (server.tokens_in, server.tokens_out)
    assert usage.attempts == len(server.calls)
    assert sum(usage.errors.values()) == len(server.calls) - len(succeeded)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_other_refusals_are_not_retried_and_the_rest_goes_on(cache: ResponseCache, status: int) -> None:
    answers: dict[str, Any] = {}
    with StubServer(first_only(Reply(status=status))) as server:
        endpoint = endpoint_at(server.base_url, concurrency=1)
        usage = Client(endpoint, cache).run(asking(text, answers) for text in "abc")
    assert answers == {"a": None, "b": "fine", "c": "fine"}
    assert (usage.attempts, usage.failed) == (3, 1)


def test_a_server_that_refuses_every_request_stops_the_run(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(status=400)) as server:
        client = Client(endpoint_at(server.base_url, concurrency=1), cache)
        with pytest.raises(UserError, match=r"refuses every request.*stub says 400"):
            client.run(numbered(0, 100))
    assert len(server.calls) == HOPELESS_AFTER


def test_refusals_between_answers_do_not_stop_the_run(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply() if call.number % 4 == 3 else Reply(status=400)) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=1), cache).run(numbered(0, 40))
    assert (usage.requests, usage.failed) == (40, 30)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_the_run_and_names_the_variable(
    cache: ResponseCache, with_key: dict[str, Any], status: int
) -> None:
    with StubServer(echo_of_the_key(status)) as server:
        client = Client(endpoint_at(server.base_url, concurrency=2, **with_key), cache)
        with pytest.raises(UserError, match=r"--llm=stub refuses the key in STUB_KEY") as caught:
            client.run(numbered(0, 50))
    assert KEY not in str(caught.value)
    assert len(server.calls) <= 2


def test_an_unknown_model_stops_the_run_and_is_named(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(status=404)) as server:
        client = Client(endpoint_at(server.base_url, model="gpt-99", concurrency=2), cache)
        with pytest.raises(UserError, match=r"knows no model 'gpt-99'.*stub says 404"):
            client.run(numbered(0, 50))
    assert len(server.calls) <= 2


def test_a_missing_key_is_an_error_before_anything_is_asked(
    cache: ResponseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STUB_KEY", raising=False)
    with StubServer() as server, pytest.raises(UserError, match=r"--llm=stub needs a key.*STUB_KEY"):
        Client(endpoint_at(server.base_url, key_env="STUB_KEY"), cache).run(numbered(0, 5))
    assert server.calls == []


def test_answers_of_the_cache_need_no_key(cache: ResponseCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUB_KEY", raising=False)
    with StubServer() as server:
        Client(endpoint_at(server.base_url), cache).run(numbered(0, 5))
        usage = Client(endpoint_at(server.base_url, key_env="STUB_KEY"), cache).run(numbered(0, 5))
    assert (usage.cached, len(server.calls)) == (5, 5)


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_the_key_is_in_no_log_error_or_cache(
    tmp_path: Path, with_key: dict[str, Any], caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "responses.sqlite"
    message = ""
    with StubServer(lambda call: Reply() if call.number == 0 else echo_of_the_key(status)(call)) as server:
        endpoint = endpoint_at(server.base_url, concurrency=1, attempts=2, **with_key)
        with ResponseCache(path) as cache:
            client = Client(endpoint, cache)
            try:
                client.run(numbered(0, 3))
            except UserError as error:
                message = str(error)
    assert len(server.calls) >= 2
    assert KEY not in caplog.text
    assert KEY not in message
    assert KEY not in repr(client.usage)
    assert all(KEY.encode() not in file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=429, body={"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}),
        Reply(status=402, body={"error": {"message": "Insufficient Balance"}}),
    ],
    ids=["OpenAI", "DeepSeek"],
)
def test_an_empty_account_stops_the_run_at_once(cache: ResponseCache, reply: Reply) -> None:
    with StubServer(lambda call: reply if call.number >= 3 else Reply()) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=1), cache).run(numbered(0, 50))
    assert usage.stopped.startswith("--llm=stub has no credit left")
    assert (len(server.calls), len(cache)) == (4, 3)


def test_a_server_that_is_gone_stops_the_run(cache: ResponseCache) -> None:
    with StubServer() as server:
        gone = server.base_url
    usage = Client(endpoint_at(gone, attempts=2, concurrency=16), cache).run(numbered(0, 10_000))
    assert "times in a row (broken connection)" in usage.stopped
    assert usage.attempts < 2 * DEAD_AFTER + 16


def test_faults_between_answers_do_not_stop_the_run(cache: ResponseCache) -> None:
    def reply(call: Call) -> Reply:
        return Reply() if call.number % 20 == 0 else Reply(status=500, headers=AT_ONCE)

    with StubServer(reply) as server:
        endpoint = endpoint_at(server.base_url, attempts=40, concurrency=1, patience=0.0)
        usage = Client(endpoint, cache).run(numbered(0, 20))
    assert (usage.stopped, usage.failed, len(cache)) == ("", 0, 20)


def test_a_server_that_wants_a_longer_pause_than_anyone_waits_stops_the_run(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(status=429, headers={"Retry-After": "86400"})) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=1), cache).run(numbered(0, 50))
    assert "asks for a pause of 86400 seconds" in usage.stopped
    assert len(server.calls) == 1


def test_a_response_that_cannot_be_used_is_paid_for_all_the_same(cache: ResponseCache) -> None:
    spoilt = Reply(body={"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 7}})
    with StubServer(first_only(spoilt)) as server:
        endpoint = endpoint_at(server.base_url, price_in=1.0)
        usage = Client(endpoint, cache).run([asking("hello")])
    assert usage.tokens_in == 50 + server.tokens_in
    assert usage.tokens_out == 7 + server.tokens_out


def test_a_refusal_without_content_is_kept_as_one(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    message = {"role": "assistant", "content": None, "refusal": "Not this."}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    with StubServer(lambda call: Reply(body=body)) as server:
        Client(endpoint_at(server.base_url), cache).run([asking("hello", answers)])
    assert answers == {"hello": "I cannot: Not this."}


# ---- pauses -------------------------------------------------------------------------------------


def test_nothing_is_sent_between_a_429_and_its_retry_after(cache: ResponseCache) -> None:
    def reply(call: Call) -> Reply:
        together = {"when": lambda server: len(server.calls) >= 4}  # all four are under way before any is answered
        if call.number == 0:
            return Reply(status=429, headers={"Retry-After": "1"}, **together)
        return Reply(when=lambda server: len(server.calls) >= 4 and server.calls[0].status == 429)

    with StubServer(reply) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=4), cache).run(numbered(0, 12))
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


def test_requests_a_minute_are_kept(cache: ResponseCache) -> None:
    began = time.monotonic()
    with StubServer() as server:
        Client(endpoint_at(server.base_url, requests_per_minute=120), cache).run(numbered(0, 121))
    assert server.calls[-1].arrived - began >= 0.5  # 120 at once, then two a second


def test_tokens_a_minute_are_kept(cache: ResponseCache) -> None:
    began = time.monotonic()
    rest = 15_100 - question("question 0").estimated_tokens()
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url, tokens_per_minute=60_000)
        Client(endpoint, cache).run(asking(f"question {n}", max_tokens=rest) for n in range(4))
    assert server.calls[-1].arrived - began >= 0.4  # 400 tokens too many, a thousand a second


# ---- how many at once ---------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 200])
def test_as_many_requests_as_allowed_are_under_way_and_never_more(cache: ResponseCache, limit: int) -> None:
    def reply(call: Call) -> Reply:
        return Reply(when=lambda server: server.most_at_once >= limit)

    with StubServer(reply) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=limit), cache).run(numbered(0, limit + 40))
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
        usage = Client(endpoint_at(server.base_url, concurrency=10), cache).run(scripts, lambda: finished.append(1))
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
    """The second question about B is sent while the first about A has no answer."""

    def chain(item: str) -> Script:
        first = yield question(f"{item} first")
        assert first is not None
        yield question(f"{item} second, after {first.content}")

    def reply(call: Call) -> Reply:
        if call.question == "A first":
            return Reply(when=lambda server: any(c.question.startswith("B second") for c in server.calls))
        return Reply()

    with StubServer(reply) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=2), cache).run([chain("A"), chain("B")])
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
        assert replay(chain(), cache, endpoint) == "<more about <topic?>>"
    assert len(server.calls) == 2


# ---- limits -------------------------------------------------------------------------------------


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


def test_answers_in_the_cache_cost_nothing_of_a_limit(cache: ResponseCache) -> None:
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url, price_in=1.0)
        Client(endpoint, cache, Budget(max_cost=1.0)).run(numbered(0, 20))
        usage = Client(endpoint, cache, Budget(max_cost=0.0, max_requests=0)).run(numbered(0, 20))
    assert (usage.cached, usage.price, usage.stopped) == (20, 0.0, "")


# ---- the cache under it -------------------------------------------------------------------------


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


def test_replay_sends_none_where_there_is_no_answer(cache: ResponseCache) -> None:
    assert replay(asking("never asked"), cache, endpoint_at("http://127.0.0.1:1/v1")) is None


def test_replay_gives_what_the_run_gave(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(text="kept", finish_reason="length")) as server:
        endpoint = endpoint_at(server.base_url)
        Client(endpoint, cache).run([asking("hello")])
    found = replay(asking("hello"), cache, endpoint)
    assert found == ChatAnswer("kept", "length", server.tokens_in, server.tokens_out, cached=True)


def start_asking(server: StubServer, cache: Path, first: int, last: int, concurrency: int) -> subprocess.Popen[bytes]:
    """A process of its own that asks numbered questions."""
    words = [server.base_url, cache, first, last, concurrency]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "tests.semantics.chat", *map(str, words)], cwd=ROOT, env=environment)


def test_processes_share_one_cache(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    with StubServer() as server:
        children = [start_asking(server, path, 10 * n, 10 * n + 60, 4) for n in range(3)]
        assert [child.wait(60) for child in children] == [0, 0, 0]
        asked = len(server.calls)
        with ResponseCache(path) as cache:
            usage = Client(endpoint_at(server.base_url), cache).run(numbered(0, 80))
        assert (len(server.calls), usage.cached) == (asked, 80)


def test_after_a_kill_nothing_is_asked_twice_but_what_was_under_way(tmp_path: Path) -> None:
    path, at_once = tmp_path / "responses.sqlite", 4
    held: set[bytes] = set()

    def reply(call: Call) -> Reply:
        if 25 <= call.number < 25 + at_once:
            held.add(call.raw)
            return Reply(how="hang")
        return Reply()

    with StubServer(reply) as server:
        child = start_asking(server, path, 0, 60, at_once)
        server.wait_until(lambda _: len(held) == at_once)  # every place of the client waits for an answer
        child.send_signal(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
        assert start_asking(server, path, 0, 60, at_once).wait(60) == 0
    times = server.times_asked()
    assert len(times) == 60
    assert {body for body, count in times.items() if count > 1} == held
    assert max(times.values()) == 2


def test_what_is_sent_is_valid_unicode_json(cache: ResponseCache) -> None:
    text = 'café "quoted" {braces} \\ 日本'
    with StubServer() as server:
        Client(endpoint_at(server.base_url), cache).run([asking(text)])
    assert json.loads(server.calls[0].raw)["messages"][0]["content"] == text
