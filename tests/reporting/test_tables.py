"""Tables from records."""

from __future__ import annotations

from typing import Any

import pytest

from recbole_llm.experiments.record import DatasetFacts, MetricValue, SemanticFacts
from recbole_llm.reporting.grouping import group
from recbole_llm.reporting.tables import render
from tests.reporting.records import record_of, run_of


def tables(text: str) -> list[str]:
    """The tables of metrics, each from its heading on."""
    return [table for table in text.split("\n\n") if "test cases" in table]


def test_a_row_holds_model_seed_and_metrics() -> None:
    text = render([run_of("SASRec", 0.125)])
    line = next(line for line in text.splitlines() if line.startswith("SASRec"))
    assert line.split() == ["SASRec", "1", "0.2500", "0.1250"]
    assert "tiny, loo: 1,234 test cases, seen items not ranked" in text


def test_seeds_are_averaged_with_their_deviation() -> None:
    text = render([run_of("SASRec", value, seed=seed) for seed, value in [(3, 0.1), (1, 0.2), (2, 0.3)]])
    line = next(line for line in text.splitlines() if line.startswith("SASRec"))
    assert "1-3" in line
    assert "0.2000 ±0.1000" in line


def test_protocols_never_stand_in_one_table() -> None:
    text = render([run_of("SASRec", 0.1), run_of("SASRec", 0.2, protocol="session")])
    assert len(tables(text)) == 2


def test_datasets_never_stand_in_one_table() -> None:
    text = render([run_of("SASRec", 0.1), run_of("SASRec", 0.2, dataset="other")])
    assert len(tables(text)) == 2


def test_versions_of_the_data_never_stand_in_one_table() -> None:
    other = DatasetFacts(name="tiny", sha256="cd" * 32, test_cases=1000)
    text = render([run_of("SASRec", 0.1), run_of("GRU4Rec", 0.2, data=other)])
    assert len(tables(text)) == 2


def test_a_table_says_which_users_were_left_out() -> None:
    settings = {"mask_history": True, "user_inter_num_interval": "[20,40)", "item_inter_num_interval": "[0,inf)"}
    text = render([run_of("SASRec", 0.1, settings=settings), run_of("SASRec", 0.2)])
    first, second = (line for line in text.splitlines() if "test cases" in line)
    assert "users with [20,40) interactions" in first + second
    assert "interactions" not in (first if "[20,40)" in second else second)
    assert "items with" not in text


def test_masked_and_unmasked_histories_never_stand_in_one_table() -> None:
    text = render([run_of("SASRec", 0.1), run_of("GRU4Rec", 0.2, settings={"mask_history": False})])
    masked, unmasked = sorted(tables(text), key=lambda table: "too" in table)
    assert "seen items not ranked" in masked
    assert "seen items ranked too" in unmasked


def test_sources_of_semantics_have_rows_of_their_own() -> None:
    records = [
        run_of(
            "LLMDMsRec", 0.1, semantics=semantics, key=semantics, features=SemanticFacts(llm="openai", llm_model="g")
        )
        for semantics in ("llm", "shuffled", "random")
    ]
    ((labels),) = (list(by_label) for by_label in group(records).values())
    assert labels == ["LLMDMsRec (g)", "LLMDMsRec (shuffled)", "LLMDMsRec (random)"]


def test_a_method_without_semantics_still_names_its_language_model() -> None:
    runs = [
        run_of("DUIP", 0.1, semantics="none", key=str(inside), settings={"use_lm": inside}, language_model=name)
        for inside, name in ((True, "gpt2"), (False, "no language model"))
    ]
    (rows,) = group(runs).values()
    assert list(rows) == ["DUIP (none, gpt2)", "DUIP (none, no language model)"]


def test_a_failed_cell_is_shown_with_its_reason_beside_the_others() -> None:
    failed = record_of(model="Broken", status="failed", error="RuntimeError: no luck", settings={"mask_history": True})
    text = render([run_of("SASRec", 0.1), failed])
    assert len(tables(text)) == 1
    line = next(line for line in text.splitlines() if line.startswith("Broken"))
    assert "failed: RuntimeError: no luck" in line


def test_a_seed_that_failed_is_named_and_no_part_of_the_mean() -> None:
    failed = record_of(model="SASRec", seed=9, status="failed", error="x", settings={"mask_history": True})
    line = next(line for line in render([run_of("SASRec", 0.125), failed]).splitlines() if line.startswith("SASRec"))
    assert line.split() == ["SASRec", "1", "(failed:", "9)", "0.2500", "0.1250"]


def test_a_failed_cell_makes_no_table_of_its_own_among_several() -> None:
    other = DatasetFacts(name="tiny", sha256="cd" * 32, test_cases=1000)
    failed = record_of(model="Broken", status="failed", error="x", settings={"mask_history": False})
    unmasked = run_of("SASRec", 0.1, settings={"mask_history": False})
    assert len(tables(render([run_of("SASRec", 0.1), run_of("GRU4Rec", 0.2, data=other), unmasked, failed]))) == 3


def test_only_failures_make_a_table_too() -> None:
    text = render([record_of(model="Broken", status="failed", error="no luck", settings={"mask_history": True})])
    assert "failed: no luck" in text


def test_recall_is_left_out_where_it_equals_hit() -> None:
    metrics = {name: MetricValue(value=0.5) for name in ("hit@10", "recall@10")}
    assert "RECALL" not in render([run_of("SASRec", 0.1, metrics=metrics)])


def test_chosen_metrics_are_the_columns() -> None:
    text = render([run_of("SASRec", 0.1)], metrics=["NDCG@10"])
    assert "NDCG@10" in text
    assert "Hit@10" not in text


def test_markdown_is_a_table_that_markdown_reads() -> None:
    lines = render([run_of("SASRec", 0.1)], "markdown").splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| model"))
    assert set(lines[head + 1]) <= set("|-: ")
    assert lines[head + 2].startswith("| SASRec")


def test_times_requests_and_price_stand_in_a_second_table() -> None:
    features = SemanticFacts(llm="openai", llm_model="g", requests=321, price=1.5)
    text = render([run_of("M", 0.1, semantics="llm", features=features, seconds={"train": 12.34, "data": 0.01})])
    line = text.split("\n\n")[-1].splitlines()[-1]
    assert "12.3" in line
    assert "321" in line
    assert "1.50" in line


@pytest.mark.parametrize("error", ["line one\nline two", "a | b"])
def test_a_reason_of_any_kind_keeps_the_table_in_shape(error: str) -> None:
    failed = record_of(model="Broken", status="failed", error=error, settings={"mask_history": True})
    lines = render([run_of("SASRec", 0.1), failed], "markdown").splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| model"))
    rows = lines[head : lines.index("", head)]
    assert len(rows) == 4
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


def test_two_budgets_that_found_the_same_settings_are_two_rows() -> None:
    budgets: list[dict[str, Any]] = [
        {"trials": 1},
        {"trials": 20},
        {"trials": 20, "trial_epochs": 3},
        {"trials": 20, "trial_minutes": 0.5},
        {"trials": 20, "trial_epochs": 1, "trial_minutes": 0.5},
    ]
    runs = [run_of("SASRec", 0.1, key=str(n), tuned=True, **budget) for n, budget in enumerate(budgets)]
    (rows,) = group([*runs, run_of("SASRec", 0.1, tuned=True, key="old"), run_of("SASRec", 0.1)]).values()
    assert list(rows) == [
        "SASRec, tuned (1 trial)",
        "SASRec, tuned (20 trials)",
        "SASRec, tuned (20 trials of 3 epochs)",
        "SASRec, tuned (20 trials of 0.5 min)",
        "SASRec, tuned (20 trials of 1 epoch or 0.5 min)",
        "SASRec, tuned",
        "SASRec",
    ]
