"""One search: an Optuna study whose trials are neither lost nor counted twice, whichever process dies.

A study has a budget of N trials: those with the first N numbers. A trial keeps its number and its parameters until it
has ended. If its process dies, the trial goes back to the waiting ones, which any process of the search may take. This
happens at once if the process was on this machine, otherwise after the heartbeat's grace period.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from recbole_llm.errors import UserError
from recbole_llm.execution.base import JobResult
from recbole_llm.experiments.run import Run
from recbole_llm.settings.layers import Settings, backbone_key, layer_settings
from recbole_llm.tuning.budget import Budget
from recbole_llm.tuning.history import Ended, Header, accuracy, is_elsewhere, read_history, write_history
from recbole_llm.tuning.liveness import is_lost, owner
from recbole_llm.tuning.sampler import TrialSampler
from recbole_llm.tuning.space import Space, default_of, space_json, with_own
from recbole_llm.tuning.storage import Storage
from recbole_llm.tuning.trial import Reporter, Trained
from recbole_llm.tuning.users import UserPruner
from recbole_llm.utils.files import one_process_at_a_time

logger = logging.getLogger(__name__)

# The presets that are tried after the defaults: the model's own, and others that a publication reports.
PUBLISHED = ("paper", "original", "sampled")
TRAINED_BY = ("loss_type", "train_targets", "objective")
UNITS = ("lm", "word_scale")  # settings on which a model's scales and rates depend
MAX_LOSSES = 5  # a trial that is lost more often has failed
WAITING = optuna.create_trial(state=TrialState.WAITING)  # stands in for a trial that a history lacks


class Study:
    """The search for one model's settings on one dataset under one protocol.

    Args:
        run: the model with its defaults and the settings that the user fixed.
        space: what is searched.
        budget: the search's limits.
        storage: where trials are kept, for all processes that take part.
        results: the results folder; its ``studies/`` has the history of the study as text.

    Attributes:
        name: of the study; it depends on everything that can change a trial's value.
        running: the trials of this process, by Optuna's ids.

    Raises:
        UserError: the history is of another search.
    """

    def __init__(self, run: Run, space: Space, budget: Budget, storage: Storage, results: Path) -> None:
        self.run, self.space, self.budget = run, space, budget
        self.trials = budget.trials if space else 1  # a model without settings to search has one configuration
        self.name = study_name(run, space, budget)
        self.running: dict[int, optuna.Trial] = {}
        self.history = history_file(results, self.name)
        self._starts = starts(run, space)
        self._distributions = {name: parameter.distribution for name, parameter in space.items()}
        self._pruner = budget.optuna_pruner(self._epochs())
        self._storage = storage
        with self._alone():
            self._study = optuna.create_study(
                storage=storage.backend,
                study_name=self.name,
                directions=["maximize", "minimize"] if budget.several else ["maximize"],
                load_if_exists=True,
                sampler=TrialSampler(int(run.settings["seed"]), self._starts),
                pruner=self._pruner,
            )
            self._take_in()

    def _alone(self) -> AbstractContextManager[None]:
        """A block for one process of this machine at a time, so that none sees another's half-done changes."""
        return one_process_at_a_time(self.history.parent)

    def _epochs(self) -> int:
        """The most epochs of a trial: the budget's limit, or the run's setting if that is less."""
        own = int(self.run.settings["epochs"])
        return own if self.budget.epochs is None else min(own, self.budget.epochs)

    # ---- trials --------------------------------------------------------------------------------

    def all_trials(self) -> list[FrozenTrial]:
        """All trials that count, by number."""
        found: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return [trial for trial in found if _counts(trial)]

    def budgeted(self) -> list[FrozenTrial]:
        """The trials within the budget that exist so far."""
        return self.all_trials()[: self.trials]

    def ended(self) -> list[FrozenTrial]:
        """The trials of the budget that have ended."""
        return [trial for trial in self.budgeted() if trial.state.is_finished()]

    @property
    def spent(self) -> dict[str, Any]:
        """What a record says about the search; with nothing to search there is one trial without limits."""
        limits = {"trial_epochs": self.budget.epochs, "trial_minutes": self.budget.minutes} if self.space else {}
        return {"trials": self.trials, **{name: limit for name, limit in limits.items() if limit is not None}}

    @property
    def is_done(self) -> bool:
        """Whether all trials of the budget have ended."""
        return len(self.ended()) == self.trials

    def next(self) -> optuna.Trial | None:
        """A trial for the caller to run; ``None`` if none is left to begin now."""
        with self._alone():
            self._recover()
            while self._is_open():
                trial = self._study.ask(self._distributions)
                trial.set_user_attr("owner", owner())
                if all(other.number != trial.number for other in self.budgeted()):
                    self._put_back(trial)  # another machine has taken the last one meanwhile
                elif not self._is_known(trial):
                    self.running[trial._trial_id] = trial
                    self.beat()
                    return trial
        return None

    def _is_open(self) -> bool:
        """Whether a trial of the budget has yet to begin."""
        begun = self.budgeted()
        return len(begun) < self.trials or any(trial.state == TrialState.WAITING for trial in begun)

    def _is_known(self, trial: optuna.Trial) -> bool:
        """End a trial at once if another had the same parameters (one seed, one value); returns whether it did."""
        for other in self.ended():
            if other.params == trial.params and other.state != TrialState.FAIL:
                trial.set_user_attr("same_as", other.number)
                for step, value in other.intermediate_values.items():
                    trial.report(value, step)
                pruned = other.state == TrialState.PRUNED
                self._study.tell(trial, None if pruned else other.values, TrialState.PRUNED if pruned else None)
                return True
        return False

    def _put_back(self, trial: optuna.Trial | FrozenTrial) -> None:
        """Return a running trial to the waiting ones, for any process to take."""
        self._storage.backend.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def _recover(self) -> None:
        """Put back the trials whose process is gone."""
        backend = self._storage.backend
        silent = backend._get_stale_trial_ids(self._study._study_id) if isinstance(backend, RDBStorage) else []
        for trial in self.budgeted():
            theirs = trial.state == TrialState.RUNNING and trial._trial_id not in self.running
            if theirs and (trial._trial_id in silent or is_lost(trial)):
                self._lose(trial)

    def _lose(self, trial: FrozenTrial) -> None:
        losses = trial.user_attrs.get("losses", 0) + 1
        set_attribute = self._storage.backend.set_trial_user_attr
        try:
            set_attribute(trial._trial_id, "losses", losses)
            if losses <= MAX_LOSSES:
                logger.info("%s: trial %d was lost and is tried again", self.name, trial.number)
                self._beat(trial._trial_id)  # else it would seem stale until its next process beats
                self._put_back(trial)
            else:
                set_attribute(trial._trial_id, "error", f"its process died {losses} times")
                self._study.tell(trial.number, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):
            logger.debug("trial %d of %s had not been lost", trial.number, self.name)

    def settings(self, trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
        """The settings of a trial."""
        return {name: self.space[name].value(value) for name, value in trial.params.items()}

    def make_run(self, trial: optuna.Trial) -> Run:
        """The run that a trial trains."""
        limits = {} if self.budget.epochs is None else {"epochs": self._epochs()}
        settings = with_own(self.run.settings, {**self.settings(trial), **limits})
        return Run.of(settings.replaced(checkpoint_dir=str(self.folder(trial)), refit=False))

    @property
    def checkpoints(self) -> Path:
        """The folder of all trials' checkpoints."""
        return Path(self.run.settings["checkpoint_dir"]) / "search" / self.name

    def folder(self, trial: optuna.Trial | FrozenTrial) -> Path:
        """The folder of a trial's checkpoints."""
        return self.checkpoints / str(trial.number)

    def reporter(self, trial: optuna.Trial, address: str | None = None) -> Reporter:
        """The object by which a job reports a trial's scores.

        Args:
            trial: the trial that the job trains.
            address: of the storage for the job, if it is not the same as here.
        """
        pruner = None if trial.number < len(self._starts) else self._pruner
        metric = str(self.run.settings["valid_metric"]) if isinstance(self._pruner, UserPruner) else None
        return Reporter(
            address or self._storage.address, self.name, trial._trial_id, pruner, metric, self.budget.several
        )

    def finish(self, trial: optuna.Trial, result: JobResult) -> None:
        """Store how a trial ended."""
        try:
            self._tell(trial, result)
        except (UpdateFinishedTrialError, ValueError):  # what Optuna raises for a trial that is not running
            logger.warning("%s: trial %d came too late and does not count", self.name, trial.number)
        else:
            self.export()
            shutil.rmtree(self.folder(trial), ignore_errors=True)
        self.running.pop(trial._trial_id, None)

    def _tell(self, trial: optuna.Trial, result: JobResult) -> None:
        trained: Trained | None = result.value
        reason = result.reason if result.error is not None else ""
        if trained is not None and (trained.score is None or not math.isfinite(trained.score)):
            reason = "there was no validation" if trained.score is None else f"the validation gave {trained.score}"
        if reason or trained is None:
            trial.set_user_attr("error", reason[:500])
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name in ("epochs", "best_epoch", "seconds"):
            trial.set_user_attr(name, getattr(trained, name))
        if trained.pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            values = {"accuracy": trained.score, "seconds": trained.training_seconds}
            self._study.tell(trial, [values[name] for name in self.budget.objectives])

    def release(self) -> None:
        """Put back the trials of this process, whose jobs have ended."""
        for trial in self.running.values():
            try:
                self._put_back(trial)
            except UpdateFinishedTrialError:
                logger.debug("trial %d of %s has ended elsewhere", trial.number, self.name)
        self.running.clear()

    def beat(self) -> None:
        """Record that this process's trials are alive."""
        for trial_id in list(self.running):
            self._beat(trial_id)

    def _beat(self, trial_id: int) -> None:
        if isinstance(self._storage.backend, RDBStorage):
            self._storage.backend.record_heartbeat(trial_id)

    # ---- results -------------------------------------------------------------------------------

    def best(self) -> FrozenTrial:
        """The trial with the best validation score.

        Raises:
            UserError: every trial failed.
        """
        done = self.complete()
        if not done:
            reasons = [str(trial.user_attrs["error"]) for trial in self.ended() if "error" in trial.user_attrs]
            raise UserError(f"every trial of {self.name} failed: {reasons[0] if reasons else 'all were pruned'}")
        return max(done, key=lambda trial: (accuracy(trial), -trial.number))

    def complete(self) -> list[FrozenTrial]:
        """The trials of the budget that were neither pruned nor failed."""
        return [trial for trial in self.ended() if trial.state == TrialState.COMPLETE]

    def front(self) -> list[FrozenTrial]:
        """The Pareto front, ordered by accuracy: the trials that no other trial dominates.

        Of equal trials only the first is included.
        """
        found: list[FrozenTrial] = []
        for trial in sorted(self.complete(), key=lambda t: (-t.values[0], *t.values[1:], t.number)):
            if not found or trial.values[-1] < found[-1].values[-1]:
                found.append(trial)
        return found if self.budget.several else found[:1]

    def tuned_run(self, seed: int) -> Run:
        """The run with the best settings and a seed."""
        settings = with_own(self.run.settings, {**self.settings(self.best()), "seed": seed})
        return Run.of(settings, self.spent)

    # ---- history -------------------------------------------------------------------------------

    def _header(self) -> Header:
        budget: dict[str, Any] = {
            "epochs": self.budget.epochs,
            "seconds": self.budget.seconds,
            "pruner": self.budget.pruner,
        }
        budget |= {"objectives": list(self.budget.objectives)} if self.budget.several else {}
        metric = str(self.run.settings["valid_metric"])
        return Header(study=self.name, metric=metric, budget=budget, space=space_json(self.space))

    def export(self) -> None:
        """Write the history: all trials that have ended, including those beyond the budget."""
        with self._alone():
            ended = [Ended.of(trial) for trial in self.all_trials() if trial.state.is_finished()]
            write_history(self.history, self._header(), ended)

    def _take_in(self) -> None:
        """Add the trials of the history that the storage does not have, under their numbers."""
        known = len(self._study.get_trials(deepcopy=False))
        kept = read_history(self.history, self._header())
        for number in range(known, max(kept, default=-1) + 1):
            self._study.add_trial(self._frozen(kept[number]) if number in kept else WAITING)

    def _frozen(self, trial: Ended) -> FrozenTrial:
        try:
            return trial.frozen(self._distributions)
        except ValueError as error:
            logger.warning("%s, trial %d does not fit and is run again: %s", self.history, trial.number, error)
            return WAITING


def study_name(run: Run, space: Space, budget: Budget) -> str:
    """The name of a study; it depends on everything that can change a trial's value."""
    s = run.settings
    chooser = run.chooser() or run  # trials are never refits, so the search is the same with and without
    parts: list[Any] = [chooser.key, space_json(space), budget.epochs, budget.seconds, budget.pruner]
    parts += [budget.objectives] if budget.several else []  # else names of older studies would change
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]
    semantics = [] if s["semantics"] == "none" else [str(s["semantics"])]
    return "-".join([s.method.name, run.location.name, s["protocol"], *semantics, digest])


def history_file(results: Path, name: str) -> Path:
    """The file in a results folder with the history of a study."""
    return results / "studies" / f"{name}.jsonl"


def kept_study(run: Run, space: Space, budget: Budget, results: Path) -> Study | None:
    """A study read from its history, for inspection; ``None`` if there is none.

    Raises:
        UserError: the history is of another search.
    """
    if not history_file(results, study_name(run, space, budget)).is_file():
        return None
    return Study(run, space, budget, Storage("", InMemoryStorage()), results)


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial counts as one of the study's.

    Two kinds do not: a failure without a reason (an earlier version left them for trials that it tried again under
    another number), and a trial of a history that got another number because two machines read it at once.
    """
    failed = trial.state == TrialState.FAIL and "error" not in trial.user_attrs
    return not failed and not is_elsewhere(trial)


def starts(run: Run, space: Space) -> list[dict[str, Any]]:
    """Parameters of the first trials: the model's defaults, then its published settings as far as the space has them.

    Args:
        run: the model with its defaults and the settings that the user fixed.
        space: what is searched.
    """
    found: list[dict[str, Any]] = []
    for settings in (run.settings, *_published(run.settings, space)):
        start = dict(found[0]) if found else {}
        values = {name: default_of(settings, name) for name in space}
        start |= {n: p.stored(values[n]) for n, p in space.items() if p.holds(values[n])}
        if start not in found:
            found.append(start)
    return found


def _published(s: Settings, space: Space) -> Iterator[Settings]:
    """The model's published settings, from each preset that applies to this search.

    A preset for another language model or in other units does not apply. Presets other than ``paper`` must also train
    on the same targets with the same loss, unless the search varies these. Settings that the user fixed stay as fixed.
    """
    key = backbone_key(s.method)
    backbone = {} if key is None else {key: s[key]}
    for name in PUBLISHED:
        preset = {"preset": name}
        try:
            own = layer_settings(s.method, s["dataset"], s["protocol"], (), {**backbone, **preset}, strict=False)
            given = {**s.overrides, **preset}
            other = layer_settings(s.method, s["dataset"], s["protocol"], s.config_files, given, strict=False)
        except UserError as error:
            logger.debug("what the user gives does not go with preset %s of %s: %s", name, s.method.name, error)
            continue
        same = UNITS if name == PUBLISHED[0] else (*UNITS, *(key for key in TRAINED_BY if key not in space))
        has_one = any(source.startswith("properties/preset/") for source in own.origin.values())
        if has_one and all(own.get(key) == s.get(key) for key in same):
            yield other
