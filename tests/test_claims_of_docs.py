"""Sentences in docs/findings/ about differences, seeds and prices agree with the kept records.

A claim names two rows and quotes the sentence with placeholders, which are filled in from the records. So the test
fails if a number is off by a digit, or if a difference is significant where the sentence says that it is not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.significance import Comparison
from recbole_llm.evaluation.subgroups import subgroup
from recbole_llm.llm.endpoint import load_endpoint
from recbole_llm.reporting.results_table import ResultsTable
from tests.claims import (
    ANSWERS,
    BEAUTY_LATER,
    BEAUTY_TIMES,
    CLAIMS,
    CLAUDE,
    DRAWN,
    FLAGSHIP,
    FULL_SOFTMAX,
    GAMES_LATER,
    ISRF_NONE,
    LAST,
    POSITION,
    PUBLISHED,
    ROOT,
    SESSIONS,
    TOYS_LATER,
    VALUES,
    Claim,
    Place,
    compared,
    records,
)
from tests.test_tables_of_docs import tables

FINDINGS = ROOT / "docs/findings"


@cache
def page(name: str) -> str:
    """Text of a findings page, with its lines joined."""
    return " ".join((FINDINGS / f"{name}.md").read_text(encoding="utf-8").split())


def p_text(p: float, digits: int) -> str:
    """A p-value as the sentences write it."""
    return "< 0.001" if p < 0.001 else f"{p:.{digits}f}"


def numbers(table: ResultsTable, row: str, found: Comparison) -> dict[str, str]:
    """Placeholder values for a comparison: difference with and without sign, interval, p, and means."""
    size = found if found.difference >= 0 else found.turned()
    return {
        "d": f"{found.difference:+.4f}",
        "interval": f"[{found.low:+.4f}, {found.high:+.4f}]",
        "low": f"{found.low:+.4f}",
        "high": f"{found.high:+.4f}",
        "half": f"{(found.high - found.low) / 2:.3f}",
        "wide": f"{(found.high - found.low) / 2:.2f}",
        "gap": f"{size.difference:.4f}",
        "bounds": f"[{size.low:.4f}, {size.high:.4f}]",
        "p2": p_text(found.p_adjusted, 2),
        "p3": p_text(found.p_adjusted, 3),
        "mean": f"{table.row(row).values[table.primary].mean:.4f}",
        "other": f"{table.row(found.second).values[table.primary].mean:.4f}",
    }


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.page}: {claim.row} - {claim.reference}")
def test_a_difference_is_that_of_the_records(claim: Claim) -> None:
    table = compared(claim.where, claim.reference, claim.models)
    found = table.against[claim.row]
    assert claim.words.format(**numbers(table, claim.row, found)) in page(claim.page)
    assert found.holds == claim.holds, found.p_adjusted


@pytest.mark.parametrize("path", sorted(FINDINGS.glob("*.md")), ids=lambda path: path.stem)
def test_no_row_was_still_improving(path: Path) -> None:
    marked = [row for head, *rows in tables(path.read_text(encoding="utf-8")) for row in rows if "†" in "".join(row)]
    assert marked == []


@pytest.mark.parametrize(
    ("name", "where", "row", "words"),
    [
        ("answers", ANSWERS, ISRF_NONE, "its three trainings have {}, {} and {}"),
    ],
)
def test_values_of_seeds(name: str, where: Place, row: str, words: str) -> None:
    table = compared(where)
    runs = sorted(table.row(row).runs, key=lambda run: run.seed)
    assert words.format(*(f"{run.metrics[table.primary].value:.4f}" for run in runs)) in page(name)


def test_the_only_row_above_a_rule_that_trains_nothing() -> None:
    against = compared(FLAGSHIP, "VSKNN").against
    assert [label for label, found in against.items() if found.holds and found.difference > 0] == [LAST]
    assert "Only SASRec with `train_targets=last` is significantly above it" in page("tuned")


def test_what_settings_give_comirecdr() -> None:
    kept = (ANSWERS, POSITION), (ANSWERS, "ComiRecDR"), (FLAGSHIP, "ComiRecDR")
    released, mapped, searched = (f"{compared(where).row(row).values['ndcg@10'].mean:.4f}" for where, row in kept)
    assert (
        f"ComiRecDR has {released} [as released](answers.md#ldmi) and {mapped} with one map for each interest, both "
        f"with fixed settings and histories of twenty. Here it has {searched}" in page("tuned")
    )


@pytest.mark.parametrize(
    ("name", "where", "row", "group", "words"),
    [
        ("sessions", SESSIONS, "SASRec", "cold items", "has NDCG@5 {:.2f} where the target is unseen"),
        ("sessions", SESSIONS, "SASRec", "head items", "unseen and {:.2f} where it is among the most frequent items"),
        ("sessions", SESSIONS, "SASRecText (text)", "cold items", "from SASRec over all targets, has {:.2f} and"),
        ("sessions", SESSIONS, "SASRecText (text)", "head items", "over all targets, has 0.45 and {:.2f}"),
        ("sessions", DRAWN, "SASRec", "cold items", "has an NDCG@5 of {:.2f} where the target is unseen"),
        ("answers", ANSWERS, f"EIMF ({CLAUDE})", "short histories", "gain more with the LLM's ({:.4f} against"),
        ("answers", ANSWERS, "EIMF (none)", "short histories", "against {:.4f} without)"),
        ("answers", ANSWERS, "LDMI (none)", "tail items", "it rises there from {:.4f} to between"),
        ("answers", ANSWERS, "LDMI (shuffled)", "tail items", "to between {:.4f} and"),
        ("answers", ANSWERS, "LDMI (offline)", "tail items", "and {:.4f}, with the LLM's answers"),
        ("answers", ANSWERS, "ComiRecDR [interest_scale=8.0]", "tail items", "and ask no LLM ({:.4f})"),
        ("time", TOYS_LATER, "SASRecText (text)", "cold items", "has an NDCG@10 of {:.4f} on Toys"),
        ("time", BEAUTY_LATER, "SASRecText (text)", "cold items", "on Toys, {:.4f} on Beauty and"),
        ("time", GAMES_LATER, "SASRecText (text)", "cold items", "on Beauty and {:.4f} on Games. Rows"),
        ("time", TOYS_LATER, "SASRec", "cold items", "know items by their ids have at most {:.4f}, EIMF apart."),
        ("time", TOYS_LATER, "EIMF (offline)", "cold items", "EIMF's values there are chance: {:.4f} on Toys"),
        ("time", BEAUTY_LATER, "EIMF (offline)", "cold items", "(0.0000 to 0.0025 by seed), {:.4f} on Beauty"),
        ("time", GAMES_LATER, "EIMF (offline)", "cold items", "0.0099 on Beauty and {:.4f} on Games. EIMF serves"),
        ("time", TOYS_LATER, "REMI", "cold users", "interaction, REMI has {:.4f}, EIMF"),
        ("time", TOYS_LATER, "EIMF (offline)", "cold users", "EIMF {:.4f}, VSKNN 0.0644"),
        ("time", TOYS_LATER, "VSKNN", "cold users", "VSKNN {:.4f} and SASRec 0.0548 on Toys"),
        ("time", TOYS_LATER, "SASRec", "cold users", "and SASRec {:.4f} on Toys"),
        ("time", BEAUTY_LATER, "EIMF (offline)", "cold users", "On Beauty EIMF has {:.4f}, VSKNN"),
        ("time", BEAUTY_LATER, "VSKNN", "cold users", "VSKNN {:.4f} and SASRec 0.0207"),
        ("time", BEAUTY_LATER, "SASRec", "cold users", "and SASRec {:.4f}. On Games"),
        ("time", GAMES_LATER, "VSKNN", "cold users", "On Games VSKNN has {:.4f}, SASRec"),
        ("time", GAMES_LATER, "SASRec", "cold users", "SASRec {:.4f} and EIMF 0.0441"),
        ("time", GAMES_LATER, "EIMF (offline)", "cold users", "and EIMF {:.4f}. These are means of a group"),
    ],
)
def test_values_of_groups(name: str, where: Place, row: str, group: str, words: str) -> None:
    table = compared(where)
    value = np.mean([per_case(subgroup(ranks, group), table.primary).mean() for ranks in table.row(row).ranks])
    assert words.format(value) in page(name)


@pytest.mark.parametrize(
    ("name", "where", "rows", "words"), VALUES, ids=[f"{name}: {words}" for name, _, _, words in VALUES]
)
def test_values_of_rows(name: str, where: Place, rows: Sequence[str], words: str) -> None:
    table = compared(where)
    found = [table.row(row) for row in rows]
    means = [f"{row.values[table.primary].mean:.4f}" for row in found]
    hits = {f"h{place}": f"{row.values['hit@10'].mean:.4f}" for place, row in enumerate(found) if "{h" in words}
    assert words.format(*means, **hits) in page(name)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (SESSIONS, "76 % of the targets and 18 % of the other candidates are in no training row"),
        (DRAWN, "the rarer one is the target in 74 % of the pairs"),
    ],
)
def test_rarity_of_the_targets(where: Place, words: str) -> None:
    (note,) = (each for each in compared(where).notes if "the rarer" in each)
    shares = [word for word in words.split() if word.isdigit()]
    assert all(f"{share}%" in note for share in shares)
    assert words in page("sessions")


@pytest.mark.parametrize(
    ("method", "price"),
    [("EIMF", "less than a cent"), ("LDMI", "0.35 US$"), ("LLM-DMsRec", "0.47 US$"), ("ISRF", "1.04 US$")],
)
def test_what_the_answers_would_cost(method: str, price: str) -> None:
    model = method.replace("-", "")
    facts = next(each.features for each in records("answers") if each.model == model and each.semantics == "llm")
    assert facts is not None
    dollars = load_endpoint("gpt-4o-mini").price(facts.tokens_in, facts.tokens_out)
    assert price == ("less than a cent" if dollars < 0.01 else f"{dollars:.2f} US$")
    _, _, paragraph = page("tuned").partition(f"**{method}: ")
    assert f"would cost {price}" in paragraph.partition("Records:")[0]
    tokens = facts.tokens_in + facts.tokens_out
    said = f"{tokens:,} tokens" if tokens < 1e6 else f"{tokens / 1e6:.1f} million tokens"
    assert f"({said}, estimated)" in page("answers")


def test_what_the_interests_of_beautys_users_would_cost() -> None:
    facts = next(each.features for each in records("beauty-users") if each.label == f"EIMF ({CLAUDE})")
    assert facts is not None
    dollars = load_endpoint("gpt-4o-mini").price(facts.tokens_in, facts.tokens_out)
    tokens = facts.tokens_in + facts.tokens_out
    assert f"would cost {dollars:.2f} US$ ({facts.cached} answers, {tokens:,} tokens, estimated)" in page("beauty")
    assert f"and {dollars:.2f} US$ on Beauty" in page("tuned")


def test_the_lead_of_new_items_on_beauty_is_of_few_of_them() -> None:
    (ranks,) = compared(BEAUTY_LATER).row("EIMF (offline)").ranks
    new, hits = ranks.train_count == 0, per_case(ranks, "hit@10") > 0
    assert f"All its {(new & hits).sum()} hits on Beauty are on {len({*ranks.item[new & hits]})} items" in page("time")
    assert f"{per_case(ranks, 'ndcg@10')[new].sum() / len(ranks):.4f} comes from items" in page("time")


def test_candidates_and_the_release() -> None:
    table = compared(("beauty-sessions", "beauty", "session"))
    values = {label: table.row(label).runs[0].metrics for label in ("GCEGNN", "SASRec")}
    hit = {label: found["hit@20"].value for label, found in values.items()}
    assert 0 < 1 - values["GCEGNN"]["mrr@20"].value / 0.0529 < 0.05
    assert math.isclose(hit["GCEGNN"] / 0.1882, 2 / 3, abs_tol=0.02)
    assert math.isclose(hit["SASRec"] / hit["GCEGNN"], 1.5, abs_tol=0.05)
    assert "has an MRR@20 within 5 % of the release's, and a Hit@20 a third lower" in page("candidates")
    assert "the target among the first twenty half as often again" in page("candidates")


@pytest.mark.parametrize(
    ("name", "row", "row_by_hash"),
    [
        ("SASRec, every position", FULL_SOFTMAX, "SASRec"),
        ("MarkovChain", "MarkovChain", "MarkovChain"),
        ("VSKNN", "VSKNN", "VSKNN"),
        ("EASE", "EASE", "EASE"),
        ("ItemKNN", "ItemKNN", "ItemKNN"),
    ],
)
def test_the_order_within_a_day(name: str, row: str, row_by_hash: str) -> None:
    found = [compared(PUBLISHED).row(row), compared(BEAUTY_TIMES).row(row_by_hash)]
    published, by_hash = (each.values["ndcg@10"].mean for each in found)
    assert f"| {name} | {published:.4f} | {by_hash:.4f} |" in page("beauty")


def test_trials_of_gsasrec() -> None:
    (path,) = (ROOT / "results/flagship-short/studies").glob("gSASRec-*.jsonl")
    _, *trials = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    *others, best = sorted(trial["value"] for trial in trials)
    table = compared(FLAGSHIP)
    reached = sorted(run.valid_metrics[table.primary] for run in table.row("gSASRec").runs)
    assert (
        f"All trials but one reached at most {others[-1]:.3f} on validation. That one had {best:.3f}, and its "
        f"settings went on to {reached[0]:.2f} to {reached[-1]:.2f}." in page("tuned")
    )
