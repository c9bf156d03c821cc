"""The record of a run."""

from __future__ import annotations

import json
import math
import re
import shutil
import warnings
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import ValidationError

from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.record import SCHEMA, MetricValue, Record, SemanticFacts, loss_of
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.tables import render
from tests.reporting.records import record_of


def test_a_record_comes_back_from_json_as_it_was() -> None:
    record = record_of(
        metrics={"ndcg@10": MetricValue(value=0.25)},
        features=SemanticFacts(llm="openai", llm_model="m", coverage={"intent": 0.5}, price=0.25),
        curve=[{"epoch": 1, "loss": 2.5, "valid": {"ndcg@10": 0.1}}],
        settings={"topk": [5, 10], "clip_grad_norm": None, "nested": {"a": 1}, "encoder": "/models/e"},
    )
    assert Record.model_validate_json(record.model_dump_json()) == record


def test_the_schema_version_travels_with_the_numbers() -> None:
    assert json.loads(record_of().model_dump_json())["schema_version"] == SCHEMA


def test_every_metric_says_which_way_is_better() -> None:
    text = record_of(metrics={"hit@5": MetricValue(value=0.5)}).model_dump_json()
    assert json.loads(text)["metrics"]["hit@5"] == {"value": 0.5, "higher_is_better": True}


def test_fields_of_a_later_version_are_ignored() -> None:
    text = json.dumps({**json.loads(record_of().model_dump_json()), "later_field": 1})
    assert Record.model_validate_json(text) == record_of()


def test_a_record_without_its_key_is_none() -> None:
    with pytest.raises(ValidationError):
        Record.model_validate({"model": "SASRec", "dataset": "d", "protocol": "loo", "seed": 1})


def test_metrics_are_found_in_any_case() -> None:
    record = record_of(metrics={"ndcg@10": MetricValue(value=0.25)})
    assert record.metric("NDCG@10") == 0.25
    assert record.metric("ndcg@20") is None


@pytest.mark.parametrize(
    ("semantics", "features", "label"),
    [
        ("none", None, "M"),
        ("offline", SemanticFacts(llm="offline"), "M (offline)"),
        ("shuffled", SemanticFacts(llm="openai", llm_model="gpt"), "M (shuffled)"),
        ("llm", SemanticFacts(llm="openai", llm_model="gpt"), "M (gpt)"),
        ("llm", SemanticFacts(llm="vllm"), "M (vllm)"),
    ],
)
def test_the_label_says_where_the_semantics_came_from(
    semantics: str, features: SemanticFacts | None, label: str
) -> None:
    assert record_of(model="M", semantics=semantics, features=features).label == label


def test_a_record_shows_itself_in_one_line() -> None:
    metrics = {"ndcg@10": MetricValue(value=0.25)}
    record = record_of(model="EIMF", semantics="offline", metrics=metrics, valid_metric="ndcg@10")
    shown = repr([record])
    assert shown.startswith(f"[Record(label='EIMF (offline)', dataset='{record.dataset}', protocol='loo', seed=")
    assert f"status='ok', ndcg@10=0.25, key='{record.key}')]" in shown
    failed = record_of(status="failed", error="no memory", metrics={}, valid_metric="ndcg@10")
    assert f"status='failed', error='no memory', key='{failed.key}')" in repr(failed)


def test_the_schema_is_documented_as_json() -> None:
    schema = Record.model_json_schema()
    assert {"key", "model", "dataset", "protocol", "seed"} <= set(schema["required"])


# ---- older versions --------------------------------------------------------------------------------


def test_a_record_of_the_first_version_is_read_and_shown(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    (folder := store.folder / "ml-100k" / "loo").mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "data" / "record-schema-1.json", folder / "Pop-s2020-10b56554072427e2.json")
    (record,) = store
    assert record.schema_version == SCHEMA
    assert store.find("10b56554072427e2") == record
    assert record.metric("ndcg@10") == pytest.approx(0.0399, abs=1e-4)
    assert not record.metrics["giniindex@10"].higher_is_better
    assert record.metrics["ndcg@10"].higher_is_better
    assert "0.0399" in render([record], store=store)


@pytest.mark.parametrize("metrics", [[], {"hit@10": 0.5}, "x"])
def test_a_broken_record_of_the_first_version_is_a_broken_record(metrics: object) -> None:
    with pytest.raises(ValidationError):
        Record.model_validate({**record_of().model_dump(), "schema_version": 1, "metrics": metrics})


@pytest.mark.parametrize(
    "point", [{"loss": "low"}, {"valid": {"ndcg@10": "high"}}, {"epoch": "first"}, {"valid": 0.1}, "x"]
)
def test_a_curve_of_other_things_than_numbers_is_a_broken_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, point: object
) -> None:
    store = ResultStore(tmp_path / "results")
    path = store.put(record_of())
    path.write_text(json.dumps({**json.loads(path.read_text()), "curve": [point]}))
    assert list(store) == []
    assert re.search(f"{path.name}.*curve", caplog.text)


def test_a_curve_comes_back_with_infinite_losses_and_keys_of_its_own(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    curve = [{"epoch": 1, "loss": [1.0, math.inf], "valid": {"ndcg@10": math.nan}, "rate": 0.1}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.put(record_of(curve=curve))
    (record,) = store
    assert record.curve == [{"epoch": 1, "loss": [1.0, None], "valid": {"ndcg@10": None}, "rate": 0.1}]
    assert loss_of(record.curve[0]) is None


def test_the_page_about_results_knows_the_schema_and_every_field_of_ranks() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "results.md").read_text(encoding="utf-8")
    assert f"This is schema {SCHEMA}." in page
    named = set(re.findall(r"`(\w+)`", page.partition("## The ranks")[2].partition("## From Python")[0]))
    assert named >= {field.name for field in fields(Ranks)} - {"offsets"}
