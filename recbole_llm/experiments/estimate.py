"""What a grid or a search will take, from a few measured steps: seconds, memory, disk, requests, dollars.

Each model is built with its data, trained for about a second and ranks a sample of its validation cases, in a folder
that is thrown away. Everything else is arithmetic on these numbers and on records of earlier runs.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from recbole_llm.errors import FAILURES, UserError
from recbole_llm.execution.sharing import CUDA_MIB, free_memory_mib, workers_that_fit
from recbole_llm.experiments.generate import plan
from recbole_llm.experiments.jobs import features_of
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import STAGES, Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.builder import FeatureBuilder
from recbole_llm.features.sources import FeaturePlan
from recbole_llm.settings.differences import differences, row_settings, with_files
from recbole_llm.settings.rules import features_read
from recbole_llm.training import checkpoint
from recbole_llm.training.choice import make_trainer
from recbole_llm.training.loaders import training_loader
from recbole_llm.training.trainer import BenchTrainer
from recbole_llm.utils.environment import forget_peak_memory, peak_memory_mib
from recbole_llm.utils.progress import Stopwatch
from recbole_llm.utils.text import counted, one_line

logger = logging.getLogger(__name__)

STEP_SECONDS = 1.0  # of training, after a first step that is not counted
CASE_SECONDS = 0.5  # of ranking
FEWEST_STEPS, FEWEST_USERS = 3, 64
RUN, TRIAL, TUNED, CANDIDATES = "run", "trial", "tuned run", "candidate model"


@dataclass(frozen=True)
class Work:
    """Trainings that take the same but for chance.

    Attributes:
        run: one of them.
        kind: ``run``, ``trial``, ``tuned run`` or ``candidate model``.
        count: how many are to be made.
        done: how many have a record already.
        epochs: of each at most, where that is less than its settings say.
        max_seconds: of each's training and validation, where they are limited.
        of: for a tuned run, the one before its search, which names the line.
    """

    run: Run
    kind: str
    count: int
    done: int = 0
    epochs: int | None = None
    max_seconds: float | None = None
    of: Run | None = None

    @property
    def most_epochs(self) -> int:
        """Epochs of each at most."""
        settings = self.run.settings
        own = int(settings["epochs"])
        stages = settings.get("stage_epochs")
        own = min(own, sum(stages)) if stages else own
        return own if self.epochs is None else min(own, self.epochs)

    @property
    def least_epochs(self) -> int:
        """Epochs of each at least: the first validation is the best, and patience ends the training."""
        every = max(1, int(self.run.settings["eval_step"]))
        return min(self.most_epochs, every * (2 + int(self.run.settings["stopping_step"])))


@dataclass(frozen=True)
class Measured:
    """What a few steps of a model took.

    Attributes:
        steps, cases: how many were measured.
        most_epochs: that the model's trainer would train; one where the model counts instead of learning.
        before: seconds of reading the data and building the model.
        start: seconds before the first step of an epoch.
        step, case: seconds of a training step, of ranking a case.
        steps_of_epoch, valid_cases, test_cases: how many there are.
        memory_mib: peak of what the process takes of its GPU, or of the process where there is none.
        on_gpu: which of the two.
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

    def seconds(self, work: Work, epochs: float) -> float:
        """Seconds of one training of so many epochs; trials do not rank the test cases."""
        every = max(1, int(work.run.settings["eval_step"]))
        trained = epochs * self.epoch + math.ceil(epochs / every) * self.valid_cases * self.case
        if work.max_seconds is not None:
            # It ends with the epoch in which they are over.
            trained = min(trained, work.max_seconds + self.epoch + self.valid_cases * self.case)
        return self.before + trained + (0.0 if work.kind == TRIAL else self.test_cases * self.case)


@dataclass(frozen=True)
class Earlier:
    """What records of the same model, dataset and protocol say of the epochs.

    Attributes:
        epochs: mean of those that converged; ``None`` where none did within what is allowed now.
        text: which records they are.
    """

    epochs: float | None = None
    text: str = ""


@dataclass(frozen=True)
class EstimatedWork:
    """A line of an estimate.

    Attributes:
        name: model and data, and the settings or files that tell the line from others of these.
        work: what is estimated.
        measured: its steps; ``None`` where none could be measured.
        earlier: what records say of its epochs.
        reason: why nothing was measured.
        requests, dollars: of features that are not made yet; features that several lines read count in the first one.
            ``dollars`` is ``None`` where the source states no price.
    """

    name: str
    work: Work
    measured: Measured | None
    earlier: Earlier = field(default_factory=Earlier)
    reason: str = ""
    requests: int = 0
    dollars: float | None = 0.0

    @property
    def epochs(self) -> float:
        """Epochs of each training: those of earlier runs, or the most that there can be."""
        most = self.work.most_epochs
        if self.measured is not None:
            most = min(most, self.measured.most_epochs)
        return most if self.earlier.epochs is None else min(self.earlier.epochs, most)

    @property
    def each(self) -> float | None:
        """Seconds of one training."""
        return None if self.measured is None else self.measured.seconds(self.work, self.epochs)

    @property
    def seconds(self) -> float:
        """Seconds of all of its trainings; 0 where nothing is known."""
        return (self.each or 0.0) * self.work.count

    @property
    def least_seconds(self) -> float:
        """Seconds of all of its trainings if each ends as early as patience lets it."""
        if self.measured is None:
            return 0.0
        return self.measured.seconds(self.work, min(self.epochs, self.work.least_epochs)) * self.work.count

    @property
    def kept_mib(self) -> float:
        """Checkpoints that stay; those of trials are removed."""
        kept = 0.0 if self.measured is None or self.work.kind == TRIAL else self.measured.kept_mib
        return kept * self.work.count


@dataclass(frozen=True)
class Estimate:
    """What a command will take.

    Attributes:
        lines: by what is trained.
        free_mib: memory that is free on each device; empty where it is not known.
    """

    lines: list[EstimatedWork]
    free_mib: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds of all trainings, one after the other."""
        return sum(line.seconds for line in self.lines)

    @property
    def least_seconds(self) -> float:
        """The same if each training ends as early as patience lets it."""
        return sum(line.least_seconds for line in self.lines)

    @property
    def memory_mib(self) -> float:
        """Peak memory of the largest training."""
        return max((line.measured.memory_mib for line in self.lines if line.measured), default=0.0)

    @property
    def workers(self) -> int | None:
        """How many of the largest training fit into the free memory at once; ``None`` where it is not known."""
        if not self.free_mib or not self.memory_mib:
            return None
        return workers_that_fit(self.memory_mib, self.free_mib)

    @property
    def disk_mib(self) -> float:
        """Checkpoints that stay, and the largest that a training has on the way."""
        running = max((line.measured.disk_mib for line in self.lines if line.measured), default=0.0)
        return running + sum(line.kept_mib for line in self.lines)

    @property
    def requests(self) -> int:
        """Requests to an LLM."""
        return sum(line.requests for line in self.lines)

    @property
    def dollars(self) -> float | None:
        """US dollars for them; ``None`` where a source that is asked states no price."""
        found = [line.dollars for line in self.lines]
        return None if None in found else sum(value or 0.0 for value in found)


# ---- what is to be done ---------------------------------------------------------------------------


def work_of_grid(runs: Sequence[Run], runner: Runner) -> list[Work]:
    """The runs of a grid; those that differ in the seed alone are one line."""
    lines: dict[str, list[Run]] = {}
    for run in runs:
        lines.setdefault(_but_seed(run), []).append(run)
    found = []
    for alike in lines.values():
        missing = [run for run in alike if runner.finished(run) is None]
        found.append(Work((missing or alike)[0], RUN, len(missing), len(alike) - len(missing)))
    return found


def _but_seed(run: Run) -> str:
    values = {key: value for key, value in run.settings.values.items() if key != "seed"}
    return json.dumps([run.settings.method.name, run.location.name, values], sort_keys=True, default=str)


# ---- the estimate ---------------------------------------------------------------------------------


def estimate_work(works: Sequence[Work], runner: Runner) -> Estimate:
    """Measure what is to be done and add it up.

    Nothing is asked, trained to its end or kept, and random numbers of later runs are what they would have been.

    Args:
        works: what is to be done.
        runner: finds records; its store is read alone.
    """
    state = checkpoint.random_state()
    try:
        once = {(work.kind, work.run.key): work for work in works if work.count or work.done}  # stages may share rows
        lines = _lines([*once.values()], runner)
        on_gpu = any(line.measured is not None and line.measured.on_gpu for line in lines)
        return Estimate(lines, free_memory_mib(on_gpu))
    finally:
        checkpoint.restore_random_state(state)


def _lines(works: Sequence[Work], runner: Runner) -> list[EstimatedWork]:
    asked, missing, candidates = _features([work.run for work in works if work.count], runner)
    records = list(runner.store)
    measured: dict[str, Measured | str] = {}
    lines = []
    works = [*candidates, *works]
    for name, work in zip(_names([work.of or work.run for work in works]), works, strict=True):
        if not work.count:
            lines.append(EstimatedWork(name, work, None))
            continue
        alike = _but_seed(work.run)
        if alike not in measured:
            logger.info("measuring %s", name)
            measured[alike] = _measured(work.run, alike in missing)
        found = measured[alike]
        requests, dollars = asked.pop(alike, (0, 0.0))
        steps, reason = (found, "") if isinstance(found, Measured) else (None, found)
        lines.append(EstimatedWork(name, work, steps, _earlier(work, records), reason, requests, dollars))
    return lines


def _names(runs: Sequence[Run]) -> list[str]:
    """Model and data of each run; where several have the same, what differs, as result tables say it.

    Runs that differ in the seed alone have one name.
    """
    heads, own = [], []
    variants: dict[Any, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        settings = run.settings
        semantics = [] if settings["semantics"] == "none" else [settings["semantics"]]
        head = settings.method, ", ".join(map(str, [run.location.name, settings["protocol"], *semantics]))
        identity = json.dumps([_row_settings(run), run.files], sort_keys=True, default=str)
        variants[head].setdefault(identity, run)
        heads.append(head)
        own.append(identity)
    names = {}
    for head, found in variants.items():
        method, data = head
        first, *_ = found.values()
        identities = with_files(list(map(_row_settings, found.values())), [run.files for run in found.values()])
        for identity, difference in zip(found, differences(identities, first.settings.definitions), strict=True):
            names[head, identity] = f"{method.name}{difference}, {data}"
    return [names[each] for each in zip(heads, own, strict=True)]


def _row_settings(run: Run) -> dict[str, Any]:
    return row_settings(run.settings.values, run.settings.definitions)


def _features(runs: Sequence[Run], runner: Runner) -> tuple[dict[str, tuple[int, float | None]], set[str], list[Work]]:
    """Of features that are not made yet: requests and dollars, the runs that read them, models that they stand on."""
    asked: dict[str, tuple[int, float | None]] = {}
    missing: set[str] = set()
    candidates: dict[str, Work] = {}
    plans: dict[tuple[Any, ...], bool] = {}  # whether there is something to be made
    folders: set[tuple[str, ...]] = set()
    for run in runs:
        if run.settings["semantics"] == "none" or not features_read(run.settings.method, run.settings.values):
            continue
        name, features = _but_seed(run), features_of(run, runner)
        if features not in plans:
            rows = plan([run], runner)
            plans[features] = any(row.state != "made" for _, row in rows)
            folder = next(((builder.name, *builder.wanted) for builder, _ in rows), ())
            if folder not in folders:
                folders.add(folder)
                asked[name] = _requests(rows)
        if not plans[features]:
            continue
        missing.add(name)
        if run.settings.method.stage_one:
            model = runner.candidate_model(run, Stopwatch())
            if count := model.untrained():
                candidates[model.key] = Work(runner.candidate_run(run), CANDIDATES, count)
    planned = {run.key for run in runs}
    return asked, missing, [work for key, work in candidates.items() if key not in planned]


def _requests(rows: Sequence[tuple[FeatureBuilder, FeaturePlan]]) -> tuple[int, float | None]:
    requests = sum(row.requests for _, row in rows)
    if any(row.requests and not (builder.endpoint is not None and builder.endpoint.priced) for builder, row in rows):
        return requests, None
    return requests, sum(row.price for _, row in rows)


def _earlier(work: Work, records: Sequence[Record]) -> Earlier:
    """Epochs of the records with the most alike settings."""
    wanted = work.run.blank_record()
    same = [
        record
        for record in records
        if record.status == "ok"
        and record.epochs
        and (record.model, record.dataset, record.protocol) == (wanted.model, wanted.dataset, wanted.protocol)
    ]
    known = [record for record in same if _converged(record) or (record.epochs or 0) >= work.most_epochs]
    if not known:
        some = counted(len(same), "record")
        return Earlier(None, f"{some} ended at a lower limit of epochs, before convergence" if same else "")
    distances = [_differing(record, wanted) for record in known]
    nearest = [record for record, distance in zip(known, distances, strict=True) if distance == min(distances)]
    epochs = sum(record.epochs or 0 for record in nearest) / len(nearest)
    others = f" with {counted(min(distances), 'other setting')}" if min(distances) else ""
    return Earlier(epochs, f"{counted(round(epochs), 'epoch')}, as {counted(len(nearest), 'record')}{others} had")


def _converged(record: Record) -> bool:
    """Whether patience ended its training, and not the limit."""
    return (record.epochs or 0) < int(record.settings.get("epochs") or 0)


def _differing(record: Record, wanted: Record) -> int:
    keys = {*record.settings, *wanted.settings} - {"seed", "epochs"}
    return sum(record.settings.get(key) != wanted.settings.get(key) for key in keys)


# ---- measuring ------------------------------------------------------------------------------------


def _measured(run: Run, without_features: bool) -> Measured | str:
    """A few steps of a run, or why there are none."""
    if run.settings["engine"] != "fast":
        return "--engine=recbole: RecBole's own loop is not measured"
    if run.settings.method.name in STAGES:
        return "it is trained in several stages"
    changes = {"semantics": "none"} if without_features else {}
    with tempfile.TemporaryDirectory(prefix="recbole_llm-estimate-") as name:
        folder = Path(name)
        measured = Run(run.settings.replaced(**changes, checkpoint_dir=str(folder), nproc=1), run.location)
        try:
            return _measure(measured, folder, without_features)
        except UserError as error:
            return str(error)
        except FAILURES as error:  # as a run would fail
            return f"{type(error).__name__}: {one_line(error, 200)}"
        finally:
            gc.collect()  # models refer to themselves; the next one's peak memory would hold this one


def _measure(run: Run, folder: Path, without_features: bool) -> Measured:
    runner = Runner(ResultStore(folder / "results"), asks_again=False)
    forget_peak_memory()
    began = time.monotonic()
    prepared = runner.prepare(run, Stopwatch())
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.place(folder / "run")
    train_data, _ = training_loader(prepared)
    now = _clock(prepared.config["device"])
    before = now() - began
    trainer._loader = train_data
    some = _SomeSteps(now)
    _train(trainer, train_data, some)
    valid_cases = len(prepared.cases("valid"))
    cases, case = _ranked(trainer, prepared, now)
    trainer._save_checkpoint(0)
    kept = _size_mib(trainer.folder)
    trainer._save_last(0, over=False)
    memory, on_gpu = _memory_mib(prepared.config["device"])
    return Measured(
        steps=some.counted,
        cases=cases,
        most_epochs=int(trainer.epochs),
        before=before,
        start=some.start,
        step=some.step,
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
    """Seconds, after what the device has been told to do is done."""
    if torch.device(device).type != "cuda":
        return time.monotonic

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.monotonic()

    return now


def _memory_mib(device: Any) -> tuple[float, bool]:
    """Peak memory of this process that no other one has, and whether it is a GPU's."""
    if torch.device(device).type != "cuda":
        return peak_memory_mib()["host"], False
    # What torch took, in use or not: recorded steps keep theirs for themselves.
    return torch.cuda.max_memory_reserved(device) / 2**20 + CUDA_MIB, True


def _train(trainer: Any, train_data: Any, some: _SomeSteps) -> None:
    """Take some steps, as a run takes them."""
    if type(trainer)._train_epoch is not BenchTrainer._train_epoch:  # a loop of RecBole's
        trainer._train_epoch(_SomeBatches(train_data, some), 0)
        return
    trainer.progress = some
    trainer._train_epoch(train_data, 0)
    del trainer.progress


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
    """In place of a progress bar: the first steps of an epoch, as many as a second takes, and how long each took.

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
        """Median seconds of a step: what else the machine does for a moment is not the model's."""
        if len(self._ends) == 1:
            return self._ends[0] - self._first
        return statistics.median(end - begin for begin, end in itertools.pairwise(self._ends))


def _ranked(trainer: Any, prepared: Prepared, now: Callable[[], float]) -> tuple[int, float]:
    """Validation cases that were ranked, and seconds of each; samples grow until half a second is spent."""
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


# ---- as text --------------------------------------------------------------------------------------


def render_estimate(estimate: Estimate) -> str:
    """The table of an estimate, its sums, and what was measured and what was not."""
    header = ["model, data", "what", "to do", "done", "epochs", "s an epoch", "s each", "hours"]
    header += ["MiB", "disk MiB", "requests", "US$"]
    rows = [_row(line) for line in estimate.lines]
    text = tabulate(rows, header, colalign=("left", "left", *["right"] * 10), disable_numparse=True)
    return "\n".join([text, "", *_sums(estimate), *_notes(estimate)])


def _row(line: EstimatedWork) -> list[str]:
    work, steps = line.work, line.measured
    cells = [line.name, work.kind, str(work.count), str(work.done) if work.done else ""]
    if not work.count:
        return [*cells, *[""] * 8]
    known = line.earlier.epochs is not None or line.epochs <= 1
    epochs = f"{line.epochs:.0f}" if known else f"<= {line.epochs:.0f}"
    dollars = "?" if line.dollars is None else f"{line.dollars:.2f}" if line.requests else ""
    asked = [f"{line.requests:,}" if line.requests else "", dollars]
    if steps is None:
        return [*cells, epochs, "?", "?", "?", "?", "?", *asked]
    seconds = [f"{steps.epoch:.2f}", f"{line.each or 0:.1f}", f"{line.seconds / 3600:.2f}"]
    return [*cells, epochs, *seconds, f"{steps.memory_mib:,.0f}", f"{line.kept_mib or steps.disk_mib:,.1f}", *asked]


def _sums(estimate: Estimate) -> list[str]:
    to_do = sum(line.work.count for line in estimate.lines)
    unknown = any(line.measured is None for line in estimate.lines if line.work.count)
    dollars = "an unstated price" if estimate.dollars is None else f"{estimate.dollars:.2f} US$"
    more = " and what could not be measured" if unknown else ""
    return [
        f"all: {counted(to_do, 'training')}, {_hours(estimate.seconds)} one after the other{more} "
        f"(at least {_hours(estimate.least_seconds)}, where patience ends each at once)",
        f"     {estimate.memory_mib:,.0f} MiB of memory for the largest, {estimate.disk_mib:,.1f} MiB of disk, "
        f"{counted(estimate.requests, 'request')}, {dollars}",
        *_sharing(estimate),
    ]


def _sharing(estimate: Estimate) -> list[str]:
    if estimate.workers is None:
        return []
    free = " + ".join(f"{mib:,.0f}" for mib in estimate.free_mib)
    return [
        f"     --workers: up to {estimate.workers:,} of the largest fit into the memory that is free now ({free} MiB)"
    ]


def _hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _notes(estimate: Estimate) -> list[str]:
    lines = [line for line in estimate.lines if line.work.count]
    known = [line.measured for line in lines if line.measured is not None]
    found = []
    if known:
        steps, cases = [each.steps for each in known], [each.cases for each in known]
        found.append(
            f"measured here: reading and building, {_span(steps, 'training step')} and "
            f"{_span(cases, 'ranked validation case')} of each model with these "
            "settings, peak memory, size of its checkpoints"
        )
        found.append("extrapolated: seconds of whole epochs, of all cases, and of all epochs and seeds")
    if any(line.earlier.epochs is None and line.epochs > 1 for line in lines):
        found.append("epochs <= N: the limit, since no record of the model here converged; patience may end it earlier")
    if any(line.work.kind == TRIAL for line in lines):
        found.append("trials: counted with the sizes and batches of the defaults, none pruned")
    if any(line.work.kind == CANDIDATES for line in lines):
        found.append("candidate models are trained once, and the features of the others stand on them")
    found.append("not counted: making features and waiting for answers, starting processes, several workers at once")
    if without := dict.fromkeys(line.name for line in lines if line.measured and line.measured.without_features):
        found.append(
            f"measured without features, which are not made yet; with them it will take longer: {'; '.join(without)}"
        )
    remarks = dict.fromkeys(_remark(line) for line in lines)
    return [*found, *(text for text in remarks if text)]


def _remark(line: EstimatedWork) -> str:
    remarks = []
    if line.earlier.text:
        remarks.append(line.earlier.text)
    if line.reason:
        remarks.append(f"not measured: {line.reason}")
    return f"{line.name}: {'; '.join(remarks)}" if remarks else ""


def _span(counts: Sequence[int], what: str) -> str:
    least, most = min(counts), max(counts)
    return counted(most, what) if least == most else f"{least:,} to {counted(most, what)}"
