"""Estimate what a grid or a search will take, from a few measured steps: seconds, memory, disk, requests, dollars.

Each model is measured for a second or two. Everything else is arithmetic on these numbers and on earlier records.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

from recbole_llm.execution.sharing import free_memory_mib, workers_that_fit
from recbole_llm.experiments.generate import Asked, cost_of, plan
from recbole_llm.experiments.jobs import features_of
from recbole_llm.experiments.measuring import Measured, measure
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.settings.definitions import definitions_of_name
from recbole_llm.settings.differences import by_preset, differences, row_settings, with_files
from recbole_llm.settings.rules import features_read
from recbole_llm.training import checkpoint
from recbole_llm.utils.progress import Stopwatch
from recbole_llm.utils.text import counted, price_text

logger = logging.getLogger(__name__)

RUN, TRIAL, TUNED, REFIT, CANDIDATES = "run", "trial", "tuned run", "refit", "candidate model"


@dataclass(frozen=True)
class Work:
    """Trainings that take the same, apart from chance.

    Attributes:
        run: one of them.
        kind: ``run``, ``trial``, ``tuned run``, ``refit`` or ``candidate model``.
        count: how many are to be made.
        done: how many have a record already.
        epochs: of each at most, if that is less than its settings say.
        max_seconds: limit on the training and validation of each, if any.
        of: for a tuned run, the run before its search, after which the line is named.
        search: name of the search that it is part of; empty for a run of a grid.
    """

    run: Run
    kind: str
    count: int
    done: int = 0
    epochs: int | None = None
    max_seconds: float | None = None
    of: Run | None = None
    search: str = ""

    @property
    def most_epochs(self) -> int:
        """The most epochs that each can have."""
        settings = self.run.settings
        own = int(settings["epochs"])
        stages = settings.get("stage_epochs")
        own = min(own, sum(stages)) if stages else own
        return own if self.epochs is None else min(own, self.epochs)

    @property
    def least_epochs(self) -> int:
        """The fewest epochs that each can have: if the first validation is the best and patience ends the training."""
        every = int(self.run.settings["eval_step"])
        if every < 1:  # nothing is validated
            return self.most_epochs
        # A refit has the epochs up to the best validation.
        validations = 1 if self.kind == REFIT else 2 + int(self.run.settings["stopping_step"])
        return min(self.most_epochs, every * validations)


@dataclass(frozen=True)
class Earlier:
    """What records of the same model, dataset and protocol say about the number of epochs.

    Attributes:
        epochs: mean over those with the most similar settings that converged or reached today's limit; ``None`` if
            there are none.
        text: which records they are.
    """

    epochs: float | None = None
    text: str = ""


@dataclass(frozen=True)
class EstimatedWork:
    """A line of an estimate.

    Attributes:
        name: model and data, and the settings or files that distinguish the line from others with the same.
        work: what is estimated.
        measured: its steps; ``None`` if none could be measured.
        earlier: what records say about its epochs.
        reason: why nothing was measured.
        requests, dollars: of features that are not made yet; features that several lines read count in the first one.
            ``dollars`` is ``None`` if the source states no price.
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
        """Epochs of each training: as in earlier runs, or else the most that there can be."""
        most = self.work.most_epochs
        if self.measured is not None:
            most = min(most, self.measured.most_epochs)
        return most if self.earlier.epochs is None else min(self.earlier.epochs, most)

    @property
    def each(self) -> float | None:
        """Seconds of one training."""
        return None if self.measured is None else self._seconds(self.measured, self.epochs)

    @property
    def seconds(self) -> float:
        """Seconds of all of its trainings; 0 if nothing is known."""
        return (self.each or 0.0) * self.work.count

    @property
    def least_seconds(self) -> float:
        """Seconds of all of its trainings if each ends as early as patience lets it."""
        if self.measured is None:
            return 0.0
        return self._seconds(self.measured, min(self.epochs, self.work.least_epochs)) * self.work.count

    def _seconds(self, steps: Measured, epochs: float) -> float:
        """Seconds of one training of so many epochs; trials do not rank the test cases, refits do not validate."""
        work = self.work
        every = int(work.run.settings["eval_step"])
        validation = 0.0 if work.kind == REFIT or every < 1 else steps.valid_cases * steps.case
        trained = epochs * steps.epoch + math.ceil(epochs / max(1, every)) * validation
        if work.max_seconds is not None:
            # Training ends with the epoch in which the time runs out.
            trained = min(trained, work.max_seconds + steps.epoch + validation)
        return steps.before + trained + (0.0 if work.kind == TRIAL else steps.test_cases * steps.case)

    @property
    def kept_mib(self) -> float:
        """Size of the checkpoints that stay; those of trials are removed."""
        kept = 0.0 if self.measured is None or self.work.kind == TRIAL else self.measured.kept_mib
        return kept * self.work.count


@dataclass(frozen=True, repr=False)
class Estimate:
    """What a command will take; ``repr`` is the table that the command prints.

    Attributes:
        lines: one for each kind of training.
        free_mib: memory that is free on each device; empty if it is not known.
    """

    lines: list[EstimatedWork]
    free_mib: list[float] = field(default_factory=list)

    def __repr__(self) -> str:
        return render_estimate(self)

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
        """How many of the largest training fit into the free memory at once; ``None`` if it is not known."""
        if not self.free_mib or not self.memory_mib:
            return None
        return workers_that_fit(self.memory_mib, self.free_mib)

    @property
    def disk_mib(self) -> float:
        """Size of the checkpoints that stay, plus the most that a training has while it runs."""
        running = max((line.measured.disk_mib for line in self.lines if line.measured), default=0.0)
        return running + sum(line.kept_mib for line in self.lines)

    @property
    def requests(self) -> int:
        """Requests to an LLM."""
        return sum(line.requests for line in self.lines)

    @property
    def dollars(self) -> float | None:
        """US dollars for them; ``None`` if a source that is asked states no price."""
        found = [line.dollars for line in self.lines]
        return None if None in found else sum(value or 0.0 for value in found)


# ---- what is to be done ---------------------------------------------------------------------------


def work_of_grid(runs: Sequence[Run], runner: Runner) -> list[Work]:
    """The runs of a grid; those that differ only in the seed are one line."""
    lines: dict[str, list[Run]] = {}
    for run in runs:
        lines.setdefault(_but_seed(run), []).append(run)
    return [work for alike in lines.values() for work in work_of_seeds(alike, RUN, runner)]


def work_of_seeds(
    alike: Sequence[Run], kind: str, runner: Runner, of: Run | None = None, search: str = ""
) -> list[Work]:
    """Runs that differ only in the seed; before refits that are missing come the runs that choose their epochs."""
    missing = [run for run in alike if runner.finished(run) is None]
    choosers = [chooser for run in missing if (chooser := run.chooser()) is not None]
    before = work_of_seeds(choosers, kind, runner, of and (of.chooser() or of), search) if choosers else []
    kind = REFIT if alike[0].settings["refit"] else kind
    return [*before, Work((missing or alike)[0], kind, len(missing), len(alike) - len(missing), of=of, search=search)]


def _but_seed(run: Run) -> str:
    values = {key: value for key, value in run.settings.values.items() if key != "seed"}
    return json.dumps([run.settings.method.name, run.location.name, values], sort_keys=True, default=str)


# ---- the estimate ---------------------------------------------------------------------------------


def estimate_work(works: Sequence[Work], runner: Runner) -> Estimate:
    """Measure what is to be done and add it up.

    Nothing is asked, trained to its end or kept, and the states of the random generators are restored.

    Args:
        works: what is to be done.
        runner: finds records; its store is only read.
    """
    state = checkpoint.random_state()
    try:
        once: dict[tuple[str, ...], Work] = {}
        for work in works:
            if work.count or work.done:  # stages may share rows; the one with more seeds or trials has those of both
                name = work.kind, work.run.key, work.search
                once[name] = max(once.get(name, work), work, key=lambda each: each.count)
        lines = _lines([*once.values()], runner)
        on_gpu = any(line.measured is not None and line.measured.on_gpu for line in lines)
        return Estimate(lines, free_memory_mib(on_gpu))
    finally:
        checkpoint.restore_random_state(state)


def _lines(works: Sequence[Work], runner: Runner) -> list[EstimatedWork]:
    asked, missing, candidates = _features([work for work in works if work.count], runner)
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
            measured[alike] = measure(work.run, alike in missing)
        found = measured[alike]
        requests, dollars = asked.pop(alike, (0, 0.0))
        steps, reason = (found, "") if isinstance(found, Measured) else (None, found)
        lines.append(EstimatedWork(name, work, steps, _earlier(work, records), reason, requests, dollars))
    return lines


def _names(runs: Sequence[Run]) -> list[str]:
    """Model and data of each run, and what distinguishes it from others with the same, worded as in result tables.

    Runs that differ only in the seed have one name.
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
        identities = by_preset(identities, [(run.settings["preset"], run.settings.origin) for run in found.values()])
        for identity, difference in zip(found, differences(identities, first.settings.definitions), strict=True):
            names[head, identity] = f"{method.name}{difference}, {data}"
    return [names[each] for each in zip(heads, own, strict=True)]


def _row_settings(run: Run) -> dict[str, Any]:
    return row_settings(run.settings.values, run.settings.definitions)


def _features(
    works: Sequence[Work], runner: Runner
) -> tuple[dict[str, tuple[int, float | None]], set[str], list[Work]]:
    """For features that are not made yet: requests and dollars, the runs that read them, the models that they need."""
    asked: dict[str, tuple[int, float | None]] = {}
    missing: set[str] = set()
    candidates: dict[str, Work] = {}
    plans: dict[tuple[Any, ...], bool] = {}  # whether there is something to be made
    known: Asked = {}
    for run in (work.run for work in works):
        if run.settings["semantics"] == "none" or not features_read(run.settings.method, run.settings.values):
            continue
        name, features = _but_seed(run), features_of(run, runner)
        if features not in plans:
            rows = plan([run], runner, asked=known)
            plans[features] = any(row.state != "made" for _, row in rows)
            asked[name] = cost_of(rows)
        if not plans[features]:
            continue
        missing.add(name)
        if run.settings.method.stage_one:
            model = runner.candidate_model(run, Stopwatch())
            if count := model.untrained():
                candidates[model.key] = Work(runner.candidate_run(run), CANDIDATES, count)
    planned = {work.run.key for work in works if work.kind == RUN}  # weights of trials are not kept
    return asked, missing, [work for key, work in candidates.items() if key not in planned]


def _earlier(work: Work, records: Sequence[Record]) -> Earlier:
    """Epochs of the records with the most similar settings."""
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
    """Whether patience, not the limit of epochs, ended a record's training."""
    return (record.epochs or 0) < int(record.settings.get("epochs") or 0)


def _differing(record: Record, wanted: Record) -> int:
    """Number of settings that tell their rows apart, not counting the epochs."""
    one, two = (
        row_settings(each.settings, definitions_of_name(each.model, each.settings.get("backbone")))
        for each in (record, wanted)
    )
    return sum(one.get(key) != two.get(key) for key in (one.keys() | two.keys()) - {"epochs"})


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
    price = "?" if line.dollars is None else price_text(line.dollars) if line.requests else ""
    asked = [f"{line.requests:,}" if line.requests else "", price]
    if steps is None:
        return [*cells, epochs, "?", "?", "?", "?", "?", *asked]
    seconds = [f"{steps.epoch:.2f}", f"{line.each or 0:.1f}", f"{line.seconds / 3600:.2f}"]
    return [*cells, epochs, *seconds, f"{steps.memory_mib:,.0f}", f"{line.kept_mib or steps.disk_mib:,.1f}", *asked]


def _sums(estimate: Estimate) -> list[str]:
    to_do = sum(line.work.count for line in estimate.lines)
    unknown = any(line.measured is None for line in estimate.lines if line.work.count)
    price = "an unstated price" if estimate.dollars is None else f"{price_text(estimate.dollars)} US$"
    more = " and what could not be measured" if unknown else ""
    return [
        f"all: {counted(to_do, 'training')}, {_hours(estimate.seconds)} one after the other{more} "
        f"(at least {_hours(estimate.least_seconds)}, where patience ends each at once)",
        f"     {estimate.memory_mib:,.0f} MiB of memory for the largest, {estimate.disk_mib:,.1f} MiB of disk, "
        f"{counted(estimate.requests, 'request')}, {price}",
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
    if any(int(line.work.run.settings["nproc"]) > 1 for line in lines):
        found.append("--nproc: seconds and memory are those of one process that trains alone")
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
