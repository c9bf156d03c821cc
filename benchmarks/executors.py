"""What an executor costs for each cell: works that do nothing, in this process, in two worker processes, on Ray.

    python -m benchmarks.executors [--works=500] [--executors=serial,processes,ray]

Prints the seconds until the first work is done (interpreters and clusters start) and then milliseconds a work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from tabulate import tabulate

from recbole_llm.execution.executors import Executor, Job, each_result, open_executor

ROUNDS = 5


def nothing(ask: Any) -> None:
    """A cell that is done at once."""


def once(ask: Any) -> Any:
    """A trial of one epoch: it reports and is told whether to go on."""
    return ask((1, 0.5))


def run_all(executor: Executor, works: int, function: Callable[..., Any], answer: Callable[..., Any] | None) -> None:
    """Run so many works; none may fail."""
    for outcome in each_result(executor, [Job("", function, (), answer) for _ in range(works)]):
        if outcome.error is not None:
            raise outcome.error


def measure(kind: str, works: int) -> list[Any]:
    """One row of the table."""
    from benchmarks.executors import nothing, once  # workers find them there, not in __main__

    began = time.perf_counter()
    with open_executor(kind, None if kind == "serial" else 2) as executor:
        run_all(executor, executor.slots, nothing, None)
        started = time.perf_counter() - began
        row: list[Any] = [kind, executor.slots, round(started, 1)]
        for function, answer in ((nothing, None), (once, lambda message: False)):
            times = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                run_all(executor, works, function, answer)
                times.append((time.perf_counter() - began) / works * 1e3)
            row.append(f"{statistics.median(times):.3g} ({min(times):.3g}-{max(times):.3g})")
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", type=int, default=500)
    parser.add_argument("--executors", default="serial,processes,ray")
    options = parser.parse_args()
    rows = [measure(kind, options.works) for kind in options.executors.split(",")]
    print(tabulate(rows, ["executor", "workers", "start, s", "ms a cell", "ms a trial that asks once"]))


if __name__ == "__main__":
    main()
