"""``tune``: the same search for every model, then the best settings with several seeds.

A search sees training and validation data alone; the test cases are ranked once, by the runs that come after it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.execution.executors import Executor, Job, JobResult, open_executor
from recbole_llm.experiments.jobs import PayloadSender, make_features, run_trial, run_trial_away
from recbole_llm.experiments.launch import run_all
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.tuning.space import Space, space_of
from recbole_llm.tuning.study import Budget, Heartbeat, Study, open_storage
from recbole_llm.utils.files import make_folder, one_process_at_a_time
from recbole_llm.utils.progress import Bars

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # how often a process looks for trials that others have lost


def tune_all(
    runs: Sequence[Run],
    spaces: Sequence[Space],
    budget: Budget,
    seeds: Sequence[Sequence[int]],
    storage: str | None = None,
    quiet: bool = True,
    executor: tuple[str | None, int | None, str | None, float | None] = (None, None, None, None),
) -> tuple[list[Record], list[Study]]:
    """Search the settings of some runs, then run the best ones.

    Args:
        runs: one a search, with the defaults and what the user fixed.
        spaces: what is searched, for each.
        budget: the same for all.
        seeds: for each, those of the runs with the best settings.
        storage: see :func:`~recbole_llm.tuning.study.open_storage`. Processes with the same storage and settings
            share their studies.
        quiet: no progress bars.
        executor: see :func:`~recbole_llm.execution.executors.open_executor`.

    Returns:
        The records of the tuned runs and of studies that failed, and the studies that did not.

    Raises:
        UserError: no study has a result.
    """
    store = ResultStore(runs[0].settings["results_dir"])
    make_folder(store.folder)
    kept = open_storage(storage, store.folder)
    studies = [Study(run, s, budget, kept) for run, s in zip(runs, spaces, strict=True)]
    runner = Runner(store, Bars(not quiet))
    with open_executor(*executor) as chosen:
        lost = search(studies, chosen, runner)
        tuned: list[Run] = []
        for study, of in zip(studies, seeds, strict=True):
            if study.name not in lost:
                try:
                    tuned += [study.tuned_run(seed) for seed in of]
                except UserError as error:  # every trial failed
                    lost[study.name] = error
        if len(lost) == len(studies):
            raise next(iter(lost.values()))
        failed = [_failure(study, lost[study.name]) for study in studies if study.name in lost]
        return [*run_all(tuned, runner, chosen), *failed], [s for s in studies if s.name not in lost]


def spaces_of(runs: Sequence[Run], file: str | Path | None = None, epochs: int | None = None) -> list[Space]:
    """What is searched for each run.

    Args:
        runs: one a study.
        file: the user's space, for a single model.
        epochs: of a trial at most.

    Raises:
        UserError: a cell that cannot be searched, or has no space.
    """
    if any(run.settings["engine"] != "fast" for run in runs):
        raise UserError("tune needs --engine=fast; RecBole's own loop reads the test data as it trains.")
    if any(int(run.settings["nproc"]) > 1 for run in runs):
        raise UserError("tune trains each trial by one process; give --workers=N instead of --nproc.")
    if file is not None and len({run.settings.method.name for run in runs}) > 1:
        raise UserError("--space is for one model; the spaces of several are files of properties/search/.")
    return [space_of(run.settings, None if file is None else Path(file), epochs) for run in runs]


def _failure(study: Study, error: UserError) -> Record:
    """What a table shows of a study without a result; it is not kept, since the next search may have one."""
    logger.error("%s failed: %s", study.run.title(), error)
    record = Run.of(study.run.settings, study.spent).blank_record()
    record.status, record.error = "failed", str(error)
    return record


def search(studies: Sequence[Study], executor: Executor, runner: Runner) -> dict[str, UserError]:
    """Run the trials of all studies until their budgets are spent, by this process and by any others.

    Returns:
        By name, why a study has no trials: its semantic features cannot be made.
    """
    lost = _make_features([study for study in studies if not study.is_done], runner)
    studies = [study for study in studies if study.name not in lost]
    send = _sender(executor, runner)
    with Heartbeat(studies):
        while True:
            for study in sorted(studies, key=lambda study: len(study.running)):
                if executor.free and (trial := study.next()) is not None:
                    executor.submit(_work(study, trial, send))
                    break
            else:
                outcome = executor.next(LOOK_SECONDS)
                if outcome is not None:
                    study, trial = outcome.work.tag
                    study.finish(trial, outcome)
                    _log(study, trial, outcome)
                elif not executor.under_way:
                    if all(study.is_done for study in studies):
                        return lost
                    time.sleep(LOOK_SECONDS)  # the rest runs in other processes


def _make_features(studies: Iterable[Study], runner: Runner) -> dict[str, UserError]:
    """Stage one and features once for all trials; another process of the search finds them made."""
    lost = {}
    for study in studies:
        run = study.run
        if run.settings["semantics"] != "none":
            try:
                with one_process_at_a_time(run.location.home / "semantics", f"the features of {run.title()}"):
                    make_features([run], runner)
            except UserError as error:
                lost[study.name] = error
    return lost


def _sender(executor: Executor, runner: Runner) -> Any:
    if executor.shares_files:
        return None
    return PayloadSender(executor, runner)


def _work(study: Study, trial: Any, send: Any) -> Job:
    run = study.make_run(trial)

    def answer(message: tuple[int, float]) -> bool:
        return study.report(trial, *message)

    title = f"trial {trial.number} of {study.name}"
    if send is None:
        return Job(title, run_trial, (run, str(study.folder(trial)), study.budget.seconds), answer, (study, trial))
    return Job(title, run_trial_away, (run, send(study.run), study.budget.seconds), answer, (study, trial))


def _log(study: Study, trial: Any, outcome: JobResult) -> None:
    values = ", ".join(f"{name}={_short(value)}" for name, value in study.settings(trial).items())
    if outcome.error is not None:
        result = f"failed: {outcome.reason}"
    else:
        score = "no score" if outcome.value.score is None else f"{outcome.value.score:.4f}"
        result = score + (f", pruned after {outcome.value.epochs} epochs" if outcome.value.pruned else "")
    name = study.run.settings.method.name
    logger.info("%s [%d/%d] %s  %s", name, len(study.ended()), study.trials, result, values)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def summary(studies: Iterable[Study]) -> str:
    """For each study what was found, as text."""
    return "\n".join(line for study in studies for line in _lines(study))


def _lines(study: Study) -> tuple[str, str]:
    ended, best = study.ended(), study.best()
    states = [trial.state.name for trial in ended]
    counts = [(states.count("PRUNED"), "pruned"), (states.count("FAIL"), "failed")]
    told = "".join(f", {count} {word}" for count, word in counts if count)
    default = f" (defaults {ended[0].value:.4f})" if states[0] == "COMPLETE" else ""
    found = ", ".join(f"{name}={_short(value)}" for name, value in study.settings(best).items())
    score = f"validation {study.run.settings['valid_metric']} {best.value:.4f}{default}"
    return f"{study.name}: {len(ended)} trials{told}", f"  {score}: {found or 'nothing to search'}"
