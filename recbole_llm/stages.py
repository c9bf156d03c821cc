"""The commands of a suite: checked before the first one runs, run one after the other, or priced.

``verbs`` are the functions of the API by name; an option that a command does not give has its default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.execution.choice import check_executor
from recbole_llm.experiments.grid import expand
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.suite import RUNNING, Stage
from recbole_llm.reporting.choice import table_columns, twin_protocols

Verbs = Mapping[str, Callable[..., Any]]
GRID = ("model", "dataset", "protocol", "semantics", "results_dir")
SEARCH = ("trials", "trial_epochs", "trial_minutes", "pruner", "objectives", "space")


@dataclass(frozen=True)
class StageResult:
    """One command of a suite.

    Attributes:
        stage: the command.
        place: its number among all of them, as 1/5.
        value: what its function gave; ``None`` before it ran and where it failed.
        error: why it failed.
    """

    stage: Stage
    place: str
    value: Any = None
    error: Exception | None = None


def run_stages(stages: Sequence[Stage], verbs: Verbs, dry_run: bool, quiet: bool) -> Iterator[StageResult]:
    """Each command twice: before it runs, without a value, and with its result; in a dry run once."""
    for number, stage in enumerate(stages, start=1):
        place = f"{number}/{len(stages)}"
        yield StageResult(stage, place)
        if dry_run:
            continue
        shown = {"quiet": quiet} if stage.verb in RUNNING else {}
        try:
            yield StageResult(stage, place, verbs[stage.verb](**{**shown, **stage.keys}))
        except Exception as error:  # the caller says what it was; the other commands go on
            yield StageResult(stage, place, error=error)


def check_stages(stages: Sequence[Stage], verbs: Verbs) -> None:
    """Raise the ``UserError`` of a mistake in a command that is still to come: an option, a name, a key, a value."""
    for stage in stages:
        options, settings = _split(stage, verbs)
        if stage.verb in RUNNING:
            runs = _runs(options, settings, options.get("seeds"))
            check_executor(*(options.get(name) for name in ("executor", "workers", "ray_address", "gpus")))
            if stage.verb == "tune":
                from recbole_llm.tuning.space import searched  # Optuna, which no other command needs

                searched(runs, **{name: options[name] for name in SEARCH})
            continue
        for key in settings:
            raise UserError(f"{stage.verb} has no option {key!r}.{did_you_mean(key, options)}")
        if stage.verb == "table":
            others = {key: options[key] for key in ("protocol", "baseline", "margin", "check_reference")}
            groups = options["groups"] and not twin_protocols(options["twin"], **others)
            table_columns(options["metrics"], options["topk"], groups, options["check_reference"], options["format"])


def trained_by(stages: Sequence[Stage], verbs: Verbs) -> list[tuple[list[Run], Any, dict[str, Any] | None]]:
    """Runs, seeds and search (see :func:`~recbole_llm.tuning.work.work_of`) of the commands that train anything."""
    found = []
    for stage in stages:
        if stage.verb in ("run", "tune"):
            options, settings = _split(stage, verbs)
            search = {name: options[name] for name in SEARCH} if stage.verb == "tune" else None
            found.append((_runs(options, settings, None if search else options["seeds"]), options["seeds"], search))
    return found


def _split(stage: Stage, verbs: Verbs) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a command's verb, and what else the command gives: settings."""
    parameters = inspect.signature(verbs[stage.verb]).parameters.values()
    options = {p.name: stage.keys.get(p.name, p.default) for p in parameters if p.kind is not p.VAR_KEYWORD}
    return options, {key: value for key, value in stage.keys.items() if key not in options}


def _runs(options: Mapping[str, Any], settings: dict[str, Any], seeds: Any) -> list[Run]:
    model, dataset, protocol, semantics, folder = (options.get(name) for name in GRID)
    return expand(model, dataset, protocol, seeds, semantics, options["config_file"], settings, folder)
