"""What the report shows of one table, as plain values for the template and the charts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.names import RANK_METRICS, higher_is_better, metric_title
from recbole_llm.evaluation.significance import Comparison
from recbole_llm.evaluation.subgroups import SUBGROUPS, subgroup_means
from recbole_llm.experiments.record import Record
from recbole_llm.reporting.costs import cost_table, memory_mib, price, seconds, tokens
from recbole_llm.reporting.results_table import ResultsTable, Row
from recbole_llm.reporting.tables import mark, notes, p_text, reason, seeds_text
from recbole_llm.utils.text import visible

CUT_OFFS = (1, 2, 3, 5, 10, 15, 20, 30, 50, 75, 100)


def table_content(table: ResultsTable, name: str) -> dict[str, Any]:
    """Everything about one table.

    Args:
        table: its numbers.
        name: identifier in the page.
    """
    rows = table.rows
    return {
        "id": name,
        "title": table.caption,
        "facts": _facts(table),
        "identity": table.identity_columns,
        "primary": metric_title(table.primary),
        "primary_cut": table.primary.partition("@")[2],
        "reference": table.reference,
        "cut_offs": sorted({int(cut) for cut in (m.partition("@")[2] for m in table.metrics) if cut}),
        "columns": [{"title": metric_title(m), "cut": m.partition("@")[2]} for m in table.metrics],
        "rows": [_row(table, row) for row in rows],
        "compared": table.reference is not None and bool(table.comparisons),
        "pairs": [_pair(table, found) for found in table.comparisons],
        "notes": notes(table),
        "costs": cost_table(table),
        "runs": [_run(row, run) for row in rows for run in (*row.runs, *row.failed)],
        "charts": {
            "primary": metric_title(table.primary),
            "reference": table.reference,
            "rows": [row.label for row in rows if row.runs],
            "gains": _gains(table, rows),
            "cuts": _cuts(table, rows),
            "groups": _groups(table, rows),
            "training": _training(rows),
            "price": _prices(table, rows),
        },
    }


def _facts(table: ResultsTable) -> list[tuple[str, str]]:
    """The data that a table is about."""
    data = next((run.data for row in table.rows for run in row.runs if run.data), None)
    if data is None:
        return []
    found = [(key.replace("_", " "), f"{value:,.6g}") for key, value in data.statistics.items()]
    found += [("training interactions", f"{data.train_interactions:,}"), ("validation cases", f"{data.valid_cases:,}")]
    return [*found, ("sha256", data.sha256[:16])]


def _row(table: ResultsTable, row: Row) -> dict[str, Any]:
    found = table.against_reference(row.label)
    ranked = {metric: table.best_and_second(metric) for metric in table.metrics}
    cells = []
    for metric in table.metrics:
        value = row.values.get(metric)
        best, second = ranked[metric]
        cells.append(
            {
                "value": None if value is None else value.mean,
                "sd": None if value is None else value.deviation,
                "low": None if value is None else value.low,
                "high": None if value is None else value.high,
                "rank": "best" if row.label in best else "second" if row.label in second else "",
            }
        )
    return {
        "label": row.label,
        "identity": [row.identity(column) for column in table.identity_columns],
        "improving": row.still_improving,
        "kind": row.kind,
        "seeds": seeds_text(run.seed for run in row.runs),
        "failed": seeds_text(run.seed for run in row.failed),
        "reason": reason(row) if row.failed else "",
        "cells": cells,
        "test": None if found is None else _pair(table, found),
    }


def _pair(table: ResultsTable, found: Comparison) -> dict[str, Any]:
    shown = {f"{key}_text": p_text(getattr(found, key)) for key in ("p", "p_adjusted", "p_wilcoxon")}
    # JSON has no nan (a p that was not asked for) and no infinity (the interval of a single user).
    numbers = {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(found).items()}
    return {**numbers, **shown, "verdict": table.verdict(found), "mark": mark(table, found)}


def _gains(table: ResultsTable, rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Differences to the reference row, with its value for percentages."""
    found = [(row, table.against_reference(row.label)) for row in rows]
    base = table.row(table.reference).values[table.primary].mean if table.reference else 0.0
    return [{**_pair(table, test), "label": row.label, "base": base} for row, test in found if test is not None]


def _cuts(table: ResultsTable, rows: Iterable[Row]) -> dict[str, Any]:
    """Each metric at many cut-offs, from the ranks."""
    names = list(dict.fromkeys(m.partition("@")[0] for m in (table.primary, *table.metrics)))
    names = [name for name in names if name in RANK_METRICS]
    ranked = [row for row in rows if row.ranks]
    most = min((int(row.ranks[0].pool.min()) for row in ranked if len(row.ranks[0].pool)), default=CUT_OFFS[-1])
    cuts = [k for k in CUT_OFFS if k <= most]
    lines = {
        name: {
            row.label: [float(np.mean([per_case(r, f"{name}@{k}").mean() for r in row.ranks])) for k in cuts]
            for row in ranked
        }
        for name in names
    }
    return {"k": cuts, "names": [(name, metric_title(name)) for name in names], "lines": lines}


def _groups(table: ResultsTable, rows: Iterable[Row]) -> dict[str, Any]:
    """The primary metric of the subgroups that have cases."""
    means = {row.label: subgroup_means(row.ranks, table.primary) for row in rows if row.ranks}
    sizes = {name: max((found[name][0] for found in means.values()), default=0) for name in SUBGROUPS}
    shown = [name for name in SUBGROUPS if sizes[name]]
    values = {label: [None if np.isnan(found[n][1]) else found[n][1] for n in shown] for label, found in means.items()}
    return {"names": [f"{name} ({sizes[name]:,})" for name in shown], "values": values}


def _training(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Loss and validation metric of each epoch of each run."""
    found = []
    for row in rows:
        for run in row.runs:
            if len(run.curve) < 2:
                continue
            name = run.valid_metric or next((m for point in run.curve for m in point.get("valid", {})), "")
            found.append(
                {
                    "label": row.label,
                    "seed": run.seed,
                    "best": run.best_epoch,
                    "epoch": [point.get("epoch", n) for n, point in enumerate(run.curve, start=1)],
                    "loss": [_total(point.get("loss")) for point in run.curve],
                    "valid": [point.get("valid", {}).get(name) for point in run.curve],
                }
            )
    return found


def _total(loss: Any) -> float | None:
    if isinstance(loss, (list, tuple)):
        return float(sum(loss))
    return None if loss is None else float(loss)


def _prices(table: ResultsTable, rows: Iterable[Row]) -> dict[str, Any]:
    """Accuracy and the costs that it may be held against."""
    points: list[dict[str, Any]] = []
    for row in rows:
        value = row.values.get(table.primary)
        if value is None:
            continue
        costs = {
            "seconds, all": float(np.mean([run.seconds.get("total", 0.0) for run in row.runs])),
            "seconds, training": seconds(row, "train"),
            "seconds, test": seconds(row, "evaluate"),
            "US$ for answers": price(row),
            "tokens": tokens(row),
            "memory, MiB": memory_mib(row),
            "parameters": row.runs[0].parameters or 0,
        }
        points.append({"label": row.label, "y": value.mean, "low": value.low, "high": value.high, "costs": costs})
    used = [name for name in (points[0]["costs"] if points else ()) if any(p["costs"][name] for p in points)]
    return {"points": points, "axes": used, "higher_is_better": higher_is_better(table.primary)}


def _run(row: Row, run: Record) -> dict[str, Any]:
    """One run's settings and circumstances."""
    facts: dict[str, Any] = {
        "key": run.key, "created": run.created, "engine": run.engine, "commit": run.commit,
        "best epoch": f"{run.best_epoch} of {run.epochs}" if run.best_epoch else run.epochs,
        "accelerations": ", ".join(run.accelerations), "notes": "; ".join(run.notes), "stage one": run.stage_one,
        "epochs chosen by": run.chosen_by,
        **{f"{name} s": value for name, value in run.seconds.items()},
        **{f"hardware: {name}": value for name, value in run.hardware.items()},
        **{f"version: {name}": value for name, value in run.versions.items()},
        **({f"features: {k}": v for k, v in run.features.model_dump().items()} if run.features else {}),
    }  # fmt: skip
    origin = run.origin
    settings = sorted(run.settings.items(), key=lambda item: (item[0] not in origin, item[0].lower()))
    return {
        "title": f"{row.label}, seed {run.seed}",
        "error": visible(run.error or "no reason was recorded") if run.status == "failed" else None,
        "facts": [(name, _text(value)) for name, value in facts.items() if value not in (None, "", {}, [])],
        "settings": [(key, _text(value), origin.get(key, "RecBole")) for key, value in settings],
    }


def _text(value: Any) -> str:
    return visible(value if isinstance(value, str) else json.dumps(value, default=str))
