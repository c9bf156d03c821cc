"""One cell trained by several processes (``--nproc``)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.execution.executors import Job, JobError, ProcessExecutor, each_result
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import STAGES, Runner
from recbole_llm.experiments.store import ResultStore


def run_together(cell: Run, runner: Runner) -> Record:
    """Train a cell by as many processes as its setting ``nproc`` says; the first one tests and stores.

    Raises:
        UserError: the cell cannot be trained this way, or one of the processes failed.
    """
    world = int(cell.settings["nproc"])
    # DistributedDataParallel knows what learns when it is built: what a later stage thaws it would not share.
    in_stages = cell.settings.method.name in STAGES or cell.settings.get("stage_epochs")
    if cell.settings["engine"] != "fast" or in_stages:
        raise UserError(f"--nproc={world} is for models of one stage and for --engine=fast.")
    runner.make_features(cell)
    with tempfile.TemporaryDirectory() as folder, ProcessExecutor(world, retries=0) as executor:
        shared = (world, str(Path(folder) / "meeting"), cell, str(runner.store.folder), runner.force)
        works = [Job(f"process {rank} of {cell.title()}", run_rank, (rank, *shared), tag=rank) for rank in range(world)]
        found = None
        for outcome in each_result(executor, works):
            if isinstance(outcome.error, JobError):
                raise UserError(f"--nproc={world}: process {outcome.work.tag} failed: {outcome.reason}")
            if outcome.error is not None:
                raise outcome.error
            found = outcome.value if outcome.work.tag == 0 else found
    assert isinstance(found, Record)
    return found


def run_rank(ask: Any, rank: int, world: int, meeting: str, cell: Run, results: str, force: bool) -> Record | None:
    """In one of the processes: train; the first one has the record."""
    from torch import distributed

    from recbole_llm.training.distributed import join

    join(rank, world, Path(meeting))
    try:
        runner = Runner(ResultStore(results), force=force, mends=False)
        if rank == 0:
            return runner.make_here(cell)
        runner.train_along(cell)
        return None
    finally:
        distributed.destroy_process_group()
