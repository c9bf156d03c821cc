"""One search: an Optuna study whose trials are neither lost nor doubled, whoever dies.

A study counts *slots*: a trial and its retries are one slot, numbered as its first trial. Storages number
trials one after the other whichever process makes them, so the first N slots of a study are the same for all
processes; a trial beyond them gives way. A trial whose process is gone is put back into the queue: at once
where the process was on this machine, after the heartbeat's grace where it was elsewhere.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import os
import socket
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.execution.executors import JobResult
from recbole_llm.experiments.run import Run
from recbole_llm.settings.layers import Settings, layer_settings
from recbole_llm.tuning.space import Space, space_json
from recbole_llm.utils.files import make_folder, open_database

logger = logging.getLogger(__name__)

STARTUP_TRIALS = 10  # drawn at random before TPE knows enough
PRUNERS = ("median", "hyperband", "none")
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Budget:
    """What each model of a search gets: the same for all.

    Attributes:
        trials: how many; the defaults are the first.
        epochs: of a trial at most; ``None`` leaves the models' settings.
        seconds: of a trial's training and validation; it ends with the epoch in which they are over.
        pruner: ``median``, ``hyperband`` or ``none``.
    """

    trials: int
    epochs: int | None = None
    seconds: float | None = None
    pruner: str = "median"

    @classmethod
    def given(cls, trials: int, epochs: int | None, minutes: float | None, pruner: str) -> Budget:
        """The budget of what the command line has, where time is in minutes."""
        return cls(trials, epochs, None if minutes is None else 60 * minutes, pruner)

    @property
    def minutes(self) -> float | None:
        """``seconds`` as they are given on the command line."""
        return None if self.seconds is None else self.seconds / 60

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise UserError(f"--trials={self.trials}: give 1 or more.")
        if self.pruner not in PRUNERS:
            raise UserError(f"--pruner={self.pruner}: use {', '.join(PRUNERS)}.{did_you_mean(self.pruner, PRUNERS)}")
        # Neither nan nor inf limits anything, and JSON, which records are, has none of them.
        no_time = self.seconds is not None and not 0 < self.seconds < math.inf
        if no_time or (self.epochs is not None and self.epochs < 1):
            raise UserError("--trial_epochs and --trial_minutes are positive and finite.")


class SlotSampler(optuna.samplers.BaseSampler):
    """TPE with a seed for each slot, so that a search that goes on draws as if it had never stopped.

    The seed follows from the slot's place among the slots: its number is larger where a trial was tried again before.

    Slot 0 gets the model's defaults: a search never does worse on validation than no search.
    """

    def __init__(self, seed: int, defaults: Mapping[str, Any]) -> None:
        self._seed, self._defaults = seed, defaults
        self._samplers: dict[int, optuna.samplers.TPESampler] = {}

    def _of(self, study: Any, trial: FrozenTrial) -> optuna.samplers.TPESampler:
        slot = slot_of(trial)
        if slot not in self._samplers:
            # Not study.get_trials: hyperband's studies hold the trials of one bracket.
            trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
            before = {slot_of(other) for other in trials if "surplus" not in other.user_attrs and slot_of(other) < slot}
            digest = hashlib.sha256(f"{self._seed}-{len(before)}".encode()).digest()
            self._samplers[slot] = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP_TRIALS, constant_liar=True, seed=int.from_bytes(digest[:4], "big")
            )
        return self._samplers[slot]

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """TPE's."""
        return self._of(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """TPE's."""
        return self._of(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """The default for slot 0, TPE's value for others."""
        if slot_of(trial) == 0 and param_name in self._defaults:
            return self._defaults[param_name]
        return self._of(study, trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Any, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Forget the slot's random state."""
        self._samplers.pop(slot_of(trial), None)


def slot_of(trial: FrozenTrial) -> int:
    """Number of the trial, or of the one that it is tried again for."""
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if first is None else first


def _owner() -> dict[str, Any]:
    """This process, so that others on this machine can see whether it is alive."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _process_start(os.getpid())}


def _process_start(pid: int) -> str | None:
    """When a process began, in clock ticks since the machine did; ``None`` where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it is there and somebody else's
    return "unknown" if not Path("/proc/self").exists() else None


def is_orphan(trial: FrozenTrial) -> bool:
    """Whether a running trial's process is known to be gone."""
    owner = trial.user_attrs.get("owner")
    if owner is None:  # killed between taking the trial and signing it
        began = trial.datetime_start
        return began is not None and time.time() - began.timestamp() > GRACE_SECONDS
    return owner["host"] == socket.gethostname() and _process_start(owner["pid"]) != owner["started"]


class Study:
    """The search for one model's settings on one dataset under one protocol.

    Args:
        cell: the model with its defaults and with what the user fixed.
        space: what is searched.
        budget: how long.
        storage: where trials are kept, for all processes that take part.

    Attributes:
        name: of the study; it tells apart all that can change a trial's value.
    """

    def __init__(self, run: Run, space: Space, budget: Budget, storage: BaseStorage) -> None:
        self.run, self.space, self.budget = run, space, budget
        self.trials = budget.trials if space else 1  # a model without settings to search has one configuration
        s = run.settings
        parts = [run.key, space_json(space), budget.epochs, budget.seconds, budget.pruner]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]
        semantics = [] if s["semantics"] == "none" else [str(s["semantics"])]
        self.name = "-".join([s.method.name, run.location.name, s["protocol"], *semantics, digest])
        defaults = {name: parameter.stored(s.get(name)) for name, parameter in space.items() if s.get(name) is not None}
        self._storage = storage
        self._study = optuna.create_study(
            storage=storage,
            study_name=self.name,
            direction="maximize",
            load_if_exists=True,
            sampler=SlotSampler(int(s["seed"]), defaults),
            pruner=self._pruner(),
        )
        self._distributions = {name: parameter.distribution for name, parameter in space.items()}
        self.running: dict[int, optuna.Trial] = {}
        self._told: dict[int, int] = {}

    def _pruner(self) -> optuna.pruners.BasePruner:
        if self.budget.pruner == "none":
            return optuna.pruners.NopPruner()
        if self.budget.pruner == "median":
            return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)  # a first epoch says little
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=self._epochs())

    def _epochs(self) -> int:
        """Of a trial at most: its limit, or what a run has where that is less."""
        own = int(self.run.settings["epochs"])
        return own if self.budget.epochs is None else min(own, self.budget.epochs)

    # ---- trials --------------------------------------------------------------------------------

    def frozen(self) -> list[FrozenTrial]:
        """All trials that count, retries included, by number."""
        found: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return [trial for trial in found if "surplus" not in trial.user_attrs]

    def slots(self) -> dict[int, list[FrozenTrial]]:
        """The trials of each slot."""
        found: dict[int, list[FrozenTrial]] = {}
        for trial in self.frozen():
            found.setdefault(slot_of(trial), []).append(trial)
        return dict(sorted(found.items())[: self.trials])

    def ended(self) -> list[FrozenTrial]:
        """One trial for each slot that is done: the one that counts."""
        return [trial for trials in self.slots().values() if (trial := _result(trials)) is not None]

    @property
    def spent(self) -> dict[str, Any]:
        """What a record says of the search; a single configuration without a search had no limits."""
        limits = {"trial_epochs": self.budget.epochs, "trial_minutes": self.budget.minutes} if self.space else {}
        return {"trials": self.trials, **{name: limit for name, limit in limits.items() if limit is not None}}

    @property
    def is_done(self) -> bool:
        """Whether all trials of the budget have ended."""
        return len(self.ended()) == self.trials

    def next(self) -> optuna.Trial | None:
        """A trial to be run by the caller; ``None`` where nothing is left to be begun now."""
        while True:
            self._recover()
            slots = self.slots()
            waiting = any(trial.state == TrialState.WAITING for trials in slots.values() for trial in trials)
            if not waiting and len(slots) == self.trials:
                return None
            trial = self._study.ask(self._distributions)
            trial.set_user_attr("owner", _owner())
            if self._is_surplus(trial):
                trial.set_user_attr("surplus", True)
                self._study.tell(trial, state=TrialState.FAIL)
            elif not self._is_known(trial):
                self.running[trial._trial_id] = trial
                self.beat()
                return trial

    def _is_surplus(self, trial: optuna.Trial) -> bool:
        """Whether others have begun all that the budget allows, or this very slot."""
        slots = self.slots()
        mine = next((trials for trials in slots.values() if any(t.number == trial.number for t in trials)), None)
        if mine is None:
            return True
        return any(t.number < trial.number and (t.state != TrialState.FAIL or "error" in t.user_attrs) for t in mine)

    def _is_known(self, trial: optuna.Trial) -> bool:
        """End a trial at once whose settings another one has had: the same seed gives the same value."""
        for other in self.ended():
            if other.number != trial.number and other.params == trial.params and other.state in ENDED:
                trial.set_user_attr("same_as", other.number)
                for step, value in other.intermediate_values.items():
                    trial.report(value, step)
                pruned = other.state == TrialState.PRUNED
                self._study.tell(trial, None if pruned else other.value, TrialState.PRUNED if pruned else None)
                return True
        return False

    def _recover(self) -> None:
        """Put trials back into the queue whose process is gone."""
        optuna.storages.fail_stale_trials(self._study)
        for trials in self.slots().values():
            last = trials[-1]
            if last.state == TrialState.RUNNING and last._trial_id not in self.running and is_orphan(last):
                self._study.tell(last.number, state=TrialState.FAIL, skip_if_finished=True)
                last = next(t for t in self.frozen() if t.number == last.number)
            if last.state == TrialState.FAIL and _result([*trials[:-1], last]) is None:
                logger.info("%s: trial %d was lost and is tried again", self.name, slot_of(last))
                RETRY(self._study, last)

    def settings(self, trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
        """What a trial sets."""
        return {name: self.space[name].value(value) for name, value in trial.params.items()}

    def make_run(self, trial: optuna.Trial) -> Run:
        """The cell that a trial trains."""
        limits = {} if self.budget.epochs is None else {"epochs": self._epochs()}
        settings = with_own(self.run.settings, {**self.settings(trial), **limits})
        return Run.of(settings.replaced(checkpoint_dir=str(self.folder(trial))))

    def folder(self, trial: optuna.Trial) -> Path:
        """Of a trial's checkpoints; a retry finds those of the one before."""
        slot = slot_of(self._storage.get_trial(trial._trial_id))
        return Path(self.run.settings["checkpoint_dir"]) / "search" / self.name / str(slot)

    def report(self, trial: optuna.Trial, epoch: int, score: float) -> bool:
        """Take down a validation score; whether the trial should stop there."""
        if epoch <= self._told.get(trial._trial_id, 0):
            return False  # of a training that began anew when its worker was lost
        self._told[trial._trial_id] = epoch
        try:
            trial.report(score, epoch)
        except UpdateFinishedTrialError:
            return True  # silent for longer than the grace, it was given to another process
        return slot_of(self._storage.get_trial(trial._trial_id)) != 0 and bool(trial.should_prune())

    def finish(self, trial: optuna.Trial, outcome: JobResult) -> None:
        """Take down how a trial ended."""
        try:
            self._note(trial, outcome)
        except UpdateFinishedTrialError:
            logger.warning("%s: trial %d came too late and does not count", self.name, trial.number)
        self.running.pop(trial._trial_id, None)

    def _note(self, trial: optuna.Trial, outcome: JobResult) -> None:
        result = outcome.value
        reason = outcome.reason if outcome.error is not None else ""
        if not reason and result.score is None:
            reason = "there was no validation"
        if reason:
            trial.set_user_attr("error", reason[:500])
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name in ("epochs", "best_epoch", "seconds"):
            trial.set_user_attr(name, getattr(result, name))
        if result.pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, result.score)

    def beat(self) -> None:
        """Say that this process's trials are alive."""
        if isinstance(self._storage, optuna.storages.RDBStorage):
            for trial_id in list(self.running):
                self._storage.record_heartbeat(trial_id)

    # ---- results -------------------------------------------------------------------------------

    def best(self) -> FrozenTrial:
        """The trial with the best validation score.

        Raises:
            UserError: every trial failed.
        """
        done = [trial for trial in self.ended() if trial.state == TrialState.COMPLETE]
        if not done:
            reasons = [str(trial.user_attrs["error"]) for trial in self.ended() if "error" in trial.user_attrs]
            raise UserError(f"every trial of {self.name} failed: {reasons[0] if reasons else 'no process survived'}")
        return max(done, key=lambda trial: (trial.value, -trial.number))

    def tuned_run(self, seed: int) -> Run:
        """The best settings with a seed, to be run and kept."""
        settings = with_own(self.run.settings, self.settings(self.best()), seed=seed)
        return Run.of(settings, self.spent)


def _result(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The trial that decides a slot; ``None`` while it is open."""
    for trial in trials:
        if trial.state in ENDED or (trial.state == TrialState.FAIL and "error" in trial.user_attrs):
            return trial
    last = trials[-1]
    history = RetryHeartbeatStaleTrialCallback.retry_history(last)
    return last if last.state == TrialState.FAIL and len(history) >= MAX_RETRIES else None


def with_own(settings: Settings, own: Mapping[str, Any], **changes: Any) -> Settings:
    """Settings with some of the model's own; the model that it stands on, if any, keeps its settings."""
    name = settings.method.name
    overrides = {**settings.overrides, **{f"{name}.{key}": value for key, value in own.items()}, **changes}
    return layer_settings(
        settings.method, settings["dataset"], settings["protocol"], settings.config_files, overrides, strict=False
    )


class Heartbeat(threading.Thread):
    """Beats for all studies of this process while a block runs."""

    def __init__(self, studies: Sequence[Study]) -> None:
        super().__init__(daemon=True)
        self._studies, self._stop_asked = studies, threading.Event()

    def run(self) -> None:
        """Beat until the block ends."""
        while not self._stop_asked.wait(HEARTBEAT_SECONDS):
            for study in self._studies:
                try:
                    study.beat()
                except Exception as error:  # a database that is away for a moment
                    logger.warning("no heartbeat for %s: %s", study.name, type(error).__name__)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *exception: object) -> None:
        self._stop_asked.set()
        self.join()


optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with Study.optimize")

HEARTBEAT_SECONDS, GRACE_SECONDS = 15, 60
OPEN_ATTEMPTS = 5
MAX_RETRIES = 5  # of a trial whose process died


class _Retry(RetryHeartbeatStaleTrialCallback):
    """Puts a lost trial back into the queue, where it belongs to nobody: its owner is gone."""

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        queued = copy.copy(trial)
        queued.user_attrs = {name: value for name, value in trial.user_attrs.items() if name != "owner"}
        super().__call__(study, queued)


RETRY = _Retry(max_retry=MAX_RETRIES)


def open_storage(address: str | None, results: Path) -> BaseStorage:
    """Where studies are kept.

    Args:
        address: an SQLAlchemy address, or the path of an SQLite file (``.sqlite3``, ``.db``) or of a journal
            (``.log``, ``.journal``); by default ``studies.sqlite3`` in ``results``.
        results: the results folder.

    Raises:
        UserError: the storage cannot be used.
    """
    address = address or str(results / "studies.sqlite3")
    if "://" not in address:
        path = Path(address)
        if path.suffix in (".log", ".journal"):
            from optuna.storages.journal import JournalFileBackend

            make_folder(path.parent)
            return optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        if path.suffix not in (".sqlite3", ".db"):
            raise UserError(f"--storage={address}: give an address (postgresql://...), a .sqlite3 or a .log file.")
        open_database(path, "SELECT 1").close()  # write-ahead logging: readers and writers do not block each other
        address = f"sqlite:///{path}"
    for attempt in range(OPEN_ATTEMPTS):
        try:
            return _database(address)
        except Exception as error:  # whatever the database's driver raises
            if attempt + 1 == OPEN_ATTEMPTS:
                raise UserError(f"--storage={_without_password(address)}: {type(error).__name__}.") from error
            time.sleep(0.2)  # another process may have been making the same tables
    raise AssertionError


def _database(address: str) -> BaseStorage:
    engine = {"connect_args": {"timeout": 60}} if address.startswith("sqlite") else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(
        address,
        engine_kwargs=engine,
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
        heartbeat_stale_trial_callback=RETRY,
    )


def _without_password(address: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return str(make_url(address))  # shows *** in its place
    except ArgumentError:
        return address.partition("://")[0] + "://..."
