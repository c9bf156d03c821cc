"""Semantic features without training: plan, make, ask in batches, export and import answers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from recbole_llm.errors import UserError
from recbole_llm.experiments.candidate_model import CandidateModel, CandidateTable
from recbole_llm.experiments.published import lend
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.features.builder import FeatureBuilder
from recbole_llm.features.lookup import find_feature
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.questions import reasoned_only
from recbole_llm.features.sources import AnswerSource, BatchCollector, DryRun, FeaturePlan, chosen_endpoint
from recbole_llm.llm.batch import BatchClient
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatRequest, Script
from recbole_llm.llm.client import HOPELESS_AFTER, Client
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.llm.exchange import ImportReport, export_answers, import_answers, write_batch_file
from recbole_llm.settings.rules import features_read
from recbole_llm.utils.files import one_process_at_a_time
from recbole_llm.utils.progress import Stopwatch
from recbole_llm.utils.text import counted, price_text

logger = logging.getLogger(__name__)

BATCHES = 2  # in how many batches a request may fail before it is given up


class PopularityPlaceholder:
    """The most popular items in place of an untrained stage I, for dry runs.

    Attributes:
        key: of the model that it replaces.
        untrained: how many models would have to be trained for that.
        folds: always empty.
        used: whether it gave candidates, so that what follows is an estimate.
    """

    def __init__(self, stage_one: CandidateModel | CandidateTable, dataset: Any) -> None:
        self.key, self.untrained, self.folds = stage_one.key, stage_one.untrained(), list[dict[str, Any]]()
        self._dataset, self.used = dataset, False

    def top_items(self, rows: np.ndarray, k: int) -> np.ndarray:
        """``(len(rows), k)`` item ids, the same for all rows."""
        self.used = True
        counts = np.bincount(np.asarray(self._dataset.table.item)[self._dataset.split.train_rows])
        counts[0] = 0
        return np.broadcast_to(np.argsort(-counts, kind="stable")[:k], (len(rows), min(k, len(counts)))).astype(
            np.int64
        )


def feature_builders(runs: Sequence[Run], runner: Runner, asking: AnswerSource) -> Iterator[FeatureBuilder]:
    """A builder of the features of each run; runs that read the same of one folder (seeds, controls) share one.

    Raises:
        UserError: none of the models reads semantic features.
    """
    runs = [
        run
        for run in runs
        if run.settings["semantics"] != "none" and features_read(run.settings.method, run.settings.values)
    ]
    if not runs:
        raise UserError("none of these models reads semantic features; `recbole-llm list models` shows them.")
    seen = set()
    for run in runs:
        lend(asking, run)
        watch = Stopwatch()
        dataset = runner.read_dataset(run)
        stage_one = _stage_one(run, runner, dataset, watch, asking.dry) if run.settings.method.stage_one else None
        builder = FeatureBuilder(run.settings, run.location, dataset, stage_one, runner.bars, watch, asking)
        if (builder.name, *builder.wanted) not in seen:
            seen.add((builder.name, *builder.wanted))
            yield builder


def _stage_one(run: Run, runner: Runner, dataset: Any, watch: Stopwatch, dry: bool) -> Any:
    found = runner.candidate_model(run, watch)
    return PopularityPlaceholder(found, dataset) if dry and found.untrained() else found


Asked = dict[tuple[Path, str], set[bytes]]  # questions of plans, by the cache and the untrained model they stand on


def plan(
    runs: Sequence[Run], runner: Runner, limit: int | None = None, asked: Asked | None = None
) -> list[tuple[FeatureBuilder, FeaturePlan]]:
    """What each feature would take, without asking, training or writing anything.

    Args:
        runs: whose features are planned.
        runner: reads the data and finds candidate models.
        limit: most keys of each feature that are asked about; ``None`` for all.
        asked: what earlier plans of the same command ask, to which this one adds its own.
    """
    rows = []
    asked = {} if asked is None else asked
    for builder in feature_builders(runs, runner, DryRun()):
        # Placeholders give the same candidates where the models that they replace will not.
        unknown = builder.stage_one.key if isinstance(builder.stage_one, PopularityPlaceholder) else ""
        asking = DryRun(limit=limit, asked=asked.setdefault((builder.location.answers, unknown), set()))
        asking.published, builder.asking = builder.asking.published, asking
        missing = set(builder.missing())
        if builder.endpoint is not None:
            builder.make()
        made = {each.feature: each for each in asking.plans}
        guessing = False
        for name in builder.wanted:
            by_rule = builder.endpoint is None and name in missing
            found = made.get(name, FeaturePlan(name, "by rule" if by_rule else "made"))
            found.estimated = found.state == "asks" and (found.estimated or guessing)
            guessing = guessing or (name in missing and bool(getattr(builder.stage_one, "used", False)))
            rows.append((builder, found))
        if builder.scratch is not None:
            builder.scratch.cleanup()
    return rows


def cost_of(rows: Iterable[tuple[FeatureBuilder, FeaturePlan]]) -> tuple[int, float | None]:
    """Requests of a plan, and US dollars for them; ``None`` if an endpoint that would be asked states no price."""
    asking = [(builder.endpoint, row) for builder, row in rows if row.requests]
    requests = sum(row.requests for _, row in asking)
    if not all(endpoint is not None and endpoint.priced for endpoint, _ in asking):
        return requests, None
    return requests, sum(row.price for _, row in asking)


def render_plan(rows: Sequence[tuple[FeatureBuilder, FeaturePlan]]) -> str:
    """The table of a dry run."""
    header = ["dataset", "model", "feature", "", "keys", "requests", "cached", "tokens in", "tokens out", "US$"]
    lines: list[list[Any]] = []
    for builder, row in rows:
        about = "~ estimate" if row.estimated else row.state
        asks = row.state == "asks"
        numbers = [row.keys, row.requests, row.cached, row.tokens_in, row.tokens_out] if asks else [""] * 5
        priced = builder.endpoint is not None and builder.endpoint.priced
        price = price_text(row.price) if asks and priced else "?" if asks else ""
        names = [builder.settings["dataset"], builder.settings.method.name, row.feature]
        lines.append([*names, about, *(f"{n:,}" if n != "" else "" for n in numbers), price])
    text = tabulate(lines, header, colalign=("left",) * 4 + ("right",) * 6, disable_numparse=True)
    notes = _price_notes([(builder.endpoint, row) for builder, row in rows if builder.endpoint is not None])
    trainings = {builder.name: _trainings(builder) for builder, _ in rows}
    notes += [text for text in trainings.values() if text]
    notes += dict.fromkeys(f"{row.feature}: {row.note}" for _, row in rows if row.note)
    if any(row.estimated for _, row in rows):
        notes.append(
            "~ estimate: stands on something that is not there yet (an untrained stage I, earlier answers of a chain)."
        )
    return "\n".join([text, "", *notes])


def _price_notes(rows: Sequence[tuple[Endpoint, FeaturePlan]]) -> list[str]:
    """What the questions of a plan cost, by the prices of each endpoint, and what may be saved."""
    if not rows:
        return ["--llm=offline: made by rule, nothing is asked and nothing costs."]
    requests = f"total: {counted(sum(row.requests for _, row in rows), 'request')}"
    total = sum(row.price for _, row in rows)
    unpriced = dict.fromkeys(f"--llm={endpoint.name}" for endpoint, _ in rows if not endpoint.priced)
    if unpriced and total:
        notes = [f"{requests}, {price_text(total)} US$ and those of {', '.join(unpriced)}, which states no price"]
    elif unpriced:
        notes = [f"{requests}; price not stated: give --llm_price_in and --llm_price_out"]
    else:
        batched = sum(row.price * (endpoint.batch_price or 1.0) for endpoint, row in rows)
        batch = f" ({price_text(batched)} US$ with --batch)" if batched < total else ""
        notes = [f"{requests}, {price_text(total)} US${batch}"]
    by_name: dict[str, list[tuple[Endpoint, FeaturePlan]]] = {}
    for endpoint, row in rows:
        by_name.setdefault(endpoint.name, []).append((endpoint, row))
    for own in by_name.values():
        if any(row.price for _, row in own):
            notes.append(_prefix_note(own[0][0], [row for _, row in own]))
    return notes


def _prefix_note(endpoint: Endpoint, plans: Sequence[FeaturePlan]) -> str:
    """What the endpoint's prefix cache may save."""
    shared, saved = max(plan.shared for plan in plans), sum(plan.saved for plan in plans)
    if endpoint.price_cached is None or not endpoint.cache_from:
        return f"prefix caching: the file of --llm={endpoint.name} states no price for it, so none is counted on."
    begins = f"--llm={endpoint.name} caches prefixes from {endpoint.cache_from:,} tokens on"
    if not saved:
        return f"prefix caching saves nothing: {begins}; questions begin with at most {shared:,} equal ones."
    saving = f"{price_text(saved)} US$"
    return f"prefix caching may save {saving} of it: {begins}; questions begin with up to {shared:,} equal ones."


def _trainings(builder: FeatureBuilder) -> str:
    """What must be trained before the first question; empty if nothing."""
    placeholder, key = builder.stage_one, builder.settings.method.stage_one
    if not isinstance(placeholder, PopularityPlaceholder) or not placeholder.used or key is None:
        return ""
    trainings = counted(placeholder.untrained, "training")
    return f"before the first question: {trainings} of {builder.settings[key]} (stage I)."


def make(runs: Sequence[Run], runner: Runner, asking: AnswerSource) -> list[FeatureBuilder]:
    """Make all features of the runs, with their text vectors.

    Raises:
        UserError: a limit was reached; what was answered is kept.
    """
    done = []
    for builder in feature_builders(runs, runner, asking):
        builder.make()
        builder.encode()
        done.append(builder)
    return done


def render_made(builders: Iterable[FeatureBuilder]) -> str:
    """A table of what the manifests say about the features."""
    header = ["dataset", "feature", "coverage", "filled", "asked", "cached", "failed", "tokens in", "tokens out", "US$"]
    lines, folders = [], []
    for builder in builders:
        folders.append(f"{builder.folder.path}/")
        for name in builder.wanted:
            entry = builder.folder.manifest["features"][name]
            usage = entry["usage"]
            numbers = [usage[key] for key in ("requests", "cached", "failed", "tokens_in", "tokens_out")]
            coverage = f"{entry.get('coverage', 1.0):.1%}"
            filled = entry.get("filled", 0) or ""
            lines.append([builder.settings["dataset"], name, coverage, filled, *numbers, f"{usage['price']:.4f}"])
            counts = ", ".join(f"{key} {count}" for key, count in sorted(entry.get("counts", {}).items()))
            if counts:
                folders.append(f"  {name}: {counts}")
            if entry.get("stopped"):
                folders.append(f"  {name}: {entry['stopped']}")
    text = tabulate(lines, header, disable_numparse=True, colalign=("left", "left") + ("right",) * 8)
    return "\n".join([text, "", *folders])


# ---- batches ------------------------------------------------------------------------------------


def collect(runs: Sequence[Run], runner: Runner, asking: BatchCollector) -> list[FeatureBuilder]:
    """Collect the questions of all features that have no answer; returns the builders that wait for answers."""
    return [builder for builder in feature_builders(runs, runner, asking) if builder.make()]


def batch_file(runs: Sequence[Run], runner: Runner, path: Path, limit: int | None = None) -> int:
    """Write the pending requests for the Batch API; returns their number.

    Raises:
        UserError: nothing is pending, or the models use different datasets or endpoints.
    """
    asking = BatchCollector(limit=limit)
    builders = collect(runs, runner, asking)
    if not asking.pending:
        raise UserError("there is nothing to ask: all answers are there.")
    if any((builder.home, builder.endpoint) != (builders[0].home, builders[0].endpoint) for builder in builders):
        raise UserError("--batch-file takes one dataset and one --llm.")
    endpoint = builders[0].endpoint
    assert endpoint is not None
    with builders[0].responses() as cache:
        write_batch_file(cache, endpoint, asking.pending.values(), path)
    return len(asking.pending)


def _alone(request: ChatRequest) -> Script:
    """A script of one question."""
    return (yield request)


class _Batches:
    """The batches of the runs of one dataset, whose answers go into one cache."""

    def __init__(self, runs: Sequence[Run], runner: Runner, asking: BatchCollector, pause: float) -> None:
        self.runs, self.asking = runs, asking
        self._runner, self._pause = runner, pause
        self._earlier, self._answered, self._stopped = False, False, ""
        self._failures: Counter[str] = Counter()

    def submit(self, stack: ExitStack) -> BatchClient | None:
        """Collect the questions without an answer and submit them; ``None`` if there are none."""
        self.asking.pending.clear()
        builders = collect(self.runs, self._runner, self.asking)
        if not self.asking.pending:
            return None
        endpoint = builders[0].endpoint
        assert endpoint is not None
        cache = stack.enter_context(builders[0].responses())
        dialect = self.asking.known(endpoint).dialect
        client = BatchClient(endpoint, cache, self.asking.budget, self._pause, dialect=dialect)
        stack.callback(client.close)
        with one_process_at_a_time(builders[0].home, f"the batches of {builders[0].home.parent.name}"):
            # Batches of a run that was stopped, or of another command, come first: they are already paid for.
            self._earlier = bool(client.open_batches())
            if not self._earlier:
                self._stopped = self._meet(endpoint, cache) or client.submit(self.asking.pending.values())
        return client

    def _meet(self, endpoint: Endpoint, cache: ResponseCache) -> str:
        """Ask live until one question is answered, so that a general fault shows now rather than in a day.

        Returns:
            Why to stop; empty if there is no reason.

        Raises:
            UserError: the endpoint refuses the key, the model or every request.
        """
        known = self.asking.known(endpoint)
        first = takewhile(lambda _: not known.answered, map(_alone, self.asking.pending.values()))
        client = Client(replace(endpoint, concurrency=1), cache, self.asking.budget, known, reasoned_only)
        return client.run(first).stopped

    def fetch(self, client: BatchClient) -> None:
        """Wait for what was submitted and take in the answers; a request that fails in ``BATCHES`` batches is given up.

        Raises:
            UserError: a limit was reached, or no request was answered.
        """
        report = client.fetch()
        if self._earlier:
            return
        failed = [key for key in self.asking.pending if client.cache.get(key) is None]
        self._answered = self._answered or report.new > 0
        nothing_works = client.incomplete or (not self._answered and len(failed) >= HOPELESS_AFTER)
        if self._stopped or (not report.new and nothing_works):
            reason = self._stopped or f"the batch brought no answer ({report})"
            kept = "The answers so far are kept; run" if self._answered else "Run"
            raise UserError(f"stopped: {reason}. {kept} the same command to go on.")
        if not client.incomplete:
            self._failures.update(failed)
        self.asking.lost.update(key for key in failed if self._failures[key] >= BATCHES)


def run_batches(runs: Sequence[Run], runner: Runner, pause: float, limit: int | None = None) -> list[FeatureBuilder]:
    """Submit batches and take in their answers until nothing is pending; then make the features.

    Raises:
        UserError: the API failed, a limit was reached, or a round brought no answer.
    """
    by_home: dict[Path, list[Run]] = {}
    endpoints: dict[Path, Endpoint | None] = {}
    for run in runs:
        home, endpoint = run.location.home, chosen_endpoint(run.settings)  # a paid one requires a limit
        if endpoints.setdefault(home, endpoint) != endpoint:  # a batch would ask the first one everything
            raise UserError("--batch takes one --llm for a dataset: give each its own command.")
        by_home.setdefault(home, []).append(run)
    budget = AnswerSource.of(runs[0].settings).budget
    groups = [_Batches(own, runner, BatchCollector(budget, limit), pause) for own in by_home.values()]
    while True:
        with ExitStack() as stack:
            under_way = [(group, client) for group in groups if (client := group.submit(stack)) is not None]
            for group, client in under_way:
                group.fetch(client)
        if not under_way:
            return [builder for group in groups for builder in make(group.runs, runner, group.asking)]


# ---- answers in and out -------------------------------------------------------------------------


def cache_of(runs: Sequence[Run]) -> ResponseCache:
    """The cache of answers of the runs' dataset; the caller closes it.

    Raises:
        UserError: the runs are of several datasets.
    """
    paths = {run.location.answers for run in runs}
    if len(paths) != 1:
        raise UserError("answers are kept by dataset: give one.")
    return ResponseCache(paths.pop())


def prompts_of(runs: Sequence[Run]) -> set[str]:
    """``id@version`` of the prompts of the runs' features."""
    return {
        load_prompt(name).name
        for run in runs
        for feature in run.settings.method.features
        for name in find_feature(feature).prompts
    }


def export(runs: Sequence[Run], path: Path) -> int:
    """Write the chosen endpoint's answers to the runs' prompts, or all without an endpoint; returns their number.

    Raises:
        UserError: there are no answers.
    """
    prompts = prompts_of(runs)
    endpoint = chosen_endpoint(runs[0].settings, asks=False)
    with cache_of(runs) as cache:
        count = export_answers(cache, path, endpoint.model if endpoint else None, prompts)
    if not count:
        raise UserError("there are no such answers to export.")
    return count


def take_in(runs: Sequence[Run], path: Path) -> ImportReport:
    """Take answers from a file into the cache of the runs' dataset."""
    with cache_of(runs) as cache:
        return import_answers(cache, path)
