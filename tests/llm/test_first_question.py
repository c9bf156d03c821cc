"""The client sends one question first, so a fault that affects all questions is reported within seconds."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.client import Client
from recbole_llm.llm.endpoint import load_endpoint
from tests.llm.chat import AT_ONCE, endpoint_at, numbered
from tests.llm.fault_server import FaultServer
from tests.stub_server import Call, Reply, StubServer


def said(cache: ResponseCache, base_url: str, **changes: Any) -> str:
    """The one-line error with which asking many questions ends."""
    with pytest.raises(UserError) as caught:
        Client(endpoint_at(base_url, concurrency=32, **changes), cache).run(numbered(0, 1000))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_first_question_is_asked_alone(cache: ResponseCache) -> None:
    alone: list[int] = []

    def reply(call: Call) -> Reply:
        if not server.answered_calls():
            alone.append(call.number)
        return Reply()

    with StubServer(reply) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=16), cache).run(numbered(0, 40))
    assert alone == [0]
    assert (usage.requests, usage.failed) == (40, 0)


def test_an_address_where_nothing_listens(cache: ResponseCache) -> None:
    with StubServer() as server:
        gone = server.base_url
    assert "cannot be reached: Connect" in said(cache, gone)
    assert len(cache) == 0


def test_a_name_that_no_server_has(cache: ResponseCache) -> None:
    assert "cannot be reached: " in said(cache, "http://no-such-host.invalid/v1")


def test_tls_where_there_is_none(cache: ResponseCache) -> None:
    with FaultServer() as server:
        assert "cannot be reached: no TLS" in said(cache, server.base_url.replace("http:", "https:"))


NOT_THERE = {
    "FastAPI": Reply(status=404, body={"detail": "Not Found"}),
    "nginx": Reply(status=404, body="<html><h1>404 Not Found</h1></html>"),
    "OpenAI": Reply(status=404, body={"error": {"message": "Invalid URL (POST /chat/completions)"}}),
    "another method": Reply(status=405, body={"detail": "Method Not Allowed"}),
}


@pytest.mark.parametrize("reply", NOT_THERE.values(), ids=NOT_THERE)
def test_a_path_without_v1(cache: ResponseCache, reply: Reply) -> None:
    with StubServer(lambda call: reply) as server:
        words = said(cache, server.base_url.removesuffix("/v1"))
        assert f"there is no chat API at {server.base_url.removesuffix('/v1')}/chat/completions" in words
        assert "usually ends in /v1" in words
        assert len(server.calls) == 1


def test_a_page_instead_of_an_api(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(body="<html>Welcome to Ollama</html>")) as server:
        words = said(cache, server.base_url)
        assert "not as a chat API does: no JSON: Welcome to Ollama" in words
        assert "usually ends in /v1" in words
        assert len(server.calls) == 3


def test_a_refused_key(cache: ResponseCache, with_key: dict[str, Any]) -> None:
    with StubServer(lambda call: Reply(status=401, body={"error": {"message": "No such key"}})) as server:
        assert said(cache, server.base_url, **with_key) == "--llm=stub refuses the key in STUB_KEY: No such key"
        assert len(server.calls) == 1


def test_a_server_that_wants_a_key_where_none_is_known(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(status=401, body={"error": {"message": "Unauthorized"}})) as server:
        assert said(cache, server.base_url) == "--llm=stub refuses a request without a key: Unauthorized"


@pytest.mark.parametrize("key", ["“sk-abc”", '"sk-abc"', "'sk-abc'", "sk abc", "sk-äbc", "sk-abc\u200b"])
def test_a_key_with_signs_that_none_has(cache: ResponseCache, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("STUB_KEY", key)
    with StubServer() as server:
        words = said(cache, server.base_url, key_env="STUB_KEY")
        assert "STUB_KEY holds a character that no key has" in words
        assert "abc" not in words
        assert server.calls == []


def test_an_account_without_credit(cache: ResponseCache) -> None:
    reply = Reply(status=402, body={"error": {"message": "Insufficient Balance"}})
    with StubServer(lambda call: reply) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=16), cache).run(numbered(0, 1000))
        assert len(server.calls) == 1
    assert usage.stopped == "--llm=stub has no credit left: Insufficient Balance"
    assert usage.remedy == "top up the account, then run the same command to go on"


def test_a_pause_of_a_day(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(status=429, headers={"Retry-After": "86400"})) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=16), cache).run(numbered(0, 1000))
        assert len(server.calls) == 1
    assert "asks for a pause of 86400 seconds" in usage.stopped


def test_a_schema_that_is_refused(cache: ResponseCache) -> None:
    words = "Invalid schema for response_format 'answer': 'maxItems' must be below 10"
    with StubServer(lambda call: Reply(status=400, body={"error": {"message": words}})) as server:
        assert said(cache, server.base_url).endswith("its file states `response_format: json_object` or `none`.")
        assert words in said(cache, server.base_url)
        assert len(server.calls) == 10  # per run, five questions are tried before the endpoint is blamed


def test_a_server_that_fails_for_ever(cache: ResponseCache) -> None:
    reply = Reply(status=500, headers=AT_ONCE, body={"error": {"message": "out of memory"}})
    with StubServer(lambda call: reply) as server:
        words = said(cache, server.base_url)
        assert "answered none of the first questions (HTTP 500 6 times). Its last words: out of memory" in words
        assert len(server.calls) == 6


def test_a_server_that_says_nothing(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(how="hang")) as server:
        assert "did not answer the first question within 1 seconds, twice" in said(cache, server.base_url, timeout=0.6)
        assert len(server.calls) == 2


def test_one_question_that_cannot_be_answered_does_not_stop_the_others(cache: ResponseCache) -> None:
    with StubServer(
        lambda call: Reply(status=500, headers=AT_ONCE) if call.question == "question 0" else Reply()
    ) as it:
        usage = Client(endpoint_at(it.base_url, concurrency=8), cache).run(numbered(0, 40))
    assert (usage.failed, len(cache)) == (1, 39)


# ---- before anything is sent --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("localhost:8000/v1", "Give --llm_base_url=http://localhost:8000/v1"),
        ("api.example.com/v1", "Give --llm_base_url=http://api.example.com/v1"),
        ("ftp://host/v1", "does not begin with http:// or https://"),
        ("http:/host/v1", "Give --llm_base_url=http://host/v1, or"),
        ("https//host/v1", "Give --llm_base_url=http://host/v1, or"),
        ("“http://host/v1”", "quotation marks or blanks. Give --llm_base_url=http://host/v1, or"),
        ("http://host/v1”", "quotation marks or blanks. Give --llm_base_url=http://host/v1, or"),
        (" http://host/v1", "quotation marks or blanks. Give --llm_base_url=http://host/v1, or"),
        ("http://host/v1\n", "quotation marks or blanks. Give --llm_base_url=http://host/v1, or"),
        ("http://my host/v1", "quotation marks or blanks."),
        ("http:///v1", "and the name of a server"),
        ("http://host:port/v1", "is not valid"),
        ("http://[::1/v1", "is not valid"),
        ("https://host/v1/chat/completions", "leave /chat/completions out"),
        ("https://host/v1/chat/completions/", "leave /chat/completions out"),
        ("https://host/v1/responses", "leave /responses out"),
    ],
)
def test_an_address_that_is_none_is_named_before_anything_is_asked(address: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_endpoint("vllm", {"llm_base_url": address})
    assert words in str(caught.value)


def test_a_password_in_such_an_address_is_not_repeated() -> None:
    for address in (
        *("me:secret@host/v1", "ftp://me:secret@host/v1", "http://me:secret@host/v1/chat/completions"),
        *("http:/me:secret@host/v1", "“http://me:secret@host/v1”"),
    ):
        with pytest.raises(UserError) as caught:
            load_endpoint("vllm", {"llm_base_url": address})
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["openai", "gpt-4o-mini"])
def test_it_is_said_that_openai_base_url_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    # The warning appears once per address, so each case has its own.
    monkeypatch.setenv("OPENAI_BASE_URL", f"https://me:secret@{name}.example/v1")
    caplog.set_level(logging.WARNING)
    assert load_endpoint(name).base_url == "https://api.openai.com/v1"
    load_endpoint(name, {"llm_base_url": "https://proxy.example/v1"})
    load_endpoint("vllm")
    (words,) = caplog.messages
    assert words.startswith(
        f"OPENAI_BASE_URL=https://***@{name}.example/v1 is ignored: requests go to https://api.openai.com/v1. "
    )
