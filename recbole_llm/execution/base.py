"""What an executor is: jobs are submitted, their results are fetched.

A job is a call of a function. It knows nothing of the executor that runs it, and the two exchange nothing while it
runs: what a running job has to tell (a trial's validation scores) goes through a storage of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recbole_llm.errors import UserError


class JobError(Exception):
    """A job failed in another process: type and message of its error, or how its worker was lost."""


@dataclass
class Job:
    """A call to be made somewhere.

    Attributes:
        title: for messages.
        function: a function of a module, called as ``function(*arguments)``.
        arguments: values that can be pickled.
        tag: the caller's own; it never travels.
    """

    title: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    tag: Any = None


@dataclass
class JobResult:
    """How a job ended: with a value, or with the error that it raised."""

    job: Job
    value: Any = None
    error: Exception | None = None

    @property
    def reason(self) -> str:
        """The error in one line."""
        if isinstance(self.error, (UserError, JobError)):
            return str(self.error)
        return f"{type(self.error).__name__}: {self.error}"


class Executor(Protocol):
    """Runs jobs.

    Attributes:
        slots: how many jobs run at once.
        shares_files: whether jobs see the files of this process.
        host: where jobs reach this process over the network.
    """

    slots: int
    shares_files: bool
    host: str

    @property
    def free(self) -> int:
        """How many jobs can be taken now."""

    @property
    def under_way(self) -> int:
        """How many jobs were taken whose results were not fetched."""

    def submit(self, job: Job) -> None:
        """Take a job; call it only while ``free``."""

    def next(self, timeout: float | None = None) -> JobResult | None:
        """Wait for a job to end; ``None`` after ``timeout`` seconds, or where none is under way."""

    def put(self, value: Any) -> Any:
        """Make a value ready to be an argument of many jobs."""

    def close(self) -> None:
        """End the jobs that still run, and all workers."""


def each_result(executor: Executor, jobs: Sequence[Job]) -> Iterator[JobResult]:
    """Run all jobs; yields each result as soon as it is there."""
    waiting = deque(jobs)
    while waiting or executor.under_way:
        while waiting and executor.free:
            executor.submit(waiting.popleft())
        result = executor.next()
        if result is not None:
            yield result
