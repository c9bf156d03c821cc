"""Batches are paid for once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.llm.batch import BatchClient
from recbole_llm.llm.budget import Budget
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer
from tests.llm.batch_stub import BatchStub
from tests.llm.chat import asked, endpoint_at
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
