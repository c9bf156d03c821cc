"""Result tables: rows, intervals, tests, subgroups, formats."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from statsmodels.stats.multitest import multipletests

from recbole_llm.errors import UserError
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.record import DatasetFacts, MetricValue, Record, SemanticFacts
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.grouping import group
from recbole_llm.reporting.results_table import ResultsTable, build
from recbole_llm.reporting.tables import lead, render, seeds_text
from tests.reporting.records import bound, record_of, run_of, store_run


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path / "results")
    for model, skill in (("Pop", 0.0), ("BPR", 1.0), ("SASRec", 1.01)):
        for seed in (1, 2, 3):
            store_run(store, model, skill, seed)
    return store


def labels(*records: Record) -> list[str]:
    (rows,) = group(records).values()
    return [name.label for name in rows]


def verdict(table: ResultsTable, label: str) -> str:
    return table.verdict(table.against.get(label))


def line_of(text: str, label: str) -> str:
    return next(line for line in text.splitlines() if line.lstrip("| ").startswith(label))


# ---- rows -----------------------------------------------------------------------------------------


def test_runs_with_different_settings_are_never_seeds_of_one_row() -> None:
    runs = [run_of("SASRec", 0.1, seed=s, key=f"{s}", settings={"learning_rate": s / 10, "seed": s}) for s in (1, 2)]
    assert labels(*runs) == ["SASRec [learning_rate=0.1]", "SASRec [learning_rate=0.2]"]


def test_settings_that_change_no_number_make_no_rows() -> None:
    runs = [run_of("SASRec", 0.1, seed=s, key=f"{s}", settings={"device": f"cuda:{s}", "topk": [s]}) for s in (1, 2)]
    assert labels(*runs) == ["SASRec"]


def test_a_run_from_before_a_setting_is_a_seed_of_the_row_that_has_its_earlier_default() -> None:
    today = {"backbone": "SRGNN", "align": "kl", "candidate_folds": 1, "nproc": 1}
    runs = [run_of("LLMDMsRec", 0.1, seed=s, key=f"{s}", settings=settings) for s, settings in ((1, {}), (2, today))]
    assert labels(*runs) == ["LLMDMsRec (none)"]
    other = run_of("LLMDMsRec", 0.1, key="3", settings={**today, "backbone": "GCSAN"})
    assert labels(*runs, other) == ["LLMDMsRec (none) [backbone=SRGNN]", "LLMDMsRec (none) [backbone=GCSAN]"]


def test_many_differences_are_counted_and_every_label_is_its_own() -> None:
    runs = [
        run_of("M", 0.1, key=str(v), settings={**dict.fromkeys("abcde", v), "f": w})
        for v, w in [(1, 1), (1, 2), (2, 3)]
    ]
    found = labels(*runs)
    assert found == ["M [f=1]", "M [f=2]", "M [a=2, b=2, c=2, +3]"]
    assert labels(*runs[1:]) == ["M [a=1, b=1, c=1, +3]", "M [a=2, b=2, c=2, +3]"]


def test_what_comes_with_the_model_underneath_is_named_by_it() -> None:
    """Regression: the backbone's own settings filled the label, and its name was only counted."""
    first = {"step": 1, "weight": 0.5, "lr": 0.1, "backbone": "GCSAN"}
    other = {"n_hops": 1, "epsilon": 3, "lr": 0.1, "backbone": "GCEGNN"}
    runs = [run_of("LLMDMsRec", 0.1, key=str(n), settings=settings) for n, settings in enumerate([first, other])]
    assert labels(*runs) == ["LLMDMsRec (none) [backbone=GCSAN]", "LLMDMsRec (none) [backbone=GCEGNN]"]
    faster = run_of("LLMDMsRec", 0.1, key="2", settings=other | {"lr": 0.2})
    assert labels(runs[0], faster) == [
        "LLMDMsRec (none) [backbone=GCSAN, lr=0.1]",
        "LLMDMsRec (none) [backbone=GCEGNN, lr=0.2]",
    ]
    wider = run_of("LLMDMsRec", 0.1, key="3", settings=other | {"n_hops": 2})
    assert labels(*runs, wider) == [
        "LLMDMsRec (none) [backbone=GCSAN, n_hops=unset]",
        "LLMDMsRec (none) [n_hops=1]",
        "LLMDMsRec (none) [n_hops=2]",
    ]
    old = run_of("LLMDMsRec", 0.1, key="4", settings={"lr": 0.1})
    aligned = run_of("LLMDMsRec", 0.1, key="5", settings=other | {"align": "directau"})
    assert labels(old, aligned) == [
        "LLMDMsRec (none) [backbone=SRGNN, align=kl]",
        "LLMDMsRec (none) [backbone=GCEGNN, align=directau]",
    ]


def test_ablations_name_what_they_change() -> None:
    usual = {"align": True, "gate": "sigmoid", "contrast": "item"}
    changes: list[dict[str, Any]] = [{}, {"align": False}, {"gate": "one"}, {"gate": "one", "contrast": "none"}]
    runs = [run_of("M", 0.1, key=str(n), settings=usual | change) for n, change in enumerate(changes)]
    assert labels(*runs[:3]) == ["M", "M [align=False]", "M [gate=one]"]
    # Each gate value occurs in half of the rows, so both are named.
    both = ["M [gate=sigmoid]", "M [align=False, gate=sigmoid]", "M [gate=one]", "M [gate=one, contrast=none]"]
    assert labels(*runs) == both


def test_a_baseline_is_the_row_of_that_label_before_the_best_of_that_model(store: ResultStore) -> None:
    for number in (1, 2):
        settings = {"mask_history": True, "n_layers": number}
        store_run(store, "NARM", 0.2 * number, key=f"n{number}", settings=settings)
        store_run(store, "NARM", 0.1, seed=5 + number, key=f"m{number}", settings={"mask_history": True, "n_layers": 3})
    (table,) = build(list(store), store, baseline="NARM [n_layers=1]")
    assert (table.reference, table.named) == ("NARM [n_layers=1]", True)
    (table,) = build(list(store), store, baseline="NARM")
    assert (table.reference, table.named) == ("NARM [n_layers=2]", False)


def test_a_baseline_may_have_the_label_of_a_table_with_more_rows(store: ResultStore) -> None:
    for key, protocol, targets in (("a", "loo", "last"), ("b", "loo", "all"), ("c", "direct_100", "last")):
        settings = {"mask_history": True, "train_targets": targets}
        store_run(store, "SASRec", 0.1, key=key, protocol=protocol, settings=settings)
    tables = build(list(store), store, baseline="SASRec [train_targets=last]")
    assert {(table.reference, table.named) for table in tables} == {
        ("SASRec [train_targets=last]", True),
        ("SASRec", True),
    }
    with pytest.raises(UserError, match="no such row"):
        build(list(store), store, baseline="SASRec [train_targets=first]")


def test_a_label_of_another_table_may_name_lists(store: ResultStore) -> None:
    for number, columns in enumerate((["title"], ["title", "brand"])):
        settings = {"mask_history": True, "text_columns": columns, "stage_epochs": [1, 60], "with_ids": True}
        store_run(store, "UniSRec", 0.1, key=f"u{number}", settings=settings)
    label = "UniSRec (none) [text_columns=title,brand]"
    for more in ("", ", with_ids=True", ", stage_epochs=[1, 60]"):
        (table,) = build(list(store), store, baseline=f"{label[:-1]}{more}]")
        assert (table.reference, table.named) == (label, True)
    for other in (", with_ids=False]", ", stage_epochs=[1, 30]]", ", films#2f6d3e]", ", +1]", "] #2"):
        with pytest.raises(UserError, match="no such row"):
            build(list(store), store, baseline=f"{label[:-1]}{other}")


def test_tuned_rows_are_told_apart_by_what_no_search_found() -> None:
    def searched(key: str, rate: float, layers: int, **fixed: Any) -> Record:
        settings = {"learning_rate": rate, "n_layers": layers, **fixed}
        return run_of("SASRec", 0.1, key=key, tuned=True, trials=9, settings=settings)

    both = searched("a", 0.002, 2, train_targets="last"), searched("b", 0.0008, 1, train_targets="all")
    assert labels(*both) == ["SASRec [train_targets=last]", "SASRec [train_targets=all]"]
    fixed = searched("a", 0.002, 2, train_targets="last"), searched("b", 0.0008, 1, train_targets="last")
    assert labels(*fixed) == ["SASRec [learning_rate=0.002, n_layers=2]", "SASRec [learning_rate=0.0008, n_layers=1]"]


def test_a_tuned_row_says_so_with_its_trials() -> None:
    plain, tuned = run_of("SASRec", 0.1), run_of("SASRec", 0.2, key="t", tuned=True, trials=30)
    assert labels(plain, tuned) == ["SASRec", "SASRec, tuned"]


def test_answers_of_two_llms_are_two_rows() -> None:
    runs = [
        run_of("M", 0.1, key=name, semantics="llm", features=SemanticFacts(llm="openai", llm_model=name))
        for name in ("small", "large")
    ]
    assert labels(*runs) == ["M (small)", "M (large)"]


def test_a_seed_that_failed_before_its_features_stays_in_its_row() -> None:
    good = run_of("M", 0.1, semantics="llm", features=SemanticFacts(llm="openai", llm_model="small"))
    lost = record_of(model="M", key="x", seed=2, semantics="llm", status="failed", settings={"mask_history": True})
    assert labels(good, lost) == ["M (small)"]


def of_files(seed: int, files: dict[str, str], **changes: Any) -> Record:
    """One seed of a run that read the given files."""
    data = DatasetFacts(name="tiny", sha256="ab" * 32, test_cases=1234, files={"inter": "ab" * 32} | files)
    return run_of("M", 0.1, key=f"{seed}{files}", seed=seed, data=data, **changes)


@pytest.mark.parametrize("name", ["profiles", "item", "kg", "candidate_table", "package.module"])
def test_runs_that_read_other_files_are_never_seeds_of_one_row(name: str) -> None:
    runs = [of_files(seed, {name: digest * 32}) for seed, digest in ((1, "1a"), (2, "1a"), (1, "2b"))]
    assert labels(*runs) == [f"M [{name}#1a1a1a]", f"M [{name}#2b2b2b]"]
    assert labels(*runs[:2]) == ["M"]
    assert labels(runs[0], of_files(2, {})) == [f"M [{name}#1a1a1a]", f"M [{name}#unset]"]


@pytest.mark.parametrize("name", ["encoder", "lm", "llm"])
def test_two_paths_of_one_model_are_one_row(name: str) -> None:
    """Both have the same key. Regression: seeds run with a relative and an absolute path formed two rows."""

    def run(seed: int, path: str, digest: str = "1a") -> Record:
        return of_files(seed, {name: digest * 32}, settings={"mask_history": True, name: path})

    near, far = run(1, "models/mine"), run(2, "/data/models/mine")
    lost = record_of(model="M", key="x", seed=3, status="failed", settings=near.settings)
    (rows,) = group([near, far, lost]).values()
    assert [[each.seed for each in runs] for runs in rows.values()] == [[1, 2, 3]]
    assert len(labels(near, far, run(1, "models/mine", "2b"))) == 2


def test_answers_of_two_servers_are_two_rows() -> None:
    def run(seed: int, server: str) -> Record:
        features = SemanticFacts(llm="vllm", llm_model="m", server=server)
        return of_files(seed, {"item": "1a"}, semantics="llm", features=features)

    runs = [run(1, "http://a/v1"), run(2, "http://a/v1"), run(1, "http://b/v1")]
    assert labels(*runs) == ["M (m) [server=http://a/v1]", "M (m) [server=http://b/v1]"]
    assert labels(*runs[:2]) == ["M (m)"]


def test_a_file_that_other_settings_bring_along_is_not_named() -> None:
    runs = [of_files(1, {"item": "1a"}, settings={"text": True}), of_files(1, {}, settings={"text": False})]
    assert labels(*runs) == ["M [text=True]", "M [text=False]"]


def test_lists_of_several_seeds_are_seeds_of_one_row() -> None:
    lists = {"name": "Mine", "sha256": "ab" * 32}
    assert labels(*(of_files(seed, {"lists": f"{seed}" * 64}, lists=lists) for seed in (1, 2))) == ["M (Mine, foreign)"]


def test_a_run_that_does_not_name_its_files_joins_a_row_only_where_there_is_one() -> None:
    old, lost = run_of("M", 0.1, seed=3), record_of(model="M", key="x", seed=4, status="failed")
    lost.settings = old.settings
    one, other = (of_files(1, {"item": digest * 32}) for digest in ("1a", "2b"))
    (rows,) = group([old, lost, one]).values()
    assert [[run.seed for run in runs] for runs in rows.values()] == [[1, 3, 4]]
    (rows,) = group([old, lost, one, other]).values()
    assert [[run.seed for run in runs] for runs in rows.values()] == [[1, 4], [1], [3]]


def test_candidates_and_full_rankings_never_share_a_table() -> None:
    sampled = {"mask_history": True, "candidates": 99, "candidate_seed": 1}
    other = {**sampled, "candidate_seed": 2}
    full = {"mask_history": True, "candidates": "all"}
    runs = [run_of("M", 0.1, key=str(n), settings=settings) for n, settings in enumerate((sampled, other, full))]
    assert len(group(runs)) == 3


@pytest.mark.parametrize(("seeds", "text"), [([3], "3"), ([2, 1], "1,2"), ([1, 2, 3, 7], "1-3,7"), ([], "")])
def test_seeds_are_written_short(seeds: list[int], text: str) -> None:
    assert seeds_text(seeds) == text


def test_of_two_records_of_one_seed_the_newer_counts_and_a_note_says_so() -> None:
    runs = [run_of("M", v, key=str(v), created=f"2026-01-0{n}") for n, v in ((1, 0.1), (2, 0.3))]
    (table,) = build(runs)
    assert table.row("M").values["ndcg@10"].mean == 0.3
    assert "M: 1 older record of the same seeds left out" in table.notes


def test_a_finished_record_counts_before_a_newer_one_that_failed() -> None:
    done = run_of("M", 0.1, key="1", created="2026-01-01")
    lost = record_of(
        model="M", key="2", created="2026-01-02", status="failed", error="no luck", settings={"mask_history": True}
    )
    (table,) = build([done, lost])
    assert (table.row("M").runs, table.row("M").failed) == ([done], [])


# ---- numbers --------------------------------------------------------------------------------------


def test_a_metric_that_the_record_lacks_comes_from_its_ranks(store: ResultStore) -> None:
    (table,) = build(list(store), store, metrics=["hit", "map@7"], topk=[3])
    assert table.metrics == ["hit@3", "map@7"]
    runs = [record for record in store if record.model == "BPR"]
    hits = [float((Ranks.load(store.ranks_of(run)).higher < 3).mean()) for run in runs]
    assert table.row("BPR").values["hit@3"].mean == pytest.approx(sum(hits) / 3)


def test_a_metric_that_one_seed_lacks_has_no_mean() -> None:
    """The mean over the other seeds would pass for that of the row."""
    lacking = {"ndcg@10": MetricValue(value=0.3)}
    runs = [run_of("M", 0.1), run_of("M", 0.3, seed=2, metrics=lacking)]
    (table,) = build(runs, metrics=["hit@10", "ndcg@10"])
    assert table.row("M").values.keys() == {"ndcg@10"}
    assert table.row("M").values["ndcg@10"].mean == pytest.approx(0.2)


def test_the_main_metric_is_the_one_that_most_runs_were_selected_by() -> None:
    chosen = ["hit@10", "ndcg@10", "ndcg@10"]
    runs = [run_of("M", 0.1, seed=seed, valid_metric=metric) for seed, metric in enumerate(chosen, start=1)]
    (table,) = build(runs)
    assert table.primary == "ndcg@10"


def test_ranks_are_found_after_the_folder_was_moved(store: ResultStore) -> None:
    moved = ResultStore(store.folder.rename(store.folder.with_name("elsewhere")))
    (table,) = build(list(moved), moved)
    assert len(table.comparisons) == 3


def test_a_record_that_does_not_follow_from_its_ranks_is_noted(store: ResultStore) -> None:
    """Regression: a metric that was changed by hand was shown beside the interval of the true one without a word."""
    (table,) = build(store, store, intervals=True)
    assert not any("was changed" in note for note in table.notes)
    record = next(record for record in store if record.model == "SASRec")
    record.metrics["ndcg@10"] = MetricValue(value=record.metrics["ndcg@10"].value + 0.1)
    store.put(record)
    (table,) = build(store, store)
    (note,) = (note for note in table.notes if "was changed" in note)
    assert note.startswith("SASRec: ndcg@10 is 0.")


def test_an_interval_holds_its_mean_and_a_clear_difference_holds(store: ResultStore) -> None:
    (table,) = build(list(store), store)
    value = table.row("Pop").values["ndcg@10"]
    assert value.low is not None and value.high is not None
    assert value.low < value.mean < value.high
    assert value.deviation == pytest.approx(stdev(run.metrics["ndcg@10"].value for run in table.row("Pop").runs))
    assert table.reference == "SASRec"
    assert verdict(table, "Pop") == "worse"
    assert verdict(table, "BPR") == ""  # skills of 1.00 and 1.01 differ only by chance


def test_the_best_row_is_compared_with_the_second(store: ResultStore) -> None:
    (table,) = build(list(store), store)
    (text,) = lead(table)
    assert text.startswith("best SASRec to second BPR: ")


def test_the_reference_may_be_chosen_and_a_wrong_one_is_an_error(store: ResultStore) -> None:
    (table,) = build(list(store), store, baseline="Pop")
    assert verdict(table, "BPR") == "better"
    with pytest.raises(UserError, match="Did you mean"):
        build(list(store), store, baseline="Popp")
    with pytest.raises(UserError, match="--baseline=: no such row with numbers"):
        build(list(store), store, baseline="")


def test_a_table_without_the_baseline_says_so_and_marks_nothing(store: ResultStore) -> None:
    for model, skill in (("BPR", 0.5), ("NARM", 0.9)):
        store_run(store, model, skill, key=f"{model}-session", protocol="session")
    with_pop, without = render(list(store), store=store, baseline="Pop").split("tiny, session:")
    assert "worse than Pop at 5%" in with_pop
    assert "Pop has no numbers here, so nothing is measured against it" in without
    assert "after Holm over 1 pair\n" in without  # compares the best row with the second
    assert not any(word in without for word in ("worse than", "None", "Δ"))


def test_p_are_corrected_over_the_questions_that_were_asked(store: ResultStore) -> None:
    """A named reference gives one comparison per row; one chosen by the results counts as all pairs."""
    store_run(store, "NARM", 0.9)
    (named,), (chosen,) = (build(list(store), store, baseline=baseline) for baseline in ("BPR", None))
    for family in (list(named.against.values()), chosen.comparisons):
        raw = [test.p for test in family]
        assert [test.p_adjusted for test in family] == pytest.approx(multipletests(raw, method="holm")[1])
    assert (len(named.against), len(chosen.comparisons)) == (3, 6)
    assert chosen.against["BPR"] == chosen.compared("BPR", str(chosen.reference))
    assert "Holm over 3 comparisons with BPR" in render(list(store), store=store, baseline="BPR")
    assert "Holm over 6 pairs" in render(list(store), store=store)


def test_the_correction_and_the_margin_can_be_chosen(store: ResultStore) -> None:
    store_run(store, "BPR", 1.0, seed=4)
    (table,) = build(list(store), store, baseline="SASRec", correction="fdr", margin=0.2)
    raw = [test.p for test in table.against.values()]
    assert [t.p_adjusted for t in table.against.values()] == pytest.approx(multipletests(raw, method="fdr_bh")[1])
    assert (verdict(table, "BPR"), verdict(table, "Pop")) == ("none", "worse")
    text = render(list(store), store=store, baseline="SASRec", correction="fdr", margin=0.2)
    assert "after Benjamini-Hochberg over 2 comparisons with SASRec" in text
    assert "≈ no difference beyond ±0.2" in text
    assert "≈" in line_of(text, "BPR")
    assert "≈" not in render(list(store), store=store, baseline="SASRec")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"correction": "none"}, "--correction=none: known are holm, fdr"), ({"margin": 0.0}, "--margin=0: give a"),
     ({"margin": float("nan")}, "--margin=nan"), ({"margin": float("inf")}, "--margin=inf")],
)  # fmt: skip
def test_a_wrong_correction_or_margin_is_an_error(store: ResultStore, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(list(store), store, **options)


def test_one_seed_speaks_for_that_training_alone(store: ResultStore) -> None:
    store_run(store, "NARM", 5.0)
    text = render(list(store), store=store, baseline="Pop")
    assert "(↑)" in line_of(text, "NARM")
    assert "one seed: NARM; p and marks in brackets speak for these trainings alone, not for the methods" in text
    assert "(↑)" not in line_of(text, "SASRec")
    assert "↑" in line_of(text, "SASRec")
    assert "NARM to second" in text
    assert "holds for these trainings" in text
    single = [record for record in store if record.seed == 1]
    assert "every row has one seed; p and marks in brackets" in render(single, store=store)
    (line,) = (
        each for each in csv.DictReader(io.StringIO(render(list(store), "csv", ["ndcg@10"], store, baseline="Pop")))
        if each["model"] == "NARM"
    )  # fmt: skip
    assert (line["one_training"], line["correction"], line["p_equal"]) == ("True", "holm", "")


@pytest.mark.parametrize("style", ["text", "csv"])
def test_a_single_user_has_no_interval_and_a_note_says_why(tmp_path: Path, style: str) -> None:
    """Regression: intervals and differences were [-inf, +inf]."""
    few = ResultStore(tmp_path / "few")
    records = [store_run(few, model, skill, cases=1) for model, skill in (("Pop", 0.0), ("SASRec", 1.0))]
    text = render(records, style, store=few, baseline="Pop")
    assert "inf" not in text
    assert "Δ" not in text
    assert style == "csv" or "no intervals and no tests: users are their sample, and all cases are of a single" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda ranks: {"higher": ranks.higher[:3]},
        lambda ranks: {"higher": ranks.higher - 1_000},
        lambda ranks: {"tied": ranks.tied * float("nan")},
        lambda ranks: {"offsets": ranks.offsets * 1_000},
        lambda ranks: {"user": ranks.user[None]},
    ],
)
def test_a_row_whose_ranks_cannot_be_ranks_is_not_tested(store: ResultStore, change: Any) -> None:
    run = store_run(store, "Pop", 0.5, key="spoilt")
    path = store.ranks_of(run)
    replace(ranks := Ranks.load(path), **change(ranks)).save(path)
    assert f"no ranks, so it is not tested ({path} is not a file of ranks: " in render(list(store), store=store)


@pytest.mark.parametrize("noted", [True, False])
def test_a_table_says_where_sessions_are_its_sample(store: ResultStore, noted: bool) -> None:
    """Runs of a protocol that cuts histories, with or without the people behind the sessions in their ranks files."""
    settings = {"mask_history": True, "sessions": {"by": "day"}}
    for model in ("NARM", "STAMP"):
        run = store_run(store, model, 0.5, key=model, protocol="session", settings=settings)
        if noted:
            ranks = Ranks.load(store.ranks_of(run))
            replace(ranks, person=ranks.user // 10).save(store.ranks_of(run))
    (table,) = build([record for record in store if record.protocol == "session"], store)
    assert table.families["ndcg@10"].users == (21 if noted else 200)
    assert any("take sessions as their sample, not users" in note for note in table.notes) != noted


@pytest.mark.parametrize(("share", "warns"), [(0.76, True), (0.2, False)])
def test_candidates_that_give_their_target_away_by_rarity_are_warned_of(
    store: ResultStore, share: float, warns: bool
) -> None:
    facts = {"untrained_targets": share, "untrained_others": 0.18, "rarer_target": 0.83}
    data = DatasetFacts(name="tiny", sha256="ab" * 32, test_cases=200, rarity=facts)
    store_run(store, "NARM", 0.9, data=data)
    text = render(list(store), store=store)
    assert ("the rarer is the target in 83% of the pairs" in text) == warns


def test_the_best_of_several_rows_of_a_model_was_chosen_by_its_result(store: ResultStore) -> None:
    store_run(store, "BPR", 0.5, key="other", settings={"mask_history": True, "learning_rate": 0.1})
    text = render(list(store), store=store, baseline="BPR")
    assert "Holm over 6 pairs" in text


def test_methods_are_measured_against_the_best_baseline(store: ResultStore) -> None:
    features = SemanticFacts(llm="openai", llm_model="g")
    store_run(store, "LLMDMsRec", 3.0, semantics="llm", features=features)
    (table,) = build(list(store), store)
    assert table.reference == "SASRec"
    assert verdict(table, "LLMDMsRec (g)") == "better"
    assert table.row("LLMDMsRec (g)").kind == "method"


def test_a_row_tested_on_other_cases_takes_no_part_and_a_note_says_so(store: ResultStore) -> None:
    store_run(store, "Narrow", 0.5, cases=150)
    (table,) = build(list(store), store)
    assert "Narrow" not in table.against
    assert any("Narrow was tested on other cases (150" in note for note in table.notes)
    assert not any("takes no part" in note for note in table.notes)
    (table,) = build(list(store), store, baseline="Narrow")
    assert table.against == {}
    assert any(note.startswith("Narrow takes no part in the tests") for note in table.notes)


def test_the_number_of_cases_is_that_of_most_rows_and_in_csv_of_each(store: ResultStore) -> None:
    best = store_run(store, "Narrow", 9.0, cases=150)
    (table,) = build(list(store), store)
    assert table.rows[0].model == "Narrow"
    assert "200 test cases" in table.caption
    lines = list(csv.DictReader(io.StringIO(render(list(store), "csv", store=store))))
    assert {line["test_cases"] for line in lines if line["model"] == best.model} == {"150"}
    assert {line["test_cases"] for line in lines if line["model"] != best.model} == {"200"}


def test_a_metric_where_less_is_better_is_marked_the_other_way() -> None:
    listed = {
        name: {"giniindex@10": MetricValue(value=v, higher_is_better=False)} for name, v in (("A", 0.2), ("B", 0.4))
    }
    (table,) = build(
        [run_of(name, 0.1, list_metrics=values) for name, values in listed.items()], metrics=["giniindex@10"]
    )
    assert table.best_and_second("giniindex@10") == ({"A"}, {"B"})


def test_equal_rows_have_no_best() -> None:
    (table,) = build([run_of("A", 0.1), run_of("B", 0.1)])
    assert table.best_and_second("ndcg@10") == (set(), set())


# ---- formats --------------------------------------------------------------------------------------


def test_best_is_bold_and_second_underlined(store: ResultStore) -> None:
    markdown = render(list(store), "markdown", store=store)
    assert "**0." in line_of(markdown, "SASRec")
    assert "<u>0." in line_of(markdown, "BPR")
    latex = render(list(store), "latex", store=store)
    assert "\\textbf{0." in line_of(latex, "SASRec")
    assert "\\underline{0." in line_of(latex, "BPR")


def test_latex_has_booktabs_and_escaped_names() -> None:
    text = render([run_of("my_model & 50% {x} \\ #1 $y^2~", 0.1)], "latex")
    assert "my\\_model \\& 50\\% \\{x\\} \\textbackslash{} \\#1 \\$y\\textasciicircum{}2\\textasciitilde{}" in text
    for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
        assert rule in text
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 2


def test_latex_with_quotation_marks_needs_no_other_font_encoding() -> None:
    text = render([run_of('a "b" c', 0.1)], "latex")
    assert "a {\\char34}b{\\char34} c & " in text
    assert "textquotedbl" not in text  # only T1 has it, and LaTeX begins with OT1


@pytest.mark.parametrize("name", ["[1cm]", "*"])
def test_no_name_is_an_argument_of_the_row_before(name: str) -> None:
    text = render([run_of("A", 0.2), run_of(name, 0.1)], "latex")
    assert f"\n{{{name[0]}}}{name[1:]} & " in text


def test_html_escapes_names() -> None:
    text = render([run_of("<script>alert(1)</script>", 0.1)], "html")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_csv_has_a_line_a_row_and_metric(store: ResultStore) -> None:
    store.put(
        record_of(key="f" * 16, model="Broken", status="failed", error='a "b", c', settings={"mask_history": True})
    )
    lines = list(csv.DictReader(io.StringIO(render(list(store), "csv", store=store))))
    assert {(line["model"], line["metric"]) for line in lines if line["status"] == "ok"} == {
        (model, f"{metric}@{k}")
        for model in ("Pop", "BPR", "SASRec")
        for metric in ("hit", "ndcg", "mrr")
        for k in (5, 10)
    }
    assert all(float(line["ci_low"]) <= float(line["mean"]) <= float(line["ci_high"]) for line in lines if line["mean"])
    assert next(line for line in lines if line["status"] == "failed")["reason"] == 'a "b", c'


def test_subgroups_stand_in_a_table_of_their_own(store: ResultStore) -> None:
    text = render(list(store), store=store, groups=True)
    head = next(line for line in text.splitlines() if "head items" in line)
    assert "tail items (160)" in head
    assert "cold items (20)" in head
    assert "short histories" in head


def test_cut_offs_are_chosen(store: ResultStore) -> None:
    assert "Hit@5" not in render(list(store))
    text = render(list(store), topk=[5, 7], store=store)
    assert "Hit@5" in text
    assert "NDCG@7" in text
    assert "Hit@10" not in text


def test_ranks_up_to_a_place_leave_out_their_own_row_beyond_it_alone(store: ResultStore) -> None:
    bound(store, store_run(store, "ISRF", 0.6), 10)
    (table,) = build(list(store), store, topk=[10, 20], intervals=True)
    assert table.families["ndcg@10"].labels == [row.label for row in table.rows]
    assert set(table.families["ndcg@20"].labels) == {row.label for row in table.rows} - {"ISRF (none)"}
    assert "ndcg@20" not in table.row("ISRF (none)").values
    assert any("ISRF (none): ndcg@20: these ranks were looked for up to place 10" in note for note in table.notes)


def test_a_row_whose_ranks_do_not_reach_the_primary_metric_is_not_tested(store: ResultStore) -> None:
    bound(store, store_run(store, "ISRF", 0.6, metrics={}), 5)
    text = render(list(store), store=store, groups=True)
    assert "ISRF (none): ndcg@10: these ranks were looked for up to place 5" in text
    assert "Δ to SASRec" in text


def test_all_cut_offs_are_those_of_any_metric_of_the_records(tmp_path: Path) -> None:
    """MAP is in no record and is computed from the ranks; coverage is one of the list metrics."""
    store = ResultStore(tmp_path)
    store_run(store, "BPR", 0.5, list_metrics={f"itemcoverage@{k}": MetricValue(value=k / 100) for k in (5, 10)})
    names = ["MAP", "ItemCoverage"]
    lines = list(csv.DictReader(io.StringIO(render(list(store), "csv", names, store))))
    assert [line["metric"] for line in lines] == ["map@5", "map@10", "itemcoverage@5", "itemcoverage@10"]
    assert all(float(line["mean"]) > 0 for line in lines)
    head = next(line for line in render(list(store), "markdown", names, store, topk=[]).splitlines() if "model" in line)
    assert all(title in head for title in ("MAP@5", "MAP@10", "ItemCoverage@5", "ItemCoverage@10"))
