"""Batches: each is paid for only once, and faults are reported."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.llm.batch import OPEN, BatchClient
from recbole_llm.llm.budget import Budget
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer
from recbole_llm.llm.client import Client
from tests.llm.batch_stub import BatchStub
from tests.llm.chat import KEY, asked, asking, endpoint_at
from tests.stub_server import Call, Reply, StubServer

PENDING = [asked("one"), asked("two")]


def client_at(server: StubServer, cache: ResponseCache, **key: Any) -> BatchClient:
    endpoint = endpoint_at(server.base_url, price_in=1.0, batch_price=0.5, **key)
    return BatchClient(endpoint, cache, Budget(), pause=0.0)


def test_a_batch_whose_reply_is_lost_is_found_and_not_made_again(
    cache: ResponseCache, with_key: dict[str, Any]
) -> None:
    stub = BatchStub(lambda body: "{}")

    def reply(call: Call) -> Reply:
        found = stub(call)
        return replace(found, how="close") if call.path == "/v1/batches" else found

    with StubServer(reply) as server:
        client = client_at(server, cache, **with_key)
        with pytest.raises(UserError, match="run the same command to go on"):
            client.submit(PENDING)
        assert len(stub.batches) == 1
        assert client.open_batches() == ["batch-0"]
        assert client.fetch().new == len(cache) == 2


def test_what_was_answered_since_is_not_submitted(cache: ResponseCache, with_key: dict[str, Any]) -> None:
    known, other = PENDING
    cache.put(known, ChatAnswer("{}", "stop", 1, 1))
    stub = BatchStub(lambda body: "{}")
    with StubServer(stub) as server:
        client_at(server, cache, **with_key).submit(PENDING)
    assert stub.submitted == [other.key]


def test_what_waits_in_a_batch_is_not_asked_live_as_well(cache: ResponseCache, with_key: dict[str, Any]) -> None:
    stub = BatchStub(lambda body: "{}")
    with StubServer(stub) as server:
        batches = client_at(server, cache, **with_key)
        batches.submit(PENDING)
        with pytest.raises(UserError, match="paid for twice: `recbole-llm generate --batch`"):
            Client(batches.endpoint, cache).run([asking("one")])
        Client(batches.endpoint, cache).run([asking("three")])
        assert [body["messages"][0]["content"] for body in stub.live] == ["three"]
        batches.fetch()
        Client(batches.endpoint, cache).run([asking("one"), asking("four")])
    assert [body["messages"][0]["content"] for body in stub.live] == ["three", "four"]


def test_a_batch_is_known_by_its_server_however_the_address_is_written(
    cache: ResponseCache, with_key: dict[str, Any]
) -> None:
    with StubServer(BatchStub(lambda body: "{}")) as server:
        batches = client_at(server, cache, **with_key)
        batches.submit(PENDING)
        for address in (f"{server.base_url}/", server.base_url.replace("http://", "HTTP://me:secret@")):
            with pytest.raises(UserError, match="paid for twice"):
                Client(replace(batches.endpoint, base_url=address), cache).run([asking("one")])
            assert cache.batches(address, OPEN) == ["batch-0"]


def test_a_password_in_the_address_is_not_kept_with_a_batch(cache: ResponseCache) -> None:
    cache.put_batch("b", "https://me:secret@host/v1?key=secret", 1, 0.0, OPEN)
    assert b"secret" not in b"".join(path.read_bytes() for path in cache.path.parent.iterdir())
    assert cache.batches("https://host/v1/", OPEN) == ["b"]


def test_a_query_and_a_login_in_the_address_stand_where_live_requests_have_them(
    cache: ResponseCache, caplog: pytest.LogCaptureFixture
) -> None:
    stub = BatchStub(lambda body: "{}")
    address = "http://me:secret@127.0.0.1:{}/v1?api-version=2"
    caplog.set_level(logging.INFO)  # at which the HTTP client logs addresses
    with StubServer(lambda call: stub(replace(call, path=call.path.partition("?")[0]))) as server:
        endpoint = endpoint_at(address.format(server.port), price_in=1.0, batch_price=0.5)
        client = BatchClient(endpoint, cache, Budget(), pause=0.0)
        client.submit(PENDING)
        assert client.fetch().new == 2
        client.close()
    assert [call.path for call in server.calls][:2] == ["/v1/files?api-version=2", "/v1/batches?api-version=2"]
    assert {call.headers["authorization"] for call in server.calls} == {endpoint.authorization()}
    assert "secret" not in caplog.text


def test_a_batch_spends_what_its_answers_cost(cache: ResponseCache, with_key: dict[str, Any]) -> None:
    stub = BatchStub(lambda body: "{}")
    cached = '"total_tokens": 110, "prompt_tokens_details": {"cached_tokens": 90}'

    def reply(call: Call) -> Reply:
        found = stub(call)
        body = re.sub('"total_tokens": 110', cached, str(found.body))
        return replace(found, body=body) if "content" in call.path else found

    with StubServer(reply) as server:
        client = client_at(server, cache, price_cached=0.1, **with_key)
        client.submit(PENDING)
        client.fetch()
    assert client.budget.spent * 1e6 == pytest.approx(2 * 0.5 * (10 + 9))


@pytest.mark.parametrize("split", [False, True])
def test_what_a_server_says_of_a_request_that_failed_is_repeated(
    cache: ResponseCache, with_key: dict[str, Any], split: bool
) -> None:
    stub = BatchStub(lambda body: "{}" if body["messages"][0]["content"] == "one" else None, split=split)
    with StubServer(stub) as server:
        client = client_at(server, cache, **with_key)
        client.submit(PENDING)
        report = client.fetch()
    assert (report.new, report.words) == (1, "stub says 400")
    assert str(report) == (
        "1 answer imported, 0 known before, 1 refused (the request failed); the first failure says: stub says 400"
    )


def test_a_key_that_the_lines_of_a_batch_repeat_is_not_shown(cache: ResponseCache, with_key: dict[str, Any]) -> None:
    stub = BatchStub(lambda body: None)

    def reply(call: Call) -> Reply:
        found = stub(call)
        words = "y" * 290 + f" {KEY}"
        return replace(found, body=str(found.body).replace("stub says 400", words)) if "content" in call.path else found

    with StubServer(reply) as server:
        client = client_at(server, cache, **with_key)
        client.submit(PENDING)
        assert client.fetch().words == "y" * 290 + " ***"


def test_what_a_server_says_of_a_batch_that_it_did_not_take_is_repeated(
    cache: ResponseCache, with_key: dict[str, Any]
) -> None:
    stub = BatchStub(lambda body: "{}", status="failed", fault="the model has no batches")
    with StubServer(stub) as server:
        client = client_at(server, cache, **with_key)
        client.submit(PENDING)
        assert client.fetch().words == "the model has no batches"


def test_a_batch_that_the_server_does_not_know_is_given_up_after_a_day(
    cache: ResponseCache, with_key: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = BatchStub(lambda body: "{}")
    with StubServer(lambda call: Reply(status=404) if call.path.startswith("/v1/batches/") else stub(call)) as server:
        client = client_at(server, cache, **with_key)
        client.submit(PENDING)
        assert 0 <= cache.batch_age("batch-0") < 600
        with pytest.raises(UserError, match=r"batch batch-0: the server does not know it.*Use that key, or wait a day"):
            client.fetch()
        assert client.open_batches() == ["batch-0"]
        monkeypatch.setattr(cache, "batch_age", lambda batch: 86_401.0)
        assert "1 refused (batch unknown to the server)" in str(client.fetch())
        assert client.incomplete
        assert client.open_batches() == []


@pytest.mark.parametrize("created", [0, 2**40])
def test_answers_that_the_server_has_deleted_do_not_hold_up_their_questions_for_ever(
    cache: ResponseCache, with_key: dict[str, Any], created: int
) -> None:
    stub = BatchStub(lambda body: "{}")

    def reply(call: Call) -> Reply:
        found = stub(call)
        gone = Reply(status=404, body={"error": {"message": "No such File object"}})
        body = {**found.body, "created_at": created} if isinstance(found.body, dict) else found.body
        return gone if "content" in call.path else replace(found, body=body)

    with StubServer(reply) as server:
        client = client_at(server, cache, **with_key)
        client.submit(PENDING)
        if created:  # of today: it may come yet
            with pytest.raises(UserError, match="No such File object"):
                client.fetch()
            assert client.open_batches() == ["batch-0"]
        else:
            assert str(client.fetch()) == "0 answers imported, 0 known before, 1 refused (no longer at the server)"
            assert client.incomplete
            assert client.open_batches() == []


BODIES: dict[str, Any] = {
    "a web page": Reply(body="<html>busy</html>"),
    "a list": Reply(body=[]),
    "null": Reply(body="null"),
    "not JSON": Reply(body="{"),
    "cut off": Reply(how="cut"),
    "a refusal": Reply(status=400),
    "not UTF-8": Reply(headers={"Content-Encoding": "gzip"}, body="zzz"),
}


@pytest.mark.parametrize("reply", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/v1/batches/batch-0", "/v1/files/out-file-0/content"])
def test_a_fault_of_the_batch_api_is_one_line(
    cache: ResponseCache, with_key: dict[str, Any], monkeypatch: pytest.MonkeyPatch, path: str, reply: Reply
) -> None:
    if reply in (BODIES["cut off"], BODIES["not UTF-8"]):
        monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *_, **__: 0.0)
    stub = BatchStub(lambda body: "{}")
    with StubServer(lambda call: reply if call.path == path else stub(call)) as server:
        client = client_at(server, cache, **with_key)
        try:
            client.submit(PENDING)
            assert client.fetch().new == 0  # the answer file holds no answers
        except UserError as error:
            assert "run the same command to go on" in str(error)
            assert "\n" not in str(error)
