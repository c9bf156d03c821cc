"""Broken responses: each counts as one failed attempt, with its reason."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.llm.budget import Usage
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.client import Client
from recbole_llm.llm.wire import LARGEST_RESPONSE
from tests.llm.chat import KEY, asking, endpoint_at, met
from tests.llm.fault_server import FAULTS, FaultServer, completion, whole
from tests.stub_server import Call, Reply, StubServer

Outcome = tuple[str | None, Usage]


def outcome(server: FaultServer, fault: str, folder: Path, attempts: int) -> Outcome:
    """The answer and the usage of a separate client that meets a fault."""
    answers: dict[str, Any] = {}
    with ResponseCache(folder / f"{[*FAULTS].index(fault)}-{attempts}.sqlite") as cache:
        endpoint = endpoint_at(server.base_url, timeout=1.0, attempts=attempts)
        usage = Client(endpoint, cache, known=met()).run([asking(fault, answers)])
    return answers[fault], usage


def outcomes(folder: Path, once: bool) -> dict[str, Outcome]:
    """Outcomes of all faults, requested concurrently."""
    with FaultServer(once) as server, ThreadPoolExecutor(16) as pool:
        return dict(zip(FAULTS, pool.map(lambda fault: outcome(server, fault, folder, 2), FAULTS), strict=True))


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return outcomes(tmp_path_factory.mktemp("once"), once=True)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return outcomes(tmp_path_factory.mktemp("always"), once=False)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_failed_attempt_with_its_reason(mended: dict[str, Outcome], fault: str) -> None:
    answer, usage = mended[fault]
    assert answer == "fine"
    assert (usage.requests, usage.attempts, usage.failed) == (1, 2, 0)
    ((kind, count),) = usage.errors.items()
    assert count == 1
    assert kind in FAULTS[fault].kinds


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_lasts_ends_as_a_request_without_an_answer(lasting: dict[str, Outcome], fault: str) -> None:
    answer, usage = lasting[fault]
    assert answer is None
    assert (usage.requests, usage.attempts, usage.failed) == (1, 2, 1)
    assert sum(usage.errors.values()) == 2


def test_what_follows_an_answer_on_its_connection_is_never_taken_for_the_next(cache: ResponseCache) -> None:
    """Otherwise an unsolicited second response would be read as the answer to the next question."""

    def reply(call: Any) -> Reply:
        body = completion(f"of {call.question}").decode()
        stray = whole(completion("stray")).decode("latin-1") if call.number % 2 == 0 else ""
        return Reply(headers={"Content-Length": str(len(body))}, body=body + stray)

    answers: dict[str, Any] = {}
    with StubServer(reply) as server:
        Client(endpoint_at(server.base_url, concurrency=1), cache).run(asking(str(n), answers) for n in range(6))
    assert answers == {str(n): f"of {n}" for n in range(6)}


def test_a_body_with_a_byte_order_mark_is_read(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    with StubServer(lambda call: Reply(body="\ufeff" + completion().decode())) as server:
        Client(endpoint_at(server.base_url), cache).run([asking("hello", answers)])
    assert answers == {"hello": "fine"}


def test_an_answer_of_nearly_the_largest_size_is_taken(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    text = "x" * (LARGEST_RESPONSE - 1000)
    with StubServer(lambda call: Reply(text=text)) as server:
        Client(endpoint_at(server.base_url), cache).run([asking("hello", answers)])
    assert answers == {"hello": text}


def test_a_redirection_is_not_followed(cache: ResponseCache) -> None:
    """Following it would send the key to another address, and the question as a GET request."""
    with StubServer(lambda call: Reply(status=302, headers={"Location": "http://127.0.0.1:1/"})) as server:
        with pytest.raises(UserError, match=r"redirects \(HTTP 302, to http://127.0.0.1:1/\).*--llm_base_url"):
            Client(endpoint_at(server.base_url), cache).run([asking("hello")])
        assert len(server.calls) == 1


# ---- addresses ----------------------------------------------------------------------------------


def address(server: StubServer, before: str = "", after: str = "") -> str:
    return server.base_url.replace("://", f"://{before}") + after


def test_a_name_and_a_password_in_the_address_are_sent_as_such(cache: ResponseCache) -> None:
    with StubServer() as server:
        endpoint = endpoint_at(address(server, "me:s%40cret@"))
        Client(endpoint, cache).run([asking("hello")])
    assert server.calls[0].headers["authorization"] == "Basic bWU6c0BjcmV0"
    assert "cret" not in server.calls[0].headers["host"]


def test_a_password_beside_a_key_is_refused_in_a_line(cache: ResponseCache, with_key: dict[str, Any]) -> None:
    with StubServer() as server, pytest.raises(UserError, match="holds a name and a password") as caught:
        Client(endpoint_at(address(server, "me:secret@"), **with_key), cache).run([asking("hello")])
    assert server.calls == []
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_query_in_the_address_stays_at_its_end(cache: ResponseCache) -> None:
    with StubServer() as server:
        Client(endpoint_at(address(server, after="/?api-version=2")), cache).run([asking("hello")])
    assert server.calls[0].path == "/v1/chat/completions?api-version=2"


def test_a_proxy_of_the_environment_is_used(cache: ResponseCache, monkeypatch: pytest.MonkeyPatch) -> None:
    with StubServer() as server:
        monkeypatch.setenv("http_proxy", server.base_url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        Client(endpoint_at("http://llm.example/v1"), cache).run([asking("hello")])
    assert server.calls[0].path == "http://llm.example/v1/chat/completions"


def test_a_proxy_without_a_scheme_is_an_http_proxy(cache: ResponseCache, monkeypatch: pytest.MonkeyPatch) -> None:
    with StubServer() as server:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{server.port}")
        monkeypatch.setenv("no_proxy", "")
        Client(endpoint_at("http://llm.example/v1"), cache).run([asking("hello")])
    assert server.calls[0].path == "http://llm.example/v1/chat/completions"


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("socks5://me:secret@127.0.0.1:1", "the proxy socks5://***@127.0.0.1:1, and only HTTP proxies can"),
        ("http://me:secret@127.0.0.1:1", "the environment's proxy http://***@127.0.0.1:1: Connect call failed"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(
    cache: ResponseCache, monkeypatch: pytest.MonkeyPatch, proxy: str, words: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(UserError) as caught:
        Client(endpoint_at("http://llm.example/v1"), cache).run([asking("hello")])
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no such thing"}}, "no such thing"),
        ([{"error": {"code": 400, "message": "API key not valid."}}], "API key not valid."),
        ({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]}, "body.seed: Extra inputs"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"object": "error", "message": "No model"}, "No model"),
        ("<html><h1>Busy</h1>\x1b[31m now</html>", "Busy [31m now"),
        ({"odd": 1}, '{"odd": 1}'),
        ("", "HTTP 400 without a message"),
    ],
    ids=json.dumps,
)
def test_what_a_server_says_is_found_wherever_it_stands(cache: ResponseCache, body: Any, words: str) -> None:
    with StubServer(lambda call: Reply(status=400, body=body)) as server:
        client = Client(endpoint_at(server.base_url, concurrency=1), cache)
        with pytest.raises(UserError) as caught:
            client.run(asking(str(n)) for n in range(9))
    assert str(caught.value).endswith(f": {words}.")


def test_the_key_travels_to_no_log_of_a_wire_fault(cache: ResponseCache, with_key: dict[str, Any]) -> None:
    with StubServer(lambda call: Reply(how="close")) as server:
        usage = Client(endpoint_at(server.base_url, attempts=1, **with_key), cache).run([asking("hello")])
    assert KEY not in repr(usage)


@pytest.mark.parametrize("before", range(255, 300, 7))
def test_a_key_where_a_long_message_is_cut_is_blotted_out(
    cache: ResponseCache, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    key = "AIzaSyD3xampleKEYexampleKEY0123456789"
    monkeypatch.setenv("OTHER_KEY", key)
    reply = Reply(status=401, body="x" * before + f" {key} is no key of ours")
    with StubServer(lambda call: reply) as server, pytest.raises(UserError) as caught:
        Client(endpoint_at(server.base_url, key_env="OTHER_KEY"), cache).run([asking("hello")])
    assert key[:6] not in str(caught.value)


def test_a_password_that_a_server_repeats_is_blotted_out(cache: ResponseCache) -> None:
    def reply(call: Call) -> Reply:
        return Reply(status=401, body=f"bad: {call.headers['authorization']}, me:s%40cret! or me:s@cret!")

    with StubServer(reply) as server, pytest.raises(UserError) as caught:
        Client(endpoint_at(address(server, "me:s%40cret!@")), cache).run([asking("hello")])
    assert "refuses the name and the password in its address: bad: Basic ***" in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("s@cret", "s%40cret", "bWU6"))
