"""One static page on searches: history, importances, parallel coordinates. It opens without a server."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import plotly.io

from recbole_llm.tuning.history import accuracy
from recbole_llm.tuning.study import Study
from recbole_llm.utils.files import whole_file

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Searches</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ccc}}</style>
</head><body><h1>Searches</h1>
<p>Every model had the same budget; trials were chosen by validation alone.</p>
{sections}
</body></html>
"""


def write_search_report(studies: Sequence[Study], path: Path) -> Path:
    """Write the page.

    Args:
        studies: what to show.
        path: the page to be.
    """
    script: bool | str = True  # plotly's code stands in the page once
    sections = []
    for study in studies:
        parts = [f"<h2>{html.escape(study.name)}</h2>", _facts(study)]
        for title, figure in _figures(study):
            parts.append(f"<h3>{title}</h3>")
            parts.append(
                plotly.io.to_html(figure, include_plotlyjs=script, full_html=False)
                if figure is not None
                else "<p>Too few different trials to say.</p>"
            )
            script = script and figure is None
        sections.append("\n".join(parts))
    with whole_file(path, "w") as stream:
        stream.write(PAGE.format(sections="\n".join(sections)))
    return path


def _facts(study: Study) -> str:
    best, budget = study.best(), study.budget
    limits = [f"{study.trials} trials", f"pruner {budget.pruner}"]
    if budget.epochs:
        limits.append(f"{budget.epochs} epochs a trial")
    if budget.minutes:
        limits.append(f"{budget.minutes:g} minutes a trial")
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td>"
        f"<td>{html.escape(str(study.run.settings.get(name)))}</td></tr>"
        for name, value in study.settings(best).items()
    )
    metric = html.escape(str(study.run.settings["valid_metric"]))
    return (
        f"<p>{', '.join(limits)}. Best validation {metric}: {accuracy(best):.4f}, trial {best.number}.</p>"
        f"<table><tr><th>setting</th><th>best</th><th>default</th></tr>{rows}</table>"
    )


def _figures(study: Study) -> list[tuple[str, Any]]:
    """Optuna's figures over the trials that count; ``None`` where there is too little to draw."""
    several, done = study.budget.several, study.complete()
    shown = optuna.create_study(directions=["maximize", "minimize"] if several else ["maximize"], study_name=study.name)
    shown.add_trials(study.ended())
    varied = len({tuple(trial.params.values()) for trial in done}) > 1 and len({accuracy(trial) for trial in done}) > 1
    draw = optuna.visualization
    # Optuna wants to be told which of several objectives is drawn.
    of: dict[str, Any] = {"target": accuracy, "target_name": study.run.settings["valid_metric"]} if several else {}
    front = draw.plot_pareto_front(shown, target_names=list(study.budget.objectives)) if several else None
    return [
        ("Optimisation history", draw.plot_optimization_history(shown, **of)),
        *([("Accuracy and seconds", front)] if several else []),
        ("Importance of settings", draw.plot_param_importances(shown, **of) if varied else None),
        ("Settings and scores", draw.plot_parallel_coordinate(shown, **of) if varied else None),
    ]
