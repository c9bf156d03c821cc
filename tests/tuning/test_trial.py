"""Trials: what they report, how they end, how they continue."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.jobs import pack
from recbole_llm.experiments.runner import Runner
from recbole_llm.training import checkpoint
from recbole_llm.tuning.storage import open_storage, served, storage_address
from recbole_llm.tuning.trial import run_trial, run_trial_away
from tests.helpers import make_run
from tests.reporting.records import record_of
from tests.tuning.searchers import result, study_of

SMALL: dict[str, Any] = {"epochs": 4, "hidden_size": 16, "embedding_size": 16}


class Study:
    """Stands in for a reporter: records scores, and stops or interrupts the trial at a given epoch."""

    def __init__(self, stop_at: int = 0, interrupt_at: int = 0) -> None:
        self.stop_at, self.interrupt_at = stop_at, interrupt_at
        self.heard: list[tuple[int, float]] = []

    def __call__(self, epoch: int, score: float, ranks: Ranks | None = None) -> bool:
        self.heard.append((epoch, score))
        if epoch == self.interrupt_at:
            raise KeyboardInterrupt
        return epoch == self.stop_at


def test_a_trial_reports_every_epoch_and_gives_the_best(tiny: Path) -> None:
    study = Study()
    found = run_trial(make_run("GRU4Rec", **SMALL), "trial", None, study)
    assert [epoch for epoch, _ in study.heard] == [1, 2, 3, 4]
    assert found.score == pytest.approx(max(score for _, score in study.heard), abs=1e-6)
    assert (found.epochs, found.pruned) == (4, False)
    assert not Path("results").exists()


def test_the_cost_of_a_trial_is_its_training_up_to_the_best_epoch(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = [{"epoch": epoch, "loss": 1.0, "seconds": seconds} for epoch, seconds in ((1, 1.0), (2, 2.0), (3, 4.0))]
    facts = {"valid_metric": "ndcg@10", "valid_metrics": {"ndcg@10": 0.5}, "seconds": {"total": 9.0}}
    record = record_of(curve=curve, best_epoch=2, epochs=3, **facts)
    monkeypatch.setattr(Runner, "validate", lambda *_: record)
    found = run_trial(make_run("GRU4Rec", **SMALL), "trial", None, Study())
    assert (found.training_seconds, found.seconds, found.best_epoch, found.score) == (3.0, 9.0, 2, 0.5)


def test_a_trial_ends_where_the_study_says_so(tiny: Path) -> None:
    found = run_trial(make_run("GRU4Rec", **SMALL), "trial", None, Study(stop_at=2))
    assert (found.epochs, found.pruned) == (2, True)


def test_a_trial_that_was_interrupted_goes_on_and_reports_anew(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    whole = Study()
    wanted = run_trial(make_run("GRU4Rec", **SMALL), "whole", None, whole)
    with pytest.raises(KeyboardInterrupt):
        run_trial(make_run("GRU4Rec", **SMALL), "trial", None, Study(interrupt_at=3))
    assert Path("trial/last.pt").is_file()
    again = Study()
    found = run_trial(make_run("GRU4Rec", **SMALL), "trial", None, again)
    assert [epoch for epoch, _ in again.heard] == [1, 2, 3, 4]
    assert [score for _, score in again.heard] == pytest.approx([score for _, score in whole.heard], abs=1e-6)
    assert found.score == pytest.approx(wanted.score, abs=1e-6)


def test_a_trial_with_epochs_that_are_not_validated_goes_on(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    run = make_run("GRU4Rec", eval_step=2, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        run_trial(run, "trial", None, Study(interrupt_at=4))
    again = Study()
    found = run_trial(run, "trial", None, again)
    assert [epoch for epoch, _ in again.heard] == [2, 4]
    assert found.epochs == 4


def test_the_time_before_an_interruption_counts(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    run = make_run("GRU4Rec", **SMALL)
    with pytest.raises(KeyboardInterrupt):
        run_trial(run, "trial", 500.0, Study(interrupt_at=3))
    state = checkpoint.load(Path("trial/last.pt"))
    state["seconds"]["train"] += 1000.0
    checkpoint.save(Path("trial/last.pt"), state)
    again = Study()
    found = run_trial(run, "trial", 500.0, again)
    assert [epoch for epoch, _ in again.heard] == [1, 2, 3]  # the known epochs, and the one that reaches the limit
    assert (found.epochs, found.pruned) == (3, False)


def test_the_time_before_the_training_does_not_count(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for imports and reading depends on what the process has done before."""
    prepare, clock, late = Runner.prepare, time.monotonic, 0.0

    def slowly(*arguments: Any) -> Any:
        nonlocal late
        late += 1000.0
        return prepare(*arguments)

    monkeypatch.setattr(Runner, "prepare", slowly)
    monkeypatch.setattr(time, "monotonic", lambda: clock() + late)
    assert run_trial(make_run("GRU4Rec", **SMALL), "trial", 500.0, Study()).epochs == 4


def test_a_trial_that_has_ended_is_not_trained_again(tiny: Path) -> None:
    """A search may be killed after a trial's end and before its result is entered into the study."""
    wanted = run_trial(make_run("GRU4Rec", **SMALL), "trial", None, Study())
    again = Study()
    found = run_trial(make_run("GRU4Rec", learning_rate=1e30, **SMALL), "trial", None, again)  # training would diverge
    assert (found.score, found.epochs) == (wanted.score, 4)


def test_a_trial_elsewhere_leaves_nothing_there(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(Path.cwd() / "there"))
    run = make_run("GRU4Rec", **SMALL)
    study = Study()
    found = run_trial_away(run, pack(run, None), None, study)
    assert [epoch for epoch, _ in study.heard] == [1, 2, 3, 4]
    assert found.score == run_trial(run, "trial", None, Study()).score
    assert not list(Path("there").rglob("*.pt"))
    with pytest.raises(UserError, match="diverged"):
        run_trial_away(make_run("GRU4Rec", learning_rate=1e30, **SMALL), pack(run, None), None, study)
    assert not list(Path("there").rglob("*.pt"))


# ---- reporters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["results/s.sqlite3", "results/s.log"])
def test_a_machine_without_the_files_reports_through_a_server(tiny: Path, storage: str) -> None:
    study = study_of(storage, 7, pruner="median")
    kept = open_storage(storage_address(storage, Path("results")))
    with served(kept, "127.0.0.1") as address:
        for number in range(6):
            trial = study.next()
            assert trial is not None
            report = study.reporter(trial, address)
            assert report.storage.startswith("grpc://127.0.0.1:")
            assert not report(1, 0.9 - 0.1 * number)
            assert report(2, 0.9 - 0.1 * number) == (number == 5)
            study.finish(trial, result(0.9 - 0.1 * number, pruned=number == 5))
    assert [trial.intermediate_values[2] for trial in study.ended()] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])


def test_a_search_that_cannot_be_reached_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llm.tuning.storage.REACH_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"cannot reach the search at 127\.0\.0\.1:1: start the search on a machine of"):
        open_storage("grpc://127.0.0.1:1")


def test_a_trial_that_another_process_has_finished_stops(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 1, pruner="median")
    trial = study.next()
    assert trial is not None
    report = study.reporter(trial)
    assert not report(1, 0.5)
    study.finish(trial, result(0.5))
    assert report(2, 0.5)


def test_a_storage_that_is_away_costs_no_training(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = study_of("results/s.sqlite3", 1)
    trial = study.next()
    assert trial is not None
    report = study.reporter(trial)
    assert not report(1, 0.5)
    with sqlite3.connect("results/s.sqlite3") as database:
        database.execute("ALTER TABLE trial_intermediate_values RENAME TO away")
    assert not report(2, 0.6)
    assert "continues, but its scores cannot be stored" in caplog.text
    with sqlite3.connect("results/s.sqlite3") as database:
        database.execute("ALTER TABLE away RENAME TO trial_intermediate_values")
    assert not report(3, 0.7)
    study.finish(trial, result(0.7))
    assert study.ended()[0].intermediate_values == {1: 0.5, 3: 0.7}
