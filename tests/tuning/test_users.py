"""Trials that are pruned because they rank worse for the same users."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recbole_llm import api
from recbole_llm.tuning.study import Study
from recbole_llm.tuning.users import MOST_USERS, values_of_users
from tests.evaluation.test_significance import ranks_of
from tests.tuning.searchers import result, study_of
from tests.tuning.test_study import begun

GOOD = np.tile([0, 1, 2, 3], 30)  # ranks of 120 users' targets


def train(study: Study, *epochs: np.ndarray) -> int:
    """Report users' ranks epoch by epoch; returns the epoch at which the trial is pruned, or 0."""
    trial = begun(study)
    report = study.reporter(trial)
    for epoch, higher in enumerate(epochs, start=1):
        score = float(np.mean(values_of_users(ranks_of(higher), "ndcg@10")))
        if report(epoch, score, ranks_of(higher)):
            study.finish(trial, result(score, pruned=True))
            return epoch
    study.finish(trial, result(score))
    return 0


def test_a_trial_is_pruned_where_its_users_are_worse_off_and_not_where_they_differ_by_chance(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 6, pruner="users")
    assert train(study, GOOD + 5, GOOD, GOOD) == 0
    assert train(study, GOOD + 1, GOOD + 1, GOOD) == 2  # the first epoch is never judged
    for_two = GOOD.copy()
    for_two[:2] = 9
    assert train(study, GOOD + 5, for_two, for_two) == 0
    assert train(study, GOOD + 5, GOOD[::-1], GOOD[::-1]) == 0
    # The best trial had three epochs, so epoch 4 is compared with its last one.
    assert train(study, GOOD + 5, GOOD, GOOD, GOOD + 1) == 4
    states = [trial.state.name for trial in study.ended()]
    assert states == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE", "PRUNED"]


def test_trials_are_held_against_the_same_epoch_of_the_best_and_not_against_its_end(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 2, pruner="users")
    assert train(study, GOOD + 5, GOOD + 4, GOOD + 3, GOOD) == 0
    assert train(study, GOOD + 5, GOOD + 4, GOOD + 3, GOOD + 2) == 4


def test_the_defaults_are_never_pruned_and_without_a_finished_trial_nothing_is(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 3, pruner="users")
    defaults = begun(study)
    report = study.reporter(defaults)
    assert train(study, GOOD + 1, GOOD + 1, GOOD + 1) == 0
    assert not any(report(epoch, 0.1, ranks_of(GOOD + 8)) for epoch in (1, 2, 3))


def test_a_training_that_goes_on_is_judged_by_the_values_that_were_kept(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 2, pruner="users")
    train(study, GOOD, GOOD, GOOD)
    trial = begun(study)
    assert study.reporter(trial)(2, 0.1, ranks_of(GOOD + 1))
    assert study.reporter(trial)(2, 0.1)


def test_another_machine_prunes_by_the_values_of_the_history(tiny: Path) -> None:
    train(study_of("results/here.sqlite3", 1, pruner="users"), GOOD, GOOD, GOOD)
    there = study_of("results/there.sqlite3", 2, pruner="users")
    assert train(there, GOOD + 1, GOOD + 1) == 2
    trials = [json.loads(line) for line in there.history.read_text().splitlines()[1:]]
    assert [list(trial["users"]) for trial in trials] == [["1", "2", "3"], ["1", "2"]]


def test_other_pruners_keep_no_values_of_users(tiny: Path) -> None:
    study = study_of("results/s.sqlite3", 1, pruner="median")
    train(study, GOOD)
    assert "users" not in study.history.read_text()


def test_a_user_of_several_cases_counts_once_and_of_many_users_every_nth_is_kept() -> None:
    few = values_of_users(ranks_of(np.array([0, 50, 0]), np.array([7, 7, 3])), "NDCG@10")
    assert few == [1.0, 0.5]
    many = values_of_users(ranks_of(np.arange(2 * MOST_USERS + 1)), "hit@10")
    assert len(many) <= MOST_USERS
    assert many[:5] == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_a_search_compares_the_users_of_real_trainings(tiny: Path) -> None:
    options = {"embedding_size": 16, "hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 10, "epochs": 3, "num_layers": 1}
    found = api.tune("GRU4Rec", "tiny", trials=6, pruner="users", **options)
    (study,) = found.studies
    trials = [json.loads(line) for line in study.history.read_text().splitlines()[1:]]
    assert all(trial["users"].keys() == trial["curve"].keys() for trial in trials)
    for trial in trials:
        for epoch, values in trial["users"].items():
            assert np.mean(values) == pytest.approx(trial["curve"][epoch], abs=1e-3)
