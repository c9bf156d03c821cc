"""Jobs in worker processes on this machine, a process for each job.

Where there is no GPU, processes are forked from a server that has loaded what the jobs need (torch, RecBole), so that
one starts in milliseconds. CUDA does not survive a fork: where there are GPUs each process starts from nothing.
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

RETRIES = 1  # a job whose worker died is tried again so many times
WARM = "recbole_llm.execution.warm"
STOP_SECONDS = 5.0  # a worker that has answered ends within these, or is killed


@dataclass
class _Worker:
    """A process and its job.

    Attributes:
        payload: function and arguments, pickled.
        losses: how many processes have died of the job.
    """

    job: Job
    payload: bytes
    losses: int
    process: BaseProcess
    channel: Connection

    def answer(self) -> Answer | None:
        """What it sent; ``None`` where it died before it did."""
        try:
            found: Answer | None = self.channel.recv() if self.channel.poll() else None
            return found
        except (EOFError, ConnectionResetError):
            return None

    def end(self, patience: float = 0.0) -> int:
        """Wait for its end, or kill it; its exit code."""
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
    """Runs each job in a process of its own.

    Each has its share of the cores and, where there are GPUs, sees one of them. A process that dies takes its own job
    with it and no other: the job is tried once more.

    Args:
        slots: how many run at once.
        gpus: what ``CUDA_VISIBLE_DEVICES`` may hold; by default what this process sees.
        retries: how often a job whose process died is tried again.
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
        """How many jobs can be taken now."""
        return self.slots - len(self._workers)

    @property
    def under_way(self) -> int:
        """How many jobs were taken whose results were not fetched."""
        return len(self._workers) + len(self._finished)

    def environment(self, slot: int) -> dict[str, str]:
        """Environment variables of the process in a slot: those of this process, and one GPU."""
        gpu = {"CUDA_VISIBLE_DEVICES": self._gpus[slot % len(self._gpus)]} if self._gpus else {}
        return {**os.environ, **gpu}

    def submit(self, job: Job) -> None:
        """Start a process for a job."""
        try:
            payload = pickle.dumps((job.function, job.arguments))
        except Exception as error:  # whatever pickle raises
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
        """The value itself; it travels with each job."""
        return value

    def close(self) -> None:
        """Kill what still runs."""
        while self._workers:
            self._workers.popitem()[1].end()

    def _start(self, job: Job, payload: bytes, losses: int = 0) -> None:
        slot = next(n for n in range(self.slots) if n not in self._workers)
        setup = Setup.here(self._threads, f"[{slot + 1}] ", self.environment(slot))
        context: Any = multiprocessing.get_context("forkserver" if self._forks else "spawn")
        if self._forks:  # heard by a server that is still to start
            context.set_forkserver_preload([serve.__module__, job.function.__module__, WARM])
        ours, theirs = context.Pipe(duplex=False)
        with theirs, Connection(os.dup(2), readable=False) as stderr:
            process = context.Process(target=serve, args=(setup, payload, theirs, stderr), name=job.title)
            with as_if_alone(), _findable(setup.path, setup.quiet_warnings):
                process.start()
        self._workers[slot] = _Worker(job, payload, losses, process, ours)

    def _hear(self, worker: _Worker) -> None:
        """Take an answer, or try a job again whose process died without one."""
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

    multiprocessing has each child import the module ``__main__`` of its parent: a script without a guard would start
    its grid once more in every worker, and a notebook has no file to import.
    """
    ours = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = ours


@contextmanager
def _findable(path: Sequence[str], quiet_warnings: bool) -> Iterator[None]:
    """Start a fork server that finds the modules that this process finds; Python 3.11's does not ask for its path."""
    changes = {"PYTHONPATH": os.pathsep.join(path)}
    if quiet_warnings:
        changes["PYTHONWARNINGS"] = "ignore"  # of what it loads
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
    """Names of the CUDA devices of this process as ``CUDA_VISIBLE_DEVICES`` has them."""
    import torch  # slow to load, and a mistake on the command line is answered before

    if not torch.cuda.is_available():
        return []
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return listed or [str(number) for number in range(torch.cuda.device_count())]
