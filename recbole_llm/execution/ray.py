"""Works on the machines of a Ray cluster.

Ray places the works, shares out cores and (fractions of) GPUs, and runs a work again whose worker or machine
was lost. Machines need this package and nothing else of ours: data travel with the works, results come back.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.execution.executors import Job, JobError, JobResult
from recbole_llm.execution.worker import Setup, call
from recbole_llm.utils.environment import available_cores

RETRIES = 3  # of a work whose worker or machine was lost
POLL_SECONDS = 0.1
CONNECT_SECONDS = 10.0


def _serve(setup: Setup, threads: int, desk: Any, number: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """On a worker: one work."""
    import ray

    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    setup.apply()
    return call(function, arguments, lambda message: ray.get(desk.ask.remote(number, message)))


class _Desk:
    """An actor beside the driver: works leave questions, the driver fetches them and leaves answers."""

    def __init__(self) -> None:
        self._tokens = itertools.count()
        self._asked: list[tuple[int, int, Any]] = []
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def ask(self, number: int, message: Any) -> Any:
        """Called by a work; waits for the driver."""
        token = next(self._tokens)
        self._answers[token] = asyncio.get_running_loop().create_future()
        self._asked.append((token, number, message))
        return await self._answers[token]

    async def take(self) -> list[tuple[int, int, Any]]:
        """All questions since the last call: token, number of the work, message."""
        asked, self._asked = self._asked, []
        return asked

    async def answer(self, token: int, value: Any) -> None:
        """Called by the driver."""
        self._answers.pop(token).set_result(value)


class RayExecutor:
    """Runs works as Ray tasks.

    Args:
        address: of a running cluster; ``None`` starts one on this machine for the purpose.
        workers: works that run at once; by default as many as the cluster can take.
        gpus: share of a GPU for each work; by default 1 where the cluster has any.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """

    shares_files = False

    def __init__(self, address: str | None = None, workers: int | None = None, gpus: float | None = None) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise UserError("--executor=ray needs Ray: pip install 'recbole-llm[cluster]'.") from None
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect(address)
        total = ray.cluster_resources()
        cores, devices = total.get("CPU", 1.0), total.get("GPU", 0.0)
        share = min(1.0, devices) if gpus is None else gpus
        if share > devices:
            raise UserError(f"--gpus={gpus}: the cluster has {devices:g} GPUs.")
        fit = int(devices / share) if share else int(cores)
        self.slots = max(1, fit if workers is None else workers)
        cpus = max(1.0, cores // self.slots) if cores >= self.slots else cores / self.slots
        self._threads = max(1, int(cpus))
        self._task = ray.remote(_serve).options(num_cpus=cpus, num_gpus=share, max_retries=RETRIES, name="recbole_llm")
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._desk = ray.remote(_Desk).options(num_cpus=0, scheduling_strategy=here).remote()
        self._setup = ray.put(Setup.here())
        self._numbers = itertools.count()
        self._running: dict[Any, tuple[int, Job]] = {}

    def _connect(self, address: str | None) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default
        options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
        if address is None:
            options |= {"num_cpus": available_cores(), "include_dashboard": False, "address": "local"}
        else:
            options["address"] = address
            host, _, port = address.rpartition(":")
            if host and "/" not in address:  # Ray would try for minutes
                _check_reachable(host, port, address)
        try:
            self._ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--ray_address={address}: {' '.join(str(error).split())[:300]}") from error

    @property
    def free(self) -> int:
        """How many works can be taken now."""
        return self.slots - len(self._running)

    @property
    def under_way(self) -> int:
        """How many works were taken and are not finished."""
        return len(self._running)

    def submit(self, work: Job) -> None:
        """Hand a work to the cluster."""
        number = next(self._numbers)
        reference = self._task.remote(self._setup, self._threads, self._desk, number, work.function, *work.arguments)
        self._running[reference] = number, work

    def next(self, timeout: float | None = None) -> JobResult | None:
        """Wait for a work to finish, answering what the others ask meanwhile."""
        give_up = None if timeout is None else time.monotonic() + timeout
        while self._running:
            left = None if give_up is None else max(0.0, give_up - time.monotonic())
            asking = any(work.answer is not None for _, work in self._running.values())
            pause = min(POLL_SECONDS, left if left is not None else POLL_SECONDS) if asking else left
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=pause)
            if ready:
                return self._outcome(ready[0])
            if asking:
                self._answer_all()
            if left == 0.0:
                break
        return None

    def _answer_all(self) -> None:
        works = dict(self._running.values())
        for token, number, message in self._ray.get(self._desk.take.remote()):
            # A work that was lost and runs again may have left a question behind.
            answer = works[number].answered(message) if number in works else None
            self._desk.answer.remote(token, answer)

    def _outcome(self, reference: Any) -> JobResult:
        _, work = self._running.pop(reference)
        try:
            kind, content = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            lost = " ".join(str(error).split())[:300]
            return JobResult(work, error=JobError(f"lost on the cluster ({type(error).__name__}): {lost}"))
        if kind == "done":
            return JobResult(work, content)
        return JobResult(work, error=(UserError if kind == "refused" else JobError)(content))

    def put(self, value: Any) -> Any:
        """Keep a value in the cluster's object store; works get it by reference."""
        return self._ray.put(value)

    def close(self, at_once: bool = False) -> None:
        """Cancel what runs; a cluster that was started for the purpose ends."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.kill(self._desk)
        if self._ours:
            self._ray.shutdown()


def _check_reachable(host: str, port: str, address: str) -> None:
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(f"--ray_address={address}: there is no cluster ({error}).") from error
