"""What the report shows of single runs: settings and circumstances, each given once for all runs that share it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from recbole_llm.experiments.record import Record
from recbole_llm.reporting.results_table import Row

Facts = dict[str, str]
PARTS = ("facts", "settings")


def runs_content(rows: Sequence[Row]) -> dict[str, Any]:
    """What all runs of a table share, what the runs of a row share, and what a run has of its own.

    A record has some 120 settings, most of them equal in all of a table's runs.
    """
    described = [[_described(run) for run in (*row.runs, *row.failed)] for row in rows]
    everything = [one for runs in described for one in runs]
    common = {part: _common([one[part] for one in everything]) for part in PARTS}
    shown = []
    for row, runs in zip(rows, described, strict=True):
        shared = {part: _common([one[part] for one in runs]) for part in PARTS}
        own = [
            {**one, **{part: _without(one[part], shared[part]) for part in PARTS}}
            for one in runs
        ]  # fmt: skip
        shown.append(
            {"label": row.label, **{part: _without(shared[part], common[part]) for part in PARTS}, "runs": own}
        )
    sources: dict[str, str] = {}
    for row in rows:
        for run in (*row.runs, *row.failed):
            sources |= run.origin
    return {"common": common, "rows": shown, "origins": sources}


def _common(parts: Sequence[Facts]) -> Facts:
    """The facts that all of some runs have."""
    first, *others = parts or [{}]
    return {name: value for name, value in first.items() if all(one.get(name) == value for one in others)}


def _without(facts: Facts, shared: Facts) -> Facts:
    return {name: value for name, value in facts.items() if name not in shared}


def _described(run: Record) -> dict[str, Any]:
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
    return {
        "seed": run.seed,
        "error": run.error or "no reason was recorded" if run.status == "failed" else None,
        "facts": {name: _text(value) for name, value in facts.items() if value not in (None, "", {}, [])},
        "settings": {key: _text(value) for key, value in run.settings.items()},
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
