"""Jobs in worker processes on this machine, one process per job.

On Linux without a GPU, processes are forked from a server that has already loaded torch and RecBole, so that one starts
in milliseconds. Otherwise each process is spawned from scratch: CUDA does not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.execution.base import Job, JobError, JobResult
from recbole_llm.execution.worker import Answer, Setup, result_of, serve
from recbole_llm.utils.environment import available_cores

RETRIES = 1  # how often a job whose worker died is retried
WARM = "recbole_llm.execution.warm"
STOP_SECONDS = 5.0  # a worker that has not exited this long after its answer is killed


@dataclass
class _Worker:
    """A process and its job.

    Attributes:
        payload: function and arguments, pickled.
        losses: how many processes have died while running the job.
    """

    job: Job
    payload: bytes
    losses: int
    process: BaseProcess
    channel: Connection

    def answer(self) -> Answer | None:
        """The answer that the process sent; ``None`` if it died before it had sent all of one."""
        try:
            found: Answer | None = self.channel.recv() if self.channel.poll() else None
            return found
        except (EOFError, OSError):  # nothing was sent, or only a part
            return None

    def end(self, patience: float = 0.0) -> int:
        """Wait ``patience`` seconds for the process to exit, else kill it; returns its exit code."""
        self.process.join(patience)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        code = self.process.exitcode
        assert code is not None
        self.process.close()
        self.channel.close()
        return code


class ProcessExecutor:
    """Runs each job in its own process.

    Each process gets an equal share of the cores and, if there are GPUs, sees one of them. If a process dies, only its
    own job is affected, and that job is retried.

    Args:
        slots: how many jobs run at once.
        gpus: devices as in ``CUDA_VISIBLE_DEVICES``; by default those that this process sees.
        retries: how often a job whose process died is retried.
    """

    shares_files = True
    host = "localhost"

    def __init__(self, slots: int, gpus: Sequence[str] | None = None, retries: int = RETRIES) -> None:
        if slots < 1:
            raise UserError(f"--workers={slots}: give 1 or more.")
        self.slots, self._retries = slots, retries
        self._threads = max(1, available_cores() // slots)
        self._gpus = visible_gpus() if gpus is None else list(gpus)
        self._forks = sys.platform == "linux" and not self._gpus
        self._workers: dict[int, _Worker] = {}
        self._finished: deque[JobResult] = deque()

    @property
    def free(self) -> int:
        """How many more jobs can be submitted now."""
        return self.slots - len(self._workers)

    @property
    def under_way(self) -> int:
        """How many submitted jobs still have results to fetch."""
        return len(self._workers) + len(self._finished)

    def environment(self, slot: int) -> dict[str, str]:
        """Environment variables for the process in a slot: a copy of this process's, with one GPU."""
        gpu = {"CUDA_VISIBLE_DEVICES": self._gpus[slot % len(self._gpus)]} if self._gpus else {}
        return {**os.environ, **gpu}

    def submit(self, job: Job) -> None:
        """Start a process for a job."""
        try:
            payload = pickle.dumps((job.function, job.arguments))
        except Exception as error:  # pickle raises many types
            self._finished.append(JobResult(job, error=JobError(f"cannot be sent to a worker: {error}")))
            return
        self._start(job, payload)

    def next(self, timeout: float | None = None) -> JobResult | None:
        """Wait for a job to end."""
        give_up = None if timeout is None else time.monotonic() + timeout
        while not self._finished:
            signs: dict[Any, int] = {worker.channel: slot for slot, worker in self._workers.items()}
            signs |= {worker.process.sentinel: slot for slot, worker in self._workers.items()}
            left = None if give_up is None else max(0.0, give_up - time.monotonic())
            ready = wait(list(signs), left) if signs else []
            if not ready:
                return None
            for slot in {signs[sign] for sign in ready}:
                self._hear(self._workers.pop(slot))
        return self._finished.popleft()

    def put(self, value: Any) -> Any:
        """Return the value unchanged; it is sent with each job."""
        return value

    def close(self) -> None:
        """Kill the workers that are still running."""
        while self._workers:
            self._workers.popitem()[1].end()

    def _start(self, job: Job, payload: bytes, losses: int = 0) -> None:
        slot = next(n for n in range(self.slots) if n not in self._workers)
        setup = Setup.here(self._threads, f"[{slot + 1}] ", self.environment(slot))
        context: Any = multiprocessing.get_context("forkserver" if self._forks else "spawn")
        if self._forks:  # has no effect on a fork server that is running already
            context.set_forkserver_preload([serve.__module__, job.function.__module__, WARM])
        ours, theirs = context.Pipe(duplex=False)
        with theirs, Connection(os.dup(2), readable=False) as stderr:
            process = context.Process(target=serve, args=(setup, payload, theirs, stderr), name=job.title)
            with as_if_alone(), _findable(setup.path, setup.quiet_warnings):
                process.start()
        self._workers[slot] = _Worker(job, payload, losses, process, ours)

    def _hear(self, worker: _Worker) -> None:
        """Take a worker's answer, or retry its job if the process died without one."""
        answer = worker.answer()
        code = worker.end(STOP_SECONDS)
        if answer is not None:
            self._finished.append(result_of(worker.job, answer))
        elif worker.losses < self._retries:
            self._start(worker.job, worker.payload, worker.losses + 1)
        else:
            self._finished.append(JobResult(worker.job, error=JobError(f"its worker died ({_ending(code)})")))


def _ending(code: int) -> str:
    return f"signal {-code}; out of memory?" if code == -9 else f"signal {-code}" if code < 0 else f"exit code {code}"


@contextmanager
def as_if_alone() -> Iterator[None]:
    """Start processes that do not run the user's script again.

    multiprocessing makes each child import its parent's ``__main__`` module. A script without a ``__main__`` guard
    would start its grid again in every worker, and a notebook has no file to import.
    """
    ours = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = ours


@contextmanager
def _findable(path: Sequence[str], quiet_warnings: bool) -> Iterator[None]:
    """Let the fork server find the modules that this process finds; in Python 3.11 it does not take over its path."""
    changes = {"PYTHONPATH": os.pathsep.join(path)}
    if quiet_warnings:
        changes["PYTHONWARNINGS"] = "ignore"  # for the modules that the server loads
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def visible_gpus() -> list[str]:
    """Names of this process's CUDA devices, as written in ``CUDA_VISIBLE_DEVICES``."""
    import torch  # slow to load; mistakes on the command line are reported first

    if not torch.cuda.is_available():
        return []
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return listed or [str(number) for number in range(torch.cuda.device_count())]
