"""A process that takes part in a search without training anything; ``python -m tests.tuning.searchers``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from recbole_llm.execution.executors import Job, JobResult
from recbole_llm.experiments.jobs import Trained
from recbole_llm.experiments.run import Run
from recbole_llm.tuning.space import read_space
from recbole_llm.tuning.study import Budget, Study, open_storage
from tests.execution import chores
from tests.helpers import make_run

SPACE = "learning_rate: {low: 0.0001, high: 0.1, log: true}\nnum_layers: [1, 2, 3]\n"


def study_of(storage: str, trials: int, run: Run | None = None, **budget: object) -> Study:
    """The search of these tests in the current folder, whose ``dataset/tiny`` is there."""
    Path("space.yaml").write_text(SPACE)
    made = Budget(trials, pruner="none", **budget)  # type: ignore[arg-type]
    return Study(
        run or make_run("GRU4Rec"), read_space(Path("space.yaml")), made, open_storage(storage, Path("results"))
    )


def score_of(values: dict[str, float]) -> float:
    return values["num_layers"] - values["learning_rate"]


def outcome(score: float | None = None, error: Exception | None = None, pruned: bool = False) -> JobResult:
    value = None if error else Trained(score, 1, 1, pruned, 0.1)
    return JobResult(Job("", chores.double), value, error)


def take_part(study: Study) -> int:
    """Run trials until none is left; how many."""
    count = 0
    while not study.is_done:
        trial = study.next()
        if trial is None:
            time.sleep(0.02)
            continue
        study.finish(trial, outcome(score_of(study.settings(trial))))
        count += 1
    return count


if __name__ == "__main__":
    storage, trials, hang_at, mark = sys.argv[1:]
    study = study_of(storage, int(trials))
    if hang_at == "-":
        sys.stdout.write(str(take_part(study)))
        sys.exit()
    for number in range(int(trials)):
        trial = study.next()
        assert trial is not None
        if number == int(hang_at):
            Path(mark).touch()
            while True:
                time.sleep(60)
        study.finish(trial, outcome(score_of(study.settings(trial))))
