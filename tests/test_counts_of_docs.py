"""Counts, shares, seconds and published numbers in sentences are those of the records, measurements and settings.

Each test makes a sentence anew from what is kept and looks for it on its page.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.significance import Comparison, Family, adjusted
from recbole_llm.experiments.record import Record
from recbole_llm.utils.yaml import read_yaml
from tests.claims import (
    ANSWERS,
    BEAUTY_LATER,
    BEAUTY_TIMES,
    BEAUTY_USERS,
    BOTH,
    BY_LLM,
    BY_RULE,
    CLAUDE,
    CONTROLLED,
    DIRECT_LONG,
    DIVIDED,
    DRAWN,
    DUIP,
    EXCHANGED,
    FILMS,
    FLAGSHIP,
    FLAGSHIP_DIRECT,
    FOLDS,
    FULL_SOFTMAX,
    GAMES,
    GAMES_LATER,
    GRU_ALL,
    GRU_LAST,
    LAST,
    NO_CONTRAST,
    OTHER_FILMS,
    PARTS,
    PREFIXES,
    PROFILES,
    PROFILES_LATER,
    PUBLISHED,
    PUBLISHED_RANKED,
    RELEASED,
    SEEN_ALONE,
    SESSIONS,
    TITLES,
    TOYS,
    TOYS_LATER,
    VECTORS,
    VECTORS_IN_TIME,
    WITH_LM,
    WITHOUT_LM,
    Place,
    compared,
    records,
)
from tests.test_tables_of_docs import tables

ROOT = Path(__file__).parents[1]


@cache
def page(name: str) -> str:
    """Text of a documentation page, with its lines joined."""
    return " ".join((ROOT / f"docs/{name}.md").read_text(encoding="utf-8").split())


def tables_of(name: str) -> list[list[list[str]]]:
    return tables((ROOT / f"docs/{name}.md").read_text(encoding="utf-8"))


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def measured(name: str) -> Any:
    return read(f"benchmarks/results/{name}-cpu.json")["results"]


def first(where: Place, row: str) -> Record:
    """A row's run with the lowest seed."""
    return min(compared(where).row(row).runs, key=lambda run: run.seed)


def seconds(where: Place, row: str) -> float:
    """Training time in seconds, averaged over a row's seeds."""
    return fmean(run.seconds["train"] for run in compared(where).row(row).runs)


def values(where: Place, row: str) -> list[float]:
    """Values of the table's selection metric, one per seed of the row."""
    table = compared(where)
    return [run.metrics[table.primary].value for run in table.row(row).runs]


def mean(where: Place, row: str, metric: str = "ndcg@10") -> float:
    return compared(where).row(row).values[metric].mean


def test_what_is_later_and_what_is_new_under_both_splits() -> None:
    later = [100 * (first(where, "Pop").data.later_training or 0) for where in (BEAUTY_TIMES, TOYS, GAMES)]
    share = "share of the training interactions is {:.0f} % on Beauty, {:.0f} % on Toys and {:.0f} % on Games"
    assert share.format(*later) in page("findings/time")
    said = "on Beauty {:.0f} % of the training interactions are later than a target, on average; on Toys {:.0f} %"
    assert said.format(*later) in page("explanation/protocols")
    cold, users = [], []
    for where in (BEAUTY_LATER, TOYS_LATER, GAMES_LATER):
        data = first(where, "Pop").data
        cold.append(round(100 * data.cold["item_targets"] / data.test_cases))
        users.append(round(100 * data.cold["user_cases"] / data.test_cases))
    assert cold[0] == cold[1]
    assert f"{cold[0]} % of the targets on Beauty and Toys, and {cold[2]} % on Games" in page("findings/time")
    assert f"{min(users)} to {max(users)} % of the cases are of users without one" in page("findings/time")


def test_targets_that_the_user_had_on_games() -> None:
    """Found where PopUser's rank differs from Pop's, so the user's own items that Pop also ranks first are missed."""
    others, owed = [], []
    for where in (GAMES, GAMES_LATER):
        user, pop, vsknn = (compared(where).row(row).ranks[0] for row in ("PopUser", "Pop", "VSKNN"))
        own = (user.higher != pop.higher) | (user.tied != pop.tied)
        assert per_case(user, "hit@10")[own].all()
        others.append(per_case(user, "ndcg@10")[~own].mean())
        owed.append(per_case(vsknn, "ndcg@10")[own].sum() / len(own))
    assert "it has what Pop has there, {:.4f} and {:.4f}.".format(*others) in page("findings/time")
    assert "VSKNN owes {:.3f} and {:.4f} of its NDCG@10 to them".format(*owed) in page("findings/time")


def test_hits_of_new_items_on_games() -> None:
    (ranks,) = compared(GAMES_LATER).row("EIMF (offline)").ranks
    hits = (ranks.train_count == 0) & (per_case(ranks, "hit@10") > 0)
    assert f"its {hits.sum()} on Games on {len({*ranks.item[hits]})}." in page("findings/time")


def test_what_the_controls_and_one_training_change_on_beauty() -> None:
    table = compared(BEAUTY_TIMES, "SRGNN", CONTROLLED)
    alone = table.against[BY_RULE].p
    assert f"without the controls, one comparison and not four, p would be {alone:.3f})" in page("findings/llmdmsrec")
    first_seed = {name: table.row(name).ranks[:1] for name in (BY_RULE, "SRGNN")}
    (found,) = Family(first_seed, "ndcg@10").compare()
    assert f"One training each had said {found.difference:+.4f} (p < 0.001)" in page("findings/llmdmsrec")
    assert found.p < 0.001


def test_the_seeds_of_profiles_one_by_one() -> None:
    table, exchanged = compared(PROFILES), "UniSRec (shuffled)"
    assert all(
        [run.seed for run in table.row(label).runs] == [2020, 2021, 2022] for label in (BOTH, exchanged, "SASRec")
    )

    def found(better: str, other: str, seeds: slice) -> Comparison:
        (comparison,) = Family({name: table.row(name).ranks[seeds] for name in (better, other)}, "ndcg@10").compare()
        return comparison

    each = [found(BOTH, exchanged, slice(n, n + 1)).difference for n in range(3)]
    said = "{:+.4f}, {:+.4f} and {:+.4f} above itself with exchanged texts"
    assert said.format(*each) in page("findings/profiles")
    values = "among themselves ({:.4f}, {:.4f} and {:.4f})"
    assert values.format(*(run.metrics["ndcg@10"].value for run in table.row(BOTH).runs)) in page("findings/profiles")
    p, lead = (found(*pair, slice(3)).p for pair in ((BOTH, exchanged), ("SASRec", BOTH)))
    assert f"p is {p:.3f} for this comparison alone, and {lead:.3f} for SASRec's lead" in page("findings/profiles")
    firsts = [found(*pair, slice(1)).p for pair in ((BOTH, exchanged), ("SASRec", BOTH))]
    assert max(firsts) < 0.001


def test_new_items_of_beauty_and_profiles() -> None:
    table, found, each = compared(PROFILES_LATER), {}, []
    for row in ("SASRec", "VSKNN", TITLES, "UniSRec (shuffled)", BOTH):
        seeds = table.row(row).ranks
        assert len(seeds) == (1 if row == "VSKNN" else 3)
        new = seeds[0].train_count == 0
        values = [per_case(ranks, "ndcg@10")[new].mean() for ranks in seeds]
        found[row], each = fmean(values), [*each, *values]
        assert f"{new.sum():,} of the targets have no training interaction" in page("findings/profiles")
    assert f"On these SASRec and VSKNN have an NDCG@10 of {max(found['SASRec'], found['VSKNN']):.4f}" in page(
        "findings/profiles"
    )
    said = "{:.4f} with titles, {:.4f} with exchanged texts and {:.4f} with titles and profiles"
    assert said.format(*list(found.values())[2:]) in page("findings/profiles")
    assert f"Its trainings differ from {min(each[4:]):.4f} to {max(each[4:]):.4f}" in page("findings/profiles")
    cases = [len(compared(where).row("SASRec").ranks[0].item) for where in (PROFILES_LATER, PROFILES)]
    assert "({:,} instead of {:,})".format(*cases) in page("findings/profiles")


def test_new_targets_of_ml_100k() -> None:
    (ranks,) = compared(ANSWERS).row("VSKNN").ranks
    assert (ranks.train_count == 0).sum() == 3
    assert "Of ML-100K's targets only three are new" in page("findings/answers")


def test_how_long_the_suite_of_answers_took() -> None:
    runs = [run for run in records("answers") if run.model in ("EIMF", "LDMI", "REMI", "ComiRecDR")]
    graphs = [run for run in records("answers") if run.model in ("LLMDMsRec", "SRGNN")]
    isrf = [run.seconds["train"] / 60 for run in records("answers") if run.model == "ISRF"]
    assert [round(sum(run.seconds["train"] for run in part) / 3600) for part in (runs, graphs)] == [2, 1]
    minutes = f"One training of ISRF takes {min(isrf):.0f} to {max(isrf):.0f} minutes"
    assert f"took two hours, those of LLM-DMsRec and SR-GNN one. {minutes}" in page("findings/answers")


def test_questions_that_have_published_answers() -> None:
    index = read("dataset/ml-100k/answers/index.json")
    asked: dict[str, dict[str, int]] = {"claude-2026-11": {}, "qwen2.5-coder-1.5b-instruct-q4_k_m": {}}
    for each in index["files"]:
        asked[each["model"]][each["prompt"].partition("@")[0]] = each["answers"]
    strong, small = asked.values()
    total, films, users = sum(strong.values()), strong["isrf_item_feature"], strong["isrf_user_preference"]
    intents = strong["llmdmsrec_intent"]
    both = f"{total:,} answers of a strong model for EIMF, LDMI, ISRF and LLM-DMsRec, and {sum(small.values())} of"
    assert f"is such a store: {both} a small one." in page("howto/answers")
    assert f"the {total - intents:,} answers of EIMF, LDMI and ISRF about ml-100k" in page("reference/llm")
    assert f"{intents // 2:,} questions about every 50th" in page("findings/answers")  # half have histories of ten
    assert f"reasoned about {films:,} films and {users} users in three steps each" in page("findings/answers")
    assert f"asked about {strong['eimf_interests']} exemplar users" in page("findings/answers")
    assert f"about the interests of {strong['eimf_interests']} typical users" in page("tutorials/semantic_gain")
    pieces = read("dataset/ml-100k/answers/claude-2026-11.LDMI-manifest.json")["features"]["interest"]["asked"]
    assert f"wrote {strong['ldmi_interests'] - pieces} synthesised users" in page("findings/answers")
    found = read("dataset/ml-100k/answers/claude-2026-11.LLMDMsRec-manifest.json")["features"]["candidates"]
    share = found["target_among_candidates"]
    said = f"the target is among the candidates in {share['train']:.0%}, in the test in {share['test']:.0%}"
    assert said.replace("%", " %") in page("findings/answers")


def test_questions_and_prices_that_other_pages_repeat() -> None:
    rows = {row[0]: row for row in tables_of("howto/prices")[1][1:]}
    asked = {method: row[1] for method, row in rows.items()}
    rounded = {method: f"{round(int(number.replace(',', '')), -2):,}" for method, number in asked.items()}
    said = "EIMF asks {} questions about MovieLens 100K; LDMI asks {}, ISRF about {}, LLM-DMsRec about {}"
    assert said.format(
        asked["EIMF"], asked["LDMI"], rounded["ISRF"], f"{round(int(asked['LLM-DMsRec'].replace(',', '')), -3):,}"
    ) in page("tutorials/local_llm")
    assert f"a part of the [{asked['LLM-DMsRec']} questions]" in page("findings/llmdmsrec")
    assert (rows["EIMF"][4], round(float(rows["LLM-DMsRec"][4]))) == ("0.01", 12)
    assert "from one cent (EIMF) to twelve dollars (LLM-DMsRec)" in page("findings/index")
    assert "and those to all questions about ML-100K [about twelve dollars]" in page("findings/tuned")


def test_prices_follow_from_tokens() -> None:
    source = read_yaml(ROOT / "properties/llm/gpt-4o-mini.yaml")
    assert f"({source['price_in']:.2f} and {source['price_out']:.2f} US$ for a million" in page("howto/prices")
    _, ml_100k, beauty = tables_of("howto/prices")[:3]
    for method, _, given, written, price in ml_100k[1:]:
        tokens = [int(each.replace(",", "")) for each in (given, written)]
        assert f"{(tokens[0] * source['price_in'] + tokens[1] * source['price_out']) / 1e6:.2f}" == price, method
    for method, _, _, given, written, price, batch in beauty[1:]:
        millions = [float(each.removesuffix(" M")) for each in (given, written)]
        slack = 0.05 * (source["price_in"] + source["price_out"]) + 0.005  # tokens are rounded to 0.1 M
        wanted = millions[0] * source["price_in"] + millions[1] * source["price_out"]
        assert float(price) == pytest.approx(wanted, abs=slack), method
        assert float(batch) == pytest.approx(float(price) * source["batch_price"], abs=0.006), method


def test_sessions_of_bundle() -> None:
    run = first(SESSIONS, "Pop")
    (ranks,) = compared(SESSIONS).row("Pop").ranks
    new = int((ranks.train_count == 0).sum())
    shares = [100 * run.data.rarity[each] for each in ("untrained_targets", "untrained_others")]
    assert "In `bundle` {:.0f} % of the test targets occur in no training row, but only {:.0f} %".format(
        *shares
    ) in page("explanation/protocols")
    assert f"Of the test targets {shares[0]:.0f} % are in no training session ({new} of {run.data.test_cases})" in page(
        "explanation/protocols"
    )
    counts = f"{run.data.valid_cases} validation and {run.data.test_cases} test cases, for each of the seeds"
    assert counts in page("explanation/protocols")
    assert f"DUIP's own setting: {run.data.test_cases} sessions" in page("findings/sessions")
    assert f"the last tenth ({first(DRAWN, 'Pop').data.test_cases}) tests" in page("findings/sessions")
    longer = seconds(SESSIONS, WITH_LM) / seconds(SESSIONS, SEEN_ALONE)
    assert f"Training took {longer:.1f} times as long" in page("findings/sessions")


def test_cases_of_beauty_s_splits() -> None:
    data = first(RELEASED, "GCEGNN").data
    tested, sessions = 2237, 20126
    assert data.statistics["users"] == tested + sessions
    pairs = int(data.statistics["interactions"]) - (data.test_cases + tested) - sessions  # a first item is no target
    assert (
        f"{pairs:,} training pairs from {sessions:,} sessions, {data.test_cases:,} test cases from {tested:,} (of the "
        f"training pairs the last tenth, {data.valid_cases:,}, validates" in page("explanation/protocols")
    )
    split = next(run for run in records("beauty-users")).data
    trained = int(split.statistics["users"]) - split.valid_cases - split.test_cases
    parts = f"| Beauty, `user_split` | {trained:,} / {split.valid_cases:,} / {split.test_cases:,} users |"
    assert parts in page("explanation/protocols")
    assert f"the same {tested:,} users tested" in page("findings/candidates")


def test_interactions_of_ml_100k_at_equal_times() -> None:
    data = first(FLAGSHIP, LAST).data
    rows, tied = data.reading["rows_read"], data.reading["rows_tied_in_time"]
    assert f"In ml-100k {tied:,} of {rows:,} rows share user and second" in page("explanation/equal_times")


def test_the_order_of_beauty_s_days() -> None:
    found = measured("day-order-beauty")
    assert (found["ascending"], found["last_ascending"]) == (found["pairs"], found["last_pairs"])
    assert (
        f"all {found['pairs']:,} pairs of one user and day, and so {found['last_pairs']:,} of {found['users']:,} users'"
        in page("explanation/equal_times")
    )
    published, days = (first(where, "Pop").data.statistics for where in (PUBLISHED, BEAUTY_TIMES))
    fewer = [published[each] - days[each] for each in ("users", "interactions")]
    assert (
        f"differ by {fewer[0]:.0f} of {published['users']:,.0f} users and {fewer[1]:.0f} of "
        f"{published['interactions']:,.0f} interactions" in page("findings/beauty")
    )


def test_published_counts_of_datasets() -> None:
    (rows,) = (rows for head, *rows in tables_of("howto/datasets") if head[1] == "what")
    for names, _, counts in rows:
        published = [
            read_yaml(ROOT / f"properties/dataset/{name}.yaml")["about"].get("published") for name in names.split(", ")
        ]
        if not published[0]:
            assert counts == "changes with each edition"
        elif "reviews" in published[0]:
            assert counts == "reviews: " + "; ".join(f"{each['reviews']:,}" for each in published)
        elif "sessions" in published[0]:
            (each,) = published
            assert counts == "{users:,} ({sessions:,} sessions) / {items:,} / {interactions:,}".format(**each)
        else:
            parts = ("users", "items", "interactions")
            assert counts == "; ".join(
                " / ".join(f"{each[part]:,}" for part in parts if part in each) for each in published
            )


def test_what_the_k_core_changes() -> None:
    (rows,) = (rows for head, *rows in tables_of("howto/datasets") if "Pop NDCG@10" in head)
    for (core, *shown), folder in zip(rows, ("beauty", "k-core"), strict=True):
        runs = {run.model: run for run in records(folder) if run.model in ("Pop", "ItemKNN")}
        kept = runs["Pop"].data.statistics
        assert shown == [
            *(f"{kept[each]:,.0f}" for each in ("users", "items", "interactions")),
            *(f"{runs[model].metrics['ndcg@10'].value:.4f}" for model in ("Pop", "ItemKNN")),
        ], core


def test_published_numbers_are_the_references() -> None:
    said = {
        reference["title"]: reference["models"]
        for reference in read_yaml(ROOT / "properties/reference.yaml")["references"]
    }
    sampled = next(
        models for title, models in said.items() if title.endswith("2014 5-core, SASRec with a sampled softmax")
    )
    hstu = next(models for title, models in said.items() if title.endswith("2014 5-core, HSTU"))
    pairs = [
        f"{each['hit@10']:.4f} and {each['ndcg@10']:.4f}"
        for each in (sampled["SASRec"], sampled["eSASRec"], hstu["HSTU"])
    ]
    assert (
        f"in the transformer benchmark of eSASRec's authors, SASRec with a sampled softmax has {pairs[0]}, eSASRec "
        f"{pairs[1]}, HSTU {pairs[2]}." in page("findings/beauty")
    )
    here = {"SASRec": "SASRec [preset=sampled]", "eSASRec": "eSASRec"}
    lower = [
        100 * (1 - mean(PUBLISHED, row, metric) / sampled[model][metric])
        for model, row in here.items()
        for metric in ("hit@10", "ndcg@10")
    ]
    assert f"{min(lower):.0f} to {max(lower):.0f} % less here than there, within the tolerance" in page(
        "findings/beauty"
    )
    (log,) = (models["EIMF"] for title, models in said.items() if title.startswith("EIMF on the last tenth"))
    assert (
        "EIMF's own log has Recall@20 {recall@20}, Hit@20 {hit@20}, Recall@50 {recall@50} and Hit@50 {hit@50}"
        .replace("{", "{0[").replace("}", "]}").format(log) in page("findings/beauty")
    )  # fmt: skip
    assert f"Recall@20 {log['recall@20']}" in page("findings/papers")
    above = [run.metrics for row in ("REMI", "SASRec") for run in compared(BEAUTY_USERS).row(row).runs]
    assert all(metrics[name].value > log[name] for metrics in above for name in log)
    assert "is already above that log**, and so is SASRec" in page("findings/beauty")
    assert {run.best_epoch for run in compared(BEAUTY_USERS).row(DIVIDED).runs} == {2, 3}
    pop = next(models["Pop"] for title, models in said.items() if title.startswith("popularity on Amazon Beauty"))
    assert f"Pop on Beauty | Hit@10 {pop['hit@10']}, NDCG@10 {pop['ndcg@10']} |" in page("findings/papers")


def test_what_beauty_s_mask_moves() -> None:
    share = 1 - mean(PUBLISHED_RANKED, FULL_SOFTMAX) / mean(PUBLISHED, FULL_SOFTMAX)
    other = 1 - mean(PUBLISHED_RANKED, PREFIXES) / mean(PUBLISHED, PREFIXES)
    assert [round(each, 2) for each in (share, other)] == [0.26, 0.26]
    assert "Whether seen items are ranked moves its value by a quarter" in page("findings/beauty")


def test_seconds_and_seeds_of_tuned_rows() -> None:
    gru, method = seconds(FLAGSHIP, GRU_ALL), seconds(FLAGSHIP, BY_RULE)
    assert f"at every position for {gru:.0f} seconds GRU4Rec has 0.1012, LLM-DMsRec after {method:.0f} seconds" in page(
        "findings/tuned"
    )
    assert seconds(FLAGSHIP, "SASRec [train_targets=all]") < seconds(FLAGSHIP, LAST) / 2
    assert "Training at every position took less than half the time" in page("findings/tuned")
    spread = compared(FLAGSHIP).row("SRGNN, tuned").values["ndcg@10"].deviation
    assert f"SR-GNN's standard deviation over seeds is {spread:.4f}" in page("findings/tuned")


def test_seeds_of_the_parts() -> None:
    table = compared(PARTS, "ComiRecDR [interest_scale=1.0]", ("LDMI", "ComiRecDR"))
    seeds = {row.label: len(row.runs) for row in table.rows}
    five = {NO_CONTRAST, "LDMI (shuffled) [contrast=none]"}
    assert {label for label, count in seeds.items() if count == 5} == five
    assert {count for label, count in seeds.items() if label not in five} == {3}
    said = "Three seeds; five for LDMI without its contrast with the LLM's division and with an exchanged one."
    assert said in page("findings/parts")


def test_what_three_seeds_said_of_ldmi() -> None:
    right, exchanged = f"LDMI ({CLAUDE})", "LDMI (shuffled)"
    table = compared(FLAGSHIP)
    rows = {label: table.row(label) for label in (right, exchanged)}
    assert {tuple(run.seed for run in row.runs) for row in rows.values()} == {(2020, 2021, 2022, 2023, 2024)}
    (found,) = Family({label: row.ranks[:3] for label, row in rows.items()}, "ndcg@10").compare()
    said = f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}] (p {found.p:.3f} for this comparison alone)"
    assert f"the right answers and exchanged ones was {said}" in page("findings/tuned")


def test_own_and_exchanged_vectors_after_holm() -> None:
    models = ("UniSRec", "SASRecText", "AlphaRec", "LLMESR", "SASRec")
    p = [
        Family({label: compared(VECTORS).row(label).ranks for label in pair}, "ndcg@10").compare()[0].p
        for pair in ((f"{name} ({FILMS})", f"{name} ({OTHER_FILMS})") for name in models)
    ]
    unisrec, text, alpha, *_ = adjusted(p, "holm")
    assert (
        f"UniSRec has p {unisrec:.3f}, SASRecText {text:.3f} and AlphaRec {alpha:.2f}, so AlphaRec's gain rests on"
        in page("findings/vectors")
    )


def trials(folder: str, model: str, protocol: str, semantics: str) -> list[dict[str, Any]]:
    """The trials of a search."""
    (path,) = (ROOT / "results" / folder / "studies").glob(f"{model}-ml-100k-{protocol}-{semantics}-*.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


Trial = dict[str, Any]


def with_same_settings(first: list[Trial], second: list[Trial]) -> list[tuple[Trial, Trial]]:
    """The trials of two searches that had the same number and the same settings."""
    return [pair for pair in zip(first, second, strict=True) if pair[0]["params"] == pair[1]["params"]]


def is_better(first: Trial, second: Trial) -> bool:
    """Whether the first trial reached more on validation, up to the last epoch that both trained."""
    both = min(len(first["curve"]), len(second["curve"]))
    one, other = (max(v for n, v in each["curve"].items() if int(n) <= both) for each in (first, second))
    return bool(one > other)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("AlphaRec", "AlphaRec"),
        ("SASRecText", "SASRecText"),
        ("LLMESR", "LLM-ESR"),
        ("UniSRec", "UniSRec"),
        ("SASRec", "SASRec, `--init=vectors`"),
    ],
)
def test_trials_with_own_and_with_exchanged_vectors(model: str, name: str) -> None:
    same = with_same_settings(*(trials("vectors", model, "loo", which) for which in ("text", "shuffled")))
    better = [is_better(own, other) for own, other in same]
    assert f"| {name} | {len(same)} | {sum(better)} |" in page("findings/vectors")
    if model == "UniSRec":
        (own, other) = same[better.index(False)]
        chosen = compared(VECTORS).row(f"UniSRec ({OTHER_FILMS})").runs[0].settings
        assert {key: chosen[key] for key in other["params"]} == other["params"]
        assert f"own vectors reached {own['value']:.4f} and exchanged ones {other['value']:.4f}." in page(
            "findings/vectors"
        )


def test_trials_of_llmesr_in_time() -> None:
    same = with_same_settings(*(trials("vectors", "LLMESR", "gts", which) for which in ("text", "shuffled")))
    better = [is_better(own, other) for own, other in same]
    assert (sum(better), len(same)) == (7, 10)
    assert "In seven of the ten trials with the same settings the own vectors were better" in page("findings/vectors")


@pytest.mark.parametrize(
    ("model", "place", "same"),
    [
        ("AlphaRec", VECTORS, True),
        ("LLMESR", VECTORS, True),
        ("SASRecText", VECTORS, False),
        ("UniSRec", VECTORS, False),
        ("SASRec", VECTORS, False),
        ("UniSRec", VECTORS_IN_TIME, True),
        ("LLMESR", VECTORS_IN_TIME, False),
    ],
)
def test_what_the_searches_of_vectors_chose(model: str, place: Place, same: bool) -> None:
    searched = trials("vectors", model, place[2], "text")[0]["params"]
    rows = [compared(place).row(f"{model} ({which})").runs[0].settings for which in (FILMS, OTHER_FILMS)]
    own, other = ({key: settings[key] for key in searched} for settings in rows)
    assert (own == other) == same
    if (model, place) == ("UniSRec", VECTORS):
        assert (own["n_layers"], own["hidden_size"], other["n_layers"], other["hidden_size"]) == (1, 64, 3, 32)
    if model == "SASRecText":
        assert (own["hidden_size"], other["hidden_size"]) == (128, 32)


@pytest.mark.parametrize(
    ("model", "own", "exchanged"),
    [
        ("EIMF", f"EIMF ({CLAUDE})", "EIMF (shuffled)"),
        ("LDMI", f"LDMI ({CLAUDE})", "LDMI (shuffled)"),
        ("LLMDMsRec", BY_LLM, EXCHANGED),
    ],
)
def test_searches_that_chose_the_same_settings_with_exchanged_answers(model: str, own: str, exchanged: str) -> None:
    searched = trials("flagship-short", model, "loo", "llm")[0]["params"]
    first, second = (compared(FLAGSHIP).row(label).runs[0].settings for label in (own, exchanged))
    assert [first[key] for key in searched] == [second[key] for key in searched]


@pytest.mark.parametrize(
    ("method", "backbone", "words"),
    [
        ("EIMF", "REMI", "Without answers EIMF equals REMI to the last digit"),
        ("LDMI", "ComiRecDR", "LDMI equals its backbone to the last digit"),
        ("LLMDMsRec", "SRGNN", "Without answers LLM-DMsRec equals SR-GNN to the last digit"),
    ],
)
def test_without_answers_a_method_is_its_backbone(method: str, backbone: str, words: str) -> None:
    own, other = (compared(ANSWERS).row(label).runs for label in (f"{method} (none)", backbone))
    assert [each.metrics["ndcg@10"].value for each in own] == [each.metrics["ndcg@10"].value for each in other]
    assert words in page("findings/answers")


def test_sampled_candidates_turn_the_order() -> None:
    for name in ("EASE", "BPR", "LightGCN", "ItemKNN"):
        assert mean(FLAGSHIP, name) < mean(FLAGSHIP, "MarkovChain")
        assert mean(FLAGSHIP_DIRECT, name) > mean(FLAGSHIP_DIRECT, "MarkovChain")
    assert "With all items ranked, above, it has a higher value than each of them" in page("findings/tuned")


def test_an_epoch_at_every_position() -> None:
    """Of rows of one size: SASRec's two searches chose different numbers of layers."""
    every, last = (compared(FLAGSHIP).row(row).runs for row in (GRU_ALL, GRU_LAST))
    sizes = {
        tuple(run.settings[key] for key in ("embedding_size", "hidden_size", "num_layers")) for run in every + last
    }
    assert len(sizes) == 1
    fastest = [min(run.seconds["train"] / (run.epochs or 1) for run in runs) for runs in (every, last)]
    assert fastest[0] / fastest[1] == pytest.approx(1 / 4, abs=0.03)
    assert "| about a quarter of the time of an epoch on ml-100k, for GRU4Rec |" in page("explanation/methods")


def test_the_scale_of_capsules() -> None:
    short, long = (compared(ANSWERS).row(row).runs for row in ("ComiRecDR", "ComiRecDR [interest_scale=8.0]"))
    best = max(point["valid"]["ndcg@10"] for run in short for point in run.curve)
    second = min(run.curve[1]["valid"]["ndcg@10"] for run in long)
    assert best < second
    assert "ComiRecDR learns more in two epochs than in a whole training without it" in page("explanation/methods")


def test_candidate_models_of_folds() -> None:
    one, five = (
        fmean(run.seconds["stage_one"] for run in compared(FOLDS).row(row).runs if "stage_one" in run.seconds)
        for row in (f"{BY_RULE} [candidate_folds=1]", f"{BY_RULE} [candidate_folds=5]")
    )
    assert round(five / one) == 3
    assert "the candidate models take three times as long" in page("findings/llmdmsrec")


def test_what_a_language_model_costs() -> None:
    rows = (compared(DUIP).row(row).runs for row in (WITH_LM, WITHOUT_LM))
    with_it, without = (fmean(run.seconds["train"] for run in runs) for runs in rows)
    assert round(with_it / without) == 4
    assert "A training takes about four times as long with it" in page("findings/language_inside")


def test_epochs_and_shares_of_candidates() -> None:
    run, other = first(RELEASED, "GCEGNN"), first(RELEASED, "SASRec")
    assert (run.best_epoch, other.best_epoch) == (5, 20)
    assert "It is best after five epochs" in page("findings/candidates")
    hit = f"{other.metrics['hit@20'].value:.4f}"
    assert f"({hit} among twenty, after twenty epochs)" in page("findings/candidates")
    shares = [f"{100 * each.metrics[name].value:.2f}" for each in (run, other) for name in ("hit@20", "mrr@20")]
    assert "They are {} % and {} %, and SASRec's {} % and {} % (".format(*shares) in page("explanation/methods")
    best = max(point["valid"]["hit@20"] for point in run.curve)
    assert f"its validation Hit@20 is at most {best:.3f} in any epoch" in page("explanation/methods")
    release = {"hit@20": 0.1882, "mrr@20": 0.0529}
    gap = max(1 - other.metrics[name].value / value for name, value in release.items())
    assert f"SASRec comes within {100 * gap + 0.5:.0f} % of the released numbers" in page("explanation/methods")
    assert "MRR@20 within 5 % of the release's, and a Hit@20 a third lower" in page("findings/index")


def test_calibration_in_sentences() -> None:
    found = measured("calibration-ml-100k")["shares"]
    share = {(each["null"], each["seeds"], each["test"]): each for each in found}
    three, five = (100 * share["two models", seeds, "users and seeds"]["share"] for seeds in (3, 5))
    assert f"difference in {three:.1f} and {five:.1f} % of the splits" in page("explanation/statistics")
    alone = share["two models", 3, "users alone"]
    (pair,) = (each["share"] for each in alone["parts"] if each["models"] == ["GRU4Rec", "SASRec"])
    assert f"(GRU4Rec against SASRec with three seeds: {100 * pair:.0f} %)" in page("explanation/statistics")
    one, two = (100 * share[null, 1, "users alone"]["share"] for null in ("one model", "two models"))
    swapped = 100 * share["one model", 1, "users alone, values swapped"]["share"]
    assert (
        f"the test finds a difference in {swapped:.1f} %. But it finds another training of the same model to differ in "
        f"{one:.0f} %, and another model of the same mean in {two:.0f} %" in page("explanation/statistics")
    )


def test_loading_and_recommending_in_sentences() -> None:
    ten, one = measured("load-gen-10m"), measured("load-gen-1m")
    each = {path: sorted(run["seconds"] for run in one[path])[1] for path in ("fresh", "cached", "recbole")}
    assert f"({each['recbole'] / each['fresh']:.0f}x)" in page("explanation/speed")
    assert round(ten["fresh"][0]["seconds"] / each["fresh"] / 10, 1) == 1.5
    assert round(ten["cached"][0]["seconds"] / each["cached"] / 10, 1) == 1.0
    assert "Ten million cost one and a half times as much each as one million do at the first start" in page(
        "explanation/speed"
    )
    assert f"The second start holds {ten['cached'][0]['peak_mib']:.0f} MiB more" in page("explanation/speed")
    (found,) = measured("inference-ml-100k")
    users = [f"{round(found[each], -2):,.0f}" for each in ("users_per_second", "recbole_users_per_second")]
    assert (
        f"{found['p50_ms']:.1f} ms for one user (RecBole's calls {found['recbole_p50_ms']:.1f}), "
        f"{users[0]} users a second ({users[1]})" in page("explanation/speed")
    )


def test_validation_scores_of_the_longer_direct_task() -> None:
    long, graph = (compared(DIRECT_LONG).row(name).runs[0] for name in (f"ISRFDirect ({CLAUDE})", "LightGCN"))
    scores = {point["epoch"]: point["valid"]["ndcg@10"] for point in long.curve if "valid" in point}
    assert (max(scores, key=lambda epoch: scores[epoch]), max(scores)) == (14, 20)
    assert f"{scores[6]:.4f} after six epochs, {scores[14]:.4f} after 14, and no higher until the twentieth" in page(
        "findings/language_inside"
    )
    assert f"LightGCN's was {graph.valid_metrics['ndcg@10']:.4f}." in page("findings/language_inside")
    assert [round(run.seconds["train"] / unit) for run, unit in ((long, 3600), (graph, 60))] == [3, 7]
    assert "took three hours of a core, LightGCN's seven minutes" in page("findings/language_inside")


def test_gaps_between_validation_curves() -> None:
    largest = {each["model"]: each["largest_gap_in_standard_errors"] for each in measured("curves-ml-100k")}
    assert f"SASRec's after the second epoch ({largest['SASRec']:.1f} standard errors" in page("explanation/speed")
    errors = [
        abs(point["gap"]) / (point["deviation"] * (2 / 3) ** 0.5)
        for model in measured("curves-ml-100k")
        for point in model["epochs"]
    ]
    spreads = [point["deviation"] for model in measured("curves-ml-100k") for point in model["epochs"]]
    assert f"Seeds of one engine differ by {min(spreads):.3f} to {max(spreads):.3f}." in page("explanation/speed")
    assert sorted(errors)[-2] < 1.5
    assert "all others are below 1.5" in page("explanation/speed")


def test_shares_of_a_step_in_sentences() -> None:
    loss = [100 * each["shares"]["loss"] for each in measured("shares-beauty")]
    assert f"and {min(loss):.0f} to {max(loss):.0f} % of a step is the loss over 12,101 items" in page(
        "explanation/speed"
    )
    assert {round(each["shares"]["matrix products"], 1) for each in measured("shares-beauty")} <= {0.6, 0.7}
    assert "Two thirds of the time are products" in page("explanation/speed")


def test_ratios_of_the_earlier_tree() -> None:
    kept = {name: measured(f"train-{name}-583767b") for name in ("beauty", "ml-100k")}
    ratios = {(name, each["model"]): each for name, found in kept.items() for each in found}
    sasrec, graph = ratios["beauty", "SASRec"], ratios["ml-100k", "SRGNN"]
    assert (
        f"(583767b) had {sasrec['ratio_to_shipped']:.1f}x and {sasrec['ratio_to_plain']:.1f}x for SASRec on Beauty, "
        f"{ratios['beauty', 'LightGCN']['ratio_to_shipped']:.1f}x for LightGCN there, and "
        f"{graph['ratio_to_shipped']:.1f}x and {graph['ratio_to_plain']:.1f}x for SRGNN on ml-100k"
        in page("explanation/speed")
    )


def test_clusters_of_generated_users() -> None:
    exemplars, cliques = measured("clusters-generated-200k")
    (million,) = measured("clusters-generated-1m")
    number = {each["users"]: f"{int(each['result'].split()[0]):,}" for each in (exemplars, million)}
    assert (
        f"{exemplars['users']:,} in levels take {exemplars['seconds']:.0f} s and {exemplars['mib']:.0f} MiB and give "
        f"{number[exemplars['users']]} exemplars; their cliques and covering take {cliques['seconds']:.0f} s"
        in page("explanation/methods")
    )
    assert (
        f"A million in levels give {number[million['users']]} exemplars in {million['mib']:,.0f} MiB; they took "
        f"{million['seconds'] / 60:.0f} minutes" in page("explanation/methods")
    )
    vectors = next(each for each in measured("losses-1000000-items") if each["loss"] == "vectors")
    assert f"moments of the item vectors take {vectors['mib']:.0f} MiB whatever the loss" in page("explanation/methods")


def test_records_of_the_report_page() -> None:
    script = (ROOT / "recbole_llm/pages/templates/charts.js").stat().st_size
    assert f"Its charts are SVG by {script / 1000:.0f} kB of script" in page("howto/tables")
    runs = len(records("flagship-short"))
    assert f"The {runs} records of `results/flagship-short` make a page" in page("howto/tables")


def test_minutes_of_a_tuned_row() -> None:
    folder = ROOT / "results/flagship-short/studies"
    took = []
    for row, study in (
        (LAST, "SASRec-ml-100k-loo-dee12938"),
        ("SRGNN, tuned", "SRGNN-ml-100k-loo-9c2ae27f"),
        (f"EIMF ({CLAUDE})", "EIMF-ml-100k-loo-llm-d482f3aa"),
    ):
        _, *trials = [json.loads(line) for line in (folder / f"{study}.jsonl").read_text(encoding="utf-8").splitlines()]
        trained = sum(run.seconds["train"] for run in compared(FLAGSHIP).row(row).runs)
        took.append((sum(trial["seconds"] for trial in trials) + trained) / 60)
    said = "a row of SASRec, EIMF or SR-GNN, its search and five trainings, took {:.0f} to {:.0f} minutes"
    assert said.format(min(took), max(took)) in page("howto/flagship")
