"""Choose the executor that a command asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recbole_llm.errors import UserError, check_choice
from recbole_llm.execution.base import Executor
from recbole_llm.execution.processes import ProcessExecutor
from recbole_llm.execution.ray import RayExecutor
from recbole_llm.execution.serial import SerialExecutor

EXECUTORS = ("serial", "processes", "ray")


def check_executor(kind: str | None, workers: int | None, ray_address: str | None, gpus: float | None) -> str:
    """The kind of executor that these arguments select; see :func:`open_executor`.

    Raises:
        UserError: there is no such executor, or the arguments contradict each other.
    """
    if kind is None:
        kind = "ray" if ray_address is not None else "processes" if (workers or 1) > 1 else "serial"
    check_choice("--executor", kind, EXECUTORS)
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
    """Open the executor that the command line asks for, and close it at the end of the block.

    Args:
        kind: ``serial``, ``processes`` or ``ray``; by default what the other arguments need.
        workers: how many jobs run at once; by default 1, or as many as fit on a Ray cluster.
        ray_address: a running cluster (``auto``, or ``host:port``); by default a local one is started.
        gpus: share of a GPU for each job on Ray; by default 1 if the cluster has GPUs.

    Raises:
        UserError: there is no such executor, or the arguments contradict each other.
    """
    kind = check_executor(kind, workers, ray_address, gpus)
    executor: Executor
    if kind == "serial":
        executor = SerialExecutor()
    elif kind == "processes":
        executor = ProcessExecutor(workers or 1)
    else:
        executor = RayExecutor(ray_address, workers, gpus)
    try:
        yield executor
    finally:
        executor.close()
