"""Studies: no trial is lost or counted twice, even if processes die; nothing is trained here."""

from __future__ import annotations

import socket
import sqlite3
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from recbole_llm.errors import UserError
from recbole_llm.tuning.budget import Budget
from recbole_llm.tuning.liveness import is_lost
from recbole_llm.tuning.space import space_of
from recbole_llm.tuning.storage import open_storage, storage_address
from recbole_llm.tuning.study import MAX_LOSSES, PUBLISHED, Study, starts
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml
from tests.helpers import make_run
from tests.processes import start, wait_for
from tests.tuning.searchers import hang, result, score_of, study_of, take_part, take_part_and_count

STORAGES = pytest.mark.parametrize("storage", ["results/search.sqlite3", "results/search.log"])


def values(study: Study) -> list[tuple[int, dict[str, Any], float | None]]:
    return [(trial.number, study.settings(trial), trial.value) for trial in study.ended()]


def begun(study: Study) -> Any:
    """Start the next trial, which must exist."""
    trial = study.next()
    assert trial is not None
    return trial


# ---- one process ----------------------------------------------------------------------------------


def test_the_defaults_are_the_first_trial(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 3)
    take_part(study)
    first = study.ended()[0]
    assert study.settings(first) == {"learning_rate": 0.001, "num_layers": 1}
    assert study.best().value >= first.value


def test_the_published_settings_are_the_second_trial_as_far_as_the_space_goes(tiny: Path) -> None:
    """SR-GNN's are embedding_size 100, learning_rate 0.001 and weight_decay 1e-5, and some that are not searched."""
    space = "learning_rate: {low: 0.002, high: 0.1, log: true}\nembedding_size: [64, 100]\nstep: [1, 2]\n"
    study = study_of("results/s.sqlite3", 3, make_run("SRGNN"), space)
    take_in = [begun(study) for _ in range(3)]
    first, second, third = (study.settings(trial) for trial in take_in)
    assert first == {"embedding_size": 64, "step": 1} | {"learning_rate": first["learning_rate"]}
    assert second == {"embedding_size": 100, "step": 1} | {"learning_rate": second["learning_rate"]}
    assert min(first["learning_rate"], second["learning_rate"]) >= 0.002  # 0.001 is outside the space, so drawn
    assert third not in (first, second)
    fixed = study_of("results/s.sqlite3", 3, make_run("SRGNN", embedding_size=100), "step: [1, 2]")
    assert study_of("results/s.sqlite3", 3, make_run("SRGNN", preset="paper"), space)._starts[1:] == []
    assert fixed._starts == [{"step": 1}]


OURS = {"demo", "scratch"}  # presets that are not from a publication


def test_each_preset_is_one_of_a_publication_or_ours() -> None:
    names = {name.rpartition("-")[2] for name in property_names("preset")}
    assert names == {*PUBLISHED, *OURS}


@pytest.mark.parametrize(
    ("given", "preset"),
    [
        ({}, None),
        ({"train_targets": "all"}, None),
        ({"train_targets": "all", "objective": "bce"}, "original"),
        ({"train_targets": "all", "objective": "sampled_softmax"}, "sampled"),
        ({"preset": "sampled"}, None),  # the published settings are the defaults then
    ],
)
def test_settings_published_under_another_name_are_a_start_where_the_search_trains_alike(
    tiny: Path, given: dict[str, Any], preset: str | None
) -> None:
    run = make_run("SASRec", **given)
    first, *others = starts(run, space_of(run.settings))
    if preset is None:
        assert others == []
    else:
        published = read_yaml(properties_folder() / "preset" / f"SASRec-{preset}.yaml")
        wanted = {name: published[name] for name in first}
        wanted["hidden_size"] = first["hidden_size"] if preset == "original" else 64  # 50 is not in the space
        assert others == [wanted]


def test_settings_published_under_another_name_are_a_start_where_their_training_is_searched(tiny: Path) -> None:
    space = "train_targets: [last, all]\nobjective: [softmax, bce, sampled_softmax]\nn_layers: [1, 2]\n"
    study = study_of("results/s.sqlite3", 4, make_run("SASRec"), space)
    tried = [tuple(study.settings(begun(study)).values()) for _ in range(3)]
    assert tried == [("last", "softmax", 2), ("all", "bce", 2), ("all", "sampled_softmax", 1)]


@pytest.mark.parametrize("model", ["ISRF", "DUIP"])
def test_published_settings_of_another_language_model_are_no_start(tiny: Path, model: str) -> None:
    """Their scales and rates suit that language model: ISRF's a trained T5, DUIP's GPT-2."""
    run = make_run(model)
    assert len(starts(run, space_of(run.settings))) == 1
    published = {"DUIP": {"lm": "gpt2"}, "ISRF": {"lm": "google-t5/t5-small", "word_scale": "absolute"}}
    same = make_run(model, **published[model])
    assert len(starts(same, space_of(same.settings))) == 2


def test_a_search_that_goes_on_tries_what_it_would_have_tried(tiny: Path) -> None:
    whole = study_of("results/whole.sqlite3", 14)
    take_part(whole)
    whole.history.unlink()
    take_part(study_of("results/parts.sqlite3", 5))
    parts = study_of("results/parts.sqlite3", 14)
    assert take_part(parts) == 9
    assert values(parts) == values(whole)
    assert len({trial.params["learning_rate"] for trial in parts.ended()}) == 14


def test_one_seed_is_one_search_whatever_the_version_of_optuna(tiny: Path) -> None:
    """Optuna 4.9.0 and 5.0.0 both draw these values: two random trials, and two after TPE has started."""
    study = study_of("results/s.sqlite3", 14)
    take_part(study)
    drawn = [(settings["learning_rate"], settings["num_layers"]) for _, settings, _ in values(study)]
    assert drawn[1:3] == [(pytest.approx(0.02775728828919537), 2), (pytest.approx(0.0011386587407734706), 1)]
    assert drawn[12:] == [(pytest.approx(0.00010192998653707438), 3), (pytest.approx(0.0003431037608798134), 3)]


def test_the_same_storage_holds_studies_of_other_settings_apart(tiny: Path) -> None:
    first = study_of("results/s.sqlite3", 2)
    take_part(first)
    others = [
        study_of("results/s.sqlite3", 2, make_run("GRU4Rec", hidden_size=32)),
        study_of("results/s.sqlite3", 2, epochs=3),
        study_of("results/s.sqlite3", 2, seconds=60.0),
        study_of("results/s.sqlite3", 2, pruner="median"),
        study_of("results/s.sqlite3", 2, objectives=("accuracy", "seconds")),
        study_of("results/s.sqlite3", 2, space="num_layers: [1, 2, 3]"),
    ]
    assert len({study.name for study in [first, *others]}) == 7
    assert all(study.ended() == [] for study in others)


def test_a_trial_that_fails_counts_and_is_not_tried_again(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 3)
    trial = begun(study)
    study.folder(trial).mkdir(parents=True)
    study.finish(trial, result(error=UserError("training diverged")))
    assert not study.folder(trial).exists()
    assert take_part(study) == 2
    assert [trial.state for trial in study.ended()] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.best().number > 0


@pytest.mark.parametrize(
    ("score", "error", "reason"),
    [
        (None, UserError("no luck"), "no luck"),
        (None, None, "there was no validation"),
        (float("nan"), None, "the validation gave nan"),
    ],
)
def test_a_search_whose_trials_all_fail_says_why(
    tiny: Path, score: float | None, error: Exception | None, reason: str
) -> None:
    study = study_of("results/s.sqlite3", 2)
    for _ in range(2):
        study.finish(begun(study), result(score, error))
    assert study.is_done
    with pytest.raises(UserError, match=rf"every trial of GRU4Rec-tiny-loo-.* failed: {reason}"):
        study.best()


def test_settings_that_were_tried_are_not_trained_again(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 8, space="num_layers: [1, 2]")
    trained = 0
    while (trial := study.next()) is not None:
        trained += 1
        trial.report(0.5, 1)
        study.finish(trial, result(float(study.settings(trial)["num_layers"])))
    assert trained == 2
    assert study.is_done
    assert {trial.value for trial in study.ended()} == {1.0, 2.0}
    assert all(trial.intermediate_values == {1: 0.5} for trial in study.ended())


def test_a_model_with_nothing_to_search_has_one_trial(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 50, make_run("Pop"), space="{}")
    study.finish(begun(study), result(0.1))
    assert study.next() is None
    assert study.is_done


def test_bad_curves_are_pruned_but_never_the_defaults(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 7, pruner="median")
    defaults = begun(study)
    for number in range(5):
        trial = begun(study)
        for epoch in (1, 2, 3):
            assert not study.reporter(trial)(epoch, 0.5)
        study.finish(trial, result(0.5 + number))
    bad = begun(study)
    report = study.reporter(bad)
    assert not report(1, 0.1)
    assert report(2, 0.1)
    again = study.reporter(bad)  # as for a training that continues after an interruption
    assert not again(1, 0.1)
    assert again(2, 0.1)
    assert not any(study.reporter(defaults)(epoch, 0.1) for epoch in (1, 2, 3))
    study.finish(bad, result(0.1, pruned=True))
    assert study.ended()[-1].state == TrialState.PRUNED
    assert study.ended()[-1].intermediate_values == {1: 0.1, 2: 0.1}


@pytest.mark.parametrize("pruner", ["hyperband", "none"])
def test_scores_reported_from_elsewhere_are_pruned_as_those_of_one_process(tiny: Path, pruner: str) -> None:
    def pruned(storage: str, here: bool) -> dict[int, int]:
        study = study_of(storage, 10, make_run("GRU4Rec", epochs=9), pruner=pruner)
        found = {}
        for number in range(10):
            trial = begun(study)
            report = study.reporter(trial)
            for epoch in range(1, 10):
                score = 0.9 - 0.05 * number
                if here and number:
                    trial.report(score, epoch)
                    stops = trial.should_prune()
                else:
                    stops = report(epoch, score)
                if stops:
                    found[number] = epoch
                    break
            study.finish(trial, result(0.5, pruned=stops))
        study.history.unlink()
        return found

    found = pruned("results/there.sqlite3", here=False)
    assert found == pruned("results/here.sqlite3", here=True)
    assert bool(found) == (pruner == "hyperband")


def test_what_the_tuned_run_sets_is_what_the_best_trial_had(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 4)
    take_part(study)
    run = study.tuned_run(seed=7)
    found = {name: run.settings[name] for name in ("learning_rate", "num_layers")}
    assert found == study.settings(study.best())
    assert (run.settings["seed"], run.settings["epochs"], run.search) == (7, 2, {"trials": 4})
    plain = make_run("GRU4Rec", seed=7, **{f"GRU4Rec.{name}": value for name, value in found.items()})
    assert run.key != plain.key  # the tuned run has its own row beside the plain run
    assert (run.blank_record().tuned, run.blank_record().trials) == (True, 4)


def test_the_seeds_of_tuned_runs_win_over_one_given_for_the_model(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 1, make_run("GRU4Rec", **{"GRU4Rec.seed": 3}))
    take_part(study)
    assert [study.tuned_run(seed).settings["seed"] for seed in (3, 4)] == [3, 4]


# ---- several processes ----------------------------------------------------------------------------


@STORAGES
def test_processes_share_the_budget_exactly(tiny: Path, storage: str) -> None:
    processes = [start(take_part_and_count, storage, 12, file) for file in ("one", "two")]
    assert [process.wait() for process in processes] == [0, 0]
    study = study_of(storage, 12)
    counts = [int(Path(file).read_text()) for file in ("one", "two")]
    assert sum(counts) == len(study.ended()) == 12
    assert all(trial.value == pytest.approx(score_of(study.settings(trial))) for trial in study.ended())


@STORAGES
def test_a_search_that_was_killed_tries_what_it_would_have_tried(tiny: Path, storage: str) -> None:
    """The interrupted trial keeps its number and settings, and later trials are drawn as without the kill."""
    whole = study_of(storage.replace("search", "whole"), 13)
    take_part(whole)
    whole.history.unlink()
    process = start(hang, storage, 13, 2, "mark")
    wait_for(Path("mark").exists)
    parts = study_of(storage, 13)
    (running,) = [trial for trial in parts.budgeted() if trial.state == TrialState.RUNNING]
    assert running.number == 2
    assert not is_lost(running)
    process.kill()
    assert is_lost(running)
    assert take_part(parts) == 11
    assert values(parts) == values(whole)


def test_a_process_takes_no_trial_while_another_one_is_at_it(tiny: Path) -> None:
    """A recovered trial that a process has taken but not yet signed would otherwise look lost again."""
    first, second = study_of("results/s.sqlite3", 2), study_of("results/s.sqlite3", 2)
    taken: list[int] = []
    thread = threading.Thread(target=lambda: taken.append(begun(second).number))
    with first._alone():
        thread.start()
        thread.join(0.5)
        assert taken == []
    thread.join()
    assert taken == [0]


def lose(study: Study, trial: optuna.Trial) -> None:
    """Make a trial belong to a process that no longer exists."""
    trial.set_user_attr("owner", trial.user_attrs["owner"] | {"started": "long ago"})
    study.running.clear()


def test_a_trial_that_is_lost_again_and_again_has_failed(tiny: Path) -> None:
    """The trial itself may be what kills its process."""
    study = study_of("results/s.sqlite3", 2)
    for _ in range(MAX_LOSSES + 1):
        trial = begun(study)
        assert trial.number == 0
        lose(study, trial)
    assert take_part(study) == 1
    assert [trial.state for trial in study.ended()] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.ended()[0].user_attrs["error"] == f"its process died {MAX_LOSSES + 1} times"


def test_the_trial_of_another_container_is_not_judged_by_the_process_ids_of_this_one(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 2)
    host = socket.gethostname()  # also theirs, if both use the host's network
    begun(study).set_user_attr("owner", {"host": f"{host} pid:[1]", "pid": 1, "started": "1"})
    (running,) = [trial for trial in study.budgeted() if trial.state == TrialState.RUNNING]
    assert not is_lost(running)


def test_a_trial_whose_machine_went_silent_is_tried_again(tiny: Path) -> None:
    lost = study_of("results/s.sqlite3", 3)
    trial = begun(lost)
    trial.set_user_attr("owner", {"host": "elsewhere", "pid": 1, "started": "1"})
    study = study_of("results/s.sqlite3", 3)
    assert begun(study).number == 1  # not trial 0, whose process may be alive
    age_heartbeats()
    again = begun(study)
    assert (again.number, again.params) == (0, trial.params)
    assert study_of("results/s.sqlite3", 3).next().number == 2  # type: ignore[union-attr] - trial 0 is alive again
    study.finish(again, result(0.3))
    lost.finish(trial, result(0.9))  # the first process was alive after all, but is too late
    assert study.ended()[0].value == 0.3


def test_a_silent_trial_that_another_machine_has_just_taken_is_not_taken_again(tiny: Path) -> None:
    """The other machine has not sent a heartbeat yet, and the two machines share no lock."""
    study = study_of("results/s.sqlite3", 1)
    elsewhere = {"host": "elsewhere", "pid": 1, "started": "1"}
    begun(study).set_user_attr("owner", elsewhere)
    study.running.clear()
    age_heartbeats()
    study._recover()
    study._study.ask(study._distributions).set_user_attr("owner", elsewhere)
    assert study.next() is None


def test_a_trial_that_ends_while_it_waits_to_be_tried_again_is_tried_again(tiny: Path) -> None:
    lost = study_of("results/s.sqlite3", 1)
    trial = begun(lost)
    lost._put_back(trial)  # as another process does that considers the trial silent
    lost.finish(trial, result(0.9))
    assert not lost.is_done
    assert take_part(study_of("results/s.sqlite3", 1)) == 1


def age_heartbeats() -> None:
    with sqlite3.connect("results/s.sqlite3") as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00'")


def test_a_trial_that_was_taken_and_not_signed_is_tried_again_after_the_grace(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of("results/s.log", 1)  # a journal storage has no heartbeat
    study._study.ask(study._distributions)
    assert study.next() is None
    monkeypatch.setattr("recbole_llm.tuning.liveness.GRACE_SECONDS", -1.0)
    assert begun(study).number == 0


def test_a_search_that_is_broken_off_gives_its_trials_back(tiny: Path) -> None:
    """The process may stay alive after the interruption, as in a notebook."""
    study = study_of("results/s.log", 2)
    trial = begun(study)
    study.release()
    assert begun(study_of("results/s.log", 2)).params == trial.params


def test_a_trial_beyond_the_budget_waits(tiny: Path) -> None:
    """Another machine may take the last trial between the check and the request."""
    study, late = study_of("results/s.sqlite3", 2), study_of("results/s.sqlite3", 2)
    assert [begun(study).number for _ in range(2)] == [0, 1]
    looks = iter([True, False])
    late._is_open = lambda: next(looks)  # type: ignore[method-assign]
    assert late.next() is None
    assert [trial.state for trial in study.all_trials()] == [TrialState.RUNNING] * 2 + [TrialState.WAITING]
    more = study_of("results/s.sqlite3", 4)
    assert [begun(more).number for _ in range(2)] == [2, 3]


def test_studies_of_the_version_before_are_read(tiny: Path) -> None:
    """The previous version repeated lost trials under new numbers and marked trials beyond the budget as failed."""
    study = study_of("results/s.sqlite3", 3)
    for state in (TrialState.FAIL, TrialState.COMPLETE, TrialState.FAIL):
        trial = study._study.ask(study._distributions)
        study._study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state)
    assert take_part(study) == 2
    assert [trial.number for trial in study.ended()] == [1, 3, 4]


# ---- storages and budgets -------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "epochs"), [(1, 1), (10, 2)])
def test_the_limit_of_a_trial_raises_nothing(tiny: Path, most: int, epochs: int) -> None:
    study = study_of("results/s.sqlite3", 1, epochs=most)
    assert study.make_run(begun(study)).settings["epochs"] == epochs


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("results/file/x.sqlite3", "cannot be made"),
        ("results/file/x.log", "cannot be made"),
        ("results/search.txt", "give an address .postgresql"),
        ("nosuchdb://me:secret@host/x", "Can't load plugin"),
        ("sqlite:////no/such/folder/x.sqlite3", "unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_used_is_an_error_without_its_password(tiny: Path, address: str, message: str) -> None:
    Path("results").mkdir()
    Path("results/file").write_text("")
    with pytest.raises(UserError, match=message) as caught:
        open_storage(storage_address(address, Path("results")))
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


# ---- several objectives ---------------------------------------------------------------------------


def test_the_front_has_each_trial_that_none_beats_in_both(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 5, objectives=("accuracy", "seconds"))
    pairs = [(0.5, 3.0), (0.7, 9.0), (0.5, 2.0), (0.4, 5.0), (0.7, 9.0)]
    for score, seconds in pairs:
        trial = begun(study)
        assert not study.reporter(trial)(1, score)
        study.finish(trial, result(score, training=seconds))
    assert [trial.number for trial in study.front()] == [1, 2]
    assert study.best().number == 1
    study_of("results/elsewhere.sqlite3", 5, objectives=("accuracy", "seconds"))
    assert [
        trial.values for trial in study_of("results/elsewhere.sqlite3", 5, objectives=("accuracy", "seconds")).ended()
    ] == [list(pair) for pair in pairs]


def test_a_trial_of_known_settings_has_both_values_of_the_first(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 4, space="num_layers: [1, 2]", objectives=("accuracy", "seconds"))
    while not study.is_done:
        trial = study.next()
        if trial is not None:
            score = float(trial.params["num_layers"])
            study.finish(trial, result(score, training=3 * score))
    assert sorted({tuple(trial.values) for trial in study.ended()}) == [(1.0, 3.0), (2.0, 6.0)]
    assert any("same_as" in trial.user_attrs for trial in study.ended())
