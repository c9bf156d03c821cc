"""Full disks, and half-written files that killed commands leave."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_llm.errors import NoRoomError, UserError
from recbole_llm.execution.worker import call, result_of
from recbole_llm.experiments.submission import read_submission, write_submission
from recbole_llm.features.encoder import Encoder, VectorCache, minilm_folder
from recbole_llm.raw.download import download
from recbole_llm.training import checkpoint
from recbole_llm.tuning.storage import open_storage, storage_errors
from recbole_llm.utils import files
from recbole_llm.utils.files import check_name, whole_file, whole_folder
from recbole_llm.utils.text import reason_of
from tests.file_server import FileServer
from tests.helpers import Cli
from tests.processes import start
from tests.tuning.searchers import study_of, take_part


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limit the size of files to 100 kB."""
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
    """Check that the error names the file, an older file stays, and nothing half-written is left."""
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


def test_a_download_without_room_says_so_and_goes_on_later(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    filler = small_disk / "filler"
    filler.write_bytes(bytes((1 << 20) - (300 << 10)))
    data = bytes(range(256)) * 2000
    with FileServer({"/a.gz": data}) as server:
        with pytest.raises(NoRoomError, match=r"a\.gz\.part cannot be written \(No space left"):
            download(server.url("/a.gz"), small_disk / "a.gz", pause=0)
        filler.unlink()
        assert download(server.url("/a.gz"), small_disk / "a.gz", pause=0).read_bytes() == data
        assert server.seen[0] is None
        assert str(server.seen[1]).startswith("bytes=")


def test_a_full_disk_in_a_worker_ends_the_driver_too(small_disk: Path) -> None:
    """A full disk is not recorded as a failure of the run or trial."""
    with pytest.raises(NoRoomError, match="file cannot be written"):
        result_of(None, call(write_text, (small_disk / "file",)))  # type: ignore[arg-type]


# ---- what killed commands left -------------------------------------------------------------------


def write_and_wait(path: str) -> None:
    with whole_file(Path(path), "w") as stream:
        stream.write("half")
        stream.flush()
        sys.stdout.write("there\n")
        sys.stdout.flush()
        time.sleep(600)


def make_old(path: Path) -> Path:
    os.utime(path, (0, 0))
    return path


def put_another(folder: Path) -> None:
    files._remove_abandoned.cache_clear()  # as in a new command
    with whole_file(folder / "other", "w") as stream:
        stream.write("whole")


def test_the_half_of_a_killed_command_is_removed_by_the_next_one(tmp_path: Path) -> None:
    writer = start(write_and_wait, str(tmp_path / "a.txt"))
    assert writer.stdout.readline() == "there\n"
    (partial,) = tmp_path.iterdir()
    make_old(partial)
    put_another(tmp_path)
    assert partial.exists()  # its writer is still alive
    writer.kill()
    put_another(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("name", [".a.txt.123-abcdef", ".hidden", ".a.txt.123-abcdefg", "a.txt.123-abcdef"])
def test_nothing_else_is_removed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("mine")
    if name != ".a.txt.123-abcdef":  # this file stays because it is recent
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


# ---- commands ------------------------------------------------------------------------------------

SHORT = ["--train_batch_size=128", "--MAX_ITEM_LIST_LENGTH=10", "--epochs=1", "--quiet"]


@pytest.mark.parametrize("words", [["run", "--model=GRU4Rec"], ["tune", "--model=BPR", "--trials=1"]], ids="-".join)
def test_a_command_without_room_says_so_in_a_line_and_goes_on_later(
    small_disk: Path, tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    folders = [f"--results_dir={small_disk / 'results'}", f"--checkpoint_dir={small_disk / 'saved'}"]
    command = [*words, "--dataset=tiny", *SHORT, *folders]
    filler = small_disk / "filler"
    filler.write_bytes(bytes((1 << 20) - (24 << 10)))
    assert cli(*command) == 2
    said = capsys.readouterr().err
    (told_last,) = [line for line in said.splitlines() if "cannot be written" in line]
    assert told_last.startswith(f"error: {small_disk}/")
    assert said.endswith(f"{told_last}\n")
    assert "Traceback" not in said
    assert not list(small_disk.glob("results/*/*/*.json"))  # no failure is recorded
    filler.unlink()
    assert cli(*command) == 0


def test_a_submission_without_room_leaves_nothing_and_is_written_later(small_disk: Path) -> None:
    submission = read_submission(Path(__file__).parents[2] / "results/direct")
    filler = small_disk / "filler"
    filler.write_bytes(bytes((1 << 20) - (24 << 10)))
    with pytest.raises(NoRoomError, match="cannot be written"):
        write_submission(submission, small_disk / "handed")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    filler.unlink()
    write_submission(submission, small_disk / "handed")
    assert len(read_submission(small_disk / "handed").entries) == len(submission.entries)


@pytest.mark.parametrize("name", ["studies.sqlite3", "studies.log"])
def test_a_search_whose_storage_has_no_room_fails_no_trial(small_disk: Path, tiny: Path, name: str) -> None:
    storage = str(small_disk / name)
    study = study_of(storage, 3)
    take_part(study_of(storage, 1))
    trial = study.next()
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))

    def fill_up() -> None:
        with storage_errors(open_storage(storage)):
            for number in range(100):
                trial.set_user_attr(f"note {number}", "x" * 1000)

    with pytest.raises(NoRoomError, match=rf"{name} cannot be written"):
        fill_up()
    filler.unlink()
    study.release()
    assert take_part(study_of(storage, 3)) + len(study_of(storage, 1).ended()) >= 3
    assert {each.state.name for each in study_of(storage, 3).ended()} == {"COMPLETE"}


def test_a_dataset_that_leaves_its_folder_is_refused(tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(tiny / "tiny.inter", "tiny.inter")
    before = sorted(Path().rglob("*"))
    for name in ("..", "dataset/..", "."):
        assert cli("--model=Pop", f"--dataset={name}", *SHORT) == 2
        assert "is no name of a file or folder" in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_what_a_terminal_would_obey_is_left_out_of_messages(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--model=\x1b]0;mine\x07Pop\x1b[2J\x9b1m", "--dataset=tiny") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --model=Pop")
    assert said.removesuffix("\n").isprintable()


def test_a_pickle_as_an_encoder_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(minilm_folder(), folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Path("made")))
    with pytest.raises(UserError, match=r"--encoder=.* cannot be loaded") as caught:
        Encoder(str(folder)).load("cpu")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_torchs_advice_is_never_repeated() -> None:
    error = pickle.UnpicklingError("Weights only load failed. Re-run with\n weights_only=False, or trust the file.")
    assert reason_of(error) == "it holds objects that are neither tensors nor plain values"
    assert reason_of(ValueError("no\nsuch \x1b[2Jthing.")) == "no such thing"
