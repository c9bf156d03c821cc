"""Processes that are stopped in the middle of a training."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from recbole_llm.api import run
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from tests.processes import Started, start_command

pytestmark = pytest.mark.usefixtures("fork_server")
SETTINGS = {
    **{"epochs": 6, "train_batch_size": 128},
    # A class from outside the package has no settings file.
    **{"loss_type": "CE", "embedding_size": 16, "hidden_size": 16, "num_layers": 1, "dropout_prob": 0.1},
}

PAUSING = '''
import itertools
import os
import sys
import time

import recbole_llm.training.trainer
from recbole.model.sequential_recommender.gru4rec import GRU4Rec

recbole_llm.training.trainer.SAVE_EVERY_SECONDS = 0.0
steps = itertools.count(1)  # of this process; what belongs to the model is restored with it
rankings = itertools.count(1)


def pause():
    os.write(sys.stdout.fileno(), b"pausing\\n")  # at once: processes that share a pipe do not mix their lines
    while True:  # not signal.pause(): a signal that comes just before it would be missed
        time.sleep(0.05)


class Pausing(GRU4Rec):
    """Waits for a signal at one step of its training or in one ranking, where the environment says so."""

    def calculate_loss(self, interaction):
        if str(next(steps)) == os.environ.get("PAUSE_AT"):
            pause()
        return super().calculate_loss(interaction)

    def full_sort_predict(self, interaction):
        if str(next(rankings)) == os.environ.get("PAUSE_AT_RANKING"):
            pause()
        return super().full_sort_predict(interaction)
'''


def start(*more: str, **environment: str) -> Started:
    """Start a command in its own process that trains a model that can pause."""
    words = ["--model=pausing_model:Pausing", "--dataset=tiny", *(f"--{k}={v}" for k, v in SETTINGS.items()), *more]
    return start_command(*words, **environment)


def stop(process: Started, number: signal.Signals) -> str:
    """Send a signal while the process is paused; returns its messages."""
    assert process.stdout.readline() == "pausing\n"
    process.send_signal(number)
    return process.communicate()[1]


def files_in(folder: str) -> set[str]:
    return {path.name for path in Path(folder).rglob("*") if path.is_file()}


def test_a_training_that_is_stopped_twice_ends_as_if_it_never_was(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by Ctrl-C, then by ``kill -9``; no half-written file is left in the results folder."""
    Path("pausing_model.py").write_text(PAUSING)

    first = start(PAUSE_AT="10")  # an epoch has four batches, so this is in the third
    messages = stop(first, signal.SIGINT)
    assert first.returncode == 130
    assert "Traceback" not in messages
    assert "run the same command again to continue" in messages
    assert files_in("results") == set()
    assert files_in("saved") == {"best_so_far.pt", "last.pt"}

    second = start(PAUSE_AT="10")  # counted from where it continues, so this is in the fifth
    messages = stop(second, signal.SIGKILL)
    assert second.returncode == -signal.SIGKILL
    assert "continuing after epoch 2" in messages
    assert files_in("results") == set()
    assert files_in("saved") == {"best_so_far.pt", "last.pt"}

    goes_on_as_if_it_had_not_stopped(monkeypatch, after=4)


@pytest.mark.landing
def test_processes_that_are_killed_go_on_with_the_draws_of_each(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two processes has its own dropout draws, also after they continue."""
    Path("pausing_model.py").write_text(PAUSING)
    first = start("--nproc=2", PAUSE_AT="10")
    while not (line := first.stderr.readline()).endswith("pausing\n"):  # printed by a worker
        assert line, "it ended before it could be killed"
    first.kill()
    goes_on_as_if_it_had_not_stopped(monkeypatch, after=2, nproc=2)


def goes_on_as_if_it_had_not_stopped(monkeypatch: pytest.MonkeyPatch, after: int, nproc: int = 1) -> None:
    """Start once more and check that the record is that of an uninterrupted training."""
    last = start(*([f"--nproc={nproc}"] if nproc > 1 else []))
    _, messages = last.communicate()
    assert last.returncode == 0, messages
    assert messages.count(f"continuing after epoch {after}") == nproc
    assert files_in("saved") == {"best.pt"}
    (found,) = ResultStore("results")
    wanted = in_one_go(monkeypatch, **({"nproc": nproc} if nproc > 1 else {}))
    assert [entry["loss"] for entry in found.curve] == [entry["loss"] for entry in wanted.curve]
    assert (found.metrics, found.valid_metrics) == (wanted.metrics, wanted.valid_metrics)
    assert (found.best_epoch, found.epochs) == (wanted.best_epoch, wanted.epochs)


def in_one_go(monkeypatch: pytest.MonkeyPatch, **more: int) -> Record:
    """The record of the same training, uninterrupted."""
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", 30.0)  # the model's module sets it
    (record,) = run(
        "pausing_model:Pausing", "tiny", results_dir="other_results", checkpoint_dir="other_saved", **SETTINGS, **more
    )
    sys.modules.pop("pausing_model")
    return record


def test_a_kill_during_the_test_costs_no_training(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pausing_model.py").write_text(PAUSING)
    first = start(PAUSE_AT_RANKING="7")  # after one validation for each epoch
    stop(first, signal.SIGKILL)
    assert files_in("results") == set()
    assert files_in("saved") == {"best_so_far.pt", "last.pt"}

    goes_on_as_if_it_had_not_stopped(monkeypatch, after=6)


def test_a_killed_grid_goes_on_with_what_is_missing(tiny: Path) -> None:
    """After ``kill -9`` in the second of three runs, the first is not run again, and every record is complete."""
    Path("pausing_model.py").write_text(PAUSING)
    first = start("--seeds=3", PAUSE_AT="34")  # 24 batches a run: in the third epoch of the second
    stop(first, signal.SIGKILL)
    (done,) = Path("results").rglob("*.json")
    before = done.stat().st_mtime_ns

    second = start("--seeds=3")
    _, messages = second.communicate()
    assert second.returncode == 0
    assert "1 of 3 results are present already" in messages
    assert messages.count("running Pausing") == 2
    assert messages.count("continuing after epoch 2") == 1
    assert done.stat().st_mtime_ns == before
    store = ResultStore("results")
    records = list(store)
    assert [record.seed for record in records] == [2020, 2021, 2022]
    for record in records:
        assert record.status == "ok"
        assert len(record.curve) == 6
        assert per_case(Ranks.load(store.ranks_of(record)), "hit@10").mean() == record.metric("hit@10")
    assert not list(Path("results").rglob(".*"))


def test_two_processes_never_train_one_cell_at_once(tiny: Path) -> None:
    """The second process waits for the first, and continues from its checkpoint after the first is killed."""
    Path("pausing_model.py").write_text(PAUSING)
    first = start(PAUSE_AT="10")
    assert first.stdout.readline() == "pausing\n"
    second = start()
    messages = []
    while not messages or "another process is at" not in messages[-1]:
        messages.append(second.stderr.readline())
        assert messages[-1], "the second process did not wait"
    first.kill()
    _, rest = second.communicate()
    assert second.returncode == 0
    assert "continuing after epoch 2" in rest
    (record,) = ResultStore("results")
    assert len(record.curve) == 6
