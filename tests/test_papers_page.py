"""Our numbers on the page about the papers agree with the other findings pages and with the kept measurements."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.claims import PREFIXES, PUBLISHED_RANKED, compared
from tests.test_tables_of_docs import IDENTITY, tables

ROOT = Path(__file__).parents[1]
FINDINGS = ROOT / "docs/findings"
NUMBER = re.compile(r"\b0\.\d{4}\b")
ROWS = {source: (here, why) for source, _, here, why in tables((FINDINGS / "papers.md").read_text(encoding="utf-8"))[0]}


def shown(page: str, table: int, column: str) -> dict[str, str]:
    """A column of a table on a findings page, keyed by the row's identifying cells; values without their spread."""
    head, *rows = tables((FINDINGS / page).read_text(encoding="utf-8"))[table]
    names, place = [head.index(name) for name in IDENTITY if name in head], head.index(column)
    return {
        " ".join(cell for cell in (row[name].removesuffix(" †") for name in names) if cell): row[place].split(" ")[0]
        for row in rows
    }


def numbers(row: str) -> list[str]:
    """Our numbers in the row whose source begins with ``row``."""
    (here,) = (here for source, (here, _) in ROWS.items() if source.startswith(row))
    return NUMBER.findall(here)


def test_eimf_and_ldmi_on_the_split_users_of_beauty() -> None:
    recall = shown("beauty.md", 0, "Recall@20")
    assert numbers("EIMF") == [recall["EIMF offline"], recall["REMI"]]
    ldmi, backbone, remi = numbers("LDMI")
    assert [ldmi, backbone, remi] == [
        recall["LDMI [clusters=llm] offline"],
        recall["ComiRecDR [interest_scale=1.0]"],
        recall["REMI"],
    ]
    here, _ = next(row for source, row in ROWS.items() if source.startswith("LDMI"))
    above, below = float(ldmi) / float(backbone) - 1, 1 - float(ldmi) / float(remi)
    assert f"{above:.0%} above".replace("%", " %") in here
    assert f"{below:.0%} below".replace("%", " %") in here


def test_sasrec_and_popularity_on_beauty_leave_one_out() -> None:
    table = compared(PUBLISHED_RANKED)
    for source, row in (("RecBole's SASRec", PREFIXES), ("S3-Rec's table", "Pop")):
        values = table.row(row).values
        assert numbers(source) == [f"{values[metric].mean:.4f}" for metric in ("hit@10", "ndcg@10")]


def test_popularity_that_counts_the_tested_interactions() -> None:
    _, why = next(row for source, row in ROWS.items() if source.startswith("S3-Rec's table"))
    wanted = []
    for name in ("beauty", "sports", "toys"):
        text = (ROOT / f"benchmarks/results/popularity-{name}-cpu.json").read_text(encoding="utf-8")
        *_, counted = json.loads(text)["results"]
        assert (counted["counted"], counted["history"]) == ("all, the tested ones among them", "not ranked")
        wanted += [f"{counted[metric]:.4f}" for metric in ("hit@10", "ndcg@10")]
    assert NUMBER.findall(why) == wanted


def test_candidates_of_beauty_s_sessions() -> None:
    hit, mrr = (shown("candidates.md", 0, column) for column in ("Hit@20", "MRR@20"))
    rows = ("GCEGNN", "SASRec")
    assert numbers("LLM-DMsRec") == [column[row] for row in rows for column in (hit, mrr)]


def test_duip_on_bundle() -> None:
    hit = shown("sessions.md", 0, "Hit@1")
    rows = "DUIP text scratch GPT-2 2x64", "DUIP [cold_in_softmax=False] text none"
    assert numbers("DUIP") == [hit[row] for row in rows]
