"""Records, users and epochs as DataFrames."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.record import MetricValue, SemanticFacts
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.frames import curves, per_user, results, table_rows
from recbole_llm.reporting.tables import render
from tests.reporting.records import bound, record_of, store_run

RUN = ["dataset", "protocol", "label", "model", "semantics", "seed", "key"]


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path / "results")
    for model, skill in (("Pop", 0.0), ("SASRec", 1.0)):
        for seed in (1, 2):
            store_run(store, model, skill, seed)
    features = SemanticFacts(llm="openai", llm_model="g", price=1.5, coverage={"intent": 0.75, "itemtext": 1.0})
    settings = {"mask_history": True, "learning_rate": 0.01}
    listed = {"itemcoverage@10": MetricValue(value=0.5)}
    store_run(
        store, "LLMDMsRec", 2.0, semantics="llm", features=features, settings=settings, list_metrics=listed,
        protocol="session",
    )  # fmt: skip
    store.put(record_of(key="f", model="Broken", status="failed", error="no luck", settings={"mask_history": True}))
    return store


def test_records_have_a_row_each(store: ResultStore) -> None:
    frame = results(store.folder, settings=["learning_rate"])
    pd.testing.assert_frame_equal(frame, results(store.folder, settings="learning_rate"))  # not one column a letter
    assert len(frame) == 6
    assert list(frame.columns[:7]) == RUN
    assert frame["key"].is_unique
    row = frame.set_index("model").loc["LLMDMsRec"]
    assert (row["label"], row["semantics"], row["protocol"]) == ("LLMDMsRec (g), 75 % answered", "g", "session")
    assert (row["price"], row["coverage"], row["itemcoverage@10"]) == (1.5, 0.75, 0.5)
    assert (row["settings.learning_rate"], row["seconds.train"], row["best_epoch"]) == (0.01, 3.0, 3)
    assert row["still_improving"]
    broken = frame.set_index("model").loc["Broken"]
    assert (broken["status"], broken["error"]) == ("failed", "no luck")
    assert pd.isna(broken["ndcg@10"])
    for record in store:
        if record.status == "ok":
            assert frame.set_index("key").loc[record.key, "ndcg@10"] == record.metrics["ndcg@10"].value


def test_seeds_of_a_row_have_its_label(store: ResultStore) -> None:
    store_run(store, "SASRec", 0.5, key="other", settings={"mask_history": True, "learning_rate": 0.1})
    labels = results(store.folder, model="SASRec")["label"].value_counts()
    assert labels.to_dict() == {"SASRec [learning_rate=unset]": 2, "SASRec [learning_rate=0.1]": 1}


def test_records_can_be_chosen(store: ResultStore) -> None:
    assert set(results(store.folder, protocol="session")["model"]) == {"LLMDMsRec"}
    assert set(results(store.folder, model=["Pop", "Broken"])["model"]) == {"Pop", "Broken"}
    assert len(results(store.folder, dataset="other")) == 0


def test_users_have_their_mean_values(store: ResultStore) -> None:
    frame = per_user(store.folder, "mrr@5", protocol="loo")
    assert list(frame.columns) == [*RUN, "user", "cases", "value"]
    assert len(frame) == 4 * 200
    record = next(record for record in store if (record.model, record.seed) == ("SASRec", 2))
    ranks = Ranks.load(store.ranks_of(record))
    own = frame[frame["key"] == record.key]
    assert own["user"].tolist() == ranks.user.tolist()
    assert own["value"].tolist() == pytest.approx(per_case(ranks, "mrr@5").tolist())
    means = frame.groupby("key")["value"].mean()
    assert means[record.key] == pytest.approx(record.metric("mrr@5"))


def test_people_behind_sessions_are_the_users(store: ResultStore) -> None:
    record = next(record for record in store if record.status == "ok")
    path = store.ranks_of(record)
    ranks = Ranks.load(path)
    replace(ranks, person=np.repeat(np.arange(50), 4)).save(path)
    frame = per_user(store.folder).query("key == @record.key")
    assert (len(frame), frame["cases"].unique().tolist()) == (50, [4])
    assert frame["value"].mean() == pytest.approx(per_case(ranks, "ndcg@10").mean())


def test_runs_whose_ranks_do_not_reach_a_cut_off_are_left_out(
    store: ResultStore, caplog: pytest.LogCaptureFixture
) -> None:
    bound(store, next(record for record in store if record.model == "Pop"), 10)
    with caplog.at_level(logging.WARNING):
        assert "Pop" not in set(per_user(store.folder, "ndcg@20").query("seed == 1")["model"])
    assert "Pop, seed 1 is left out: ndcg@20: these ranks were looked for up to place 10" in caplog.text
    assert "Pop" in set(per_user(store.folder, "ndcg@10").query("seed == 1")["model"])


def test_runs_without_ranks_are_left_out_and_said_to_be(store: ResultStore, caplog: pytest.LogCaptureFixture) -> None:
    record = next(record for record in store if record.model == "Pop")
    store.ranks_of(record).unlink()
    with caplog.at_level(logging.WARNING):
        frame = per_user(store.folder)
    assert record.key not in set(frame["key"])
    assert "Pop, seed 1 is left out" in caplog.text


@pytest.mark.parametrize(("metric", "message"), [("ndgc@10", "Did you mean ndcg"), ("ugf@10", "whole lists")])
def test_a_metric_that_no_user_has_is_an_error(store: ResultStore, metric: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        per_user(store.folder, metric)


def test_curves_have_a_row_an_epoch(store: ResultStore) -> None:
    frame = curves(store.folder, model="SASRec")
    assert len(frame) == 2 * 3
    assert frame["epoch"].tolist() == [1, 2, 3] * 2
    assert frame["loss"].tolist() == pytest.approx([1, 1 / 2, 1 / 3] * 2)
    assert frame["valid.ndcg@10"].tolist() == pytest.approx([0.1, 0.2, 0.3] * 2)


def test_losses_add_up_and_epochs_without_validation_have_none(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    store.put(record_of(curve=[{"loss": [1.0, 2.0]}, {"loss": 2.0, "valid": {"ndcg@10": 0.1}}]))
    frame = curves(store.folder)
    assert frame["loss"].tolist() == [3.0, 2.0]
    assert frame["valid.ndcg@10"].isna().tolist() == [True, False]


def test_table_rows_hold_what_the_csv_file_holds(store: ResultStore) -> None:
    frame = table_rows(store.folder, baseline="Pop")
    written = pd.read_csv(io.StringIO(render(list(store), "csv", store=store, baseline="Pop")))
    assert list(frame.columns) == list(written.columns)
    for column in ("mean", "ci_low", "difference", "p"):
        assert frame[column].tolist() == pytest.approx(written[column].tolist(), rel=1e-5, nan_ok=True)
    assert set(frame.loc[frame["difference"].notna(), "metric"]) == {"ndcg@10"}
    assert set(table_rows(store.folder, model="Pop")["model"]) == {"Pop"}


@pytest.mark.parametrize("frame", [results, per_user, curves, table_rows])
def test_a_missing_folder_is_refused(frame: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="resluts: there is no such results folder"):
        frame("resluts")


def test_an_empty_folder_gives_empty_frames_with_their_columns(tmp_path: Path) -> None:
    for frame in (results(tmp_path), per_user(tmp_path), curves(tmp_path)):
        assert len(frame) == 0
        assert set(RUN) <= set(frame.columns)
