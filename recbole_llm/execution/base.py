"""Executors: submit jobs, fetch their results.

A job is a function call. It does not know which executor runs it, and the two exchange nothing while it runs: a trial
reports its validation scores through the search's own storage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recbole_llm.errors import UserError


class JobError(Exception):
    """A job failed in another process or left Python; the message gives its error, or how its worker was lost."""


@dataclass
class Job:
    """A function call for an executor.

    Attributes:
        title: name of the job in messages.
        function: a module-level function, called as ``function(*arguments)``.
        arguments: picklable values.
        tag: the caller's own data; never sent to a worker.
    """

    title: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    tag: Any = None


@dataclass
class JobResult:
    """The outcome of a job: its value or its error."""

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
        shares_files: whether jobs see this process's files.
        host: address under which jobs reach this process over the network.
    """

    slots: int
    shares_files: bool
    host: str

    @property
    def free(self) -> int:
        """How many more jobs can be submitted now."""

    @property
    def under_way(self) -> int:
        """How many submitted jobs still have results to fetch."""

    def submit(self, job: Job) -> None:
        """Submit a job; call this only while ``free`` is above 0."""

    def next(self, timeout: float | None = None) -> JobResult | None:
        """Wait for a job's result; ``None`` after ``timeout`` seconds, or if no job is under way."""

    def put(self, value: Any) -> Any:
        """Prepare a value to be passed to many jobs."""

    def close(self) -> None:
        """Stop the jobs that are still running, and all workers."""


def each_result(executor: Executor, jobs: Sequence[Job]) -> Iterator[JobResult]:
    """Run all jobs and yield each result as soon as it arrives."""
    waiting = deque(jobs)
    while waiting or executor.under_way:
        while waiting and executor.free:
            executor.submit(waiting.popleft())
        result = executor.next()
        if result is not None:
            yield result
