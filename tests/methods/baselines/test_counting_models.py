"""Counting models: each is checked against its definition, case by case."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.data.loaders import EvalLoader
from recbole_llm.errors import UserError
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.tuning.space import read_space
from recbole_llm.utils.yaml import properties_folder
from tests.data.build import write_rows
from tests.helpers import StopAt, make_run, prepare, runner, write_tiny

COUNTING = ("PopRecent", "PopUser", "MarkovChain", "VSKNN")
WINDOWS = {"by": "user", "window": 4, "min_length": 2}
DAY = 86_400


def training_histories(prepared: Prepared) -> dict[int, list[tuple[int, int]]]:
    """Items and times of each user's training rows, in order."""
    table, found = prepared.dataset.table, {}
    for row in prepared.dataset.split.train_rows:
        found.setdefault(int(table.user[row]), []).append((int(table.item[row]), int(table.time[row])))
    return found


def cases_of(prepared: Prepared, phase: str = "test") -> tuple[Any, list[tuple[int, list[int], int]]]:
    """All cases of a phase in one batch, and each case's user, visible items and time of its last visible item."""
    table, cases = prepared.dataset.table, getattr(prepared.dataset.split, phase)
    batch = EvalLoader(prepared.device_table(), cases, len(cases), True).batch(np.arange(len(cases)))
    longest = int(prepared.config["MAX_ITEM_LIST_LENGTH"])
    lines = [
        (int(user), table.item[max(start, end - longest) : end].tolist(), int(table.time[end - 1]))
        for user, start, end in zip(cases.user, cases.start, cases.end, strict=True)
    ]
    return batch, lines


def items_of_people(prepared: Prepared) -> dict[str, list[int]]:
    """Training items of each person in order, for windows in which each interaction trains once."""
    table, found = prepared.dataset.table, {}
    for row in prepared.dataset.split.train_rows:
        person = str(table.user_tokens[table.user[row]]).rpartition("#")[0]
        found.setdefault(person, []).append(int(table.item[row]))
    return found


def popularity(prepared: Prepared) -> dict[int, float]:
    counts = Counter(item for history in training_histories(prepared).values() for item, _ in history)
    return {item: counts[item] / (max(counts.values()) + 1) for item in range(prepared.dataset.item_num)}


@pytest.mark.parametrize("days", [1, 30, 0])
@pytest.mark.parametrize("protocol", ["loo", "user_split"])
def test_poprecent_counts_the_days_before_the_last_item(tiny: Path, days: int, protocol: str) -> None:
    prepared = prepare("PopRecent", days=[days], protocol=protocol)
    batch, lines = cases_of(prepared)
    scores = prepared.model.full_sort_predict(batch)
    fraction = popularity(prepared)
    trained = [pair for history in training_histories(prepared).values() for pair in history]
    counted = 0
    for line, (_, _, now) in enumerate(lines):
        since = now - days * DAY if days else -math.inf
        recent = Counter(item for item, time in trained if since < time <= now)
        counted += sum(recent.values())
        expected = [recent[item] + fraction[item] for item in range(prepared.dataset.item_num)]
        assert scores[line].tolist() == pytest.approx(expected)
    assert counted


def test_poprecent_takes_the_days_that_validate_best(tiny: Path) -> None:
    """Each epoch validates one number of days as a separate run would, and the best number is tested."""
    days = [1, 20, 60, 0]
    alone = [runner().run(make_run("PopRecent", days=[n], epochs=1)) for n in days]
    found = runner().run(make_run("PopRecent", days=days, epochs=4))
    curve = [entry["valid"]["ndcg@10"] for entry in found.curve]
    assert curve == [record.curve[0]["valid"]["ndcg@10"] for record in alone]
    assert len(set(curve)) > 1
    assert found.best_epoch is not None
    assert curve[found.best_epoch - 1] == max(curve)
    assert found.metrics == alone[found.best_epoch - 1].metrics


@pytest.mark.parametrize("given", [{"epochs": 2}, {"stopping_step": 1}, {"eval_step": 3}], ids=str)
def test_poprecent_tries_all_days_whatever_ends_other_trainings(tiny: Path, given: dict[str, int]) -> None:
    days = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 0]
    found = runner().run(make_run("PopRecent", days=days, **{"epochs": 9, **given}))
    assert [entry["epoch"] for entry in found.curve if "valid" in entry] == [*range(1, 12)]


def test_an_interrupted_choice_of_days_goes_on(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("PopRecent", days=[1, 20, 60, 0], epochs=4)
    whole = Runner(ResultStore("whole")).run(make_run("PopRecent", days=[1, 20, 60, 0], epochs=4, checkpoint_dir="w"))
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        Runner(ResultStore("results"), StopAt("epoch 3")).run(run)
    found = runner().run(run)
    assert [e["valid"] for e in found.curve] == [e["valid"] for e in whole.curve]
    assert found.metrics == whole.metrics


@pytest.mark.parametrize("times", ["ordinal", "missing", "one for all", "days"])
def test_days_want_times_that_compare(workspace: Path, times: str) -> None:
    folder = workspace / "dataset" / "walks"
    folder.mkdir(parents=True)
    when = {"one for all": lambda *_: 1_400_000_000, "days": lambda user, place: 16_000 + 7 * user + place * place}
    time = when.get(times, lambda _, place: place + 1)
    rows = [(f"u{user}", f"i{(user + place) % 9}", time(user, place)) for user in range(12) for place in range(5)]
    write_rows(folder / "walks.inter", rows, "user_id:token\titem_id:token\ttimestamp:float")
    more = {"load_col": {"inter": ["user_id", "item_id"]}, "protocol": "user_split"} if times == "missing" else {}
    unit = ".* they look like days since 1970; multiply them by 86,400" if times == "days" else ""
    with pytest.raises(UserError, match="PopRecent counts days: it needs times" + unit):
        prepare("PopRecent", "walks", **more)


@pytest.mark.parametrize("protocol", ["loo", "user_split"])
def test_popuser_counts_in_the_history(tiny: Path, protocol: str) -> None:
    prepared = prepare("PopUser", protocol=protocol)
    batch, lines = cases_of(prepared)
    scores = prepared.model.full_sort_predict(batch)
    fraction = popularity(prepared)
    for line, (_, items, _) in enumerate(lines):
        own = Counter(items)
        expected = [own[item] + fraction[item] for item in range(prepared.dataset.item_num)]
        assert scores[line].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 3.0])
@pytest.mark.parametrize("protocol", ["loo", "session"])
def test_markov_chain_counts_what_follows_in_training(tiny: Path, smoothing: float, protocol: str) -> None:
    prepared = prepare("MarkovChain", smoothing=smoothing, protocol=protocol)
    histories = training_histories(prepared).values()
    pairs = Counter((a, b) for history in histories for (a, _), (b, _) in pairwise(history))
    left = Counter(first for first, _ in pairs.elements())
    share = Counter(item for history in histories for item, _ in history)
    batch, lines = cases_of(prepared)
    scores = prepared.model.full_sort_predict(batch)
    for line, (_, items, _) in enumerate(lines):
        last = items[-1]
        for item in range(1, prepared.dataset.item_num):
            total = left[last] + smoothing
            expected = (pairs[last, item] + smoothing * share[item] / share.total()) / total if total else 0.0
            assert float(scores[line, item]) == pytest.approx(expected)


def test_markov_chain_counts_each_transition_of_windows_once(tiny: Path) -> None:
    prepared = prepare("MarkovChain", protocol="temporal_20", sessions=WINDOWS)
    pairs = Counter(pair for items in items_of_people(prepared).values() for pair in pairwise(items))
    counts = prepared.model.transitions.tocoo()
    found = {(int(a), int(b)): int(n) for a, b, n in zip(counts.row, counts.col, counts.data, strict=True)}
    assert found == dict(pairs)
    assert sum(found.values()) == len(prepared.dataset.split.train_targets)


@pytest.mark.parametrize("kind", ["last", "all"])
def test_markov_chain_counts_the_targets_that_windows_train_on(tiny: Path, kind: str) -> None:
    prepared = prepare("MarkovChain", protocol="temporal_20", sessions=WINDOWS, window_targets=kind)
    assert prepared.model.total.sum() == len(prepared.dataset.split.train_targets)


@pytest.mark.parametrize("kind", ["once", "last", "all"])
def test_vsknn_takes_sessions_whole_that_windows_cut(tiny: Path, kind: str) -> None:
    prepared = prepare("VSKNN", protocol="temporal_20", sessions=WINDOWS, window_targets=kind)
    model, table = prepared.model, prepared.dataset.table
    found = {}
    for line, owner in enumerate(model.owner):
        person, _, number = str(table.user_tokens[owner]).rpartition("#")
        assert number == "1"
        found[person] = set(model.sessions[line].indices.tolist())
    assert found == {person: set(items) for person, items in items_of_people(prepared).items()}


def test_vsknn_is_no_neighbour_of_the_windows_before(tiny: Path) -> None:
    prepared = prepare("VSKNN", protocol="temporal_20", sessions=WINDOWS, k=10_000, sample_size=0)
    table, people = prepared.dataset.table, items_of_people(prepared)
    batch, lines = cases_of(prepared, "valid")
    scores = prepared.model.full_sort_predict(batch)
    continued = 0
    for line, (user, items, _) in enumerate(lines):
        person = str(table.user_tokens[user]).rpartition("#")[0]
        near = {i for other, own in people.items() if other != person and set(own) & set(items) for i in own}
        assert set(scores[line].nonzero()[:, 0].tolist()) == near
        continued += person in people
    assert continued


WEIGHTS = {
    "div": lambda p, n: p / n,
    "linear": lambda p, n: max(0.0, 1 - (n - p) / 10),
    "quadratic": lambda p, n: (p / n) ** 2,
    "log": lambda p, n: 1 / math.log10(n - p + 1.7),
    "same": lambda p, n: 1.0,
}
DECAYS = {
    "div": lambda q: 1 / q,
    "linear": lambda q: max(0.0, 1 - q / 10),
    "quadratic": lambda q: 1 / q**2,
    "log": lambda q: 1 / math.log10(q + 1.7),
    "same": lambda q: 1.0,
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(("k", "sample_size", "protocol"), [(5, 0, "loo"), (7, 15, "loo"), (500, 12, "user_split")])
def test_vsknn_scores_by_its_nearest_sessions(tiny: Path, name: str, k: int, sample_size: int, protocol: str) -> None:
    weighting, decay = {"weighting": name, "score_weighting": name}, DECAYS[name]
    prepared = prepare("VSKNN", k=k, sample_size=sample_size, protocol=protocol, **weighting)
    past = training_histories(prepared)
    batch, lines = cases_of(prepared)
    scores = prepared.model.full_sort_predict(batch)
    for line, (user, items, _) in enumerate(lines):
        n, places = len(items), {item: place for place, item in enumerate(items, start=1)}
        near = []
        for owner, history in sorted(past.items()):
            shared = places.keys() & {item for item, _ in history}
            similarity = sum(WEIGHTS[name](places[item], n) for item in shared) / len(places)
            if owner != user and similarity > 0:
                newest = max(places[item] for item in shared)
                near.append((similarity, history, decay(n + 1 - newest), max(time for _, time in history)))
        near = sorted(near, key=lambda one: -one[3])[: sample_size or None]
        near = sorted(near, key=lambda one: -round(one[0], 12))[:k]
        for item in range(1, prepared.dataset.item_num):
            expected = sum(s * d for s, history, d, _ in near if item in {i for i, _ in history})
            assert float(scores[line, item]) == pytest.approx(expected)


@pytest.mark.parametrize("model", [*COUNTING, "ItemKNN", "EASE"])
def test_a_row_without_gradients_is_run_recorded_and_found_again(tiny: Path, model: str) -> None:
    record = runner().run(make_run(model))
    assert 0 < record.metrics["ndcg@10"].value < 1
    assert record.best_epoch
    assert record.epochs == (9 if model == "PopRecent" else 1)
    assert runner().finished(make_run(model)) is not None


@pytest.mark.parametrize("model", ["PopUser", "MarkovChain", "VSKNN"])
def test_counts_are_validated_once_whatever_other_rows_are_given(tiny: Path, model: str) -> None:
    """Equal scores count as improvements, so early stopping would never end a training that changes nothing."""
    found = runner().run(make_run(model, epochs=30, eval_step=7))
    assert (found.epochs, found.best_epoch, len(found.curve)) == (1, 1, 1)


@pytest.mark.parametrize("model", COUNTING)
def test_what_counts_is_not_trained_by_recbole_s_loop(tiny: Path, model: str) -> None:
    with pytest.raises(UserError, match="engine=recbole"):
        runner().run(make_run(model, engine="recbole"))


@pytest.mark.parametrize("model", [*COUNTING, "ItemKNN", "EASE"])
def test_it_can_be_searched(model: str) -> None:
    space = read_space(properties_folder() / "search" / f"{model}.yaml")
    assert bool(space) == (model not in ("PopRecent", "PopUser"))


def test_seeds_change_nothing(workspace: Path) -> None:
    write_tiny(workspace / "dataset" / "tiny")
    for model in COUNTING:
        scores = [prepare(model, seed=seed).model.full_sort_predict(cases_of(prepare(model))[0]) for seed in (1, 2)]
        assert torch.equal(*scores)
