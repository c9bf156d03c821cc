"""What a command searches and trains, from its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_llm.experiments.estimate import TRIAL, TUNED, Work, work_of_grid
from recbole_llm.experiments.grid import parse_seeds
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.tuning.space import searched


def work_of(runs: Sequence[Run], runner: Runner, seeds: Any, search: Mapping[str, Any] | None) -> list[Work]:
    """The trainings of a grid, or those of a search and of the runs that follow it.

    Args:
        runs: of the grid; one a study of a search.
        runner: knows what is there already.
        seeds: of the runs that follow a search.
        search: arguments of :func:`~recbole_llm.tuning.space.searched`; ``None`` for a grid.
    """
    if search is None:
        return work_of_grid(runs, runner)
    spaces, budget = searched(runs, **search)
    found = []
    for run, space in zip(runs, spaces, strict=True):
        trials = budget.trials if space else 1  # without settings to search there is one configuration
        tuned = len(parse_seeds(seeds, int(run.settings["seed"])))
        found += [Work(run, TRIAL, trials, 0, budget.epochs, budget.seconds), Work(run, TUNED, tuned)]
    return found
