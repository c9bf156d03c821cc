"""The client against a real server on the loopback interface: questions and answers."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.client import Client
from tests.llm.chat import AT_ONCE, KEY, asking, endpoint_at, numbered
from tests.stub_server import PATIENCE, Call, Reply, StubServer


def test_each_script_is_sent_its_own_answer(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    with StubServer(lambda call: Reply(text=f"answer to {call.question}")) as server:
        Client(endpoint_at(server.base_url), cache).run(asking(str(n), answers) for n in range(20))
    assert answers == {str(n): f"answer to {n}" for n in range(20)}


def test_a_running_event_loop_as_a_notebook_has_is_no_hindrance(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}

    async def cell_of_a_notebook(base_url: str) -> None:
        Client(endpoint_at(base_url), cache).run(asking(str(n), answers) for n in range(20))

    with StubServer(lambda call: Reply(text=f"answer to {call.question}")) as server:
        asyncio.run(cell_of_a_notebook(server.base_url))
    assert answers == {str(n): f"answer to {n}" for n in range(20)}


def test_errors_come_out_of_a_running_event_loop_too(cache: ResponseCache) -> None:
    async def cell_of_a_notebook(base_url: str) -> None:
        Client(endpoint_at(base_url), cache).run(numbered(0, 1))

    with (
        StubServer(lambda call: Reply(status=404)) as server,
        pytest.raises(UserError, match="there is no chat API at"),
    ):
        asyncio.run(cell_of_a_notebook(server.base_url))


def test_ctrl_c_in_a_notebook_ends_what_is_under_way(cache: ResponseCache) -> None:
    def interrupt(call: Call) -> Reply:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return Reply(how="hang")

    async def cell_of_a_notebook(base_url: str) -> None:
        Client(endpoint_at(base_url, timeout=PATIENCE), cache).run(numbered(0, 1))

    loop = asyncio.new_event_loop()  # leaves Ctrl-C to Python's own handler, as a notebook's loop does
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process ignores Ctrl-C
    try:
        with StubServer(interrupt) as server, pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(cell_of_a_notebook(server.base_url))
    finally:
        signal.signal(signal.SIGINT, before)
        loop.close()
    assert len(server.calls) == 1


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
    body = '{"choices": [{"message": {"content": "good \\ud83d"}, "finish_reason": "\\ud83d"}]}'
    with StubServer(lambda call: Reply(body=body)) as server:
        Client(endpoint_at(server.base_url), cache).run([asking("hello", answers)])
    assert answers == {"hello": "good ?"}


def test_an_answer_without_content_is_an_empty_answer(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    body = {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}
    with StubServer(lambda call: Reply(body=body)) as server:
        Client(endpoint_at(server.base_url), cache).run([asking("hello", answers)])
    assert answers == {"hello": ""}
