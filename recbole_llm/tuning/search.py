"""``tune``: the same search for every model, then the best settings with several seeds.

A search sees only training and validation data. The test cases are ranked once, by the tuned runs after it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from recbole_llm.errors import UserError
from recbole_llm.execution.base import Executor, Job, JobResult
from recbole_llm.execution.choice import open_executor
from recbole_llm.experiments.jobs import PayloadSender, make_features
from recbole_llm.experiments.launch import run_all
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.tuning.budget import Budget
from recbole_llm.tuning.history import accuracy, cost
from recbole_llm.tuning.liveness import Heartbeat
from recbole_llm.tuning.space import Space
from recbole_llm.tuning.storage import Storage, open_storage, served, storage_address, storage_errors
from recbole_llm.tuning.study import Study
from recbole_llm.tuning.trial import run_trial, run_trial_away
from recbole_llm.utils.files import make_folder, one_process_at_a_time
from recbole_llm.utils.progress import Bars
from recbole_llm.utils.text import counted, four_digits

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0  # between two looks for trials that other processes have lost


def tune_all(
    runs: Sequence[Run],
    spaces: Sequence[Space],
    budget: Budget,
    seeds: Sequence[Sequence[int]],
    *,
    storage: str | None,
    quiet: bool,
    executor: tuple[str | None, int | None, str | None, float | None],
    tracking: Callable[[Record], None] | None,
) -> tuple[list[Record], list[Study]]:
    """Search the settings of some runs, then run the best ones.

    Args:
        runs: one per search, with the defaults and the settings that the user fixed.
        spaces: what is searched, for each run.
        budget: the same for all.
        seeds: for each run, the seeds of the tuned runs.
        storage: see :func:`~recbole_llm.tuning.storage.storage_address`. Processes with the same storage and settings
            share their studies.
        quiet: no progress bars.
        executor: see :func:`~recbole_llm.execution.choice.open_executor`.
        tracking: called with the record of each tuned run, as it arrives; trials have none.

    Returns:
        The records of the tuned runs and of the studies that failed, and the studies that did not fail.

    Raises:
        UserError: no study has a result.
    """
    store = ResultStore(runs[0].settings["results_dir"])
    address = storage_address(storage, store.folder)
    make_folder(store.folder)
    kept = open_storage(address)
    runner = Runner(store, Bars(not quiet))
    with storage_errors(kept), open_executor(*executor) as chosen:
        studies = [Study(run, s, budget, kept, store.folder) for run, s in zip(runs, spaces, strict=True)]
        lost = search(studies, chosen, runner, kept)
        tuned: list[Run] = []
        for study, of in zip(studies, seeds, strict=True):
            if study.name not in lost:
                try:
                    best = [study.tuned_run(seed) for seed in of]
                except UserError as error:  # every trial failed
                    lost[study.name] = error
                else:
                    runner.ahead[best[0].key] = runner.ahead.pop(study.run.key, {})
                    tuned += best
        if len(lost) == len(studies):
            raise next(iter(lost.values()))
        failed = [_failure(study, lost[study.name]) for study in studies if study.name in lost]
        return [*run_all(tuned, runner, chosen, tracking), *failed], [s for s in studies if s.name not in lost]


def _failure(study: Study, error: UserError) -> Record:
    """The record by which a table shows a study without a result; not stored, since the next search may have one."""
    logger.error("%s failed: %s", study.run.title(), error)
    record = Run.of(study.run.settings, study.spent).blank_record()
    record.status, record.error = "failed", str(error)
    return record


def search(studies: Sequence[Study], executor: Executor, runner: Runner, storage: Storage) -> dict[str, UserError]:
    """Run the trials of all studies until their budgets are spent, by this process and any others of the search.

    Args:
        studies: what to search.
        executor: where trials run.
        runner: makes the features that trials need.
        storage: where the studies are kept.

    Returns:
        By a study's name, why it has no trials: its semantic features cannot be made.

    Raises:
        UserError: a folder of checkpoints cannot be written to.
    """
    unfinished = [study for study in studies if not study.is_done]
    if executor.shares_files:
        for study in unfinished:
            make_folder(study.checkpoints)  # else every trial would be recorded as failed
    lost = _make_features(unfinished, runner)
    studies = [study for study in studies if study.name not in lost]
    with ExitStack() as stack:
        stack.enter_context(Heartbeat([study.beat for study in studies]))
        if executor.shares_files:
            job_of = _job_here
        else:
            address = stack.enter_context(served(storage, executor.host))
            job_of = partial(_job_away, send=PayloadSender(executor, runner), address=address)
        try:
            _run_trials(studies, executor, job_of)
        except BaseException:
            executor.close()
            _release(studies)
            raise
    for study in studies:
        study.export()
    return lost


def _release(studies: Sequence[Study]) -> None:
    """Put unfinished trials back, so that a later search in this process need not wait for them."""
    for study in studies:
        try:
            study.release()
        except (StorageInternalError, SQLAlchemyError, OSError) as error:  # the disk is full, which is being raised
            logger.debug("the trials of %s stay: %s", study.name, error)


def _run_trials(studies: Sequence[Study], executor: Executor, job_of: Callable[[Study, Any, Run], Job]) -> None:
    while True:
        for study in sorted(studies, key=lambda study: len(study.running)):
            if executor.free and (trial := study.next()) is not None:
                try:
                    run = study.make_run(trial)
                except UserError as error:  # settings that exclude each other, which only this trial combines
                    _end(study, trial, JobResult(Job(_title(study, trial), run_trial), error=error))
                else:
                    executor.submit(job_of(study, trial, run))
                break
        else:
            result = executor.next(POLL_SECONDS)
            if result is not None:
                study, trial = result.job.tag
                _end(study, trial, result)
            elif not executor.under_way:
                if all(study.is_done for study in studies):
                    return
                time.sleep(POLL_SECONDS)  # the rest runs in other processes


def _make_features(studies: Iterable[Study], runner: Runner) -> dict[str, UserError]:
    """Make stage one and features once for all trials; other processes of the search wait and find them made."""
    lost = {}
    for study in studies:
        run = study.run
        if run.settings["semantics"] != "none":
            try:
                with one_process_at_a_time(run.location.semantics, f"the features of {run.title()}"):
                    make_features([run], runner)
            except UserError as error:
                lost[study.name] = error
    return lost


def _job_here(study: Study, trial: Any, run: Run) -> Job:
    arguments = (run, str(study.folder(trial)), study.budget.seconds, study.reporter(trial))
    return Job(_title(study, trial), run_trial, arguments, (study, trial))


def _job_away(study: Study, trial: Any, run: Run, send: PayloadSender, address: str) -> Job:
    arguments = (run, send(study.run), study.budget.seconds, study.reporter(trial, address))
    return Job(_title(study, trial), run_trial_away, arguments, (study, trial))


def _title(study: Study, trial: Any) -> str:
    return f"trial {trial.number} of {study.name}"


def _end(study: Study, trial: Any, result: JobResult) -> None:
    study.finish(trial, result)
    if result.error is not None:
        outcome = f"failed: {result.reason}"
    else:
        score = "no score" if result.value.score is None else f"{result.value.score:.4f}"
        outcome = score + (f", pruned after {counted(result.value.epochs, 'epoch')}" if result.value.pruned else "")
    name = study.run.settings.method.name
    logger.info("%s [%d/%d] %s  %s", name, len(study.ended()), study.trials, outcome, _settings(study, trial))


def summary(studies: Iterable[Study]) -> str:
    """The result of each study, as text."""
    return "\n".join(line for study in studies for line in _lines(study))


def _lines(study: Study) -> list[str]:
    ended, best = study.ended(), study.best()
    states = [trial.state.name for trial in ended]
    counts = [(states.count("PRUNED"), "pruned"), (states.count("FAIL"), "failed")]
    others = "".join(f", {count} {word}" for count, word in counts if count)
    default = f" (defaults {accuracy(ended[0]):.4f})" if states[0] == "COMPLETE" else ""
    score = f"validation {study.run.settings['valid_metric']} {accuracy(best):.4f}{default}"
    lines = [f"{study.name}: {counted(len(ended), 'trial')}{others}", f"  {score}: {_settings(study, best)}"]
    lines += [
        f"  {accuracy(trial):.4f} in {cost(trial):.1f} s of training: {_settings(study, trial)}"
        for trial in study.front()[1:]
    ]
    return lines


def _settings(study: Study, trial: Any) -> str:
    found = ", ".join(f"{name}={four_digits(value)}" for name, value in study.settings(trial).items())
    return found or "nothing to search"
