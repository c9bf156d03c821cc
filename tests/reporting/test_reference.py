"""Baselines against published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.record import DatasetFacts, MetricValue, Record
from recbole_llm.reporting.reference import check, load_references, reference_metrics
from recbole_llm.reporting.results_table import build
from recbole_llm.reporting.tables import render_check
from tests.reporting.records import run_of

BEAUTY = {"users": 22363, "items": 12101, "interactions": 198502}
SETTINGS = {"mask_history": False, "loss_type": "CE", "MAX_ITEM_LIST_LENGTH": 50}


def beauty_run(hit: float, ndcg: float, data: dict[str, int] = BEAUTY, **settings: Any) -> Record:
    return run_of(
        "SASRec",
        ndcg,
        dataset="beauty",
        settings=SETTINGS | settings,
        data=DatasetFacts(name="beauty", sha256="ab" * 32, statistics=data, test_cases=22363),
        metrics={"hit@10": MetricValue(value=hit), "ndcg@10": MetricValue(value=ndcg)},
    )


def verdicts_of(record: Record, path: Path | None = None) -> list[Any]:
    ((_, verdicts),) = check(build([record], metrics=reference_metrics(path)), path)
    return verdicts


def test_a_run_within_the_band_is_in_band_and_nothing_differs() -> None:
    verdicts = verdicts_of(beauty_run(0.083, 0.0416))
    assert [(v.metric, v.word, v.differences) for v in verdicts] == [
        ("hit@10", "in band", []),
        ("ndcg@10", "in band", []),
    ]


@pytest.mark.parametrize(("hit", "word"), [(0.0799, "below"), (0.0871, "above")])
def test_a_run_out_of_the_band_is_flagged(hit: float, word: str) -> None:
    assert verdicts_of(beauty_run(hit, 0.0416))[0].word == word
    text, flagged = render_check([beauty_run(hit, 0.0416)], "text", None)
    assert flagged
    assert f"**{word}**" in text


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"mask_history": True}, "mask_history True here, False there"),
        ({"MAX_ITEM_LIST_LENGTH": 20}, "MAX_ITEM_LIST_LENGTH 20 here, 50 there"),
        ({"data": BEAUTY | {"users": 22000}}, "users 22,000 here, 22,363 there"),
    ],
)
def test_what_differs_from_the_source_is_said(changes: dict[str, Any], difference: str) -> None:
    assert verdicts_of(beauty_run(0.1, 0.06, **changes))[0].differences == [difference]


def test_training_that_was_cut_short_is_said() -> None:
    curve = [{"epoch": n, "valid": {"ndcg@10": 0.01 * n}} for n in range(1, 6)]
    record = beauty_run(0.05, 0.02, epochs=5).model_copy(update={"epochs": 5, "best_epoch": 5, "curve": curve})
    assert verdicts_of(record)[0].differences == ["training ended after 5 epochs, still improving"]


def test_a_source_that_has_seen_the_test_is_said_to_have() -> None:
    popular = beauty_run(0.0115, 0.0054, mask_history=True).model_copy(update={"model": "Pop"})
    assert verdicts_of(popular)[0].differences == ["tested interactions are counted there"]


def test_another_loss_is_not_what_the_source_had() -> None:
    assert verdicts_of(beauty_run(0.083, 0.0416, loss_type="BPR")) == []


def test_rows_without_a_reference_say_so() -> None:
    text, flagged = render_check([run_of("SASRec", 0.1)], "text", None)
    assert "none of these rows has one" in text
    assert not flagged


def test_a_source_with_the_same_data_comes_before_others() -> None:
    statistics = {"users": 6040, "items": 3706, "interactions": 1000209}
    record = beauty_run(0.3, 0.17, statistics).model_copy(update={"dataset": "ml-1m"})
    assert {v.reference.title for v in verdicts_of(record)} == {"MovieLens 1M as it is, histories of 200"}


def test_a_single_number_is_a_band_of_the_tolerance(tmp_path: Path) -> None:
    path = tmp_path / "reference.yaml"
    path.write_text(
        "tolerance: 0.1\nreferences:\n- {title: t, source: s, dataset: beauty, protocol: loo, mask_history: false,"
        " models: {SASRec: {hit@10: 0.1}}}\n"
    )
    (verdict,) = verdicts_of(beauty_run(0.1, 0.05), path)
    assert (verdict.low, verdict.high) == pytest.approx((0.09, 0.11))


@pytest.mark.parametrize("text", ["tolerance: 0.1\n", "tolerance: 0.1\nreferences: [{title: t, sauce: s}]\n"])
def test_a_file_of_another_form_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "reference.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"reference\.yaml"):
        load_references(path)


def test_our_references_have_bands_in_order() -> None:
    _, references = load_references()
    assert references
    for reference in references:
        for metrics in reference.models.values():
            assert all(band[0] < band[1] for band in metrics.values() if isinstance(band, tuple))
