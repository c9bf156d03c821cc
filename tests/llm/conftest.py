"""Fixtures for the LLM client's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.llm.cache import ResponseCache
from tests.llm.chat import KEY


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ResponseCache]:
    """An empty cache of answers."""
    with ResponseCache(tmp_path / "responses.sqlite") as opened:
        yield opened


@pytest.fixture
def with_key(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Endpoint fields that make the client send an API key, which is set in the environment."""
    monkeypatch.setenv("STUB_KEY", KEY)
    return {"key_env": "STUB_KEY"}
