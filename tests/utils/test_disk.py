"""A disk without room, and what killed commands left on it."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.errors import NoRoomError, UserError
from recbole_llm.execution.worker import call, result_of
from recbole_llm.features.encoder import VectorCache
from recbole_llm.training import checkpoint
from recbole_llm.utils import files
from recbole_llm.utils.files import check_name, whole_file, whole_folder
from tests.processes import start


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files that may have 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_checkpoint(path: Path) -> None:
    checkpoint.save(path, {"weights": torch.zeros(1000, 1000)})


def write_array(path: Path) -> None:
    with whole_file(path) as stream:
        np.save(stream, np.zeros((1000, 1000)), allow_pickle=False)


def write_arrays(path: Path) -> None:
    with whole_file(path) as stream:
        np.savez(stream, ranks=np.zeros((1000, 1000)))


def write_text(path: Path) -> None:
    with whole_file(path, "w") as stream:
        stream.writelines("x" * 1000 for _ in range(4000))


WRITERS = [write_checkpoint, write_array, write_arrays, write_text]


def is_told(write: Callable[[Path], None], path: Path) -> None:
    """The error names the file; an older one stays, and nothing half-written."""
    path.write_text("old")
    with pytest.raises(NoRoomError) as caught:
        write(path)
    assert str(caught.value).startswith(f"{path} cannot be written (")
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_told_by_the_name_of_the_file(small_disk: Path, write: Callable[[Path], None]) -> None:
    is_told(write, small_disk / "file")


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("write", WRITERS)
def test_a_limit_of_files_is_told_as_a_full_disk(tmp_path: Path, write: Callable[[Path], None]) -> None:
    is_told(write, tmp_path / "file")


def test_vectors_that_were_stored_before_the_disk_was_full_are_kept(small_disk: Path) -> None:
    path, vectors = small_disk / "vectors.sqlite", np.ones((50, 384), dtype=np.float32)
    store = VectorCache(path)
    store.put("encoder", [str(n) for n in range(50)], vectors)
    with pytest.raises(NoRoomError, match=r"vectors\.sqlite cannot be written \(.*full"):
        store.put("encoder", [str(n) for n in range(50, 3050)], np.ones((3000, 384), dtype=np.float32))
    assert len(store.get("encoder", [str(n) for n in range(3050)])) == 50
    store.close()


def test_a_full_disk_in_a_worker_ends_the_driver_too(small_disk: Path) -> None:
    """It is no failure of the run or the trial, which would be recorded."""
    with pytest.raises(NoRoomError, match="file cannot be written"):
        result_of(None, call(write_text, (small_disk / "file",)))  # type: ignore[arg-type]


# ---- what killed commands left -------------------------------------------------------------------


def write_and_wait(path: str) -> None:
    with whole_file(Path(path), "w") as stream:
        stream.write("half")
        stream.flush()
        print("there", flush=True)
        time.sleep(600)


def make_old(path: Path) -> Path:
    os.utime(path, (0, 0))
    return path


def put_another(folder: Path) -> None:
    files._remove_abandoned.cache_clear()  # as another command
    with whole_file(folder / "other", "w") as stream:
        stream.write("whole")


def test_the_half_of_a_killed_command_is_removed_by_the_next_one(tmp_path: Path) -> None:
    writer = start(write_and_wait, str(tmp_path / "a.txt"))
    assert writer.stdout.readline() == "there\n"
    (partial,) = tmp_path.iterdir()
    make_old(partial)
    put_another(tmp_path)
    assert partial.exists()  # its writer lives
    writer.kill()
    put_another(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("name", [".a.txt.123-abcdef", ".hidden", ".a.txt.123-abcdefg", "a.txt.123-abcdef"])
def test_nothing_else_is_removed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("mine")
    if name != ".a.txt.123-abcdef":  # that one is young
        make_old(path)
    put_another(tmp_path)
    assert path.exists()


def test_half_a_folder_is_removed_too(tmp_path: Path) -> None:
    half = tmp_path / ".cache.1-abcdef"
    half.mkdir()
    (half / "user.npy").write_text("half")
    make_old(half)
    put_another(tmp_path)
    assert not half.exists()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fill(name: str, fail: bool = False) -> None:
        with whole_folder(tmp_path / "a") as partial:
            (partial / name).write_text("x")
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill("first", fail=True)
    assert not list(tmp_path.iterdir())
    fill("second")
    fill("third")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "a\x1b[2J", "a\nb", "a\0"])
def test_a_name_that_leaves_its_folder_is_refused_in_a_line(name: str) -> None:
    with pytest.raises(UserError, match="is no name of a file or folder") as caught:
        check_name(name, "--dataset")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["ml-100k", "..a", "a..b", "Büro", "a b", ".hidden"])
def test_other_names_are_taken(name: str) -> None:
    assert check_name(name, "--dataset") == name
