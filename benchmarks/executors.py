"""What an executor costs for each run: jobs that do nothing, in this process, in worker processes, on Ray.

    python -m benchmarks.executors [--jobs=100] [--executors=serial,processes,ray]

Prints the seconds until the first jobs are done (fork servers and clusters start) and then milliseconds a job. The jobs
are functions of the package that trains, so that a worker has loaded what a run needs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from tabulate import tabulate

from recbole_llm.api import run
from recbole_llm.execution.base import Executor, Job, each_result
from recbole_llm.execution.choice import open_executor

ROUNDS = 5


def nothing(needed: Any) -> None:
    """A job that has loaded what it needs, and is done at once."""


def run_all(executor: Executor, jobs: int) -> None:
    """Run so many jobs; none may fail."""
    from benchmarks.executors import nothing  # workers find it there, not in __main__

    for result in each_result(executor, [Job("", nothing, (run,)) for _ in range(jobs)]):
        if result.error is not None:
            raise result.error


def measure(kind: str, jobs: int) -> list[Any]:
    """One row of the table."""
    began = time.perf_counter()
    with open_executor(kind, None if kind == "serial" else 2) as executor:
        run_all(executor, executor.slots)
        started = time.perf_counter() - began
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            run_all(executor, jobs)
            times.append((time.perf_counter() - began) / jobs * 1e3)
    told = f"{statistics.median(times):.3g} ({min(times):.3g}-{max(times):.3g})"
    return [kind, executor.slots, round(started, 1), told]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--executors", default="serial,processes,ray")
    options = parser.parse_args()
    rows = [measure(kind, options.jobs) for kind in options.executors.split(",")]
    print(tabulate(rows, ["executor", "workers", "start, s", "ms a job"]))


if __name__ == "__main__":
    main()
