"""Studies: no trial lost or doubled, whoever dies; nothing is trained here."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from recbole_llm.errors import UserError
from recbole_llm.tuning.study import Budget, Study, is_orphan, open_storage, slot_of
from tests.execution.test_executors import wait_for
from tests.helpers import make_run
from tests.tuning.searchers import outcome, score_of, study_of, take_part

ROOT = Path(__file__).resolve().parents[2]
STORAGES = pytest.mark.parametrize("storage", ["results/search.sqlite3", "results/search.log"])


def start(storage: str, trials: int, hang_at: str = "-", mark: str = "mark") -> subprocess.Popen[str]:
    """Another process in the search."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.tuning.searchers", storage, str(trials), hang_at, mark],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def values(study: Study) -> list[tuple[dict[str, Any], float | None]]:
    return [(study.settings(trial), trial.value) for trial in study.ended()]


# ---- one process ----------------------------------------------------------------------------------


def test_the_defaults_are_the_first_trial(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 3)
    take_part(study)
    first = study.ended()[0]
    assert study.settings(first) == {"learning_rate": 0.001, "num_layers": 1}
    assert study.best().value >= first.value


def test_a_search_that_goes_on_tries_what_it_would_have_tried(tiny: Path) -> None:
    whole = study_of("results/whole.sqlite3", 14)
    take_part(whole)
    take_part(study_of("results/parts.sqlite3", 5))
    parts = study_of("results/parts.sqlite3", 14)
    assert take_part(parts) == 9
    assert values(parts) == values(whole)
    assert len({trial.params["learning_rate"] for trial in parts.ended()}) == 14


def test_the_same_storage_holds_studies_of_other_settings_apart(tiny: Path) -> None:
    first = study_of("results/s.sqlite3", 2)
    take_part(first)
    others = [
        study_of("results/s.sqlite3", 2, make_run("GRU4Rec", hidden_size=32)),
        study_of("results/s.sqlite3", 2, epochs=3),
        study_of("results/s.sqlite3", 2, seconds=60.0),
    ]
    assert len({study.name for study in [first, *others]}) == 4
    assert all(study.ended() == [] for study in others)


def test_a_trial_that_fails_counts_and_is_not_tried_again(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 3)
    trial = study.next()
    assert trial is not None
    study.finish(trial, outcome(error=UserError("training diverged")))
    assert take_part(study) == 2
    assert [trial.state for trial in study.ended()] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.best().number > 0


def test_a_search_whose_trials_all_fail_says_why(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 2)
    for _ in range(2):
        trial = study.next()
        assert trial is not None
        study.finish(trial, outcome(error=UserError("no luck")))
    with pytest.raises(UserError, match=r"every trial of GRU4Rec-tiny-loo-.* failed: no luck"):
        study.best()


def test_settings_that_were_tried_are_not_trained_again(tiny: Path) -> None:
    Path("space.yaml").write_text("num_layers: [1, 2]")
    from recbole_llm.tuning.space import read_space

    storage = open_storage(None, Path("results"))
    study = Study(make_run("GRU4Rec"), read_space(Path("space.yaml")), Budget(8), storage)
    trained = 0
    while (trial := study.next()) is not None:
        trained += 1
        study.finish(trial, outcome(float(study.settings(trial)["num_layers"])))
    assert trained == 2
    assert study.is_done
    assert {trial.value for trial in study.ended()} == {1.0, 2.0}


def test_a_model_with_nothing_to_search_has_one_trial(tiny: Path) -> None:
    study = Study(make_run("Pop"), {}, Budget(50), open_storage(None, Path("results")))
    trial = study.next()
    assert trial is not None
    study.finish(trial, outcome(0.1))
    assert study.next() is None
    assert study.is_done


def test_bad_curves_are_pruned_but_never_the_defaults(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 7)
    study = Study(study.run, study.space, Budget(7, pruner="median"), open_storage(None, Path("results")))
    defaults = study.next()
    assert defaults is not None
    for number in range(5):
        trial = study.next()
        assert trial is not None
        for epoch in (1, 2, 3):
            assert not study.report(trial, epoch, 0.5)
        study.finish(trial, outcome(0.5 + number))
    bad = study.next()
    assert bad is not None
    assert not study.report(bad, 1, 0.1)
    assert not study.report(bad, 1, 0.1)  # a training that began anew says it again
    assert study.report(bad, 2, 0.1)
    assert not any(study.report(defaults, epoch, 0.1) for epoch in (1, 2, 3))
    study.finish(bad, outcome(0.1, pruned=True))
    assert study.ended()[-1].state == TrialState.PRUNED


def test_what_the_tuned_run_sets_is_what_the_best_trial_had(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 4)
    take_part(study)
    run = study.tuned_run(seed=7)
    found = {name: run.settings[name] for name in ("learning_rate", "num_layers")}
    assert found == study.settings(study.best())
    assert (run.settings["seed"], run.settings["epochs"], run.search) == (7, 2, {"trials": 4})
    plain = make_run("GRU4Rec", seed=7, **{f"GRU4Rec.{name}": value for name, value in found.items()})
    assert run.key != plain.key  # beside the plain run in the tables, not in its place
    assert (run.blank_record().tuned, run.blank_record().trials) == (True, 4)


# ---- several processes ----------------------------------------------------------------------------


@STORAGES
def test_processes_share_the_budget_exactly(tiny: Path, storage: str) -> None:
    processes = [start(storage, 12) for _ in range(2)]
    counts = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    study = study_of(storage, 12)
    assert sum(counts) == len(study.ended()) == 12
    assert all(trial.value == pytest.approx(score_of(study.settings(trial))) for trial in study.ended())


@STORAGES
def test_the_trial_of_a_process_that_was_killed_is_tried_again(tiny: Path, storage: str) -> None:
    process = start(storage, 6, hang_at="2")
    wait_for(Path("mark").exists)
    study = study_of(storage, 6)
    (running,) = [trial for trial in study.frozen() if trial.state == TrialState.RUNNING]
    assert not is_orphan(running)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert is_orphan(running)
    assert take_part(study) == 4
    assert study.is_done
    by_slot = {slot_of(trial): trial for trial in study.ended()}
    assert len(by_slot) == 6
    assert by_slot[2].params == running.params
    assert by_slot[2].number != 2


def test_a_search_that_was_killed_tries_what_it_would_have_tried(tiny: Path) -> None:
    whole = study_of("results/whole.sqlite3", 13)
    take_part(whole)
    process = start("results/parts.sqlite3", 13, hang_at="2")
    wait_for(Path("mark").exists)
    process.kill()
    process.wait()
    parts = study_of("results/parts.sqlite3", 13)
    assert take_part(parts) == 11
    assert values(parts) == values(whole)


def test_a_trial_whose_machine_went_silent_is_tried_again(tiny: Path) -> None:
    lost = study_of("results/s.sqlite3", 3)
    trial = lost.next()
    assert trial is not None
    trial.set_user_attr("owner", {"host": "elsewhere", "pid": 1, "started": "1"})
    study = study_of("results/s.sqlite3", 3)
    assert study.next() is not None  # another one: the first may be alive
    with sqlite3.connect("results/s.sqlite3") as database:
        database.execute(
            "UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00' WHERE trial_id = ?", (trial._trial_id,)
        )
    again = study.next()
    assert again is not None
    assert again.params == trial.params
    lost.finish(trial, outcome(0.9))  # it was alive after all, too late
    study.finish(again, outcome(0.3))
    assert study.ended()[0].value == 0.3


def test_a_trial_lost_between_failing_and_queueing_is_tried_again(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 2)
    trial = study.next()
    assert trial is not None
    study._study.tell(trial, state=TrialState.FAIL)
    study.running.clear()
    assert take_part(study_of("results/s.sqlite3", 2)) == 2


def test_a_trial_that_is_tried_again_is_not_taken_for_its_dead_process_s(tiny: Path) -> None:
    """Between taking a trial and signing it, a third process must not call it lost once more."""
    storage = "results/s.sqlite3"
    process = start(storage, 1, hang_at="0")
    wait_for(Path("mark").exists)
    process.kill()
    process.wait()
    second, third = study_of(storage, 1), study_of(storage, 1)
    second._recover()
    taken = second._study.ask(second._distributions)
    assert third.next() is None
    assert third._storage.get_trial(taken._trial_id).state == TrialState.RUNNING
    assert slot_of(third._storage.get_trial(taken._trial_id)) == 0


def test_a_trial_beyond_the_budget_gives_way(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 2)
    late = study._study.ask  # what another process does between looking and asking
    first, second = study.next(), study.next()
    assert first is not None
    assert second is not None
    assert study._is_surplus(late(study._distributions))
    assert not study._is_surplus(second)


# ---- storages and budgets -------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "epochs"), [(1, 1), (10, 2)])
def test_the_limit_of_a_trial_raises_nothing(tiny: Path, most: int, epochs: int) -> None:
    study = study_of("results/s.sqlite3", 1, epochs=most)
    trial = study.next()
    assert trial is not None
    assert study.make_run(trial).settings["epochs"] == epochs


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("results/file/x.sqlite3", "cannot be made"),
        ("results/file/x.log", "cannot be made"),
        ("results/search.txt", "give an address .postgresql"),
        ("nosuchdb://me:secret@host/x", "NoSuchModuleError"),
        ("sqlite:////no/such/folder/x.sqlite3", "OperationalError"),
    ],
)
def test_a_storage_that_cannot_be_used_is_an_error_without_its_password(tiny: Path, address: str, message: str) -> None:
    Path("results").mkdir()
    Path("results/file").write_text("")
    with pytest.raises(UserError, match=message) as caught:
        open_storage(address, Path("results"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": 0}, "--trials=0"),
        ({"trials": 5, "pruner": "medain"}, r"--pruner=medain.*Did you mean median\?"),
        ({"trials": 5, "epochs": 0}, "are positive"),
        ({"trials": 5, "seconds": -1.0}, "are positive"),
        ({"trials": 5, "seconds": float("nan")}, "are positive and finite"),
        ({"trials": 5, "seconds": float("inf")}, "are positive and finite"),
    ],
)
def test_a_mistaken_budget_is_an_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Budget(**arguments)
