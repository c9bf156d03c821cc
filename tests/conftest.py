"""Fixtures that all tests share."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # xdist starts one process per core, so each gets one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")
import recbole_llm  # noqa: F401 - sets the thread policy before torch is imported
from recbole_llm.cli import main
from tests import processes
from tests.helpers import Cli, make_featured, write_tiny

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may download anything
settings.register_profile("tests", deadline=None)  # no test depends on timing
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--model``: the models that the contract tests run on instead of the registry's."""
    parser.addoption("--model", help="names for tests/methods/test_contracts.py, package.module:Class among them")


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Put the contracts of a model one after the other, so that not every process builds every model."""
    places = [place for place, item in enumerate(items) if item.path.name == "test_contracts.py"]
    contracts = sorted((items[place] for place in places), key=lambda item: item.callspec.params["name"])
    for place, item in zip(places, contracts, strict=True):
        items[place] = item


def pytest_collection() -> None:
    """Look for no garbage while tests are collected: there is none."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep what lives as long as the process out of collections of garbage, of which estimates make many."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared workspace for what is expensive to make: ml-100k and its features. Tests must not change it."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of the test's own, as the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def _tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def tiny(workspace: Path, _tiny_files: Path) -> Path:
    """A workspace whose ``dataset/tiny`` holds a small dataset with titles; returns that folder."""
    target = workspace / "dataset" / "tiny"
    shutil.copytree(_tiny_files, target)
    return target


@pytest.fixture(scope="session")
def _shared_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared_tiny")
    write_tiny(folder / "dataset" / "tiny")
    return folder


@pytest.fixture
def shared_tiny(_shared_tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace of ``tiny``, shared by all tests that only build models there, so that texts are encoded once.

    Tests that change a file of the dataset, train or look at folders take ``tiny``.
    """
    monkeypatch.chdir(_shared_tiny)
    return _shared_tiny


@pytest.fixture(scope="session")
def _featured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_featured(tmp_path_factory.mktemp("featured"))


@pytest.fixture
def featured(workspace: Path, _featured: Path) -> Path:
    """A workspace with the small dataset, its offline features and their stage I model (``epochs=1``)."""
    shutil.copytree(_featured, workspace, dirs_exist_ok=True)
    return workspace


@pytest.fixture(scope="session")
def _few_users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_featured(tmp_path_factory.mktemp("few_users"), n_users=14)


@pytest.fixture
def few_users(workspace: Path, _few_users: Path) -> Path:
    """Like ``featured`` with only 14 users, so that a test can ask about all of them; stage I has ``epochs=1``."""
    shutil.copytree(_few_users, workspace, dirs_exist_ok=True)
    return workspace


@pytest.fixture(scope="session")
def fork_server() -> None:
    """Start the fork server with everything the tests need preloaded, so that executors reuse it."""
    processes.ensure_server()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """``main`` in this process; logging, environment and ``sys.argv`` are restored afterwards."""
    root, own = logging.getLogger(), logging.getLogger("recbole_llm")
    handlers, levels = root.handlers[:], (root.level, own.level)
    monkeypatch.setattr(sys, "argv", ["recbole-llm"])
    for name in ("TRANSFORMERS_VERBOSITY", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "error" if name.startswith("TRANS") else "false")
    with warnings.catch_warnings():
        yield lambda *words: main(words)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
