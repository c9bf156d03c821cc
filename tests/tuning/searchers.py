"""Helpers and processes that take part in a search without training anything."""

from __future__ import annotations

import time
from pathlib import Path

from recbole_llm.execution.base import Job, JobResult
from recbole_llm.experiments.run import Run
from recbole_llm.tuning.budget import Budget
from recbole_llm.tuning.space import read_space
from recbole_llm.tuning.storage import open_storage, storage_address
from recbole_llm.tuning.study import Study
from recbole_llm.tuning.trial import Trained
from tests.execution import chores
from tests.helpers import make_run

SPACE = "learning_rate: {low: 0.0001, high: 0.1, log: true}\nnum_layers: [1, 2, 3]\n"
RESULTS = Path("results")


def study_of(storage: str, trials: int, run: Run | None = None, space: str = SPACE, **budget: object) -> Study:
    """The search that these tests use; the current folder must hold ``dataset/tiny``."""
    Path("space.yaml").write_text(space)
    made = Budget(trials, **{"pruner": "none", **budget})  # type: ignore[arg-type]
    kept = open_storage(storage_address(storage, RESULTS))
    return Study(run or make_run("GRU4Rec"), read_space(Path("space.yaml")), made, kept, RESULTS)


def score_of(values: dict[str, float]) -> float:
    return values["num_layers"] - values["learning_rate"]


def result(
    score: float | None = None, error: Exception | None = None, pruned: bool = False, training: float = 0.0
) -> JobResult:
    value = None if error else Trained(score, 1, 1, pruned, 0.1, training)
    return JobResult(Job("", chores.double), value, error)


def take_part(study: Study) -> int:
    """Run trials until none is left; returns how many were run."""
    count = 0
    while not study.is_done:
        trial = study.next()
        if trial is None:
            time.sleep(0.02)
            continue
        study.finish(trial, result(score_of(study.settings(trial))))
        count += 1
    return count


def take_part_and_count(storage: str, trials: int, file: str) -> None:
    """Run trials until none is left; writes their number to a file."""
    Path(file).write_text(str(take_part(study_of(storage, trials))))


def hang(storage: str, trials: int, hang_at: int, mark: str) -> None:
    """Run some trials, then hang in the next one; creates a file at that moment."""
    study = study_of(storage, trials)
    for number in range(trials):
        trial = study.next()
        assert trial is not None
        if number == hang_at:
            Path(mark).touch()
            while True:
                time.sleep(60)
        study.finish(trial, result(score_of(study.settings(trial))))
