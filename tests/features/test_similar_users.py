"""Neighbours of many users, kept on disk."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.features import similar_users
from recbole_llm.features.similar_users import kept_neighbours
from recbole_llm.layers.neighbours import nearest_neighbours
from recbole_llm.utils.files import one_process_at_a_time
from tests.processes import start


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many neighbours were wanted at each comparison of users; even few users are kept."""
    wanted: list[int] = []
    monkeypatch.setattr(similar_users, "FEWEST", 0)
    monkeypatch.setattr(
        similar_users, "nearest_neighbours", lambda vectors, k: wanted.append(k) or nearest_neighbours(vectors, k)
    )
    return wanted


def vectors_of(seed: int = 0) -> torch.Tensor:
    return torch.randn(60, 8, generator=torch.Generator().manual_seed(seed))


def test_the_second_time_they_are_read(tmp_path: Path, compared: list[int]) -> None:
    first, second = (kept_neighbours(vectors_of(), 5, tmp_path / "new") for _ in range(2))
    assert compared == [5]
    assert first.dtype == second.dtype == torch.int64
    assert torch.equal(first, nearest_neighbours(vectors_of(), 5))
    assert torch.equal(second, first)


@pytest.mark.parametrize("change", ["vector", "order", "count", "fewer", "shape", "type"])
def test_other_vectors_or_numbers_have_neighbours_of_their_own(
    tmp_path: Path, compared: list[int], change: str
) -> None:
    vectors, k = vectors_of(), 5
    kept_neighbours(vectors, k, tmp_path)
    if change == "vector":
        vectors[59, 7] += 1e-6
    changed = {
        "order": vectors.flip(0),
        "fewer": vectors[:59],
        "shape": vectors.reshape(120, 4),
        "type": vectors.double(),
    }.get(change, vectors)
    k = 6 if change == "count" else k
    assert torch.equal(kept_neighbours(changed, k, tmp_path), nearest_neighbours(changed, k))
    assert compared == [5, k]
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_a_view_is_known_by_its_values(tmp_path: Path, compared: list[int]) -> None:
    kept_neighbours(vectors_of(), 5, tmp_path)
    kept_neighbours(vectors_of().T.contiguous().T, 5, tmp_path)
    assert compared == [5]


@pytest.mark.parametrize("k", [0, 1000])
def test_none_or_all_others_may_be_wanted(tmp_path: Path, compared: list[int], k: int) -> None:
    assert torch.equal(kept_neighbours(vectors_of(), k, tmp_path), kept_neighbours(vectors_of(), k, tmp_path))
    assert compared == [k]


def broken(path: Path, how: str) -> None:
    found = np.load(path)
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "no array":
        path.write_bytes(b"")
    else:
        np.save(path, {"too few": found[:50], "too large": found + 30, "negative": -found, "type": found * 1.0}[how])


@pytest.mark.parametrize("how", ["cut short", "no array", "too few", "too large", "negative", "type"])
def test_a_damaged_file_is_made_anew(
    tmp_path: Path, compared: list[int], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = kept_neighbours(vectors_of(), 5, tmp_path)
    (path,) = tmp_path.iterdir()
    broken(path, how)
    for _ in range(2):
        assert torch.equal(kept_neighbours(vectors_of(), 5, tmp_path), wanted)
    assert compared == [5, 5]
    assert [message for message in caplog.messages if "damaged" in message] == [caplog.messages[0]]


def killed_while_it_saves(folder: Path) -> None:
    """Compare users, and be killed with half of the file written."""
    similar_users.FEWEST = 0

    def save(stream: Any, values: np.ndarray, **options: Any) -> None:
        stream.write(values.tobytes()[:100])
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    np.save = save
    kept_neighbours(vectors_of(), 5, folder)


def test_a_kill_leaves_no_file_that_is_read(tmp_path: Path, compared: list[int]) -> None:
    assert start(killed_while_it_saves, tmp_path).wait() == -signal.SIGKILL
    assert not list(tmp_path.glob("*.npy"))
    assert torch.equal(kept_neighbours(vectors_of(), 5, tmp_path), nearest_neighbours(vectors_of(), 5))
    assert len(list(tmp_path.glob("*.npy"))) == 1


def counting(folder: Path, counted: Path) -> None:
    """Compare users, noting each comparison in a file and saying whether it waits."""
    logging.basicConfig(level=logging.INFO)
    similar_users.FEWEST = 0

    def nearest(vectors: torch.Tensor, k: int) -> torch.Tensor:
        with counted.open("a") as stream:
            stream.write("x")
        return nearest_neighbours(vectors, k)

    similar_users.nearest_neighbours = nearest  # type: ignore[assignment]
    kept_neighbours(vectors_of(), 5, folder)


def test_of_several_processes_one_compares(tmp_path: Path) -> None:
    with one_process_at_a_time(tmp_path / "kept"):
        children = [start(counting, tmp_path / "kept", tmp_path / "counted") for _ in range(3)]
        assert all(any("waiting for it" in line for line in child.stderr) for child in children)
    assert [child.wait() for child in children] == [0, 0, 0]
    assert (tmp_path / "counted").read_text() == "x"


def test_few_users_are_not_kept(tmp_path: Path) -> None:
    assert torch.equal(kept_neighbours(vectors_of(), 5, tmp_path), nearest_neighbours(vectors_of(), 5))
    assert not list(tmp_path.iterdir())
