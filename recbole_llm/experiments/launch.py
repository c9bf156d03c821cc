"""Make the missing runs of a grid, one after the other or many at once, even if some of them fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from recbole_llm.errors import UserError
from recbole_llm.execution.base import Executor, Job, JobError, JobResult, each_result
from recbole_llm.execution.serial import SerialExecutor
from recbole_llm.experiments.jobs import PayloadSender, make_features, received, run_job, run_job_away
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.utils.files import make_folder

logger = logging.getLogger(__name__)


def run_all(
    runs: Sequence[Run],
    runner: Runner,
    executor: Executor | None = None,
    tracking: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Make the records that are missing; a run that fails is recorded as failed and the others continue.

    The error of a single run is also raised, unless it is a ``JobError``; a ``UserError`` is then not recorded.

    Args:
        runs: what to run.
        runner: makes the runs here, or what they have in common before workers make them.
        executor: where they run; by default one after the other in this process.
        tracking: called with each record that this call made, as it arrives.

    Returns:
        One record per run, in the order of the runs.
    """
    make_folder(runner.store.folder)
    executor = executor or SerialExecutor()
    records = _present(runs, runner)
    if records:
        logger.info("%d of %d results are present already (--force runs them again)", len(records), len(runs))
    missing = [run for run in runs if run.key not in records]
    for place in sorted({runner.store.place(run.location.name, run.settings["protocol"]) for run in missing}):
        make_folder(place)  # an unwritable folder is reported before hours are spent
    if not isinstance(executor, SerialExecutor) and missing:
        reasons = make_features(missing, runner)
        records |= {run.key: _failed(run, runner, reasons[run.key]) for run in missing if run.key in reasons}
        records |= _present(missing, runner)  # a stage-one model may be a run of the grid
        missing = [run for run in missing if run.key not in records]
    send = None if executor.shares_files else PayloadSender(executor, runner)
    lost = _make_choosers(missing, runner, executor, send) if send is not None else []
    records |= {result.job.tag.key: _record(result, runner, lone=len(runs) == 1) for result in lost}
    missing = [run for run in missing if run.key not in records]
    for number, result in enumerate(each_result(executor, _jobs(missing, runner, executor, send)), start=1):
        run = result.job.tag
        records[run.key] = _record(result, runner, lone=len(runs) == 1)
        if tracking is not None:
            tracking(records[run.key])
        if not isinstance(executor, SerialExecutor):
            logger.info("[%d/%d] %s: %s", number, len(missing), run.title(), records[run.key].status)
    return [records[run.key] for run in runs]


def _present(runs: Sequence[Run], runner: Runner) -> dict[str, Record]:
    return {run.key: record for run in runs if (record := runner.finished(run)) is not None}


def _run_here(runner: Runner, run: Run, place: str) -> Record:
    if place and runner.finished(run) is None:
        logger.info("%s", place)
    return runner.run(run)


def _make_choosers(runs: Sequence[Run], runner: Runner, executor: Executor, send: PayloadSender) -> list[JobResult]:
    """Make the records that choose the epochs of refits, before refits are sent to where they could not be found.

    Returns:
        The results of refits that fail because the run that should choose their epochs failed.
    """
    chooser_of = {run.key: chooser for run in runs if (chooser := run.chooser()) is not None}
    wanted = {chooser.key: chooser for chooser in chooser_of.values() if runner.finished(chooser) is None}
    errors: dict[str, Exception] = {}
    for result in each_result(executor, _jobs([*wanted.values()], runner, executor, send)):
        chooser = result.job.tag
        if result.error is not None:
            errors[chooser.key] = result.error
        else:
            received(chooser, result.value, runner.store)
            logger.info("%s: ok", chooser.title())
    refits = [run for run in runs if run.key in chooser_of and chooser_of[run.key].key in errors]
    return [JobResult(Job(run.title(), run_job_away, tag=run), error=errors[chooser_of[run.key].key]) for run in refits]


def _jobs(runs: Sequence[Run], runner: Runner, executor: Executor, send: PayloadSender | None) -> list[Job]:
    """The runs as jobs for the executor; ``send`` packs what they read if workers do not share files."""
    if isinstance(executor, SerialExecutor):
        places = [f"[{n}/{len(runs)}]" if len(runs) > 1 else "" for n in range(1, len(runs) + 1)]
        placed = zip(runs, places, strict=True)
        return [Job(run.title(), _run_here, (runner, run, place), tag=run) for run, place in placed]
    if send is None:
        folder = str(runner.store.folder)
        return [Job(run.title(), run_job, (run, folder, runner.force, _ahead(run, runner)), tag=run) for run in runs]
    return [
        Job(run.title(), run_job_away, (run, send(run), _chosen(run, runner), _ahead(run, runner)), tag=run)
        for run in runs
    ]


def _ahead(run: Run, runner: Runner) -> dict[str, float]:
    """Seconds of the features that were made here for a run; its record will have them."""
    return runner.ahead.pop(run.key, {})


def _chosen(run: Run, runner: Runner) -> dict[str, bytes]:
    """The file of the record that chose a refit's epochs, without its ranks; empty for other runs."""
    chooser = run.chooser()
    record = None if chooser is None else runner.store.find(chooser.key)
    files = {} if record is None else runner.store.pack(record)
    return {name: content for name, content in files.items() if name.endswith(".json")}


def _record(result: JobResult, runner: Runner, lone: bool) -> Record:
    """The record of a run, or one that says why the run failed."""
    run: Run = result.job.tag
    if result.error is not None:
        logger.debug("%s", run.title(), exc_info=result.error)
        if lone and not isinstance(result.error, JobError):
            if not isinstance(result.error, UserError):
                _keep_failure(run, runner, result.reason)
            raise result.error
        return _failed(run, runner, result.reason)
    if isinstance(result.value, Record):
        return result.value
    return received(run, result.value, runner.store)


def _failed(run: Run, runner: Runner, reason: str) -> Record:
    """Log and record a failure."""
    logger.error("%s failed: %s", run.title(), reason)
    return _keep_failure(run, runner, reason)


def _keep_failure(run: Run, runner: Runner, reason: str) -> Record:
    """Record a failure; the next command tries again. A good record of the run stays (``--force``)."""
    record = run.blank_record()
    record.status, record.error = "failed", reason[:2000]
    older = runner.store.find(run.key)
    if older is None or older.status == "failed":
        runner.store.put(record)
    return record
