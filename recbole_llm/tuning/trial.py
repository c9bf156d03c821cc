"""One trial as a job: train, validate, report each epoch to the study."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import BasePruner

from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.jobs import Payload
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner, StopTraining
from recbole_llm.experiments.store import ResultStore
from recbole_llm.tuning.storage import open_storage
from recbole_llm.tuning.users import attribute_of, values_of_users

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reporter:
    """Reports a trial's scores to its study and asks the pruner, from the process that trains the trial.

    Attributes:
        storage: address of the study's storage.
        study: name of the study.
        trial_id: Optuna's id, by which storages know the trial.
        pruner: ``None`` for a trial that is never pruned.
        metric: metric whose per-user values are stored; ``None`` if the pruner does not read them.
        several: the study has several objectives, for which Optuna stores no curves.
    """

    storage: str
    study: str
    trial_id: int
    pruner: BasePruner | None
    metric: str | None = None
    several: bool = False

    @cached_property
    def _study(self) -> optuna.Study:
        sampler = optuna.samplers.RandomSampler()  # never used: the parameters are already sampled
        return optuna.load_study(
            study_name=self.study, storage=open_storage(self.storage).backend, sampler=sampler, pruner=self.pruner
        )

    def __call__(self, epoch: int, score: float, ranks: Ranks | None = None) -> bool:
        """Store a validation score, and per-user values if trials are compared by them; returns whether to stop.

        A resumed trial reports its epochs again. The pruner is not asked again about epochs before the last known one.
        """
        if self.several:
            return False
        try:
            trial = optuna.trial.Trial(self._study, self.trial_id)
            known = trial.storage.get_trial(self.trial_id).intermediate_values
            if epoch not in known:
                if self.metric is not None and ranks is not None:
                    trial.set_user_attr(attribute_of(epoch), values_of_users(ranks, self.metric))
                trial.report(score, epoch)
            return self.pruner is not None and epoch >= max(known, default=0) and bool(trial.should_prune())
        except UpdateFinishedTrialError:
            return True  # without a heartbeat for too long, it was given to another process, which has finished it
        except StorageInternalError as error:  # for example a database that is unavailable for a moment
            logger.warning(
                "trial %s of %s continues, but its scores cannot be stored: %s", self.trial_id, self.study, error
            )
            return False


@dataclass
class Trained:
    """What a search learns from a trial: results on validation data only.

    Attributes:
        score: best validation score; ``None`` if training was stopped before there was one.
        best_epoch, epochs: the epoch of that score, and the number of epochs.
        pruned: whether the pruner stopped it.
        seconds: of all phases.
        training_seconds: of training up to the best epoch, also before an interruption.
    """

    score: float | None
    best_epoch: int | None
    epochs: int
    pruned: bool
    seconds: float
    training_seconds: float = 0.0


def run_trial(
    run: Run, folder: str, max_seconds: float | None, report: Callable[[int, float, Ranks | None], bool]
) -> Trained:
    """Train and validate a run.

    Args:
        run: with the settings of the trial.
        folder: of the checkpoints, from which a killed trial is resumed. They stay: if the search is killed before it
            has stored the result, it finds the training finished.
        max_seconds: of training and validation, including the time before a kill; the trial ends with the epoch in
            which they run out.
        report: called with epoch, score and ranks after each validation; returns whether to stop.
    """
    pruned = False

    def after(epoch: int, score: float, ranks: Ranks | None) -> None:
        nonlocal pruned
        pruned = report(epoch, score, ranks)
        if pruned:
            raise StopTraining

    runner = Runner(ResultStore(run.settings["results_dir"]), asks_again=False)
    record = runner.validate(run, Path(folder), after, max_seconds)
    score = record.valid_metrics.get(record.valid_metric)
    training = sum(entry["seconds"] for entry in record.curve[: record.best_epoch])
    return Trained(score, record.best_epoch, record.epochs or 0, pruned, record.seconds["total"], training)


def run_trial_away(
    run: Run, payload: Payload, max_seconds: float | None, report: Callable[[int, float, Ranks | None], bool]
) -> Trained:
    """Run a trial where the driver's files may be missing.

    Its checkpoints have their own folder there, so that a trial can be resumed if its worker is lost. They are removed
    at the end, since the driver cannot do it.
    """
    with payload.unpacked(run) as (run, _):
        folder = payload.place / "trials" / run.key
        try:
            return run_trial(run, str(folder), max_seconds, report)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
