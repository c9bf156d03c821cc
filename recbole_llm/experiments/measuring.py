"""Measure what a few steps of a model take, in a temporary folder: seconds, memory, size of checkpoints."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recbole_llm.errors import UserError
from recbole_llm.execution.sharing import CUDA_MIB
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import STAGES, Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.training.choice import make_trainer
from recbole_llm.training.loaders import training_loader
from recbole_llm.training.stages import StagedTrainer
from recbole_llm.training.trainer import BenchTrainer
from recbole_llm.utils.environment import forget_peak_memory, peak_memory_mib
from recbole_llm.utils.files import is_no_room
from recbole_llm.utils.progress import Stopwatch
from recbole_llm.utils.text import one_line

STEP_SECONDS = 1.0  # of training, after a first step that is not counted
CASE_SECONDS = 0.5  # of ranking
FEWEST_STEPS, FEWEST_USERS = 3, 64


@dataclass(frozen=True)
class Measured:
    """What a few steps of a model took.

    Attributes:
        steps, cases: how many were measured.
        most_epochs: that the model's trainer would train; 1 if the model counts instead of learning.
        before: seconds of reading the data and building the model.
        start: seconds before the first step of an epoch.
        step, case: seconds of a training step, of ranking a case; of a model with stages, the mean of its epochs' steps
            if each stage has all of its epochs.
        steps_of_epoch, valid_cases, test_cases: how many there are.
        memory_mib: peak memory of the process, on its GPU if it has one, else on the host.
        on_gpu: whether that is a GPU's memory.
        disk_mib, kept_mib: checkpoints during the training, and after it.
        without_features: the semantic features are not made yet, so the model was measured without them.
    """

    steps: int
    cases: int
    most_epochs: int
    before: float
    start: float
    step: float
    case: float
    steps_of_epoch: int
    valid_cases: int
    test_cases: int
    memory_mib: float
    disk_mib: float
    kept_mib: float
    on_gpu: bool = False
    without_features: bool = False

    @property
    def epoch(self) -> float:
        """Seconds of training an epoch."""
        return self.start + self.steps_of_epoch * self.step


def measure(run: Run, without_features: bool) -> Measured | str:
    """Build a run's model, train it for about a second and rank a sample of its validation cases.

    Args:
        run: what is measured.
        without_features: leave the semantic features out, since they are not made yet.

    Returns:
        What it took, or why it could not be measured.
    """
    if run.settings["engine"] != "fast":
        return "--engine=recbole: RecBole's own loop is not measured"
    if run.settings.method.trained_as in STAGES:
        return "it is trained in several stages"
    changes: dict[str, Any] = {"semantics": "none"} if without_features else {}
    if run.settings.get("curriculum"):
        changes["curriculum"] = []  # the steps after it, which are most steps and take longest
    with tempfile.TemporaryDirectory(prefix="recbole_llm-estimate-") as name:
        folder = Path(name)
        aside = Run(run.settings.replaced(**changes, checkpoint_dir=str(folder), nproc=1), run.location)
        try:
            return _measure_in(aside, folder, without_features)
        except UserError as error:
            return str(error)
        except Exception as error:  # as a run would fail
            if is_no_room(error):
                raise
            return f"{type(error).__name__}: {one_line(error, 200)}"
        finally:
            gc.collect()  # models refer to themselves: this one would still count towards the next one's peak


def _measure_in(run: Run, folder: Path, without_features: bool) -> Measured:
    runner = Runner(ResultStore(folder / "results"), asks_again=False)
    torch.optim.SGD([torch.zeros(1)])  # loads torch's compiler: seconds of each process, not of each training
    forget_peak_memory()
    began = time.monotonic()
    prepared = runner.prepare(run, Stopwatch())
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.place(folder / "run")
    train_data, _ = training_loader(prepared)
    now = _clock(prepared.config["device"])
    before = now() - began
    trainer._loader = train_data
    stages = [_train(trainer, train_data, now)]
    limits = trainer.stage_limits if isinstance(trainer, StagedTrainer) else [1]
    for _ in limits[1:]:  # later stages train more of the model: they take longer, and more memory
        trainer.enter_next_stage()
        stages.append(_train(trainer, train_data, now))
    valid_cases = len(prepared.cases("valid"))
    cases, case = _ranked(trainer, prepared, now)
    trainer._save_checkpoint(0)
    kept = _size_mib(trainer.folder)
    trainer._save_last(0, over=False)
    memory, on_gpu = _memory_mib(prepared.config["device"])
    return Measured(
        steps=sum(some.counted for some in stages),
        cases=cases,
        most_epochs=int(trainer.epochs),
        before=before,
        start=_mean([some.start for some in stages], limits),
        step=_mean([some.step for some in stages], limits),
        case=case,
        steps_of_epoch=len(train_data),
        valid_cases=valid_cases,
        test_cases=len(prepared.cases("test")),
        memory_mib=memory,
        on_gpu=on_gpu,
        disk_mib=_size_mib(trainer.folder),
        kept_mib=kept,
        without_features=without_features,
    )


def _clock(device: Any) -> Callable[[], float]:
    """A clock in seconds that first waits until the device has finished its work."""
    if torch.device(device).type != "cuda":
        return time.monotonic

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.monotonic()

    return now


def _memory_mib(device: Any) -> tuple[float, bool]:
    """Peak memory of this process, and whether it is a GPU's."""
    if torch.device(device).type != "cuda":
        return peak_memory_mib()["host"], False
    # Memory that torch has reserved, in use or not: recorded steps do not share theirs.
    return torch.cuda.max_memory_reserved(device) / 2**20 + CUDA_MIB, True


def _train(trainer: Any, train_data: Any, now: Callable[[], float]) -> _SomeSteps:
    """Run some training steps, as a run does."""
    some = _SomeSteps(now)
    if type(trainer)._train_epoch is not BenchTrainer._train_epoch:  # a loop of RecBole's
        trainer._train_epoch(_SomeBatches(train_data, some), 0)
        return some
    trainer.progress = some
    trainer._train_epoch(train_data, 0)
    del trainer.progress
    return some


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    """The weighted mean of some values."""
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


class _SomeBatches:
    """A loader that ends early."""

    def __init__(self, loader: Any, some: _SomeSteps) -> None:
        self._loader, self._some = loader, some

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[Any]:
        return self._some(self._loader)


class _SomeSteps:
    """Replaces the progress bar: ends an epoch after about a second of steps, and times each step.

    Attributes:
        start: seconds before the first step.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._ends: list[float] = []
        self._first = self.start = 0.0

    def __call__(self, items: Iterable[Any], title: str = "") -> Iterator[Any]:
        """The items of the first steps."""
        began = self._now()
        for item in items:
            if not self._ends:
                self.start = self._now() - began
                self._first = self._now()
            yield item
            self._ends.append(self._now())
            if len(self._ends) > FEWEST_STEPS and self._ends[-1] - self._ends[0] > STEP_SECONDS:
                return

    @property
    def counted(self) -> int:
        """Steps that :attr:`step` is the median of; the first one counts where it is the only one."""
        return max(1, len(self._ends) - 1)

    @property
    def step(self) -> float:
        """Median seconds of a step, which short loads from other processes do not change.

        A step is half of two successive ones where there are as many, since ISRF's batches alternate between two tasks.
        """
        if len(self._ends) == 1:
            return self._ends[0] - self._first
        together = min(2, self.counted)
        return statistics.median(
            (end - begin) / together for begin, end in zip(self._ends, self._ends[together:], strict=False)
        )


def _ranked(trainer: Any, prepared: Prepared, now: Callable[[], float]) -> tuple[int, float]:
    """How many validation cases were ranked, and seconds for each; samples grow until half a second is spent."""
    config = prepared.config
    wanted, users = int(config["valid_users"] or 0), FEWEST_USERS
    while True:
        config["valid_users"] = min(users, wanted) if wanted else users
        loader = prepared.eval_loader("valid")
        if not len(loader):
            return 0, 0.0
        began = now()
        trainer.evaluate(loader, load_best_model=False)
        spent, cases = now() - began, len(loader.cases)
        everyone = cases == len(prepared.dataset.split.valid) or (wanted and users >= wanted)
        if everyone or (spent > CASE_SECONDS and users > FEWEST_USERS) or spent > 4 * CASE_SECONDS:
            return cases, spent / cases
        users *= 4


def _size_mib(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
