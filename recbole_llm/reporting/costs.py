"""What a row cost: seconds of each phase, memory, parameters, requests, tokens, price."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from recbole_llm.experiments.record import Record, SemanticFacts
from recbole_llm.reporting.rendered import RenderedTable, TableCell
from recbole_llm.reporting.results_table import ResultsTable, Row
from recbole_llm.utils.text import counted, price_text

PHASES = ("data", "pretrain", "stage_one", "features", "llm", "encode", "train", "validate", "evaluate")


def seconds(row: Row, phase: str) -> float:
    """Mean seconds of a phase over the runs that spent any.

    Runs that reuse features or a trained prerequisite spend none on them; only the run that made them did.
    """
    spent = [run.seconds.get(phase, 0.0) for run in row.runs]
    return float(np.mean([value for value in spent if value > 0] or [0.0]))


def hardware_of(run: Record) -> str:
    """What a run was computed on: the GPU, or else the processor and the number of threads."""
    facts = run.hardware
    threads = facts.get("threads")
    ending = f", {counted(threads, 'thread')}" if isinstance(threads, int) else ""
    return str(facts.get("gpu") or f"{facts.get('cpu', 'unknown')}{ending}")


def hardware_notes(rows: Sequence[Row]) -> list[str]:
    """A note on what the rows ran on, if it was not the same for all: their seconds do not compare."""
    found: dict[str, list[str]] = {}
    for row in rows:
        names = sorted({hardware_of(run) for run in row.runs})
        for name in names:
            found.setdefault(name, []).append(row.label if len(names) == 1 else f"{row.label} in part")
    if len(found) < 2:
        return []
    *few, most = sorted(found, key=lambda name: len(found[name]))
    parts = [f"{', '.join(found[name])} on {name}" for name in few]
    return [f"seconds on different hardware do not compare: {'; '.join(parts)}; all other runs on {most}"]


def memory_mib(row: Row) -> float:
    """Peak memory of the device, or of the process where there is none."""
    return max(run.memory_mib.get("device", run.memory_mib.get("host", 0.0)) for run in row.runs)


def _most(row: Row, value: Callable[[SemanticFacts], float]) -> float:
    """The largest value of the runs: seeds share their features, so it is the value of the whole row."""
    return max((value(run.features) for run in row.runs if run.features), default=0)


def price(row: Row) -> float | None:
    """US dollars that the answers behind a row cost; ``None`` if an LLM answered and no price is stated."""
    return price_of(run.features for run in row.runs if run.features)


def price_of(features: Iterable[SemanticFacts]) -> float | None:
    """The same of the features of some runs, which share them."""
    found = [(facts.price, facts.tokens_in + facts.tokens_out) for facts in features]
    dollars = max((spent for spent, _ in found), default=0.0)
    return dollars if dollars or not any(used for _, used in found) else None


def requests(row: Row) -> int:
    """Requests behind a row's features, whichever command sent them."""
    return int(_most(row, lambda facts: facts.requests + facts.cached))


def tokens(row: Row) -> int:
    """Tokens of the requests behind a row's features, and of their answers."""
    return int(_most(row, lambda facts: facts.tokens_in + facts.tokens_out))


def cost_table(table: ResultsTable) -> RenderedTable | None:
    """A table of costs; columns that are empty everywhere are left out. ``None`` where nothing ran."""
    rows = table.finished
    if not rows:
        return None
    columns: list[tuple[str, list[str]]] = [
        (f"{phase} s", [_text(seconds(row, phase), ".1f", 0.05) for row in rows]) for phase in PHASES
    ]
    columns += [
        ("epochs", [_text(float(np.mean([run.epochs or 0 for run in row.runs])), ".0f", 0.5) for row in rows]),
        ("MiB", [_text(memory_mib(row), ",.0f", 0.5) for row in rows]),
        ("parameters", [f"{row.runs[0].parameters:,}" if row.runs[0].parameters else "" for row in rows]),
        ("LLM requests", [_text(requests(row), ",.0f", 1) for row in rows]),
        ("tokens", [_text(tokens(row), ",.0f", 1) for row in rows]),
        ("US$", [price_text(spent) if (spent := price(row)) else "" for row in rows]),
    ]
    kept = [(name, values) for name, values in columns if any(values)]
    identity = table.identity_columns
    lines = [[*row.cells(identity), *(TableCell(values[n]) for _, values in kept)] for n, row in enumerate(rows)]
    return RenderedTable("", [*identity, *(name for name, _ in kept)], lines, hardware_notes(rows), len(identity))


def _text(value: float, form: str, least: float) -> str:
    return f"{value:{form}}" if value >= least else ""
