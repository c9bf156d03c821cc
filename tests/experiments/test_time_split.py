"""Runs under a global time split: what the record says, and how models rank for users they have not seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_llm.data.split import cold_cases
from recbole_llm.errors import UserError
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.grid import expand
from recbole_llm.experiments.recommend import Recommender
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from tests.data.build import write_rows
from tests.helpers import make_run, runner

Cli = Callable[..., int]
GTS: dict[str, Any] = {"protocol": "gts", "epochs": 1}
START = 1_400_025_600
DAY = 86_400


@pytest.fixture
def shop(workspace: Path) -> Path:
    """A dataset ``tiny`` of 100 days: most users start in the first 60, some after day 92; five items are new late."""
    generator = np.random.default_rng(8)
    rows = []
    for user in range(70):
        first = int(generator.integers(0, 60)) if user < 55 else 92
        days = np.sort(generator.choice(np.arange(first, 100), 5, replace=False))
        for day in days:
            item = int(generator.integers(0, 25 if day < 88 else 30))
            rows.append((f"u{user}", f"i{item}", START + DAY * int(day) + user))
    rows += [("once", "i1", START + 99 * DAY)]
    folder = workspace / "dataset" / "tiny"
    write_rows(folder / "tiny.inter", rows)
    write_rows(folder / "tiny.item", [(f"i{n}", f"Thing {n}") for n in range(30)], "item_id:token\ttitle:token_seq")
    return folder


def run_of(model: str, **options: Any) -> tuple[Record, Ranks]:
    record = runner().run(make_run(model, **(GTS | options)))
    store = ResultStore("results")
    return record, Ranks.load(store.ranks_of(record))


def test_the_record_says_when_it_was_cut_and_what_is_cold(shop: Path) -> None:
    record, ranks = run_of("SASRec")
    assert record.data is not None
    assert record.data.later_training == 0.0
    assert record.data.cuts["valid"] < record.data.cuts["test"]
    assert record.data.cold["user_cases"] == int(ranks.cold_user.sum()) > 0
    assert record.data.cold["item_targets"] == int((ranks.train_count == 0).sum()) > 0
    assert record.data.cold["targets_without_history"] == 1
    first, second, third = record.warnings
    assert f"tested from {record.data.cuts['test']} on" in first
    assert second == "not counted as cases: 1 target with no earlier interaction"
    assert "targets stand in the user's own history" in third


def test_leave_one_out_says_how_much_of_its_training_is_later(shop: Path) -> None:
    record, _ = run_of("Pop", protocol="loo")
    assert record.data is not None
    assert record.data.later_training is not None
    assert 0.05 < record.data.later_training < 0.5
    assert record.data.cuts == {}
    assert [text for text in record.warnings if "own history" not in text] == []


@pytest.mark.parametrize("model", ["BPR", "EASE", "LightGCN"])
def test_a_model_of_user_ids_ranks_all_items_alike_for_users_it_has_not_seen(shop: Path, model: str) -> None:
    record, ranks = run_of(model)
    cold = ranks.cold_user
    assert cold.any()
    assert not cold.all()
    assert (ranks.higher[cold] == 0).all()
    ranked = 30 - ranks.tied[cold]  # items of the history are not ranked
    assert (ranked <= ranks.history[cold] + 1).all()
    assert (ranks.tied[~cold] < 20).all()
    assert any("users are known by their ids" in text for text in record.warnings)


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_lists_for_users_that_a_model_has_not_seen_say_so(
    shop: Path, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: evaluation ranks all items alike for such users, and recommend gave lists without a word."""
    prepared = runner().trained(make_run(model, **GTS))
    table, cases = prepared.dataset.table, prepared.dataset.split.test
    unseen = str(table.user_tokens[cases.user[cold_cases(table, prepared.dataset.split, cases)][0]])
    caplog.clear()
    found = Recommender(prepared, history="test").recommend(["u0", unseen], k=3)
    assert [len(each.items) for each in found] == [3, 3]
    assert ("one of them has no training interaction" in caplog.text) == (model == "BPR")


@pytest.mark.parametrize("model", ["Pop", "SASRec", "GRU4Rec"])
def test_a_model_of_histories_ranks_for_users_it_has_not_seen(shop: Path, model: str) -> None:
    record, ranks = run_of(model)
    assert (ranks.tied[ranks.cold_user] < 20).all()
    assert not any("known by their ids" in text for text in record.warnings)


@pytest.mark.parametrize("model", ["LLMDMsRec", "EIMF", "SASRecText", "LDMI"])
def test_methods_of_the_field_run(shop: Path, model: str) -> None:
    record, _ = run_of(model)
    assert record.status == "ok"
    assert record.data is not None
    assert record.data.later_training == 0.0


def test_a_table_shows_warm_and_cold_apart(shop: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    run_of("Pop")
    run_of("SASRec")
    capsys.readouterr()
    assert cli("table", "--groups") == 0
    text = capsys.readouterr().out
    assert "tested on the last 10 % of the interactions, last target" in text
    record, ranks = run_of("Pop")
    for name, count in (
        ("cold users", ranks.cold_user.sum()),
        ("cold items", (ranks.train_count == 0).sum()),
        ("warm users and items", (~ranks.cold_user & (ranks.train_count > 0)).sum()),
    ):
        assert f"{name} ({count})" in text
    assert text.count(record.warnings[0]) == 1


def test_other_cuts_stand_in_another_table(shop: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    run_of("Pop")
    run_of("Pop", test_from=0.95)
    run_of("Pop", targets="all")
    capsys.readouterr()
    assert cli("table") == 0
    text = capsys.readouterr().out
    assert text.count("tiny, gts:") == 3
    assert "tested on the last 5 % of the interactions" in text
    assert "all targets" in text


def test_a_date_may_be_given_on_the_command_line(shop: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--model=Pop", "--dataset=tiny", "--protocol=gts", "--quiet"]
    assert cli(*words, "--valid_from=2014-07-13", "--test_from=2014-08-02") == 0
    assert "tested from 2014-08-02 on" in capsys.readouterr().out


@pytest.mark.parametrize("given", [{"test_from": 0.9}, {"targets": "all"}, {"valid_from": "2014-07-13"}])
def test_a_cut_is_refused_where_nothing_is_cut(shop: Path, given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"--protocol=loo does not read it; it is for split: gts"):
        expand("Pop", "tiny", overrides=given)


def test_recbole_s_own_loop_takes_one_target_a_user(shop: Path) -> None:
    assert run_of("BPR", engine="recbole")[0].status == "ok"
    with pytest.raises(UserError, match="--engine=recbole takes all targets of a user for one case"):
        run_of("BPR", engine="recbole", targets="all")


def test_sampled_rankings_have_one_file_a_cut(shop: Path) -> None:
    run_of("Pop", candidates=5)
    run_of("Pop", candidates=5, test_from=0.95)
    names = {path.name for path in (shop / "candidates").iterdir()}
    assert len(names) == 4
