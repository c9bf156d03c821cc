"""The tables of some records in the formats that people want them in."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import metric_title
from recbole_llm.evaluation.significance import LEVEL, Comparison
from recbole_llm.evaluation.subgroups import SUBGROUPS, subgroup_means
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.costs import cost_table
from recbole_llm.reporting.grouping import TableKey
from recbole_llm.reporting.reference import IN_BAND, check, reference_metrics, reference_table
from recbole_llm.reporting.rendered import BEST, SECOND, RenderedTable, TableCell, write
from recbole_llm.reporting.results_table import DIGITS, WORSE, ResultsTable, Row, best_and_second, build

FORMATS = ("text", "markdown", "latex", "csv", "html")
KINDS = ("baseline", "control", "method")


def render(
    records: Iterable[Record],
    style: str = "text",
    metrics: Sequence[str] | None = None,
    store: ResultStore | None = None,
    topk: Sequence[int] | None = None,
    baseline: str | None = None,
    groups: bool = False,
) -> str:
    """All tables of some records.

    Args:
        records: what to show.
        style: one of ``FORMATS``; ``csv`` has one line a row and metric, with everything that is known.
        metrics: columns such as ``ndcg@10`` or ``ndcg``; default those of the records.
        store: where the ranks lie; without it there are neither intervals nor tests.
        topk: cut-offs of the columns; default that of the metric that models were selected by, ``[]`` for all.
        baseline: model that the others are measured against; default the best baseline.
        groups: show the primary metric by subgroups too.

    Raises:
        UserError: an unknown metric or baseline.
    """
    if style == "csv" and topk is None:
        topk = []
    tables = build(records, store, metrics, topk, baseline, intervals=style == "csv")
    if style == "csv":
        return _csv(tables)
    rendered_tables: list[RenderedTable] = []
    for table in tables:
        rendered_tables.append(main_table(table))
        if groups and any(row.ranks for row in table.rows):
            rendered_tables.append(group_table(table))
        costs = cost_table(in_order(table))
        if costs is not None:
            rendered_tables.append(costs)
    return write(rendered_tables, style)


def render_check(records: Iterable[Record], style: str, store: ResultStore | None) -> tuple[str, bool]:
    """Baselines held against published numbers, and whether any is out of its band.

    Raises:
        UserError: ``csv``, which is for numbers.
    """
    if style == "csv":
        raise UserError("--check-reference comes as text, markdown, latex or html.")
    checked = check(build(records, store, reference_metrics()))
    rendered_tables = [reference_table(heading(table.key, table.cases), verdicts) for table, verdicts in checked]
    return write(rendered_tables, style), any(v.word != IN_BAND for _, verdicts in checked for v in verdicts)


def heading(key: TableKey, cases: int) -> str:
    """One line that says what a table's numbers are of."""
    words = [f"{key.dataset}, {key.protocol}: {cases:,} test cases"]
    settings = key.case_settings
    for sort in ("user", "item"):
        interval = settings.get(f"{sort}_inter_num_interval")
        if interval not in (None, "[0,inf)", "[0,inf]"):
            words.append(f"{sort}s with {interval} interactions")
    if "test_from" in settings:
        words.append(f"tested from {settings['test_from']} of the time on, {settings.get('targets')} target")
    candidates = settings.get("candidates", "all")
    if isinstance(candidates, int):
        words.append(f"1 + {candidates} candidates")
    words.append("seen items not ranked" if key.masked else "seen items ranked too")
    return ", ".join(words)


def in_order(table: ResultsTable) -> list[Row]:
    """Rows as a table shows them: baselines, controls, methods, each from worst to best; failures last."""
    key = {row.label: -number for number, row in enumerate(table.ordered(table.primary))}
    return sorted(table.rows, key=lambda row: (not row.runs, KINDS.index(row.kind), key.get(row.label, 1)))


def seeds_text(seeds: Iterable[int]) -> str:
    """``1,2,3,7`` as ``1-3,7``."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def reason(row: Row) -> str:
    """Why a row's cells failed, on one short line."""
    text = " ".join((row.failed[0].error or "no reason was recorded").split())
    return text if len(text) <= 80 else text[:79] + "…"


def p_text(p: float) -> str:
    """``<0.001`` or three digits."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def difference_text(found: Comparison) -> str:
    """A difference with its interval."""
    return f"{found.difference:+.{DIGITS}f} [{found.low:+.{DIGITS}f}, {found.high:+.{DIGITS}f}]"


def main_table(table: ResultsTable) -> RenderedTable:
    """Metrics, the interval of the primary one, and the differences to the reference row."""
    compared = table.reference is not None and len(table.comparisons) > 0
    intervals = any(row.values.get(table.primary) and row.values[table.primary].low is not None for row in table.rows)
    header = ["model", "seeds", *map(metric_title, table.metrics)]
    if intervals:
        header.append(f"95 % {metric_title(table.primary)}")
    if compared:
        header += [f"Δ to {table.reference}", "d", "p"]
    ranked = {metric: table.best_and_second(metric) for metric in table.metrics}
    rows = []
    for row in in_order(table):
        cells = [TableCell(row.label), TableCell(_seeds(row))]
        if not row.runs:
            rows.append([*cells, *[TableCell("")] * (len(header) - 2)])
            continue
        cells += [_metric_cell(row, metric, *ranked[metric]) for metric in table.metrics]
        if intervals:
            value = row.values.get(table.primary)
            known = value is not None and value.low is not None
            cells.append(TableCell(f"[{value.low:.{DIGITS}f}, {value.high:.{DIGITS}f}]" if value and known else ""))
        if compared:
            cells += _comparison_cells(table, row)
        rows.append(cells)
    return RenderedTable(heading(table.key, table.cases), header, rows, notes(table))


def _seeds(row: Row) -> str:
    if not row.runs:
        return f"failed: {reason(row)}"
    lost = f" (failed: {seeds_text(run.seed for run in row.failed)})" if row.failed else ""
    return seeds_text(run.seed for run in row.runs) + lost


def _metric_cell(row: Row, metric: str, best: set[str], second: set[str]) -> TableCell:
    value = row.values.get(metric)
    if value is None:
        return TableCell("")
    text = f"{value.mean:.{DIGITS}f}" + ("" if value.deviation is None else f" ±{value.deviation:.{DIGITS}f}")
    return TableCell(text, BEST if row.label in best else SECOND if row.label in second else "")


def _comparison_cells(table: ResultsTable, row: Row) -> list[TableCell]:
    found = table.against_reference(row.label)
    if found is None:
        return [TableCell("")] * 3
    arrow = {"": "", WORSE: " ↓"}.get(table.mark(row.label), " ↑")
    return [
        TableCell(difference_text(found)),
        TableCell(f"{found.effect:+.2f}"),
        TableCell(p_text(found.p_holm) + arrow),
    ]


def notes(table: ResultsTable) -> list[str]:
    """What a reader must know to read the table."""
    found = []
    several = any(len(row.runs) > 1 for row in table.rows)
    if several:
        found.append("mean ± standard deviation over seeds")
    if table.comparisons:
        found.append(_tests(table))
    if any(len(row.runs) == 1 for row in table.rows) and len(table.finished) > 1:
        found.append("one seed says nothing about the spread over seeds")
    ordered = table.ordered(table.primary)
    top = table.compared(ordered[0].label, ordered[1].label) if len(ordered) > 1 else None
    if top is not None:
        word = "holds" if table.verdict(top) else "does not hold"
        found.append(f"best {top.first} to second {top.second}: {difference_text(top)}, p {p_text(top.p_holm)}: {word}")
    found += [f"{row.label}, seeds {seeds_text(r.seed for r in row.failed)} failed: {reason(row)}"
              for row in table.rows if row.failed and row.runs]  # fmt: skip
    return [*found, *dict.fromkeys(table.notes)]


def _tests(table: ResultsTable) -> str:
    """How intervals and p were made; without differences to a reference the p is that of the best to the second."""
    effect = "d: Cohen's d; " if table.against else ""
    marks = f"; ↑ better, ↓ worse than {table.reference} at {LEVEL:.0%}" if table.against else ""
    return (
        f"95 % intervals over users (bootstrap); {effect}p: paired bootstrap and Wilcoxon on "
        f"{metric_title(table.primary)}, the larger, after Holm over {_family(table)}{marks}"
    )


def _family(table: ResultsTable) -> str:
    """What the p of a table are corrected over."""
    if table.named and table.against:
        count = len(table.against)
        return f"{count} comparison{'s' * (count > 1)} with {table.reference}"
    count = len(table.comparisons)
    return f"{count} pair{'s' * (count > 1)}"


def group_table(table: ResultsTable) -> RenderedTable:
    """The primary metric of parts of the test cases."""
    rows = [row for row in in_order(table) if row.ranks]
    means = {row.label: subgroup_means(row.ranks, table.primary) for row in rows}
    sizes = {name: max(means[row.label][name][0] for row in rows) for name in SUBGROUPS}
    shown = [name for name in SUBGROUPS if sizes[name]]
    lines = [[TableCell(row.label)] for row in rows]
    for name in shown:
        values = {row.label: means[row.label][name][1] for row in rows if not math.isnan(means[row.label][name][1])}
        best, second = best_and_second(dict(sorted(values.items(), key=lambda item: -item[1])))
        for cells, row in zip(lines, rows, strict=True):
            rank = BEST if row.label in best else SECOND if row.label in second else ""
            cells.append(TableCell(f"{values[row.label]:.{DIGITS}f}" if row.label in values else "", rank))
    header = [metric_title(table.primary), *(f"{name} ({sizes[name]:,})" for name in shown)]
    note = "head: the fifth of the items with most training interactions; cold: none; short: up to the median history"
    return RenderedTable("", header, lines, [note])


def _csv(tables: Sequence[ResultsTable]) -> str:
    """One line a row and metric."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [*("dataset", "protocol", "mask_history", "test_cases", "model", "label", "kind", "status", "seeds", "metric"),
         *("mean", "sd", "ci_low", "ci_high", "reference", "difference", "p_holm", "reason")]
    )  # fmt: skip
    for table in tables:
        key = table.key
        for row in in_order(table):
            head = [key.dataset, key.protocol, key.masked, table.cases, row.model, row.label, row.kind]
            if not row.runs:
                writer.writerow([*head, "failed", seeds_text(r.seed for r in row.failed), *[""] * 8, reason(row)])
                continue
            for metric in table.metrics:
                value, test = row.values.get(metric), None
                if metric == table.primary:
                    test = table.against_reference(row.label)
                numbers = [value.mean, value.deviation, value.low, value.high] if value else [None] * 4
                tested = [table.reference, test.difference, test.p_holm] if test else [None] * 3
                seeds = seeds_text(run.seed for run in row.runs)
                writer.writerow([*head, "ok", seeds, metric, *map(_number, numbers), *map(_number, tested), ""])
    return out.getvalue().rstrip("\n")


def _number(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.6g}"
