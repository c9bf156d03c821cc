"""The report's HTML, checked as text without a browser."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.record import SemanticFacts
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.page import write_report
from tests.reporting.records import bound, record_of, store_run

EVIL = '</script><img src=x onerror="alert(1)">'


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path / "results")
    for model, skill in (("Pop", 0.0), ("SASRec", 1.0)):
        for seed in (1, 2):
            store_run(store, model, skill, seed)
    return store


def page_of(store: ResultStore, **options: Any) -> str:
    path = store.folder / "report.html"
    write_report(list(store), store, path, **options)
    return path.read_text(encoding="utf-8")


def charts(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" class="data">(.*?)</script>', page, flags=re.S)
    assert found is not None
    return dict(json.loads(found[1]))


def test_the_page_needs_nothing_from_elsewhere(store: ResultStore) -> None:
    page = page_of(store)
    assert not re.findall(r"<link|<script[^>]+src|<img|@import|url\(", page)
    assert "default-src 'none'" in page
    assert len(page) < 100_000


def test_a_table_without_the_baseline_has_no_differences(store: ResultStore) -> None:
    store_run(store, "SASRec", 1.0, key="s", protocol="session")
    store_run(store, "NARM", 0.5, key="n", protocol="session")
    page = page_of(store, baseline="Pop")
    assert page.count("Δ to Pop</button>") == 1
    assert "None</button>" not in page


def test_numbers_intervals_and_tests_are_on_the_page(store: ResultStore) -> None:
    records = {(record.model, record.seed): record for record in store}
    mean = sum(records["SASRec", seed].metrics["ndcg@10"].value for seed in (1, 2)) / 2
    page = page_of(store)
    assert f'<span class="mean">{mean:.4f}</span>' in page
    assert "&lt;0.001" in page
    (gain,) = charts(page)["gains"]
    assert gain["label"] == "Pop"
    assert gain["verdict"] == "worse"
    assert gain["low"] < gain["difference"] < gain["high"] < 0


def test_what_one_seed_says_is_marked_as_such(store: ResultStore) -> None:
    store_run(store, "NARM", 9.0)
    page = page_of(store, baseline="Pop", margin=0.9)
    assert '<span class="better" title="holds: better, for these trainings">(↑≈)</span>' in page
    assert '<span class="better" title="holds: better">↑≈</span>' in page
    gains = {gain["label"]: gain for gain in charts(page)["gains"]}
    assert (gains["NARM"]["mark"], gains["SASRec"]["mark"]) == ("(↑≈)", "↑≈")


def test_the_page_has_columns_for_what_tells_rows_apart(store: ResultStore) -> None:
    features = SemanticFacts(llm="openai", llm_model="g")
    store_run(store, "LLMDMsRec", 0.7, semantics="llm", features=features)
    page = page_of(store)
    assert '<th class="wide"><button type="button">semantics</button></th>' in page
    assert '<td class="wide" data-title="semantics">g</td>' in page
    assert "† still improving when training ended" in page


def test_the_curve_over_cut_offs_holds_the_records_metrics(store: ResultStore) -> None:
    cuts = charts(page_of(store))["cuts"]
    values = [record.metrics["hit@10"].value for record in store if record.model == "Pop"]
    assert cuts["lines"]["hit"]["Pop"][cuts["k"].index(10)] == pytest.approx(sum(values) / 2)
    assert cuts["k"][-1] == 100
    assert cuts["names"][0] == ["ndcg", "NDCG"]


def test_the_curve_of_ranks_up_to_a_place_ends_there(store: ResultStore) -> None:
    bound(store, store_run(store, "ISRF", 0.6), 10)
    cuts = charts(page_of(store))["cuts"]
    known = [k for k, value in zip(cuts["k"], cuts["lines"]["hit"]["ISRF (none)"], strict=True) if value is not None]
    assert (known[-1], cuts["k"][-1]) == (10, 100)
    assert None not in cuts["lines"]["hit"]["Pop"]


def test_the_chart_of_groups_says_what_they_are(store: ResultStore) -> None:
    caption = page_of(store).split('<figure data-chart="groups"><figcaption>')[1].split("</figcaption>")[0]
    assert "head: the fifth of the items with most training interactions" in caption


def test_validation_is_of_the_metric_that_the_chart_names(store: ResultStore) -> None:
    curve = [{"epoch": n, "loss": 1.0, "valid": {"mrr@10": 0.5, "ndcg@10": 0.1 * n}} for n in (1, 2)]
    store_run(store, "NARM", 0.5, valid_metric="mrr@10", curve=curve)
    (run,) = (run for run in charts(page_of(store))["training"] if run["label"] == "NARM")
    assert run["valid"] == [0.1, 0.2]


def test_training_has_a_line_a_run(store: ResultStore) -> None:
    runs = charts(page_of(store))["training"]
    assert [(run["label"], run["seed"]) for run in runs] == [("SASRec", 1), ("SASRec", 2), ("Pop", 1), ("Pop", 2)]
    assert runs[0]["epoch"] == [1, 2, 3]


def test_what_ran_on_other_hardware_stands_below_the_costs(store: ResultStore) -> None:
    store_run(store, "BPR", 0.5, hardware={"gpu": "H200"})
    costs = page_of(store).split("<h3>Costs</h3>")[1].split("<h3>Runs</h3>")[0]
    assert "<li>seconds on different hardware do not compare: BPR on H200; all other runs on unknown</li>" in costs


def test_text_from_results_never_becomes_markup(store: ResultStore) -> None:
    store_run(store, f"M{EVIL}", 0.5, settings={"mask_history": True, "note": EVIL}, notes=[EVIL])
    store.put(record_of(key="f" * 16, model="Broken", status="failed", error=EVIL, settings={"mask_history": True}))
    page = page_of(store)
    assert "<img" not in page
    assert EVIL in unescape(page)
    assert any(label.endswith(EVIL) for label in charts(page)["labels"])


def test_what_is_invisible_is_not_on_the_page(store: ResultStore) -> None:
    evil = "M\x1b[31mred\u202e\x9b"
    settings = {"mask_history": True, "note": evil}
    store_run(store, evil, 0.5, settings=settings, notes=[evil], warnings=[evil])
    store.put(record_of(key="f" * 16, model="Broken", status="failed", error=evil, settings=settings))
    page = page_of(store)
    assert "Mred" in page
    assert not set(page) & set("\x1b\u202e\x9b")
    assert not any(escape in page for escape in ("\\u001b", "\\u202e", "\\u009b"))


def test_failed_cells_stand_with_their_reason(store: ResultStore) -> None:
    store.put(
        record_of(key="f" * 16, model="Broken", status="failed", error="no luck", settings={"mask_history": True})
    )
    assert "no luck" in page_of(store)


def test_protocols_have_sections_of_their_own(store: ResultStore) -> None:
    store_run(store, "Pop", 0.0, protocol="session")
    page = page_of(store)
    assert page.count('<section id="t') == 2
    assert '<a href="#t2">' in page


def test_an_unknown_baseline_is_an_error(store: ResultStore) -> None:
    with pytest.raises(UserError, match="SASRec"):
        page_of(store, baseline="SASRek")


def test_records_without_ranks_make_a_page_too(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    record = store_run(store, "Pop", 0.0)
    store.ranks_of(record).unlink()
    page = page_of(store)
    assert "no ranks" in page
    assert charts(page)["cuts"]["lines"]["ndcg"] == {}


def test_a_price_that_nobody_stated_is_no_point_at_zero(store: ResultStore) -> None:
    for model, dollars in (("EIMF", 0.0), ("LDMI", 1.5)):
        features = SemanticFacts(llm="openai", llm_model="g", tokens_in=5000, price=dollars)
        store_run(store, model, 0.5, 1, semantics="llm", features=features)
    points = charts(page_of(store))["price"]["points"]
    shown = {point["label"].split()[0]: point["costs"]["US$ for answers"] for point in points}
    assert shown == {"Pop": 0.0, "SASRec": 0.0, "EIMF": None, "LDMI": 1.5}
