"""Comparison of baselines with published numbers."""

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


@pytest.mark.parametrize("change", [{"loss_type": "BPR"}, {"objective": "gbce"}])
def test_another_loss_is_not_what_the_source_had(change: dict[str, Any]) -> None:
    assert verdicts_of(beauty_run(0.083, 0.0416, **change)) == []


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("form", ["last", "all"])
@pytest.mark.parametrize("objective", ["softmax", "sampled_softmax"])
@pytest.mark.parametrize("model", ["SASRec", "eSASRec", "HSTU"])
def test_a_source_of_another_mask_or_form_says_nothing(model: str, masked: bool, form: str, objective: str) -> None:
    record = beauty_run(0.09, 0.05, mask_history=masked, train_targets=form, objective=objective)
    for verdict in verdicts_of(record.model_copy(update={"model": model})):
        assert verdict.reference.mask_history == masked
        assert verdict.reference.train_targets == form
        assert verdict.reference.when["objective"] == objective


@pytest.mark.parametrize(
    ("model", "masked", "form", "objective", "band"),
    [
        ("SASRec", False, "last", "softmax", (0.080, 0.087)),
        ("SASRec", True, "last", "softmax", (0.088, 0.094)),
        ("SASRec", True, "all", "sampled_softmax", (0.9 * 0.0921, 1.1 * 0.0921)),
        ("eSASRec", True, "all", "sampled_softmax", (0.9 * 0.0928, 1.1 * 0.0928)),
        ("HSTU", True, "all", "sampled_softmax", (0.9 * 0.0788, 1.1 * 0.0788)),
        ("SASRec", False, "all", "softmax", None),
        ("eSASRec", False, "all", "sampled_softmax", None),
        ("HSTU", True, "last", "sampled_softmax", None),
    ],
)
def test_each_form_of_beauty_has_the_band_of_its_own_source(
    model: str, masked: bool, form: str, objective: str, band: tuple[float, float] | None
) -> None:
    record = beauty_run(0.09, 0.05, mask_history=masked, train_targets=form, objective=objective)
    found = [v for v in verdicts_of(record.model_copy(update={"model": model})) if v.metric == "hit@10"]
    assert [(v.low, v.high) for v in found] == ([pytest.approx(band)] if band else [])


def test_records_from_before_there_were_forms_were_trained_at_the_last_position() -> None:
    assert "train_targets" not in SETTINGS
    assert {v.reference.train_targets for v in verdicts_of(beauty_run(0.083, 0.0416))} == {"last"}


def test_every_reference_says_its_mask_its_form_and_its_source() -> None:
    _, references = load_references()
    sequential = {"SASRec", "GRU4Rec", "eSASRec", "HSTU", "gSASRec"}
    for reference in references:
        assert reference.source
        assert (reference.train_targets is not None) == bool(sequential & set(reference.models)), reference.title


def test_rows_without_a_reference_say_so() -> None:
    text, flagged = render_check([run_of("SASRec", 0.1)], "text", None)
    assert "none of these rows has one" in text
    assert not flagged


def test_a_source_with_the_same_data_comes_before_others() -> None:
    statistics = {"users": 6040, "items": 3706, "interactions": 1000209}
    record = beauty_run(0.3, 0.17, statistics, mask_history=True, train_targets="all", objective="softmax")
    (title,) = {v.reference.title for v in verdicts_of(record.model_copy(update={"dataset": "ml-1m"}))}
    assert title == "MovieLens 1M as it is, histories of 200, a softmax over all items"


def test_a_single_number_is_a_band_of_the_tolerance(tmp_path: Path) -> None:
    path = tmp_path / "reference.yaml"
    path.write_text(
        "tolerance: 0.1\nreferences:\n- {title: t, source: s, dataset: beauty, protocol: loo, mask_history: false,"
        " train_targets: last, models: {SASRec: {hit@10: 0.1}}}\n"
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
