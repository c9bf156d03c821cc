"""Fixtures for tests of asking."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers import make_featured


@pytest.fixture(scope="session")
def _few_users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_featured(tmp_path_factory.mktemp("few_users"), n_users=14)


@pytest.fixture
def few_users(workspace: Path, _few_users: Path) -> Path:
    """A workspace with a dataset small enough to be asked about whole; its stage I is trained (``epochs=1``)."""
    shutil.copytree(_few_users, workspace, dirs_exist_ok=True)
    return workspace
