"""Tables from records."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.record import DatasetFacts, MetricValue, Record, SemanticFacts
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting import costs
from recbole_llm.reporting.grouping import group
from recbole_llm.reporting.rendered import screen_style
from recbole_llm.reporting.results_table import build, still_improving
from recbole_llm.reporting.tables import p_text, render
from recbole_llm.reporting.twin import render_twin
from tests.helpers import make_run, runner
from tests.reporting.records import record_of, run_of, store_run


def tables(text: str) -> list[str]:
    """The metric tables, each starting at its heading."""
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
    (rows,) = group(records).values()
    assert [name.label for name in rows] == ["LLMDMsRec (g)", "LLMDMsRec (shuffled)", "LLMDMsRec (random)"]
    assert [(name.model, name.semantics) for name in rows] == [
        ("LLMDMsRec", "g"),
        ("LLMDMsRec", "shuffled"),
        ("LLMDMsRec", "random"),
    ]


def test_a_method_without_semantics_still_names_its_language_model() -> None:
    runs = [
        run_of("DUIP", 0.1, semantics="none", key=str(inside), settings={"use_lm": inside}, language_model=name)
        for inside, name in ((True, "gpt2"), (False, "no language model"))
    ]
    (rows,) = group(runs).values()
    assert [name.label for name in rows] == ["DUIP (none, gpt2)", "DUIP (none, no language model)"]
    lines = [line.split() for line in render(runs).splitlines() if line.startswith("DUIP")]
    assert [line[:2] for line in lines] == [["DUIP", "gpt2"], ["DUIP", "none"]] * 2  # metrics, then costs


def test_seconds_on_different_hardware_are_said_not_to_compare() -> None:
    old, new = {"cpu": "Old", "threads": 1}, {"cpu": "New", "threads": 2}
    seconds = {"train": 3.0}
    runs = [
        run_of("BPR", 0.1, seconds=seconds, hardware=new),
        run_of("SASRec", 0.2, seconds=seconds, hardware=new),
        run_of("SASRec", 0.2, seed=2, seconds=seconds, hardware=new | {"gpu": "H200"}),
        run_of("Pop", 0.0, seconds=seconds, hardware=old),
    ]
    where = "SASRec in part on H200; Pop on Old, 1 thread; all other runs on New, 2 threads"
    for style in ("text", "markdown", "latex", "html"):
        assert f"seconds on different hardware do not compare: {where}" in render(runs, style)
    assert "hardware" not in render(runs[:2])


def test_a_failed_cell_is_shown_with_its_reason_beside_the_others() -> None:
    failed = record_of(model="Broken", status="failed", error="RuntimeError: no luck", settings={"mask_history": True})
    text = render([run_of("SASRec", 0.1), failed])
    assert len(tables(text)) == 1
    assert any(line.split() == ["Broken", "failed"] for line in text.splitlines())
    assert "\nBroken, seed 1 failed: RuntimeError: no luck" in text


def test_each_reason_of_a_failed_row_is_told_whole_with_its_seeds() -> None:
    why = "ValueError: " + "the reason of a failure is often long, and its end says what to do; " * 5 + "do this"
    reasons = {1: why, 2: "no memory", 3: why}
    failed = [
        record_of(model="Broken", seed=seed, status="failed", error=error, settings={"mask_history": True})
        for seed, error in reasons.items()
    ]
    text = render(failed)
    assert f"\nBroken, seeds 1,3 failed: {why}\n" in text
    assert "\nBroken, seed 2 failed: no memory" in text
    rows = list(csv.DictReader(io.StringIO(render(failed, "csv"))))
    assert [row["reason"] for row in rows] == [f"{why}; no memory"]


def test_a_seed_that_failed_is_named_and_no_part_of_the_mean() -> None:
    failed = record_of(model="SASRec", seed=9, status="failed", error="x", settings={"mask_history": True})
    line = next(line for line in render([run_of("SASRec", 0.125), failed]).splitlines() if line.startswith("SASRec"))
    assert line.split() == ["SASRec", "1", "(failed:", "9)", "0.2500", "0.1250"]


def test_a_failed_cell_makes_no_table_of_its_own_among_several() -> None:
    other = DatasetFacts(name="tiny", sha256="cd" * 32, test_cases=1000)
    failed = record_of(model="Broken", status="failed", error="x", settings={"mask_history": False})
    unmasked = run_of("SASRec", 0.1, settings={"mask_history": False})
    assert len(tables(render([run_of("SASRec", 0.1), run_of("GRU4Rec", 0.2, data=other), unmasked, failed]))) == 3


def test_a_failed_cell_that_fits_several_tables_joins_none_of_them() -> None:
    data = [DatasetFacts(name="tiny", sha256=digit * 64, test_cases=9) for digit in "ab"]
    runs = [run_of("SASRec", 0.1, key=str(number), data=facts) for number, facts in enumerate(data)]
    failed = record_of(model="Broken", status="failed", error="x", settings={"mask_history": True})
    found = [[record.model for rows in named.values() for record in rows] for named in group([*runs, failed]).values()]
    assert found == [["SASRec"], ["SASRec"], ["Broken"]]


def test_only_failures_make_a_table_too() -> None:
    text = render([record_of(model="Broken", status="failed", error="no luck", settings={"mask_history": True})])
    assert "failed: no luck" in text


def test_recall_is_left_out_where_it_equals_hit_in_every_row() -> None:
    def run(model: str, recall: float) -> Record:
        values = {"hit@10": 0.2, "recall@10": recall, "ndcg@10": 0.1}
        return run_of(model, 0.1, metrics={name: MetricValue(value=value) for name, value in values.items()})

    assert "Recall@10" not in render([run("A", 0.2), run("B", 0.2)])
    assert "Recall@10" in render([run("A", 0.2), run("B", 0.1)])


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


@pytest.mark.parametrize(("p", "shown"), [(0.0009, "<0.001"), (0.04949, "0.049"), (0.04996, "<0.050"), (0.05, "0.050")])
def test_a_significant_p_never_reads_as_one_that_is_not(p: float, shown: str) -> None:
    assert p_text(p) == shown


@pytest.mark.parametrize(("price", "shown"), [(0.0044, "<0.01"), (0.005, "0.01"), (1234.5, "1,234.50")])
def test_a_price_below_half_a_cent_is_not_shown_as_none(price: float, shown: str) -> None:
    features = SemanticFacts(llm="openai", llm_model="g", requests=35, tokens_in=25_160, price=price)
    text = render([run_of("M", 0.1, semantics="llm", features=features)])
    assert text.split("\n\n")[-1].splitlines()[-1].endswith(f" {shown}")


def test_requests_include_those_that_an_earlier_command_sent_as_tokens_and_price_do() -> None:
    features = SemanticFacts(llm="openai", llm_model="g", requests=20, cached=301, tokens_in=5000, price=1.5)
    text = render([run_of("M", 0.1, semantics="llm", features=features)])
    assert "321" in text.split("\n\n")[-1].splitlines()[-1]


def test_seeds_share_the_cost_of_their_features() -> None:
    """Only the first seed made them; training is the mean of both, and memory the most that one needed."""
    features = SemanticFacts(llm="openai", llm_model="g", requests=20, tokens_in=4000, tokens_out=1000, price=1.5)
    spent = [{"features": 30.0, "train": 10.0}, {"features": 0.0, "train": 20.0}]
    memory = [{"device": 700.0, "host": 3000.0}, {"device": 900.0, "host": 5000.0}]
    runs = [
        run_of("M", 0.1, seed=n, semantics="llm", features=features, seconds=spent[n], memory_mib=memory[n])
        for n in (0, 1)
    ]
    (table,) = build(runs)
    (row,) = table.rows
    assert (costs.requests(row), costs.tokens(row), costs.price(row)) == (20, 5000, 1.5)
    assert (costs.seconds(row, "features"), costs.seconds(row, "train")) == (30.0, 15.0)
    assert costs.memory_mib(row) == 900.0


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
    texts = ["1 trial", "20 trials", "20 trials of 3 epochs", "20 trials of 0.5 min", "20 trials of 1 epoch or 0.5 min"]
    assert [name.tuned for name in rows] == [*texts, "yes", ""]
    tuned = [f"SASRec, tuned ({text})" for text in texts]
    assert [name.label for name in rows] == [*tuned, "SASRec, tuned", "SASRec"]
    assert {name.model for name in rows} == {"SASRec"}


# ---- what all rows share, and what tells them apart ------------------------------------------------


def header_of(text: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith("model")).split()


def test_what_all_rows_share_stands_in_the_caption_alone() -> None:
    shared = {"settings": {"mask_history": True, "epochs": 12}, "tuned": True, "trials": 4, "trial_epochs": 1}
    runs = [run_of(name, 0.1, key=name, **shared) for name in ("A", "B")]
    text = render(runs)
    assert text.startswith(
        "tiny, loo: 1,234 test cases, seen items not ranked, 12 epochs at most, tuned with 4 trials of 1 epoch\n"
    )
    assert header_of(text)[:2] == ["model", "seeds"]
    other = render([*runs, run_of("C", 0.1, settings={"mask_history": True, "epochs": 15})])
    assert "epochs at most" not in other
    assert header_of(other)[:3] == ["model", "tuned", "seeds"]


def test_epochs_of_stages_are_a_limit_too() -> None:
    """Regression: a table of DUIP and of a rule with one epoch said `1 epoch at most` of all rows."""
    staged = {"epochs": 100, "stage_epochs": [1, 60]}
    alone, beside = (
        build([run_of("DUIP", 0.1, settings=staged), *others])[0].caption
        for others in ([], [run_of("Pop", 0.1, settings={"epochs": 1})])
    )
    assert "61 epochs at most" in alone
    assert "at most" not in beside


def test_counts_of_one_are_singular() -> None:
    record = run_of("A", 0.1, settings={"mask_history": True, "epochs": 1, "candidates": 1, "candidate_seed": 1})
    record.data.test_cases = 1  # type: ignore[union-attr]
    assert render([record]).startswith(
        "tiny, loo: 1 test case, 1 + 1 candidate, seen items not ranked, 1 epoch at most\n"
    )


def test_a_label_is_never_cut_before_it_differs() -> None:
    """Regression: labels left out the third setting and the 40th character even if only these differed."""
    common = {f"s{n}": 1 for n in range(6)}
    long = "prompts/" + 40 * "x"
    changes = [{"s5": last} for last in (1, 2)] + [{**dict.fromkeys(common, 2), "s5": last} for last in (3, 4)]
    runs = [run_of("M", 0.1, key=f"a{n}", settings=common | change) for n, change in enumerate(changes)]
    (rows,) = group(runs).values()
    assert [name.label for name in rows] == [
        f"M [s5={n}, s0={one}, s1={one}, +3]" for n, one in ((1, 1), (2, 1), (3, 2), (4, 2))
    ]
    runs = [run_of("M", 0.1, key=f"b{n}", settings={"template": long + ending}) for n, ending in enumerate("ab")]
    (rows,) = group(runs).values()
    assert [name.label for name in rows] == [f"M [template={long}a]", f"M [template={long}b]"]
    runs = [run_of("M", 0.1, key=f"c{n}", settings={"template": start + long}) for n, start in enumerate("ab")]
    (rows,) = group(runs).values()
    assert [name.label for name in rows] == [f"M [template={(start + long)[:23]}…]" for start in "ab"]


def test_answers_that_are_missing_stand_in_the_label_and_below() -> None:
    features = SemanticFacts(llm="openai", llm_model="g", coverage={"itemtext": 0.5, "intent": 0.99996, "profile": 0.8})
    whole = SemanticFacts(llm="openai", llm_model="g", coverage={"itemtext": 0.5, "intent": 1.0})
    runs = [
        run_of(name, 0.1, key=name, semantics="llm", features=facts) for name, facts in (("M", features), ("N", whole))
    ]
    text = render(runs)
    assert "M, 80 % answered " in text
    assert "M (g), 80 % answered: not every question has an answer (intent 99.9 %, profile 80 %)" in text
    assert "N, " not in text


@pytest.mark.parametrize(
    ("best", "valid", "mark"),
    [(12, range(1, 13), True), (10, range(1, 13), True), (9, range(1, 13), False), (1, [1], True), (1, [1, 2], False),
     (2, [1, 2], True), (6, [2, 4, 6, 8, 10], True), (4, [2, 4, 6, 8, 10], False), (None, [1, 2], False)],
)  # fmt: skip
def test_rows_that_were_still_improving_are_marked(best: int | None, valid: Sequence[int], mark: bool) -> None:
    last = max(valid)
    curve = [{"epoch": n, **({"valid": {"ndcg@10": 0.1}} if n in valid else {})} for n in range(1, last + 1)]
    text = render([run_of("SASRec", 0.1, curve=curve, best_epoch=best, epochs=last), run_of("Pop", 0.05)])
    assert ("SASRec †" in text) == mark
    assert ("† still improving when training ended" in text) == mark
    assert "Pop †" not in text


def test_one_seed_that_was_still_improving_marks_its_row() -> None:
    curve = [{"epoch": n, "loss": 1.0, "valid": {"ndcg@10": 0.1}} for n in range(1, 10)]
    runs = [run_of("SASRec", 0.1, seed=seed, curve=curve, best_epoch=best) for seed, best in ((1, 4), (2, 9))]
    assert "SASRec †" in render(runs)
    assert "†" not in render(runs[:1])


def test_the_last_choice_of_a_model_that_counts_is_not_a_training_that_was_still_improving() -> None:
    curve = [{"epoch": n, "loss": 0.0, "valid": {"ndcg@10": 0.1}} for n in (1, 2, 3)]
    assert "†" not in render([run_of("PopRecent", 0.1, curve=curve, best_epoch=3)])
    assert "†" not in render([run_of("Pop", 0.1, curve=curve[:1], best_epoch=1)])
    learning = [{**point, "loss": 0.1 * (3 - point["epoch"])} for point in curve]  # zero only in the last epoch
    assert "SASRec †" in render([run_of("SASRec", 0.1, curve=learning, best_epoch=3)])
    assert "SASRec †" in render([run_of("SASRec", 0.1, curve=learning[:1], best_epoch=1)])


def test_rows_stand_by_the_main_metric_or_as_asked() -> None:
    def models(**options: Any) -> list[str]:
        lines = render(runs, metrics=["hit@10"], **options).split("\n\n")[1].splitlines()[2:]
        return [line.split()[0] for line in lines if not line.startswith(("mean", "Broken, "))]

    metrics = {"Pop": (0.1, 0.9), "LDMI": (0.3, 0.2), "SASRec": (0.2, 0.5)}
    runs = [
        run_of(name, ndcg, key=name, valid_metric="ndcg@10", semantics="llm" if name == "LDMI" else "none",
               metrics={"ndcg@10": MetricValue(value=ndcg), "hit@10": MetricValue(value=hit)})
        for name, (ndcg, hit) in metrics.items()
    ]  # fmt: skip
    runs.append(record_of(model="Broken", status="failed", error="x", settings={"mask_history": True}))
    assert models() == ["LDMI", "SASRec", "Pop", "Broken"]
    assert models(sort="Hit@10") == ["Pop", "SASRec", "LDMI", "Broken"]
    assert models(sort="model") == ["LDMI", "Pop", "SASRec", "Broken"]
    assert models(sort="kind") == ["SASRec", "Pop", "LDMI", "Broken"]
    with pytest.raises(UserError, match="--sort=seeds: give kind, model, or a metric such as ndcg@10"):
        models(sort="seeds")


# ---- formats ---------------------------------------------------------------------------------------


def test_a_terminal_has_bold_and_colour_and_no_asterisks() -> None:
    runs = [run_of(name, value) for name, value in (("A", 0.1), ("B", 0.2), ("C", 0.3))]
    text = render(runs, "terminal")
    assert "\x1b[1m0.3000\x1b[0m" in text
    assert "\x1b[4m0.2000\x1b[0m" in text
    assert "*" not in text
    assert "**0.3000**" in render(runs, "text")
    plain = re.sub(r"\x1b\[\d+m", "", text).splitlines()
    assert (
        len({line.rstrip().find("0.") for line in plain if re.match(r"[ABC] .*0\.", line)}) == 1
    )  # columns stay in line


@pytest.mark.parametrize(
    ("terminal", "variables", "style"),
    [(True, {}, "terminal"), (False, {}, "text"), (True, {"NO_COLOR": "1"}, "text"), (True, {"TERM": "dumb"}, "text")],
)
def test_only_a_real_terminal_gets_colours(
    terminal: bool, variables: dict[str, str], style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    assert screen_style() == style


EVIL = "M\x1b[31mred\x1b]0;title\x07\u202e\x08"


@pytest.mark.parametrize("style", ["text", "terminal", "markdown", "latex", "html", "csv"])
def test_what_a_terminal_would_obey_is_in_no_format(style: str) -> None:
    settings = {"mask_history": True, "note": "\x1b[2J"}
    failed = record_of(key="f", model="Broken", status="failed", error="no \x1b[5mluck\x9b", settings=settings)
    runs = [run_of(EVIL, 0.1), run_of("B", 0.2, settings=settings), run_of("B", 0.3, key="b"), failed]
    text = render(runs, style)
    assert "Mred" in text
    assert "no luck" in text
    own = re.sub(r"\x1b\[[0-4]*m", "", text) if style == "terminal" else text
    assert not set(own) & set("\x1b\x07\x08\x9b\u202e")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " \r\n=1", "\u200b=1", "＝1"])
def test_no_cell_of_a_csv_file_is_a_formula(name: str) -> None:
    error = f"{name} failed"
    failed = record_of(key="f", model="Broken", status="failed", error=error, settings={"mask_history": True})
    lines = list(csv.DictReader(io.StringIO(render([run_of(name, 0.1, dataset=name), failed], "csv"))))
    texts = [value for line in lines for key, value in line.items() if key in ("dataset", "model", "label", "reason")]
    assert not any(text[:1] in set("=+-@＝\t\r") for text in texts if text)
    assert f"'{name.strip().removeprefix(chr(0x200B))}" in texts
    assert {line["mean"] for line in lines} == {"0.2", "0.1", ""}


def test_html_is_a_page_with_a_style_of_its_own() -> None:
    text = render([run_of("SASRec", 0.1), run_of("BPR", 0.2)], "html")
    assert text.startswith("<!DOCTYPE html>")
    assert text.count("<style>") == 1
    assert '<meta charset="utf-8">' in text
    assert "<caption>tiny, loo" in text
    assert '<td class="t">SASRec</td>' in text
    assert "<b>0.2000</b>" in text
    assert text.rstrip().endswith("</html>")


@pytest.mark.parametrize(
    ("model", "mark"), [("SASRec", True), ("EASE", False), ("ItemKNN", False), ("Pop", False), ("VSKNN", False)]
)
def test_a_training_of_one_epoch_is_marked_and_a_single_fit_is_not(tiny: Path, model: str, mark: bool) -> None:
    assert still_improving(runner().run(make_run(model, epochs=1))) == mark


def test_a_group_of_rows_with_other_cases_says_the_range_of_their_numbers(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store_run(store, "Pop", 0.0)
    store_run(store, "BPR", 0.5, cases=150)
    text = render(list(store), store=store, groups=True)
    assert "head items (30 to 40)" in text
    twin = [record.model_copy(update={"protocol": "gts", "key": f"{n:016d}"}) for n, record in enumerate(store)]
    assert "head items loo (30 to 40)" in render_twin([*store, *twin], ("loo", "gts"), store=store, groups=True)
