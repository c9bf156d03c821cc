"""What the report shows of one table, as plain values for the template and the charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.names import RANK_METRICS, higher_is_better, metric_title
from recbole_llm.evaluation.significance import Comparison
from recbole_llm.evaluation.subgroups import subgroup_means
from recbole_llm.experiments.record import loss_of
from recbole_llm.reporting.costs import cost_table, memory_mib, price, seconds, tokens
from recbole_llm.reporting.grouping import answered
from recbole_llm.reporting.memory import memory_table
from recbole_llm.reporting.results_table import ResultsTable, Row, rank_of
from recbole_llm.reporting.runs import runs_content
from recbole_llm.reporting.tables import GROUP_NOTE, group_titles, mark, notes, p_text, seeds_text
from recbole_llm.utils.text import percent

CUT_OFFS = (1, 2, 3, 5, 10, 15, 20, 30, 50, 75, 100)


def table_content(table: ResultsTable, name: str) -> dict[str, Any]:
    """Everything about one table.

    Args:
        table: its numbers.
        name: identifier in the page.
    """
    rows = table.rows
    others = [metric for metric in table.metrics if metric != table.primary]
    return {
        "id": name,
        "title": table.caption,
        "facts": _facts(table),
        "identity": table.identity_columns,
        "primary": metric_title(table.primary),
        "reference": table.reference,
        "cut_offs": sorted({int(cut) for cut in (m.partition("@")[2] for m in table.metrics) if cut}),
        "primary_cut": table.primary.partition("@")[2],
        "others": [{"title": metric_title(metric), "cut": metric.partition("@")[2]} for metric in others],
        "kinds": len({row.kind for row in rows}) > 1,
        "asked": any(answered(run) for row in rows for run in row.runs),
        "priced": any(price(row) for row in rows if row.runs),
        "rows": [_row(table, row, others) for row in rows],
        "compared": bool(table.against),
        "pairs": len(table.comparisons),
        "notes": notes(table),
        "group_note": GROUP_NOTE,
        "extras": [("What the LLM knew", memory_table(table)), ("Costs", cost_table(table))],
        "data": {
            "primary": metric_title(table.primary),
            "best": "high" if higher_is_better(table.primary) else "low",
            "reference": table.reference,
            "labels": [row.label for row in rows if row.runs],
            "gains": _gains(table, rows),
            "cuts": _cuts(table, rows),
            "groups": _groups(table, rows),
            "training": _training(rows, table.primary),
            "price": _prices(table, rows),
            "pairs": _pairs(table),
            "runs": runs_content(rows),
        },
    }


def _facts(table: ResultsTable) -> list[tuple[str, str]]:
    """Statistics and hash of the table's data."""
    data = next((run.data for row in table.rows for run in row.runs if run.data), None)
    if data is None:
        return []
    found = [(key.replace("_", " "), f"{value:,.6g}") for key, value in data.statistics.items()]
    found += [("training interactions", f"{data.train_interactions:,}"), ("validation cases", f"{data.valid_cases:,}")]
    return [*found, ("sha256", data.sha256[:16])]


def _row(table: ResultsTable, row: Row, others: Sequence[str]) -> dict[str, Any]:
    found = table.against.get(row.label)
    share = min((share for run in row.runs for share in answered(run).values()), default=None)
    identity = [row.identity(column) for column in table.identity_columns]
    return {
        "label": row.label,
        "identity": identity,
        "about": ", ".join(filter(None, identity[1:])),
        "kind": row.kind,
        "seeds": seeds_text(run.seed for run in row.runs),
        "failed": seeds_text(run.seed for run in row.failed),
        "main": _cell(table, row, table.primary),
        "cells": [_cell(table, row, metric) for metric in others],
        "test": None if found is None else _test(table, found),
        "answered": None if share is None else {"share": share, "text": percent(share)},
        "price": price(row) if row.runs and share is not None else None,
    }


def _cell(table: ResultsTable, row: Row, metric: str) -> dict[str, Any]:
    value = row.values.get(metric)
    if value is None:
        return {"value": None, "rank": ""}
    best, second = table.best_and_second(metric)
    numbers = {"value": value.mean, "sd": value.deviation, "low": value.low, "high": value.high}
    return {**numbers, "rank": rank_of(row.label, best, second)}


def _test(table: ResultsTable, found: Comparison) -> dict[str, Any]:
    shown = {f"{key}_text": p_text(getattr(found, key)) for key in ("p_adjusted", "p_wilcoxon")}
    # JSON has no nan (a p that was not asked for) and no infinity (the interval of a single user).
    numbers = {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(found).items()}
    return {**numbers, **shown, "verdict": table.verdict(found), "mark": mark(table, found)}


def _pairs(table: ResultsTable) -> dict[str, Any]:
    """Tests of all pairs, as lists to keep the page small: there may be a thousand pairs."""
    labels = list(dict.fromkeys(label for found in table.comparisons for label in (found.first, found.second)))
    number = {label: place for place, label in enumerate(labels)}
    return {
        "labels": labels,
        "users": table.comparisons[0].users if table.comparisons else 0,
        "rows": [
            [
                *(number[found.first], number[found.second]),
                *(short(v, 4) for v in (found.difference, found.low, found.high, found.effect)),
                *(found.greater, found.less),
                *(short(v, 4) for v in (found.p, found.p_adjusted, found.p_wilcoxon)),
                *(mark(table, found), table.verdict(found)),
            ]
            for found in table.comparisons
        ],
    }


def short(value: float | None, digits: int) -> float | None:
    """A number rounded to so many digits, to keep the page small; ``None`` for nan and infinity, which JSON lacks."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.{digits}g}")


def _gains(table: ResultsTable, rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Differences to the reference row, with the reference's value as the base of percentages."""
    base = table.row(table.reference).values[table.primary].mean if table.reference and table.against else 0.0
    found = [(row, table.against.get(row.label)) for row in rows]
    kept = ("difference", "low", "high", "p_adjusted_text", "verdict", "mark", "one_training")
    tests = [(row.label, _test(table, test)) for row, test in found if test is not None]
    return [{"label": label, "base": base, **{key: test[key] for key in kept}} for label, test in tests]


def _cuts(table: ResultsTable, rows: Iterable[Row]) -> dict[str, Any]:
    """Each metric at many cut-offs, from the ranks; ``None`` where the ranks of a row do not reach."""
    names = list(dict.fromkeys(m.partition("@")[0] for m in (table.primary, *table.metrics)))
    names = [name for name in names if name in RANK_METRICS]
    ranked = [row for row in rows if row.ranks]
    most = min((int(row.ranks[0].pool.min()) for row in ranked if len(row.ranks[0].pool)), default=CUT_OFFS[-1])
    cuts = [k for k in CUT_OFFS if k <= most]
    lines = {
        name: {
            row.label: [
                short(np.mean([per_case(r, f"{name}@{k}").mean() for r in row.ranks]), 5)
                if all(r.reach(k) for r in row.ranks)
                else None
                for k in cuts
            ]
            for row in ranked
        }
        for name in names
    }
    return {"k": cuts, "names": [(name, metric_title(name)) for name in names], "lines": lines}


def _groups(table: ResultsTable, rows: Iterable[Row]) -> dict[str, Any]:
    """The primary metric of the subgroups that have cases."""
    means = {row.label: subgroup_means(row.ranks, table.primary) for row in rows if row.ranks}
    titles = group_titles(means.values())
    values = {label: [short(found[name][1], 5) for name in titles] for label, found in means.items()}
    return {"names": [*titles.values()], "values": values}


def _training(rows: Iterable[Row], metric: str) -> list[dict[str, Any]]:
    """Loss and one validation metric of each epoch of each run."""
    found = []
    for row in rows:
        for run in row.runs:
            if len(run.curve) < 2:
                continue
            found.append(
                {
                    "label": row.label,
                    "seed": run.seed,
                    "best": run.best_epoch,
                    "epoch": [point.get("epoch", n) for n, point in enumerate(run.curve, start=1)],
                    "loss": [short(loss_of(point), 4) for point in run.curve],
                    "valid": [short(point.get("valid", {}).get(metric), 4) for point in run.curve],
                }
            )
    return found


def _prices(table: ResultsTable, rows: Iterable[Row]) -> dict[str, Any]:
    """Accuracy, and the costs that it can be plotted against; ``None`` where a cost is not known."""
    points: list[dict[str, Any]] = []
    for row in rows:
        value = row.values.get(table.primary)
        if value is None:
            continue
        costs: dict[str, float | None] = {
            "seconds, all": float(np.mean([run.seconds.get("total", 0.0) for run in row.runs])),
            "seconds, training": seconds(row, "train"),
            "seconds, test": seconds(row, "evaluate"),
            "US$ for answers": price(row),
            "tokens": tokens(row),
            "memory, MiB": memory_mib(row),
            "parameters": row.runs[0].parameters or 0,
        }
        costs = {name: short(spent, 4) for name, spent in costs.items()}
        points.append({"label": row.label, "y": value.mean, "low": value.low, "high": value.high, "costs": costs})
    used = [name for name in (points[0]["costs"] if points else ()) if any(p["costs"][name] for p in points)]
    return {"points": points, "axes": used}
