"""Each comparison on docs/findings/seeds.md agrees with the kept records."""

from __future__ import annotations

import csv
import io
from functools import cache
from pathlib import Path

import pytest

import recbole_llm
from tests.test_tables_of_docs import tables

ROOT = Path(__file__).parents[1]
RECORDS = {
    "ml-100k, one budget": ("one-budget", "ml-100k", "loo"),
    "ml-100k, session graphs": ("session-graph", "ml-100k", "loo"),
    "ml-100k, backbones": ("backbones", "ml-100k", "loo"),
    "ml-100k, candidate folds": ("candidate-folds", "ml-100k", "loo"),
    "ml-100k, 20 trials": ("tuned", "ml-100k", "loo"),
    "ml-100k, interests": ("multi-interest", "ml-100k", "loo"),
    "ml-100k, users split": ("multi-interest", "ml-100k", "user_split"),
    "ml-100k, language inside": ("language-inside", "ml-100k", "loo"),
    "Beauty, users split": ("multi-interest", "beauty", "user_split"),
    "Beauty, leave-one-out": ("multi-interest", "beauty", "loo"),
    "Beauty, sessions": ("beauty-sessions", "beauty", "session"),
    "bundle, PO4ISR's candidates": ("language-inside", "bundle", "po4isr"),
    "bundle, by time": ("language-inside", "bundle", "temporal_20"),
}
SHORT = {"GPT-2 2x64": "scratch GPT-2 2x64", "Qwen2.5-Coder-1.5B": "qwen2.5-coder-1.5b-instruct-q4_k_m"}


@cache
def compared(folder: str, dataset: str, protocol: str, baseline: str) -> dict[str, dict[str, str]]:
    """Rows keyed by label, with their differences to ``baseline`` in the first metric."""
    text = recbole_llm.table(
        results_dir=str(ROOT / "results" / folder), dataset=dataset, protocol=protocol, baseline=baseline, format="csv"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    return {row["label"]: row for row in rows if row["difference"]}


def comparisons() -> list[tuple[str, ...]]:
    """Folder, dataset, protocol, both names, difference and p of each line of the page's table."""
    _, *lines = tables((ROOT / "docs/findings/seeds.md").read_text(encoding="utf-8"))[0]
    found: list[tuple[str, ...]] = []
    for place, names, _, difference, _, p in lines:
        where = RECORDS.get(place) or (found[-1][0], "ml-100k", "direct_100")  # "the same, 1 + 99 candidates"
        for short, name in SHORT.items():
            names = names.replace(short, name)
        found.append((*where, *names.split(" − "), difference, p))
    return found


@pytest.mark.parametrize("line", comparisons(), ids=lambda line: " ".join(line[1:5]))
def test_a_comparison_is_that_of_the_records(line: tuple[str, ...]) -> None:
    *where, name, other, difference, p = line
    row = compared(*where, other)[name]
    value = float(row["p_adjusted"])
    assert f"{float(row['difference']):+.4f}" == difference
    assert ("<0.001" if value < 0.001 else f"{value:.3f}") == p.split()[0]
