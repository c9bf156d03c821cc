"""Trials: what they report, how they end, how they go on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.jobs import make_features, run_trial
from recbole_llm.experiments.runner import Runner
from recbole_llm.training import checkpoint
from tests.helpers import make_run, runner

SMALL: dict[str, Any] = {"epochs": 4, "hidden_size": 16, "embedding_size": 16}


class Driver:
    """Hears reports; says stop, or is interrupted, at an epoch."""

    def __init__(self, stop_at: int = 0, interrupt_at: int = 0) -> None:
        self.stop_at, self.interrupt_at = stop_at, interrupt_at
        self.heard: list[tuple[int, float]] = []

    def __call__(self, message: tuple[int, float]) -> bool:
        self.heard.append(message)
        if message[0] == self.interrupt_at:
            raise KeyboardInterrupt
        return message[0] == self.stop_at


def test_a_trial_reports_every_epoch_and_gives_the_best(tiny: Path) -> None:
    driver = Driver()
    found = run_trial(driver, make_run("GRU4Rec", **SMALL), "trial", None)
    assert [epoch for epoch, _ in driver.heard] == [1, 2, 3, 4]
    assert found.score == pytest.approx(max(score for _, score in driver.heard), abs=1e-6)
    assert (found.epochs, found.pruned) == (4, False)
    assert not Path("trial").exists()
    assert not Path("results").exists()


def test_a_trial_ends_where_the_driver_says_so(tiny: Path) -> None:
    found = run_trial(Driver(stop_at=2), make_run("GRU4Rec", **SMALL), "trial", None)
    assert (found.epochs, found.pruned) == (2, True)
    assert not Path("trial").exists()


def test_a_trial_that_was_interrupted_goes_on_and_reports_anew(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    whole = Driver()
    wanted = run_trial(whole, make_run("GRU4Rec", **SMALL), "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run_trial(Driver(interrupt_at=3), make_run("GRU4Rec", **SMALL), "trial", None)
    assert Path("trial/last.pt").is_file()
    again = Driver()
    found = run_trial(again, make_run("GRU4Rec", **SMALL), "trial", None)
    assert [epoch for epoch, _ in again.heard] == [1, 2, 3, 4]
    assert [score for _, score in again.heard] == pytest.approx([score for _, score in whole.heard], abs=1e-6)
    assert found.score == pytest.approx(wanted.score, abs=1e-6)


def test_a_trial_with_epochs_that_are_not_validated_goes_on(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    run = make_run("GRU4Rec", eval_step=2, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        run_trial(Driver(interrupt_at=4), run, "trial", None)
    again = Driver()
    found = run_trial(again, run, "trial", None)
    assert [epoch for epoch, _ in again.heard] == [2, 4]
    assert found.epochs == 4


def test_the_time_before_an_interruption_counts(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    run = make_run("GRU4Rec", **SMALL)
    with pytest.raises(KeyboardInterrupt):
        run_trial(Driver(interrupt_at=3), run, "trial", 500.0)
    state = checkpoint.load(Path("trial/last.pt"))
    state["seconds"]["train"] += 1000.0
    checkpoint.save(Path("trial/last.pt"), state)
    again = Driver()
    found = run_trial(again, run, "trial", 500.0)
    assert [epoch for epoch, _ in again.heard] == [1, 2, 3]  # all that is known, and the epoch in which it is over
    assert (found.epochs, found.pruned) == (3, False)


def test_the_time_before_the_training_does_not_count(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports and reading depend on what the process did before."""
    prepare, clock, late = Runner.prepare, time.monotonic, 0.0

    def slowly(*arguments: Any) -> Any:
        nonlocal late
        late += 1000.0
        return prepare(*arguments)

    monkeypatch.setattr(Runner, "prepare", slowly)
    monkeypatch.setattr(time, "monotonic", lambda: clock() + late)
    assert run_trial(Driver(), make_run("GRU4Rec", **SMALL), "trial", 500.0).epochs == 4


def test_a_trial_that_fails_leaves_nothing(tiny: Path) -> None:
    with pytest.raises(UserError, match="diverged"):
        run_trial(Driver(), make_run("GRU4Rec", learning_rate=1e30, **SMALL), "trial", None)
    assert not Path("trial").exists()


def test_cells_whose_features_cannot_be_made_are_named_with_the_reason(tiny: Path) -> None:
    lacking = make_run("LLMDMsRec", encoder="no/such/encoder")
    reasons = make_features([make_run("GRU4Rec"), lacking], runner())
    assert list(reasons) == [lacking.key]
    assert "no/such/encoder" in reasons[lacking.key]
