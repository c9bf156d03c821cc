"""Where cells and trials run: in this process or in worker processes on this machine.

One small interface for all: ``submit`` works while ``free``, take finished ones with ``next``. While it
runs, a work may ask the driver something (a trial reports its validation score and asks whether to go on).
A worker that dies takes its own work with it and nothing else: it is replaced and the work is tried once more.
``ray_executor`` offers the same over the machines of a cluster.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, Protocol, Self

from recbole_llm.errors import FAILURES, UserError, did_you_mean
from recbole_llm.execution.worker import Setup
from recbole_llm.utils.environment import available_cores

EXECUTORS = ("serial", "processes", "ray")
RETRIES = 1  # a work whose worker died is tried again so many times
STOP_SECONDS = 5.0

Ask = Callable[[Any], Any]


class JobError(Exception):
    """A work failed elsewhere: type and message of its error, or how its worker was lost."""


@dataclass
class Job:
    """A call to be made somewhere.

    Attributes:
        title: for messages.
        function: a function of a module, called as ``function(ask, *arguments)``; ``ask(message)`` gives what
            ``answer`` says to the message.
        arguments: values that can be pickled.
        answer: called in the driver.
        tag: the driver's own; it never travels.
    """

    title: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    answer: Ask | None = None
    tag: Any = None
    losses: int = field(default=0, init=False)

    def answered(self, message: Any) -> Any:
        """The driver's answer to a message of the running work."""
        return self.answer(message) if self.answer is not None else None


@dataclass
class JobResult:
    """How a work ended: with a value, or with the error that it raised."""

    work: Job
    value: Any = None
    error: Exception | None = None

    @property
    def reason(self) -> str:
        """The error in one line."""
        if isinstance(self.error, (UserError, JobError)):
            return str(self.error)
        return f"{type(self.error).__name__}: {self.error}"


class Executor(Protocol):
    """Runs works; see the module."""

    slots: int
    shares_files: bool  # whether works see the driver's files

    @property
    def free(self) -> int:
        """How many works can be taken now."""

    @property
    def under_way(self) -> int:
        """How many works were taken and are not finished."""

    def submit(self, work: Job) -> None:
        """Take a work; call it only while ``free``."""

    def next(self, timeout: float | None = None) -> JobResult | None:
        """Wait for a work to finish; ``None`` after ``timeout`` seconds or where none is under way."""

    def put(self, value: Any) -> Any:
        """Make a value ready to be an argument of many works."""

    def close(self, at_once: bool = False) -> None:
        """End all workers; ``at_once`` does not let them finish."""


def each_result(executor: Executor, works: Sequence[Job]) -> Iterator[JobResult]:
    """Run all works; yields each outcome as it is there."""
    waiting = deque(works)
    while waiting or executor.under_way:
        while waiting and executor.free:
            executor.submit(waiting.popleft())
        outcome = executor.next()
        if outcome is not None:
            yield outcome


class SerialExecutor:
    """One work after the other in this process."""

    slots = 1
    shares_files = True

    def __init__(self) -> None:
        self._taken: deque[Job] = deque()

    @property
    def free(self) -> int:
        """How many works can be taken now."""
        return self.slots - len(self._taken)

    @property
    def under_way(self) -> int:
        """How many works were taken and are not finished."""
        return len(self._taken)

    def submit(self, work: Job) -> None:
        """Take a work; it runs in ``next``."""
        self._taken.append(work)

    def next(self, timeout: float | None = None) -> JobResult | None:
        """Run the work that was taken; errors that are no model's pass through."""
        if not self._taken:
            return None
        work = self._taken.popleft()
        try:
            return JobResult(work, work.function(work.answered, *work.arguments))
        except (UserError, *FAILURES) as error:
            return JobResult(work, error=error)

    def put(self, value: Any) -> Any:
        """The value itself."""
        return value

    def close(self, at_once: bool = False) -> None:
        """Nothing runs between two calls of ``next``."""


@dataclass
class _Worker:
    """A worker process.

    Attributes:
        channel: messages to and from it.
        lifeline: never written to; it ends the worker when this process ends, however it ends.
        work: what it is doing.
    """

    process: subprocess.Popen[bytes]
    channel: Connection
    lifeline: socket.socket
    work: Job | None = None

    def end(self, at_once: bool) -> None:
        """Close the channel, which ends an idle worker; then wait, or kill."""
        self.channel.close()
        if at_once:
            self.process.kill()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.lifeline.close()


class ProcessExecutor:
    """Long-lived worker processes on this machine.

    Each has its share of the cores and, where there are GPUs, sees one of them.

    Args:
        slots: how many.
        threads: of each; by default the cores are shared out.
        gpus: what ``CUDA_VISIBLE_DEVICES`` may hold; by default what this process sees.
        retries: how often a work whose worker died is tried again.
    """

    shares_files = True

    def __init__(
        self, slots: int, threads: int | None = None, gpus: Sequence[str] | None = None, retries: int = RETRIES
    ) -> None:
        if slots < 1:
            raise UserError(f"--workers={slots}: give 1 or more.")
        self.slots, self._retries = slots, retries
        self._threads = threads or max(1, available_cores() // slots)
        self._gpus = visible_gpus() if gpus is None else list(gpus)
        self._workers: list[_Worker | None] = [None] * slots
        self._finished: deque[JobResult] = deque()

    @property
    def free(self) -> int:
        """How many works can be taken now."""
        return self.slots - self._busy()

    @property
    def under_way(self) -> int:
        """How many works were taken and are not finished."""
        return self._busy() + len(self._finished)

    def _busy(self) -> int:
        return sum(worker is not None and worker.work is not None for worker in self._workers)

    def environment(self, number: int) -> dict[str, str]:
        """Environment of a worker: thread counts that do not add up to more than the cores, one GPU."""
        threads = str(self._threads)
        changed = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        if self._gpus:
            changed["CUDA_VISIBLE_DEVICES"] = self._gpus[number % len(self._gpus)]
        return {**os.environ, **changed}

    def submit(self, work: Job) -> None:
        """Hand a work to a worker that is free; one is started where it is needed."""
        order = sorted(range(self.slots), key=lambda number: self._workers[number] is None)
        number = next(n for n in order if (worker := self._workers[n]) is None or worker.work is None)
        worker = self._workers[number]
        if worker is None:
            worker = self._workers[number] = self._start(number)
        worker.work = work
        try:
            worker.channel.send((work.function, work.arguments))
        except (BrokenPipeError, ConnectionResetError):
            self._lost(number)
        except Exception as error:  # whatever pickle raises
            worker.work = None
            self._finished.append(JobResult(work, error=JobError(f"cannot be sent to a worker: {error}")))

    def next(self, timeout: float | None = None) -> JobResult | None:
        """Wait for a work to finish, answering what the others ask meanwhile."""
        give_up = None if timeout is None else time.monotonic() + timeout
        while not self._finished:
            busy = {w.channel: n for n, w in enumerate(self._workers) if w is not None and w.work is not None}
            if not busy:
                return None
            ready = wait(list(busy), None if give_up is None else max(0.0, give_up - time.monotonic()))
            if not ready:
                return None
            for channel in ready:
                self._hear(busy[channel])  # type: ignore[index]
        return self._finished.popleft()

    def put(self, value: Any) -> Any:
        """The value itself; it travels with each work."""
        return value

    def close(self, at_once: bool = False) -> None:
        """End all workers."""
        workers = [worker for worker in self._workers if worker is not None]
        self._workers = [None] * self.slots
        for worker in workers:
            worker.end(at_once or worker.work is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(at_once=kind is not None)

    # ---- workers -------------------------------------------------------------------------------

    def _start(self, number: int) -> _Worker:
        ours, theirs = Pipe()
        lifeline, held = socket.socketpair()
        fds = (theirs.fileno(), held.fileno())
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "recbole_llm.execution.worker", *map(str, fds)],
            env=self.environment(number),
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        held.close()
        ours.send(Setup.here(f"[{number + 1}] "))
        return _Worker(process, ours, lifeline)

    def _hear(self, number: int) -> None:
        worker = self._workers[number]
        assert worker is not None
        assert worker.work is not None
        try:
            kind, content = worker.channel.recv()
            if kind == "ask":
                worker.channel.send(worker.work.answered(content))
                return
        except (EOFError, ConnectionResetError, BrokenPipeError):
            self._lost(number)
            return
        work, worker.work = worker.work, None
        if kind == "done":
            self._finished.append(JobResult(work, content))
        else:
            self._finished.append(JobResult(work, error=(UserError if kind == "refused" else JobError)(content)))

    def _lost(self, number: int) -> None:
        """Replace a worker that died; its work is tried again or given up."""
        worker = self._workers[number]
        assert worker is not None
        assert worker.work is not None
        work, worker.work = worker.work, None
        worker.end(at_once=True)
        self._workers[number] = None
        work.losses += 1
        if work.losses <= self._retries:
            self.submit(work)
        else:
            self._finished.append(JobResult(work, error=JobError(f"its worker died ({_ending(worker.process)})")))


def _ending(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"signal {-code}; out of memory?" if code == -9 else f"signal {-code}" if code < 0 else f"exit code {code}"


def visible_gpus() -> list[str]:
    """Names of the CUDA devices of this process as ``CUDA_VISIBLE_DEVICES`` has them."""
    import torch

    if not torch.cuda.is_available():
        return []
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return listed or [str(number) for number in range(torch.cuda.device_count())]


def check_executor(kind: str | None, workers: int | None, ray_address: str | None, gpus: float | None) -> str:
    """The kind of the executor that these ask for; see :func:`open_executor`.

    Raises:
        UserError: there is no such executor, or the arguments do not go together.
    """
    if kind is None:
        kind = "ray" if ray_address is not None else "processes" if (workers or 1) > 1 else "serial"
    if kind not in EXECUTORS:
        raise UserError(f"--executor={kind}: use {', '.join(EXECUTORS)}.{did_you_mean(kind, EXECUTORS)}")
    if kind != "ray" and (ray_address is not None or gpus is not None):
        raise UserError("--ray_address and --gpus are for --executor=ray.")
    if workers is not None and workers < 1:
        raise UserError(f"--workers={workers}: give 1 or more.")
    if kind == "serial" and workers not in (None, 1):
        raise UserError(f"--executor=serial has one worker, not {workers}; use processes.")
    return kind


@contextmanager
def open_executor(
    kind: str | None = None, workers: int | None = None, ray_address: str | None = None, gpus: float | None = None
) -> Iterator[Executor]:
    """The executor that the command line asks for, closed at the end of the block.

    Args:
        kind: ``serial``, ``processes`` or ``ray``; by default what the other arguments need.
        workers: how many works run at once; 1 by default, or what a Ray cluster can take.
        ray_address: a running cluster (``auto``, or ``host:port``); by default one is started for the purpose.
        gpus: share of a GPU for each work on Ray; by default 1 where the cluster has any.

    Raises:
        UserError: there is no such executor, or the arguments do not go together.
    """
    kind = check_executor(kind, workers, ray_address, gpus)
    executor: Executor
    if kind == "serial":
        executor = SerialExecutor()
    elif kind == "processes":
        executor = ProcessExecutor(workers or 1)
    else:
        from recbole_llm.execution.ray import RayExecutor

        executor = RayExecutor(ray_address, workers, gpus)
    try:
        yield executor
    except BaseException:
        executor.close(at_once=True)
        raise
    executor.close()
