"""Jobs on the machines of a Ray cluster.

Ray places the jobs, assigns cores and (fractions of) GPUs, and retries a job whose worker or machine was lost. The
machines only need this package installed: data are sent with the jobs, and results are sent back.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.execution.base import Job, JobError, JobResult
from recbole_llm.execution.worker import Answer, Setup, call, result_of
from recbole_llm.utils.environment import available_cores
from recbole_llm.utils.text import one_line

RETRIES = 3  # for a job whose worker or machine was lost
CONNECT_SECONDS = 10.0


def _serve(setup: Setup, function: Callable[..., Any], *arguments: Any) -> Answer:
    """Run one job on a worker."""
    setup.apply()
    return call(function, arguments)


class RayExecutor:
    """Runs jobs as Ray tasks.

    Args:
        address: of a running cluster; ``None`` starts one on this machine.
        workers: how many jobs run at once; by default as many as fit on the cluster.
        gpus: share of a GPU for each job; by default 1 if the cluster has GPUs.

    Raises:
        UserError: Ray is not installed, there is no cluster at the address, or it has fewer GPUs than ``gpus``.
    """

    shares_files = False

    def __init__(self, address: str | None = None, workers: int | None = None, gpus: float | None = None) -> None:
        try:
            import ray  # an optional extra
        except ModuleNotFoundError:
            raise UserError("--executor=ray needs Ray: pip install 'recbole-llm[cluster]'.") from None
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect(address)
        self.host = ray.util.get_node_ip_address()
        total = ray.cluster_resources()
        cores, devices = total.get("CPU", 1.0), total.get("GPU", 0.0)
        share = min(1.0, devices) if gpus is None else gpus
        if share > devices:
            raise UserError(f"--gpus={gpus}: the cluster has {devices:g} GPUs.")
        fit = int(devices / share) if share else int(cores)
        self.slots = max(1, fit if workers is None else workers)
        cpus = max(1.0, cores // self.slots) if cores >= self.slots else cores / self.slots
        self._task = ray.remote(_serve).options(num_cpus=cpus, num_gpus=share, max_retries=RETRIES, name="recbole_llm")
        self._setup = ray.put(Setup.here(threads=max(1, int(cpus))))
        self._running: dict[Any, Job] = {}

    def _connect(self, address: str | None) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # will be Ray's default
        options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
        if address is None:
            options |= {"num_cpus": available_cores(), "include_dashboard": False, "address": "local"}
        else:
            options["address"] = address
            host, _, port = address.rpartition(":")
            if host and "/" not in address:  # Ray would keep trying for minutes
                _check_reachable(host, port, address)
        try:
            self._ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--ray_address={address}: {one_line(error, 300)}") from error

    @property
    def free(self) -> int:
        """How many more jobs can be submitted now."""
        return self.slots - len(self._running)

    @property
    def under_way(self) -> int:
        """How many submitted jobs still have results to fetch."""
        return len(self._running)

    def submit(self, job: Job) -> None:
        """Hand a job to the cluster."""
        self._running[self._task.remote(self._setup, job.function, *job.arguments)] = job

    def next(self, timeout: float | None = None) -> JobResult | None:
        """Wait for a job to end."""
        if not self._running:
            return None
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        return self._result(ready[0]) if ready else None

    def _result(self, reference: Any) -> JobResult:
        job = self._running.pop(reference)
        try:
            return result_of(job, self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            lost = one_line(error, 300)
            return JobResult(job, error=JobError(f"lost on the cluster ({type(error).__name__}): {lost}"))

    def put(self, value: Any) -> Any:
        """Put a value into the cluster's object store; jobs get it by reference."""
        return self._ray.put(value)

    def close(self) -> None:
        """Cancel running jobs; if this executor connected to Ray, disconnect, which ends a cluster that it started."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._ours:
            self._ray.shutdown()


def _check_reachable(host: str, port: str, address: str) -> None:
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(f"--ray_address={address}: there is no cluster ({error}).") from error
