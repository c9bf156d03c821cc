"""The overhead of an executor per run, with jobs that do nothing: in this process, in worker processes, on Ray.

    python -m benchmarks.executors [--jobs=100] [--executors=serial,processes,ray]

Prints the seconds until the first jobs are done (they include the start of fork servers and clusters), then
milliseconds per job. Each job gets the API's ``run`` as its argument, so that workers have imported what a run needs.
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
    """A job that ends at once; its argument makes a worker import what a run needs."""


def run_all(executor: Executor, jobs: int) -> None:
    """Run so many jobs; none may fail."""
    from benchmarks.executors import nothing  # workers import it from there; __main__ is another module

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
