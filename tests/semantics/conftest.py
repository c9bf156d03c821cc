"""Fixtures for tests of asking."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.semantics.llm.cache import ResponseCache
from tests.helpers import make_featured
from tests.semantics.chat import KEY


@pytest.fixture(scope="session")
def _few_users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_featured(tmp_path_factory.mktemp("few_users"), n_users=14)


@pytest.fixture
def few_users(workspace: Path, _few_users: Path) -> Path:
    """A workspace with a dataset small enough to be asked about whole; its stage I is trained (``epochs=1``)."""
    shutil.copytree(_few_users, workspace, dirs_exist_ok=True)
    return workspace


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
