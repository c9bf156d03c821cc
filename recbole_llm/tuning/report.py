"""One static page on searches: history, importances, parallel coordinates. It opens without a server."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from recbole_llm.evaluation.names import metric_title
from recbole_llm.pages.render import render_page, write_page
from recbole_llm.tuning.history import accuracy, cost
from recbole_llm.tuning.study import Study
from recbole_llm.utils.text import counted, four_digits


def write_search_report(studies: Sequence[Study], path: Path) -> Path:
    """Write the page.

    Args:
        studies: what to show.
        path: of the page.
    """
    contents = [_study_content(study, f"s{number}") for number, study in enumerate(studies, start=1)]
    write_page(path, render_page("recbole_llm.tuning", "search.html.j2", studies=contents))
    return path


def _study_content(study: Study, name: str) -> dict[str, Any]:
    """Everything about one search."""
    best, budget = study.best(), study.budget
    limits = [counted(study.trials, "trial"), f"pruner {budget.pruner}"]
    if budget.epochs:
        limits.append(f"{counted(budget.epochs, 'epoch')} a trial")
    if budget.minutes:
        limits.append(f"{budget.minutes:g} minutes a trial")
    metric = metric_title(str(study.run.settings["valid_metric"]))
    return {
        "id": name,
        "title": study.run.title(),
        "name": study.name,
        "limits": ", ".join(limits),
        "metric": metric,
        "best": f"{accuracy(best):.4f}",
        "number": best.number,
        "settings": [
            (key, four_digits(value), four_digits(study.run.settings.get(key)))
            for key, value in study.settings(best).items()
        ],
        "data": {"metric": metric, **_charts(study)},
    }


def _charts(study: Study) -> dict[str, Any]:
    """The charts' data about the trials that count; parts for which there are too few different trials are empty."""
    ended = study.ended()
    done = study.complete()
    varied = len({tuple(trial.params.values()) for trial in done}) > 1 and len({accuracy(trial) for trial in done}) > 1
    return {
        "history": [
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "value": _reached(trial),
                "seconds": cost(trial),
                "params": _shown(trial),
            }
            for trial in ended
        ],
        "importances": _importances(study) if varied else [],
        "parallel": _parallel(done) if varied else None,
    }


def _reached(trial: FrozenTrial) -> float | None:
    """The value of a trial that ended; without one, its last validation score."""
    value = accuracy(trial)
    if value is None and trial.intermediate_values:
        value = trial.intermediate_values[max(trial.intermediate_values)]
    return None if value is None or not math.isfinite(value) else value


def _shown(trial: FrozenTrial) -> str:
    return "\n".join(f"{name}: {four_digits(value)}" for name, value in trial.params.items())


def _importances(study: Study) -> list[tuple[str, float]]:
    """Share of the validation scores' variance that each setting explains (Optuna's default, fANOVA)."""
    shown = optuna.create_study(directions=["maximize", "minimize"] if study.budget.several else ["maximize"])
    shown.add_trials(study.ended())
    found: Mapping[str, float] = optuna.importance.get_param_importances(shown, target=accuracy)
    return [(name, float(share)) for name, share in found.items()]


def _parallel(trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """Axes, one per setting, and lines, one per trial, with the trial's value."""
    distributions: dict[str, BaseDistribution] = {}
    for trial in trials:
        distributions |= trial.distributions
    choices = {
        name: list(map(str, distribution.choices))
        for name, distribution in distributions.items()
        if isinstance(distribution, CategoricalDistribution)
    }
    axes = [
        {"title": name, "log": bool(getattr(distribution, "log", False)), "names": choices.get(name)}
        for name, distribution in distributions.items()
    ]
    lines = [
        {
            "number": trial.number,
            "value": accuracy(trial),
            "values": [
                None if name not in trial.params
                else choices[name].index(str(trial.params[name])) if name in choices
                else trial.params[name]
                for name in distributions
            ],
        }
        for trial in trials
    ]  # fmt: skip
    return {"axes": axes, "lines": lines}
