"""Twin tables, which show each row under two protocols."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.record import DatasetFacts, Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.tables import FORMATS
from recbole_llm.reporting.twin import render_twin, twins
from tests.reporting.records import run_of, store_run

BOTH = ("loo", "gts")


def run_under(protocol: str, model: str, ndcg: float, later: float = 0.0, **changes: Any) -> Record:
    """A record under a protocol, with the protocol's settings."""
    own = {"loo": {"split": "loo"}, "gts": {"split": "gts", "valid_from": 0.8, "test_from": 0.9, "targets": "last"}}
    settings = {"mask_history": True, **own[protocol], **changes.pop("settings", {})}
    data = DatasetFacts(name="tiny", sha256="ab" * 32, test_cases=1234, later_training=later)
    return run_of(model, ndcg, protocol=protocol, settings=settings, **{"data": data} | changes)


def four_models() -> list[Record]:
    """Four rows, of which two neighbours change places between the protocols."""
    under_loo = {"Pop": 0.1, "SASRec": 0.4, "GRU4Rec": 0.3, "EASE": 0.2}
    under_gts = {"Pop": 0.05, "SASRec": 0.2, "GRU4Rec": 0.3, "EASE": 0.1}
    return [
        *(run_under("loo", model, value, later=0.24) for model, value in under_loo.items()),
        *(run_under("gts", model, value) for model, value in under_gts.items()),
    ]


def cells(text: str, model: str) -> list[str]:
    """The cells of a model's row."""
    return next(line.split() for line in text.splitlines() if line.startswith(model))


def test_each_row_stands_under_both_protocols_with_its_places() -> None:
    text = render_twin(four_models(), BOTH)
    assert cells(text, "SASRec") == ["SASRec", "1", "**0.4000**", "_0.2000_", "1", "2"]
    assert cells(text, "GRU4Rec") == ["GRU4Rec", "1", "_0.3000_", "**0.3000**", "2", "1"]
    assert "NDCG@10 loo" in text
    assert "NDCG@10 gts" in text


def test_the_orders_are_correlated_and_the_rows_that_change_places_are_named() -> None:
    (twin,) = twins(four_models(), BOTH)
    tau, rho = twin.correlations()
    assert tau == pytest.approx((5 - 1) / 6)  # five concordant pairs, one discordant
    assert rho == pytest.approx(1 - 6 * 2 / (4 * 15))  # two ranks differ by one
    text = render_twin(four_models(), BOTH)
    assert "two orders of 4 rows by NDCG@10: Kendall's tau +0.67, Spearman's rho +0.80" in text
    assert "1 of 6 pairs changes places (under loo SASRec before GRU4Rec)" in text


def test_rows_that_tie_share_a_place_and_change_it_with_no_other() -> None:
    under = {"loo": {"A": 0.4, "B": 0.3, "C": 0.3, "D": 0.1}, "gts": {"A": 0.4, "B": 0.3, "C": 0.2, "D": 0.1}}
    (twin,) = twins([run_under(name, *row) for name, rows in under.items() for row in rows.items()], BOTH)
    assert [pair.row.model for pair in twin.pairs] == ["A", "B", "C", "D"]
    assert (twin.places(0), twin.places(1)) == ([1, 2, 2, 4], [1, 2, 3, 4])
    assert twin.swaps() == []


def test_rows_are_set_beside_those_of_the_same_masking() -> None:
    shown = [run_under("gts", model, 0.9, key=model, settings={"mask_history": False}) for model in "AB"]
    masked = [run_under(name, model, 0.2) for name in BOTH for model in "AB"]
    (twin,) = twins([*shown, *masked], BOTH)
    assert [table.key.masked for table in twin.tables] == [True, True]
    (other,) = twins([*shown, *masked[:2]], BOTH)
    assert "seen items are ranked under one of the protocols only, so the values do not compare" in other.notes


def test_the_share_of_later_training_is_said() -> None:
    text = render_twin(four_models(), BOTH)
    assert "later than a test target, on average: 24.0% under loo, 0.0% under gts" in text


def test_rows_of_one_protocol_are_named_and_have_no_place() -> None:
    records = [*four_models(), run_under("gts", "BPR", 0.9), run_under("loo", "FPMC", 0.01)]
    text = render_twin(records, BOTH)
    assert "under loo only, with these settings: FPMC" in text
    assert "under gts only, with these settings: BPR" in text
    assert cells(text, "BPR") == ["BPR", "1", "**0.9000**"]
    assert cells(text, "GRU4Rec")[-2:] == ["2", "1"]  # rows under one protocol only, such as BPR, get no place


def test_other_settings_are_another_row() -> None:
    deep, flat = {"n_layers": 4}, {"n_layers": 2}
    records = [
        run_under("loo", "SASRec", 0.4, key="a", settings=deep),
        run_under("loo", "SASRec", 0.3, key="b", settings=flat),
        run_under("gts", "SASRec", 0.2, key="c", settings=flat),
        run_under("loo", "Pop", 0.1),
        run_under("gts", "Pop", 0.1),
    ]
    (twin,) = twins(records, BOTH)
    pairs = {pair.row.label: pair.is_whole for pair in twin.pairs}
    assert pairs == {"SASRec [n_layers=4]": False, "SASRec [n_layers=2]": True, "Pop": True}


def test_other_files_are_another_row_but_for_those_of_the_protocol() -> None:
    def run(protocol: str, item: str) -> Record:
        files = {"item": item, "train": protocol, "inter": "ab"}
        data = DatasetFacts(name="tiny", sha256="ab" * 32, test_cases=1234, files=files)
        return run_under(protocol, "M", 0.1, key=protocol + item, data=data)

    (twin,) = twins([run("loo", "1a"), run("loo", "2b"), run("gts", "2b")], BOTH)
    assert {pair.row.label: pair.is_whole for pair in twin.pairs} == {"M [item#1a]": False, "M [item#2b]": True}


def test_rows_of_searches_are_matched_by_their_names() -> None:
    def tuned(protocol: str, rate: float) -> Record:
        return run_under(protocol, "SASRec", 0.4, tuned=True, trials=20, settings={"learning_rate": rate})

    (twin,) = twins([tuned("loo", 0.01), tuned("gts", 0.001)], BOTH)
    assert [pair.is_whole for pair in twin.pairs] == [True]
    assert "other settings" not in render_twin([tuned("loo", 0.01), tuned("gts", 0.001)], BOTH)


def test_tuned_rows_that_differ_in_more_than_a_search_sets_say_so() -> None:
    """Regression: a search of SASRec on all targets stood beside one on last targets without a word."""

    def tuned(protocol: str, rate: float, which: str) -> Record:
        settings = {"learning_rate": rate, "train_targets": which}
        return run_under(protocol, "SASRec", 0.4, tuned=True, trials=20, settings=settings)

    text = render_twin([tuned("loo", 0.01, "all"), tuned("gts", 0.001, "last")], BOTH)
    assert "SASRec has other settings under loo and gts: train_targets all and last" in " ".join(text.split())


def test_two_rows_have_no_correlation() -> None:
    records = [record for record in four_models() if record.model in ("Pop", "EASE")]
    assert (
        "no rank correlation of the two orders by NDCG@10: 2 rows under both, at least three are needed"
        in render_twin(records, BOTH)
    )


def test_rows_that_tie_in_the_shown_digits_have_no_order() -> None:
    records = [run_under(name, model, 0.2 + tiny) for name in BOTH for tiny, model in ((0, "A"), (1e-6, "B"), (0, "C"))]
    assert "no rank correlation of the two orders by NDCG@10: all rows tie" in render_twin(records, BOTH)


def test_a_row_that_failed_is_said_to_have() -> None:
    failed = run_under("gts", "BPR", 0.0, status="failed", error="x", metrics={}, data=None)
    text = render_twin([*four_models(), run_under("loo", "BPR", 0.01), failed], BOTH)
    assert "failed under gts: BPR" in text


def test_a_row_that_was_still_improving_under_one_protocol_is_marked_and_said_to_have() -> None:
    curve = [{"epoch": n, "loss": 1.0, "valid": {"ndcg@10": 0.1}} for n in range(1, 6)]
    soon = {"key": "soon", "curve": curve, "best_epoch": 5}
    records = [*four_models(), run_under("loo", "BPR", 0.01), run_under("gts", "BPR", 0.02, **soon)]
    text = render_twin(records, BOTH)
    assert cells(text, "BPR")[:2] == ["BPR", "†"]
    assert "gts: † still improving when training ended: best epoch among the last three validations: BPR" in text
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(render_twin(records, BOTH, "csv")))}
    assert [rows["BPR"][f"still_improving_{side}"] for side in (1, 2)] == ["False", "True"]


def test_datasets_are_twins_of_their_own_and_lonely_ones_are_named() -> None:
    other = DatasetFacts(name="other", sha256="cd" * 32, test_cases=9)
    records = [
        *four_models(),
        *(run_under(name, "Pop", 0.1, dataset="other", data=other) for name in BOTH),
        run_under("loo", "Pop", 0.1, dataset="alone"),
    ]
    text = render_twin(records, BOTH)
    assert "tiny: loo beside gts" in text
    assert "other: loo beside gts" in text
    assert "alone has no results under gts" in text


def test_without_a_dataset_under_both_there_is_no_twin_table() -> None:
    with pytest.raises(UserError, match="no dataset has results under both; there are results under loo"):
        render_twin([run_under("loo", "Pop", 0.1)], BOTH)


@pytest.fixture
def ranked(tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path)
    for number, (model, skill) in enumerate((("Pop", 0.1), ("GRU4Rec", 1.0), ("SASRec", 2.0))):
        for protocol in BOTH:
            settings = {"mask_history": True, "split": protocol}
            store_run(store, model, skill, key=f"{protocol}{number}", protocol=protocol, settings=settings)
    return store


def test_groups_are_shown_under_both(ranked: ResultStore) -> None:
    text = render_twin(ranked, BOTH, store=ranked, groups=True)
    assert "cold items loo (20)" in text
    assert "cold items gts (20)" in text
    assert "NDCG@10 by group" in text


def test_the_metrics_asked_for_have_columns_under_both(ranked: ResultStore) -> None:
    header = render_twin(ranked, BOTH, store=ranked, metrics=["mrr@5", "ndcg@10"])
    assert all(f"{name} {protocol}" in header for name in ("MRR@5", "NDCG@10") for protocol in BOTH)
    assert "by MRR@5" in header  # the first column is the one that is compared


@pytest.mark.parametrize("style", FORMATS)
def test_every_format_has_the_numbers_of_both(ranked: ResultStore, style: str) -> None:
    text = render_twin(ranked, BOTH, style, store=ranked, groups=True)
    value = next(record for record in ranked if record.key == "gts2").metrics["ndcg@10"].value
    assert (f"{value:.6g}" if style == "csv" else f"{value:.4f}") in text


def test_csv_has_a_line_a_row_and_group(ranked: ResultStore) -> None:
    lines = list(csv.DictReader(io.StringIO(render_twin(ranked, BOTH, "csv", store=ranked, groups=True))))
    best = next(line for line in lines if line["model"] == "SASRec" and line["group"] == "all")
    assert (best["protocol_1"], best["protocol_2"], best["place_1"], best["kendall_tau"]) == ("loo", "gts", "1", "1")
    assert best["ci_low_2"]
    cold = next(line for line in lines if line["model"] == "SASRec" and line["group"] == "cold items")
    assert cold["cases_2"] == "20"
