"""The tables of some records as text, Markdown, LaTeX, CSV or HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import metric_title
from recbole_llm.evaluation.significance import CORRECTIONS, LEVEL, Comparison
from recbole_llm.evaluation.subgroups import SUBGROUPS, subgroup_means
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.costs import cost_table
from recbole_llm.reporting.grouping import answered
from recbole_llm.reporting.memory import memory_columns, memory_fields, memory_notes
from recbole_llm.reporting.reference import IN_BAND, check, reference_metrics, reference_table
from recbole_llm.reporting.rendered import RenderedTable, TableCell, csv_table, write
from recbole_llm.reporting.results_table import (
    BETTER,
    DIGITS,
    IMPROVING_NOTE,
    NONE,
    WORSE,
    ResultsTable,
    Row,
    build,
    rank_of,
    ranked_cells,
)
from recbole_llm.utils.text import counted, one_line, percent, visible

GROUP_NOTE = "head: the fifth of the items with most training interactions; cold: none; short: up to the median history"
FORMATS = ("text", "markdown", "latex", "csv", "html")


def render(
    records: Iterable[Record],
    style: str = "text",
    metrics: Sequence[str] | None = None,
    store: ResultStore | None = None,
    *,
    topk: Sequence[int] | None = None,
    baseline: str | None = None,
    groups: bool = False,
    correction: str = "holm",
    margin: float | None = None,
    sort: str | None = None,
) -> str:
    """All tables of some records.

    Args:
        records: what to show.
        style: one of ``FORMATS``, or ``terminal`` for text with bold and colour; ``csv`` has one line per row and
            metric, with everything that is known.
        metrics: columns such as ``ndcg@10`` or ``ndcg``; default those of the records.
        store: the results folder with the ranks; without it there are neither intervals nor tests.
        topk: cut-offs of the columns; default the cut-off of the metric that models were selected by, ``[]`` for all.
        baseline: model or label that the others are measured against; default the best baseline.
        groups: show the primary metric by subgroups too.
        correction: of the p values of a family: ``holm``, or ``fdr`` for the false discovery rate.
        margin: differences of the primary metric below it count as none.
        sort: order of the rows: a metric, ``model`` or ``kind``; default the metric that models were selected by.

    Raises:
        UserError: an unknown metric, correction, order or baseline, or an invalid margin.
    """
    if style == "csv" and topk is None:
        topk = []
    tables = build(
        records,
        store,
        metrics=metrics,
        topk=topk,
        baseline=baseline,
        intervals=style == "csv",
        correction=correction,
        margin=margin,
        sort=sort,
    )
    if style == "csv":
        lines = list(table_lines(tables))
        return csv_table(columns_of(lines), lines)
    rendered_tables: list[RenderedTable] = []
    for table in tables:
        rendered_tables.append(main_table(table))
        if groups and any(row.ranks for row in table.rows):
            rendered_tables.append(group_table(table))
        costs = cost_table(table)
        if costs is not None:
            rendered_tables.append(costs)
    return write(rendered_tables, style)


def render_check(records: Iterable[Record], style: str, store: ResultStore | None) -> tuple[str, bool]:
    """Baselines compared with published numbers, and whether any is out of its band.

    Raises:
        UserError: the style is ``csv``.
    """
    if style == "csv":
        raise UserError("--check-reference comes as text, markdown, latex or html.")
    checked = check(build(records, store, metrics=reference_metrics()))
    rendered_tables = [reference_table(table.caption, verdicts) for table, verdicts in checked]
    return write(rendered_tables, style), any(v.word != IN_BAND for _, verdicts in checked for v in verdicts)


def seeds_text(seeds: Iterable[int]) -> str:
    """``1,2,3,7`` as ``1-3,7``."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def failures(row: Row) -> dict[str, list[int]]:
    """The failed seeds of a row by the reason, which is one line."""
    found: dict[str, list[int]] = {}
    for run in row.failed:
        found.setdefault(one_line(visible(run.error or "no reason was recorded")), []).append(run.seed)
    return found


def p_text(p: float) -> str:
    """``<0.001`` or three decimals; below 0.05 these never read 0.050, which would be no significance."""
    if p < 0.001:
        return "<0.001"
    return "<0.050" if p < 0.05 <= round(p, 3) else f"{p:.3f}"


def difference_text(found: Comparison) -> str:
    """A difference with its interval."""
    return f"{found.difference:+.{DIGITS}f} [{found.low:+.{DIGITS}f}, {found.high:+.{DIGITS}f}]"


def main_table(table: ResultsTable) -> RenderedTable:
    """Metrics, the interval of the primary one, and the differences to the reference row."""
    compared = table.reference is not None and len(table.comparisons) > 0
    intervals = any(row.values.get(table.primary) and row.values[table.primary].low is not None for row in table.rows)
    header = [*table.identity_columns, "seeds", *map(metric_title, table.metrics)]
    if intervals:
        header.append(f"95 % {metric_title(table.primary)}")
    if compared:
        header += [f"Δ to {table.reference}", "d", "p", "Wilcoxon"]
    known = memory_columns(table)
    header += known
    ranked = {metric: table.best_and_second(metric) for metric in table.metrics}
    rows = []
    for number, row in enumerate(table.rows):
        cells = [*row.cells(table.identity_columns), TableCell(_seeds(row))]
        if not row.runs:
            rows.append([*cells, *[TableCell("")] * (len(header) - len(cells))])
            continue
        cells += [metric_cell(row, metric, *ranked[metric]) for metric in table.metrics]
        if intervals:
            value = row.values.get(table.primary)
            bounded = value is not None and value.low is not None
            cells.append(TableCell(f"[{value.low:.{DIGITS}f}, {value.high:.{DIGITS}f}]" if value and bounded else ""))
        if compared:
            cells += _comparison_cells(table, row)
        cells += [TableCell(column[number]) for column in known.values()]
        rows.append(cells)
    return RenderedTable(table.caption, header, rows, notes(table), len(table.identity_columns))


def _seeds(row: Row) -> str:
    if not row.runs:
        return "failed"  # a note says why
    lost = f" (failed: {seeds_text(run.seed for run in row.failed)})" if row.failed else ""
    return seeds_text(run.seed for run in row.runs) + lost


def metric_cell(row: Row, metric: str, best: set[str], second: set[str]) -> TableCell:
    """A mean with its deviation over seeds, marked where it is the best or the second best."""
    value = row.values.get(metric)
    if value is None:
        return TableCell("")
    text = f"{value.mean:.{DIGITS}f}" + ("" if value.deviation is None else f" ±{value.deviation:.{DIGITS}f}")
    return TableCell(text, rank_of(row.label, best, second))


def _comparison_cells(table: ResultsTable, row: Row) -> list[TableCell]:
    found = table.against.get(row.label)
    if found is None:
        return [TableCell("")] * 4
    verdict = f"{p_text(found.p_adjusted)} {mark(table, found)}".rstrip()
    return [
        TableCell(difference_text(found)),
        TableCell(f"{found.effect:+.2f}"),
        TableCell(verdict, tone=table.verdict(found)),
        TableCell(p_text(found.p_wilcoxon)),
    ]


def mark(table: ResultsTable, found: Comparison) -> str:
    """The signs of a test's outcome; in brackets if they speak for single trainings only, not for the methods.

    A difference can be significant and still smaller than the margin, so both signs may appear.
    """
    sign = {BETTER: "↑", WORSE: "↓"}.get(table.verdict(found), "") + ("≈" if found.none else "")
    return f"({sign})" if sign and found.one_training else sign


def notes(table: ResultsTable) -> list[str]:
    """What a reader must know to read the table."""
    found = []
    if any(len(row.runs) > 1 for row in table.rows):
        found.append("mean ± standard deviation over seeds")
    if table.comparisons:
        found += _tests(table)
    found += _single_trainings(table)
    found += lead(table)
    if any(row.still_improving for row in table.rows):
        found.append(IMPROVING_NOTE)
    found += _gaps(table)
    found += memory_notes(table)
    for row in table.rows:
        for why, seeds in failures(row).items():
            found.append(f"{row.label}, seed{'s' * (len(seeds) > 1)} {seeds_text(seeds)} failed: {why}")
    return [*found, *dict.fromkeys(table.notes)]


def _tests(table: ResultsTable) -> list[str]:
    """How intervals and p were computed; without a reference, the p is of the best row against the second."""
    family, metric = table.families[table.primary], metric_title(table.primary)
    several = any(len(row.runs) > 1 for row in table.finished)
    sample = "users and seeds are samples (quasi-F test, Satterthwaite)" if several else "users are the sample (t test)"
    found = [
        f"95 % intervals and p on {metric}: {sample}; p after {CORRECTIONS[family.correction]} over {_family(table)}"
    ]
    if table.against:
        found.append(f"↑ better, ↓ worse than {table.reference} at {LEVEL:.0%}; d: Cohen's d over users")
        found.append("Wilcoxon: signed ranks over users alone, corrected alike; for information")
    if family.margin is not None:
        found.append(f"≈ no difference beyond ±{family.margin:g} (two one-sided tests at {LEVEL:.0%})")
    return found


def _family(table: ResultsTable) -> str:
    """What the p values of a table are corrected over."""
    if table.named and table.against:
        return f"{counted(len(table.against), 'comparison')} with {table.reference}"
    return counted(len(table.comparisons), "pair")


def _single_trainings(table: ResultsTable) -> list[str]:
    """A note on what rows with one seed can show."""
    alone = [row.label for row in table.finished if len(row.runs) == 1]
    if not alone or not table.comparisons:
        return []
    which = "every row has one seed" if len(alone) == len(table.finished) else f"one seed: {', '.join(alone)}"
    return [f"{which}; p and marks in brackets speak for these trainings alone, not for the methods"]


def lead(table: ResultsTable) -> list[str]:
    """Whether the best row's lead over the second holds."""
    ordered = table.ordered(table.primary)
    top = table.compared(ordered[0].label, ordered[1].label) if len(ordered) > 1 else None
    if top is None:
        return []
    verdict = {"": "does not hold", NONE: "none beyond the margin"}.get(table.verdict(top), "holds")
    alone = " for these trainings" if top.one_training and top.holds else ""
    text = f"best {top.first} to second {top.second}: {difference_text(top)}, p {p_text(top.p_adjusted)}"
    return [f"{text}: {verdict}{alone}"]


def _gaps(table: ResultsTable) -> list[str]:
    """Which rows lack answers, and of which features."""
    found = []
    for row in table.rows:
        shares: dict[str, float] = {}
        for run in row.runs:
            for feature, share in answered(run).items():
                shares[feature] = min(share, shares.get(feature, 1.0))
        gaps = [f"{feature} {percent(share)}" for feature, share in shares.items() if share < 1]
        if gaps:
            found.append(f"{row.label}: not every question has an answer ({', '.join(gaps)})")
    return found


def group_titles(means: Iterable[Mapping[str, tuple[int, float]]], protocol: str = "") -> dict[str, str]:
    """Titles of the subgroups that have cases, by name: with the number of cases, or its range if rows differ in it.

    Args:
        means: of each row, from :func:`~recbole_llm.evaluation.subgroups.subgroup_means`.
        protocol: named behind each subgroup if it is given.
    """
    means = list(means)
    sizes = {group: {found[group][0] for found in means} - {0} for group in SUBGROUPS}
    return {
        group: f"{group} {protocol}".rstrip() + f" ({' to '.join(f'{n:,}' for n in sorted({min(found), max(found)}))})"
        for group, found in sizes.items()
        if found
    }


def group_table(table: ResultsTable) -> RenderedTable:
    """The primary metric by subgroup of the test cases."""
    rows = [row for row in table.rows if row.ranks]
    means = {row.label: subgroup_means(row.ranks, table.primary) for row in rows}
    titles = group_titles(means.values())
    lines = [row.cells(table.identity_columns) for row in rows]
    for name in titles:
        values = {row.label: means[row.label][name][1] for row in rows if not math.isnan(means[row.label][name][1])}
        for cells, cell in zip(lines, ranked_cells(values, [row.label for row in rows]), strict=True):
            cells.append(cell)
    header = [*table.identity_columns, *titles.values()]
    title = f"{metric_title(table.primary)} by group"
    return RenderedTable(title, header, lines, [GROUP_NOTE], len(table.identity_columns))


TABLE_COLUMNS = (
    *("dataset", "protocol", "mask_history", "test_cases", "model", "label", "kind", "semantics", "language_model"),
    *("tuned", "still_improving", "status", "seeds", "metric", "mean", "sd", "ci_low", "ci_high"),
    *("reference", "difference", "diff_low", "diff_high", "p", "df", "correction", "p_adjusted", "p_wilcoxon"),
    *("p_equal", "one_training", "reason"),
)


def columns_of(lines: Iterable[Mapping[str, object]]) -> list[str]:
    """``TABLE_COLUMNS``, and the columns on what an LLM knew if a line has them."""
    return list(dict.fromkeys([*TABLE_COLUMNS, *(name for line in lines for name in line)]))


def table_lines(tables: Sequence[ResultsTable]) -> Iterator[dict[str, str | float | None]]:
    """One line per row and metric, keyed by :func:`columns_of`; a failed row has one line without numbers."""
    for table in tables:
        key = table.key
        for row in table.rows:
            line: dict[str, str | float | None] = {
                "dataset": key.dataset, "protocol": key.protocol, "mask_history": key.masked,
                "test_cases": row.cases or table.cases, "model": row.model, "label": row.label, "kind": row.kind,
                "semantics": row.name.semantics, "language_model": row.name.language_model, "tuned": row.name.tuned,
                "still_improving": row.still_improving, **memory_fields(row),
            }  # fmt: skip
            if not row.runs:
                seeds = seeds_text(run.seed for run in row.failed)
                yield {**line, "status": "failed", "seeds": seeds, "reason": "; ".join(failures(row))}
                continue
            line |= {"status": "ok", "seeds": seeds_text(run.seed for run in row.runs)}
            for metric in table.metrics:
                yield {**line, "metric": metric, **_numbers(table, row, metric)}


def _numbers(table: ResultsTable, row: Row, metric: str) -> dict[str, str | float | None]:
    """The cells of one metric; the primary metric also has the comparison with the reference."""
    value, test = row.values.get(metric), table.against.get(row.label)
    found: dict[str, str | float | None] = {}
    if value is not None:
        found |= {"mean": value.mean, "sd": value.deviation, "ci_low": value.low, "ci_high": value.high}
    if metric == table.primary and test is not None:
        found |= {"reference": table.reference, "difference": test.difference, "diff_low": test.low}
        found |= {"diff_high": test.high, "p": test.p, "df": test.df, "p_adjusted": test.p_adjusted}
        found |= {"correction": table.families[metric].correction, "p_wilcoxon": test.p_wilcoxon}
        found |= {"p_equal": test.p_equal, "one_training": test.one_training}
    return found
