"""The trainings that a command needs, from its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_llm.experiments.estimate import REFIT, TRIAL, TUNED, Work, work_of_grid, work_of_seeds
from recbole_llm.experiments.grid import parse_seeds
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.tuning.budget import Budget
from recbole_llm.tuning.space import Space, searched
from recbole_llm.tuning.study import kept_study, study_name


def work_of(runs: Sequence[Run], runner: Runner, seeds: Any, search: Mapping[str, Any] | None) -> list[Work]:
    """The trainings of a grid, or of a search and its tuned runs.

    Args:
        runs: of the grid; for a search one per study.
        runner: finds what has been made already.
        seeds: of the tuned runs after a search.
        search: arguments of :func:`~recbole_llm.tuning.space.searched`; ``None`` for a grid.
    """
    if search is None:
        return work_of_grid(runs, runner)
    spaces, budget = searched(runs, **search)
    return [
        work for run, space in zip(runs, spaces, strict=True) for work in _of_search(run, space, budget, seeds, runner)
    ]


def _of_search(run: Run, space: Space, budget: Budget, seeds: Any, runner: Runner) -> list[Work]:
    """The trials that a search's history lacks, and the tuned runs without a record."""
    trials = budget.trials if space else 1  # without settings to search there is one configuration
    study = kept_study(run, space, budget, runner.store.folder)
    ended = len(study.ended()) if study else 0
    of_seeds = parse_seeds(seeds, int(run.settings["seed"]))
    searching = run.chooser() or run  # trials are never refits
    name = study_name(run, space, budget)
    of_trials = f"{name}, {trials}"  # more trials may find other settings
    if study and study.complete() and ended == trials:
        tuned = [study.tuned_run(seed) for seed in of_seeds]
        after = work_of_seeds(tuned, TUNED, runner, run, of_trials)
    else:
        after = [Work(searching, TUNED, len(of_seeds), search=of_trials)]
        after += [Work(run, REFIT, len(of_seeds), search=of_trials)] if run.settings["refit"] else []
    limits = budget.epochs, budget.seconds
    return [Work(searching, TRIAL, trials - ended, ended, *limits, search=name), *after]
