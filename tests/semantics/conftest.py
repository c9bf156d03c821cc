"""Fixtures for tests of asking."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers import prepare, write_tiny


@pytest.fixture(scope="session")
def _few_users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few_users")
    write_tiny(folder / "dataset" / "tiny", n_users=14)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare("LLMDMsRec", epochs=1)
    return folder


@pytest.fixture
def few_users(workspace: Path, _few_users: Path) -> Path:
    """A workspace with a dataset small enough to be asked about whole; its stage I is trained (``epochs=1``)."""
    shutil.copytree(_few_users, workspace, dirs_exist_ok=True)
    return workspace
