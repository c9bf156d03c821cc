"""The results of one table: means, intervals, the best rows, and which differences are significant."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.names import UNCUT_METRICS, check_margin, higher_is_better, needs_lists, parse_metric
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.significance import CORRECTIONS, Comparison, Family, same_cases, sample_of
from recbole_llm.experiments.probe_record import ProbeRecord
from recbole_llm.experiments.record import TOLERANCE, Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.grouping import Label, RowName, TableKey, group, kind_of, latest
from recbole_llm.reporting.rendered import BEST, SECOND, TableCell
from recbole_llm.utils.text import counted, visible

logger = logging.getLogger(__name__)

TELLING = 0.1  # a note warns if the share of cold targets exceeds that of other cold candidates by this much
DIGITS = 4  # decimals in a table; values that are equal in these are equally good
BETTER, WORSE, NONE = "better", "worse", "none"
KINDS = ("baseline", "control", "method")
ORDERS = ("kind", "model")  # of the rows, besides metrics
IMPROVING = "†"
IMPROVING_NOTE = f"{IMPROVING} still improving when training ended: best epoch among the last three validations"


@dataclass(frozen=True)
class Value:
    """One metric of one row: mean and deviation over seeds, 95 % interval over users and seeds where it is known."""

    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass
class Row:
    """The runs of one model with one set of settings.

    Attributes:
        name: its name in the table.
        kind: ``baseline``, ``method`` or ``control``.
        runs: finished runs, one a seed.
        failed: runs that failed.
        values: metrics of the finished runs.
        ranks: of the finished runs; empty if a file is missing or the seeds were tested on different cases.
        memory: probe of what the LLM behind the row remembers of the data; ``None`` without a probe.
    """

    name: RowName
    kind: str
    runs: list[Record]
    failed: list[Record]
    values: dict[str, Value] = field(default_factory=dict)
    ranks: list[Ranks] = field(default_factory=list)
    memory: ProbeRecord | None = None

    @property
    def label(self) -> str:
        """Its name in charts, notes and options, unique in the table."""
        return self.name.label

    @property
    def model(self) -> str:
        """Name of the model."""
        return (self.runs or self.failed)[0].model

    @property
    def cases(self) -> int:
        """Test cases; 0 if they are not known."""
        return next((run.data.test_cases for run in self.runs if run.data), 0)

    @property
    def still_improving(self) -> bool:
        """Whether, for any seed, training ended before the model had stopped improving."""
        return any(still_improving(run) for run in self.runs)

    def identity(self, column: str) -> str:
        """The cell of one of ``ResultsTable.identity_columns``."""
        if column == "model":
            return self.name.model + (f" {IMPROVING}" if self.still_improving else "")
        value = str(getattr(self.name, column.replace(" ", "_")))
        return "none" if value == "no language model" else value

    def cells(self, columns: Sequence[str]) -> list[TableCell]:
        """The cells of some of ``ResultsTable.identity_columns``."""
        return [TableCell(self.identity(column)) for column in columns]


def identity_columns(rows: Sequence[Row]) -> list[str]:
    """The columns that tell some rows apart, the model's first."""
    others = ("semantics", "language model", "tuned")
    return ["model", *(c for c in others if len({row.identity(c) for row in rows}) > 1)]


def still_improving(run: Record) -> bool:
    """Whether the best epoch is among the last three validations, and not the first of several.

    A run with a single validation counts: nothing shows that a second epoch would not have been better. A counting
    model (loss 0 in every epoch) does not: its epochs try windows and are no training steps.
    """
    if all(point.get("loss") == 0 for point in run.curve):
        return False
    validated = [point.get("epoch", n) for n, point in enumerate(run.curve, start=1) if point.get("valid")]
    return run.best_epoch in (validated[1:] or validated)[-3:]


@dataclass
class ResultsTable:
    """One table's worth of results.

    Attributes:
        key: what the rows share.
        rows: in the order in which they are shown.
        metrics: the columns.
        primary: the metric that models were selected by; significance is about it alone.
        families: by metric, the rows that were evaluated on the same cases, ready to be tested.
        comparisons: of every pair of rows that were evaluated on the same cases, corrected over all pairs.
        reference: label of the row that the others are measured against.
        named: whether the user named the reference; the tests against it are then a family of their own.
        notes: what a reader must know.
    """

    key: TableKey
    rows: list[Row]
    metrics: list[str]
    primary: str
    families: dict[str, Family] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    reference: str | None = None
    named: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def identity_columns(self) -> list[str]:
        """The columns that identify a row; what all rows share is in the caption instead."""
        return identity_columns(self.rows)

    @property
    def caption(self) -> str:
        """One line on what was measured, and on what all rows have in common."""
        key = self.key
        words = [f"{key.dataset}, {key.protocol}: {counted(self.cases, 'test case')}"]
        for sort in ("user", "item"):
            interval = key.case_settings.get(f"{sort}_inter_num_interval")
            if interval not in (None, "[0,inf)", "[0,inf]"):
                words.append(f"{sort}s with {interval} interactions")
        if "test_from" in key.case_settings:
            began, targets = key.case_settings["test_from"], key.case_settings.get("targets")
            share = isinstance(began, float)
            when = f"on the last {100 * (1 - began):.4g} % of the interactions" if share else f"from {began} on"
            words.append(f"tested {when}, {targets} target{'s' if targets == 'all' else ''}")
        candidates = key.case_settings.get("candidates", "all")
        if isinstance(candidates, int):
            words.append(f"1 + {counted(candidates, 'candidate')}")
        words.append("seen items not ranked" if key.masked else "seen items ranked too")
        epochs = {_most_epochs(run.settings) for row in self.rows for run in row.runs}
        if len(epochs) == 1 and isinstance(limit := epochs.pop(), int):
            words.append(f"{counted(limit, 'epoch')} at most")
        for title in ("semantics", "language model", "tuned"):
            shared = {row.identity(title) for row in self.rows}
            if len(shared) == 1 and (text := shared.pop()):
                words.append({"tuned": f"tuned with {text}"}.get(title, f"{title}: {text}"))
        return visible(", ".join(words))

    @property
    def finished(self) -> list[Row]:
        """Rows with numbers."""
        return [row for row in self.rows if row.runs]

    @property
    def cases(self) -> int:
        """Test cases of most of the rows."""
        counts = Counter(row.cases for row in self.finished if row.cases)
        return max(counts, key=counts.__getitem__, default=0)

    def row(self, label: str) -> Row:
        """The row of a label."""
        return next(row for row in self.rows if row.label == label)

    def ordered(self, metric: str, rows: Iterable[Row] | None = None) -> list[Row]:
        """Rows that have the metric, best first."""
        sign = -1 if higher_is_better(metric) else 1
        having = [row for row in (self.rows if rows is None else rows) if metric in row.values]
        return sorted(having, key=lambda row: sign * row.values[metric].mean)

    def best_and_second(self, metric: str) -> tuple[set[str], set[str]]:
        """Labels of the best and the second-best rows; rows whose shown digits are equal share a place."""
        return best_and_second({row.label: row.values[metric].mean for row in self.ordered(metric)})

    def compared(self, first: str, second: str) -> Comparison | None:
        """The test of two rows on the primary metric, ``first`` minus ``second``."""
        for found in self.comparisons:
            if (found.first, found.second) == (first, second):
                return found
            if (found.first, found.second) == (second, first):
                return found.turned()
        return None

    @cached_property
    def against(self) -> dict[str, Comparison]:
        """The test of each other row against the reference, row minus reference.

        With a named reference, the correction is over its comparisons with the other rows (Demsar, JMLR 2006, section
        3.2.2: comparisons with a control). The default reference, the best baseline, is chosen by its result, so there
        the correction is over every pair that could have been chosen.
        """
        if self.reference is None or not any(self.reference in (c.first, c.second) for c in self.comparisons):
            return {}
        family = self.families[self.primary]
        others = [label for label in family.labels if label != self.reference]
        if self.named:
            tests = family.compare([(label, self.reference) for label in others])
            return {test.first: test for test in tests}
        return {label: test for label in others if (test := self.compared(label, self.reference)) is not None}

    def verdict(self, found: Comparison | None) -> str:
        """``better`` or ``worse`` for a significant difference, ``none`` for one within the margin, else empty."""
        if found is None:
            return ""
        if found.holds:
            return BETTER if (found.difference > 0) == higher_is_better(self.primary) else WORSE
        return NONE if found.none else ""


def best_and_second(values: Mapping[str, float]) -> tuple[set[str], set[str]]:
    """Labels of the best and the second-best of values given best first; both sets are empty if all are equal."""
    shown = list(dict.fromkeys(round(value, DIGITS) for value in values.values()))
    if len(shown) < 2:
        return set(), set()
    best, second = ({label for label, v in values.items() if round(v, DIGITS) == one} for one in shown[:2])
    return best, second


def rank_of(label: str, best: set[str], second: set[str]) -> str:
    """How a cell of a row is marked: ``best``, ``second`` or not at all."""
    return BEST if label in best else SECOND if label in second else ""


def ranked_cells(values: Mapping[str, float], labels: Iterable[str]) -> list[TableCell]:
    """A cell for each label, the highest two values marked; empty where there is no value."""
    best, second = best_and_second(dict(sorted(values.items(), key=lambda item: -item[1])))
    return [
        TableCell(f"{values[label]:.{DIGITS}f}" if label in values else "", rank_of(label, best, second))
        for label in labels
    ]


def build(
    records: Iterable[Record],
    store: ResultStore | None = None,
    *,
    metrics: Sequence[str] | None = None,
    topk: Sequence[int] | None = None,
    baseline: str | None = None,
    intervals: bool = False,
    correction: str = "holm",
    margin: float | None = None,
    sort: str | None = None,
) -> list[ResultsTable]:
    """The tables of some records.

    Args:
        records: what to show.
        store: the results folder with their ranks; without it nothing is tested.
        metrics: columns such as ``ndcg@10`` or ``ndcg``; default those of the records.
        topk: cut-offs of the columns; default the cut-off of the metric that models were selected by, ``[]`` for all
            that the records have.
        baseline: model or label that the others are measured against, in a family of tests of its own; default the
            best baseline.
        intervals: compute the interval of every metric, not of the primary one alone.
        correction: of the p values of a family, ``holm`` or ``fdr``.
        margin: differences of the primary metric below it count as none; ``None`` for no test of equivalence.
        sort: a metric such as ``hit@10`` (best first), ``model``, or ``kind`` (baselines, controls, methods, each best
            first); default the metric that models were selected by.

    Raises:
        UserError: an unknown metric, correction or order, an invalid margin, or a baseline that no table has.
    """
    if sort is not None and sort not in ORDERS:
        try:
            parse_metric(sort)
        except UserError as error:
            raise UserError(f"--sort={sort}: give {', '.join(ORDERS)}, or a metric such as ndcg@10.") from error
    if correction not in CORRECTIONS:
        raise UserError(f"--correction={correction}: known are {', '.join(CORRECTIONS)}.")
    check_margin(margin)
    columns = Columns(metrics, topk)
    asked = Tests(correction, margin, intervals, sort)
    tables = [_results_table(key, rows, store, columns, asked) for key, rows in sorted(group(records).items())]
    for table in tables:
        table.reference, table.named = _reference(table, baseline)
        if baseline is not None and table.reference is None:
            table.notes.append(f"{baseline} has no numbers here, so nothing is measured against it")
        elif table.comparisons and not table.against:
            table.notes.append(
                f"{table.reference} takes no part in the tests, so nothing is measured against it: name another row "
                "with --baseline"
            )
    if baseline is not None and tables and all(table.reference is None for table in tables):
        labels = list(dict.fromkeys(name for table in tables for row in table.rows for name in (row.model, row.label)))
        raise UserError(f"--baseline={baseline}: no such row with numbers.{did_you_mean(baseline, labels)}")
    return tables


@dataclass(frozen=True)
class Tests:
    """Options of tests, intervals and row order; see :func:`build`."""

    correction: str = "holm"
    margin: float | None = None
    intervals: bool = False
    sort: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns that were asked for; see :func:`build`."""

    metrics: Sequence[str] | None = None
    topk: Sequence[int] | None = None

    def of(self, records: Sequence[Record], primary: str) -> list[str]:
        """Names of the columns for some records."""
        if self.metrics:
            asked = [name.strip().lower() for name in self.metrics]
        else:
            asked = list(dict.fromkeys(name.partition("@")[0] for record in records for name in record.metrics))
        found = dict.fromkeys(full for name in asked for full in self._cut(name, records, primary))
        for name in found:
            parse_metric(name)
        if self.metrics:
            return list(found)
        return [name for name in found if not _repeats_hit(name, records)]

    def _cut(self, name: str, records: Sequence[Record], primary: str) -> list[str]:
        if "@" in name or name in UNCUT_METRICS:
            return [name]
        if self.topk is None:
            return [f"{name}@{parse_metric(primary)[1]}"]
        return [f"{name}@{k}" for k in (self.topk or _cut_offs(records))]


def _cut_offs(records: Sequence[Record]) -> list[int]:
    """All cut-offs in the records; the ranks give every metric at each of them, whether it was recorded or not."""
    recorded = {name for record in records for name in (*record.metrics, *record.list_metrics)}
    return sorted({int(name.partition("@")[2]) for name in recorded if "@" in name})


def _repeats_hit(name: str, records: Sequence[Record]) -> bool:
    """Whether a column is a Recall that repeats Hit, as it does where every case has one target."""
    if not name.startswith("recall"):
        return False
    pairs = [(record.metric(name), record.metric(name.replace("recall", "hit"))) for record in records]
    return all(a == b for a, b in pairs) and any(a is not None for a, _ in pairs)


def _most_epochs(settings: Mapping[str, Any]) -> Any:
    """The epochs after which a training ends at the latest."""
    limits = [settings.get("epochs"), *([sum(settings["stage_epochs"])] if "stage_epochs" in settings else [])]
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def _reference(table: ResultsTable, baseline: str | None) -> tuple[str | None, bool]:
    """Label of the reference row, and whether ``baseline`` names it alone and not the best of several rows."""
    if baseline is None:
        baselines = table.ordered(table.primary, [row for row in table.rows if row.kind == "baseline"])
        return next((row.label for row in [*baselines, *table.ordered(table.primary)]), None), False
    asked = Label.of(baseline)
    named = (
        [row for row in table.rows if row.label == baseline]
        or [row for row in table.rows if row.runs and asked.names(row.label, row.runs[0].settings)]
        or [row for row in table.rows if row.model == baseline]
    )
    return next((row.label for row in table.ordered(table.primary, named)), None), len(named) == 1


def _results_table(
    key: TableKey,
    named: Mapping[RowName, Sequence[Record]],
    store: ResultStore | None,
    columns: Columns,
    asked: Tests,
) -> ResultsTable:
    rows, notes = [], []
    for name, runs in named.items():
        kept = latest(runs)
        if len(kept) < len(runs):
            older = counted(len(runs) - len(kept), "older record")
            notes.append(f"{name.label}: {older} of the same seeds left out")
        done = [run for run in kept if run.status == "ok"]
        rows.append(Row(name, kind_of(kept[0]), done, [run for run in kept if run.status != "ok"]))
    everything = [run for row in rows for run in row.runs]
    notes += [*_rarity(everything), *_warnings(rows), *_foreign(rows)]
    primary = primary_metric(everything or [run for row in rows for run in row.failed])
    table = ResultsTable(key, rows, columns.of(everything, primary), primary, notes=notes)
    if store is not None:
        probes = [*store.probes()]
        for row in rows:
            row.ranks = _ranks(row, store, table.notes)
            row.memory = _probe_of(row.runs, probes)
    sort = asked.sort or primary
    for row in rows:
        _fill(row, [*table.metrics, primary, *([] if sort in ORDERS else [sort.lower()])], table.notes)
    if not columns.metrics:
        table.metrics = [name for name in table.metrics if any(name in row.values for row in rows)]
    table.rows = _in_order(table, sort)
    _test(table, asked)
    return table


def _in_order(table: ResultsTable, sort: str) -> list[Row]:
    """Rows as a table shows them, those without numbers last."""
    metric = table.primary if sort in ORDERS else sort.lower()
    place = {row.label: number for number, row in enumerate(table.ordered(metric))}
    if sort == "model":
        return sorted(table.rows, key=lambda row: (not row.runs, row.label.lower()))
    kind = KINDS.index if sort == "kind" else (lambda _: 0)
    return sorted(table.rows, key=lambda row: (not row.runs, kind(row.kind), place.get(row.label, len(place))))


def _rarity(records: Sequence[Record]) -> list[str]:
    """A warning if targets are in no training row much more often than the other candidates, which gives them away."""
    known = (record.data.rarity for record in records if record.data and record.data.rarity)
    found = next(known, None)
    if found is None or found["untrained_targets"] - found["untrained_others"] < TELLING:
        return []
    return [
        f"{found['untrained_targets']:.0%} of the targets and {found['untrained_others']:.0%} of the other candidates "
        f"occur in no training row: of two, the rarer is the target in {found['rarer_target']:.0%} of the pairs, "
        "which says nothing of a session"
    ]


def _warnings(rows: Sequence[Row]) -> list[str]:
    """The warnings in the rows' records; a warning that all rows share is given once, without labels."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for text in dict.fromkeys(text for run in row.runs for text in run.warnings):
            found.setdefault(text, []).append(row.label)
    count = sum(bool(row.runs) for row in rows)
    return [text if len(labels) == count else f"{', '.join(labels)}: {text}" for text, labels in found.items()]


def _foreign(rows: Sequence[Row]) -> list[str]:
    """Notes on rows whose lists were made elsewhere."""
    found = []
    for row in rows:
        for facts in (run.lists for run in row.runs[:1] if run.lists):
            items, users = counted(facts["unknown_items"], "item"), counted(facts["unknown_users"], "user")
            parts = [
                f"{facts['cases_without_list']:,} of {facts['cases']:,} cases have no list",
                f"{items} and {users} of its file are not here",
                *_ranked_of_lists(facts),
            ]
            found.append(f"{row.label} was made elsewhere, its data and settings are not known: {'; '.join(parts)}")
    return found


def _ranked_of_lists(facts: Mapping[str, Any]) -> list[str]:
    """How much of the lists is ranked; older records know only the shortest length in the file."""
    if "seen_rows" not in facts:
        return [f"its shortest list has {counted(facts['shortest'], 'item')}"]
    users, without = counted(facts["seen_users"], "user"), facts["cases_without_ranked"]
    return [
        f"{facts['seen_rows']:,} of its rows, of {users}, name items that the user already has",
        f"{counted(without, 'case')} {'has' if without == 1 else 'have'} no listed item that is ranked",
        f"the shortest list of the others has {counted(facts['shortest_ranked'], 'ranked item')}",
    ]


def primary_metric(records: Sequence[Record]) -> str:
    """The metric that most of the records were selected by."""
    chosen = [record.valid_metric or str(record.settings.get("valid_metric", "")).lower() for record in records]
    named = Counter(name for name in chosen if name)
    if named:
        return named.most_common(1)[0][0]
    return next((name for record in records for name in record.metrics if name.startswith("ndcg")), "ndcg@10")


def _probe_of(runs: Sequence[Record], probes: Iterable[ProbeRecord]) -> ProbeRecord | None:
    """The largest, then newest, probe of the LLM behind some runs, on the same data and titles.

    Probes under the runs' protocol are preferred. ``None`` if there is no probe or no LLM.
    """
    run = next((run for run in runs if run.features is not None and run.data is not None), None)
    if run is None or run.features is None or run.data is None:
        return None
    titles = run.settings.get("titles", "real")
    seed = run.settings.get("titles_seed") if titles != "real" else None
    wanted = (run.dataset, run.data.sha256, run.features.llm, run.features.llm_model, titles, seed)
    found = [
        probe
        for probe in probes
        if (probe.dataset, probe.data_sha256, probe.llm, probe.llm_model, probe.titles, probe.titles_seed) == wanted
    ]
    found = [probe for probe in found if probe.protocol == run.protocol] or found
    return max(found, key=lambda probe: (probe.questions, probe.created), default=None)


def _ranks(row: Row, store: ResultStore, notes: list[str]) -> list[Ranks]:
    """Ranks of all runs of a row, or none at all with a note that says why."""
    found = []
    for run in row.runs:
        try:
            found.append(Ranks.load(store.ranks_of(run)))
        except UserError as error:
            notes.append(f"{row.label}, seed {run.seed}: no ranks, so it is not tested ({error})")
            return []
    if any(not same_cases(found[0], other) for other in found[1:]):
        notes.append(f"{row.label}: its seeds were tested on different cases, so it is not tested.")
        return []
    return found


def _fill(row: Row, metrics: Sequence[str], notes: list[str]) -> None:
    """Means and deviations over seeds; from the ranks where the record lacks a metric."""
    for metric in dict.fromkeys(metrics):
        values = [run.metric(metric) for run in row.runs]
        if any(value is None for value in values) and row.ranks and not needs_lists(metric):
            try:
                values = [float(per_case(ranks, metric).mean()) for ranks in row.ranks]
            except UserError as error:
                notes.append(f"{row.label}: {error}")
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            spread = float(np.std(known, ddof=1)) if len(known) > 1 else None
            row.values[metric] = Value(float(np.mean(known)), spread)
        elif row.runs and needs_lists(metric):
            notes.append(f"{row.label} has no {metric}: it is counted during a run (list_metrics, topk) only.")


def _test(table: ResultsTable, asked: Tests) -> None:
    """Intervals and comparisons of the rows that were tested on the same cases."""
    rows = _on_common_cases(table)
    if not rows or not (rows[0].ranks and len(rows[0].ranks[0])):
        return
    if len(np.unique(sample_of([ranks for row in rows for ranks in row.ranks]))) == 1:
        table.notes.append("no intervals and no tests: users are their sample, and all cases are of a single one")
        return
    wanted = [table.primary, *(table.metrics if asked.intervals else ())]
    wanted = [m for m in dict.fromkeys(wanted) if not needs_lists(m) and (m not in UNCUT_METRICS)]
    for metric in wanted:
        reached = [row for row in rows if _reach(row, metric)]  # a note says why the others have no value
        if reached:
            methods = {row.label: row.ranks for row in reached}
            table.families[metric] = Family(methods, metric, asked.correction, asked.margin)
    for metric, family in table.families.items():
        for row in map(table.row, family.labels):
            found = family.interval(row.label)
            own = row.values.get(metric, Value(found.mean))
            row.values[metric] = Value(own.mean, own.deviation, found.low, found.high)
            if not math.isclose(own.mean, found.mean, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                table.notes.append(
                    f"{row.label}: {metric} is {own.mean:.6f} in the records, and their ranks give {found.mean:.6f}: "
                    "one of the two was changed"
                )
    table.comparisons = table.families[table.primary].compare() if table.primary in table.families else []
    known = any(len(ranks.person) for row in rows for ranks in row.ranks)
    if not known and any(run.settings.get("sessions") for row in rows for run in row.runs):
        table.notes.append(
            "the tests take sessions as their sample, not users: these records were made before users were noted"
        )


def _reach(row: Row, metric: str) -> bool:
    """Whether the ranks of all its seeds give a metric."""
    return all(ranks.reach(parse_metric(metric)[1]) for ranks in row.ranks)


def _on_common_cases(table: ResultsTable) -> list[Row]:
    """The rows with ranks of the same cases; the others get a note."""
    alike: list[list[Row]] = []
    for row in table.rows:
        if not row.ranks:
            continue
        for rows in alike:
            if same_cases(rows[0].ranks[0], row.ranks[0]):
                rows.append(row)
                break
        else:
            alike.append([row])
    alike.sort(key=len, reverse=True)
    for rows in alike[1:]:
        for row in rows:
            table.notes.append(
                f"{row.label} was tested on other cases ({len(row.ranks[0]):,} instead of "
                f"{len(alike[0][0].ranks[0]):,}): compare its numbers with caution; it is left out of the tests."
            )
    return alike[0] if alike else []
