"""Helpers for tests of the client: questions, scripts, a stub endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatRequest, Script
from recbole_llm.llm.client import Acquaintance, Client
from recbole_llm.llm.endpoint import Endpoint
from tests.stub_server import Reply

KEY = "sk-test-0123456789abcdef"
AT_ONCE = {"retry-after-ms": "1"}


def question(text: str, max_tokens: int = 50, schema: dict[str, Any] | None = None) -> ChatRequest:
    """A request of one message, as a script asks it."""
    return ChatRequest("test@1", ({"role": "user", "content": text},), schema, max_tokens)


def asked(text: str, **options: Any) -> ChatRequest:
    """The same request as it is sent to the stub endpoint."""
    return endpoint_at("http://127.0.0.1:1/v1").addressed(question(text, **options))


def asking(text: str, answers: dict[str, Any] | None = None, **options: Any) -> Script:
    """A script of one question; the text of its answer (or ``None``) is stored in ``answers``."""
    answer = yield question(text, **options)
    if answers is not None:
        answers[text] = answer.content if answer is not None else None
    return answer


def endpoint_at(base_url: str, **changes: Any) -> Endpoint:
    """An endpoint of the stub server, with few attempts and a short time-out by default."""
    return Endpoint(**{"name": "stub", "base_url": base_url, "model": "m", "timeout": 20.0, "attempts": 3} | changes)


def met() -> Acquaintance:
    """Acquaintance with an endpoint that has answered before, so that no single first question is sent."""
    return Acquaintance(answered=True)


def numbered(first: int, last: int) -> Iterator[Script]:
    """Scripts of the questions ``first`` to ``last - 1``."""
    return (asking(f"question {number}") for number in range(first, last))


def first_only(fault: Reply) -> Any:
    """Reply with a fault to the first request and with an answer to all others."""
    return lambda call: fault if call.number == 0 else Reply(text="fine")


def ask(base_url: str, path: Path, first: int, last: int, concurrency: int) -> None:
    """Ask the questions ``first`` to ``last - 1``, with the cache at ``path``; tests run this in a process."""
    with ResponseCache(path) as cache:
        client = Client(endpoint_at(base_url, concurrency=concurrency), cache, known=met())
        client.run(numbered(first, last))
