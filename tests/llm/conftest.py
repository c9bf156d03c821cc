"""Fixtures for tests of asking."""

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
    """Changes of an endpoint that has a key; the server repeats it where it can."""
    monkeypatch.setenv("STUB_KEY", KEY)
    return {"key_env": "STUB_KEY"}
