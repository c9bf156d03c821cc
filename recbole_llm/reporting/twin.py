"""Twin tables: the same rows under two protocols, and whether the protocols put them in the same order.

Two rows are a pair if they have the same model, semantics, search and settings, apart from what the protocols set. A
search finds other settings under another protocol, so tuned rows that remain are matched by their names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import combinations, product

from scipy.stats import kendalltau, spearmanr

from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import higher_is_better, metric_title
from recbole_llm.evaluation.subgroups import SUBGROUPS, subgroup_means
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.grouping import row_identity, searchable
from recbole_llm.reporting.rendered import RenderedTable, TableCell, csv_table, write
from recbole_llm.reporting.results_table import (
    DIGITS,
    IMPROVING,
    IMPROVING_NOTE,
    ResultsTable,
    Row,
    best_and_second,
    build,
    identity_columns,
    ranked_cells,
)
from recbole_llm.reporting.tables import group_titles, lead, metric_cell, seeds_text
from recbole_llm.utils.text import counted, visible
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

FEWEST_ROWS = 3  # any rank correlation of two rows is 1 or -1
_NAMED_SWAPS = 5
_PARTS = ("train", "valid", "test")  # files of the split, which belong to the protocol


@dataclass
class Pair:
    """A row under both protocols; a side is ``None`` if that protocol has no such row."""

    sides: tuple[Row | None, Row | None]

    @property
    def row(self) -> Row:
        """The row that gives the pair its name."""
        first, second = self.sides
        found = first or second
        assert found is not None
        return found

    def cells(self, columns: Sequence[str]) -> list[TableCell]:
        """The cells of some identity columns, the model's first; marked if still improving under either protocol."""
        model, *others = self.row.cells(columns)
        improving = any(side is not None and side.still_improving for side in self.sides)
        if improving and not self.row.still_improving:
            model = TableCell(f"{model.text} {IMPROVING}")
        return [model, *others]

    @property
    def is_whole(self) -> bool:
        """Whether both protocols have the row."""
        return None not in self.sides


@dataclass
class Twin:
    """The tables of one dataset under two protocols.

    Attributes:
        tables: of the first and of the second protocol.
        metrics: the columns; the first one orders the rows and is the one whose orders are compared.
        pairs: the rows, in the order of the first table.
        notes: notes besides those of the two tables.
    """

    tables: tuple[ResultsTable, ResultsTable]
    metrics: list[str]
    pairs: list[Pair]
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, str]:
        """The protocols."""
        first, second = self.tables
        return first.key.protocol, second.key.protocol

    @property
    def primary(self) -> str:
        """The metric whose orders are compared."""
        return self.metrics[0]

    @property
    def identity_columns(self) -> list[str]:
        """The columns that tell the rows apart."""
        return identity_columns([pair.row for pair in self.pairs])

    def ordered_pairs(self) -> list[Pair]:
        """Rows that have the compared metric under both protocols."""
        return [pair for pair in self.pairs if all(side and self.primary in side.values for side in pair.sides)]

    def values(self, side: int) -> list[float]:
        """The metric of :meth:`ordered_pairs`, higher is better, rounded as in a table so that equal cells tie."""
        sign = 1 if higher_is_better(self.primary) else -1
        rows = (pair.sides[side] for pair in self.ordered_pairs())
        return [sign * round(row.values[self.primary].mean, DIGITS) for row in rows if row is not None]

    def correlations(self) -> tuple[float, float]:
        """Kendall's tau-b and Spearman's rho of the two orders; ``nan`` for fewer than three rows, or if all tie."""
        first, second = self.values(0), self.values(1)
        if len(first) < FEWEST_ROWS or len({*first}) < 2 or len({*second}) < 2:
            return math.nan, math.nan
        return float(kendalltau(first, second).statistic), float(spearmanr(first, second).statistic)

    def swaps(self) -> list[tuple[str, str]]:
        """Labels of two rows that the protocols order differently; the first row leads under the first protocol."""
        labels = [pair.row.label for pair in self.ordered_pairs()]
        found = []
        for a, b in combinations(zip(labels, self.values(0), self.values(1), strict=True), 2):
            if (a[1] - b[1]) * (a[2] - b[2]) < 0:
                found.append((a[0], b[0]) if a[1] > b[1] else (b[0], a[0]))
        return found

    def places(self, side: int) -> list[int | None]:
        """The place of each pair under one protocol, from 1; ties share a place; ``None`` without values under both."""
        values = dict(zip(map(id, self.ordered_pairs()), self.values(side), strict=True))
        return [
            1 + sum(other > values[id(pair)] for other in values.values()) if id(pair) in values else None
            for pair in self.pairs
        ]


def render_twin(
    records: Iterable[Record],
    protocols: Sequence[str],
    style: str = "text",
    *,
    metrics: Sequence[str] | None = None,
    store: ResultStore | None = None,
    topk: Sequence[int] | None = None,
    groups: bool = False,
    correction: str = "holm",
    sort: str | None = None,
) -> str:
    """The twin tables of some records.

    Args:
        records: what to show; those of other protocols are left out.
        protocols: two names.
        style: as in :func:`~recbole_llm.reporting.tables.render`; ``csv`` has one line per row, metric and group.
        metrics: columns; default the metric that models were selected by under the first protocol.
        store: the results folder with the ranks.
        topk: cut-offs of the columns.
        groups: show the compared metric by subgroups too.
        correction: of the p value of the best row's lead over the second.
        sort: order of the rows under the first protocol.

    Raises:
        UserError: no dataset has results under both protocols, or an unknown metric.
    """
    found = twins(
        records,
        protocols,
        store,
        metrics=metrics,
        topk=topk,
        intervals=style == "csv",
        correction=correction,
        sort=sort,
    )
    if style == "csv":
        return csv_table(_CSV, _lines(found, groups))
    rendered = []
    for twin in found:
        rendered.append(_main(twin))
        if groups and any(side and side.ranks for pair in twin.pairs for side in pair.sides):
            rendered.append(_by_group(twin))
    return write(rendered, style)


def twins(
    records: Iterable[Record],
    protocols: Sequence[str],
    store: ResultStore | None = None,
    *,
    metrics: Sequence[str] | None = None,
    topk: Sequence[int] | None = None,
    intervals: bool = False,
    correction: str = "holm",
    sort: str | None = None,
) -> list[Twin]:
    """For each dataset, the tables of both protocols, with the same masking and data where there are such tables."""
    first, second = protocols
    records = list(records)
    of = {name: [record for record in records if record.protocol == name] for name in protocols}
    tables = partial(build, store=store, intervals=intervals, correction=correction, sort=sort)
    found, lonely = [], []
    for table in tables(of[first], metrics=metrics, topk=topk):
        shown = list(table.metrics) if metrics else [table.primary]
        others = [record for record in of[second] if record.dataset == table.key.dataset]
        opposite = tables(others, metrics=shown, topk=[])
        alike = [other for other in opposite if other.key.masked == table.key.masked] or opposite
        same = [other for other in alike if other.key.data == table.key.data] or alike
        found += [_twin(table, other, shown) for other in same]
        if not same:
            lonely.append(f"{table.key.dataset} has no results under {second}")
    if not found:
        there = ", ".join(sorted({record.protocol for record in records}))
        raise UserError(f"--twin={first},{second}: no dataset has results under both; there are results under {there}.")
    having = {table.key.dataset for twin in found for table in twin.tables}
    lonely += [f"{name} has no results under {first}" for name in dict.fromkeys(r.dataset for r in of[second])
               if name not in having]  # fmt: skip
    found[-1].notes += dict.fromkeys(lonely)
    return found


def _twin(first: ResultsTable, second: ResultsTable, metrics: list[str]) -> Twin:
    twin = Twin((first, second), metrics, _matched(first.rows, second.rows))
    if first.key.data != second.key.data:
        twin.notes.append("the protocols read different files of interactions")
    if first.key.masked != second.key.masked:
        twin.notes.append("seen items are ranked under one of the protocols only, so the values do not compare")
    return twin


def _matched(first: Sequence[Row], second: Sequence[Row]) -> list[Pair]:
    """Rows of the first protocol with their matches of the second, then the rows of the second without a match."""
    rest = list(second)
    found: list[Pair] = []
    settings = {id(row): _same_settings(row) for row in (*first, *second)}
    for row in first:
        alike = (other for other in rest if settings[id(other)] == settings[id(row)])
        twin = next((other for other in alike if _same_files(row, other)), None)
        found.append(Pair((row, twin)))
        if twin is not None:
            rest.remove(twin)
    for pair in found:
        if pair.is_whole or not pair.row.name.tuned:
            continue
        twin = next((other for other in rest if other.name == pair.row.name), None)
        if twin is not None:
            pair.sides = pair.row, twin
            rest.remove(twin)
    return [*found, *(Pair((None, row)) for row in rest)]


def _same_files(row: Row, other: Row) -> bool:
    """Whether the files that both rows name, apart from the split, have the same contents."""
    one, two = ((each.runs or each.failed)[0].reads or {} for each in (row, other))
    common = one.keys() & two.keys() - {*_PARTS}
    return all(one[name] == two[name] for name in common)


def _same_settings(row: Row) -> str:
    """A text that is equal for rows of two protocols that differ only in what the protocols set."""
    run = (row.runs or row.failed)[0]
    own = _settings_of(*property_names("protocol"))
    kept = {key: value for key, value in row_identity(run).items() if key not in own}
    lists = run.lists["name"] if run.lists else ""
    return json.dumps([run.model, run.source, lists, run.language_model, kept], sort_keys=True, default=str)


@cache
def _settings_of(*protocols: str) -> frozenset[str]:
    """Settings that the files of protocols set."""
    files = (properties_folder() / "protocol" / f"{name}.yaml" for name in protocols)
    return frozenset({"protocol"}.union(*(read_yaml(file) for file in files)))


# ---- as tables --------------------------------------------------------------------------------------


def _main(twin: Twin) -> RenderedTable:
    """Every row under both protocols, with its place under each."""
    ranked = {
        (side, metric): best_and_second({r.label: r.values[metric].mean for r in table.ordered(metric)})
        for (side, table), metric in product(enumerate(twin.tables), twin.metrics)
    }
    places = [twin.places(side) for side in (0, 1)]
    rows = []
    for number, pair in enumerate(twin.pairs):
        cells = [*pair.cells(twin.identity_columns), TableCell(_seeds(pair))]
        for metric, side in product(twin.metrics, (0, 1)):
            row = pair.sides[side]
            cells.append(TableCell("") if row is None else metric_cell(row, metric, *ranked[side, metric]))
        cells += [TableCell(str(each[number] or "")) for each in places]
        rows.append(cells)
    header = [*twin.identity_columns, "seeds"]
    header += [f"{metric_title(metric)} {name}" for metric, name in product(twin.metrics, twin.names)]
    header += [f"place {name}" for name in twin.names]
    title = f"{twin.tables[0].key.dataset}: {twin.names[0]} beside {twin.names[1]}"
    return RenderedTable(title, header, rows, notes(twin), len(twin.identity_columns))


def _seeds(pair: Pair) -> str:
    """The seeds of a row; one text per protocol if they differ."""
    found = [seeds_text(run.seed for run in side.runs) or "failed" for side in pair.sides if side is not None]
    return " / ".join(dict.fromkeys(found))


def notes(twin: Twin) -> list[str]:
    """What a reader must know: how the orders agree, what trains on the future, and what each table says."""
    found = [_agreement(twin), *_later(twin), *_alone(twin), *_unlike(twin), *_improving(twin)]
    for name, table in zip(twin.names, twin.tables, strict=True):
        found.append(f"{name}: {table.caption.partition(': ')[2]}")
        found += [f"{name}: {text}" for text in (*lead(table), *dict.fromkeys(table.notes))]
    return [*found, *twin.notes]


def _agreement(twin: Twin) -> str:
    """How far the two protocols agree on the order of the rows."""
    count, title = len(twin.ordered_pairs()), metric_title(twin.primary)
    tau, rho = twin.correlations()
    if math.isnan(tau):
        why = (
            "all rows tie" if count >= FEWEST_ROWS else f"{counted(count, 'row')} under both, at least three are needed"
        )
        return f"no rank correlation of the two orders by {title}: {why}"
    swaps = twin.swaps()
    text = (
        f"two orders of {count} rows by {title}: Kendall's tau {tau:+.2f}, Spearman's rho {rho:+.2f}; "
        f"{len(swaps)} of {counted(math.comb(count, 2), 'pair')} {'changes' if len(swaps) == 1 else 'change'} places"
    )
    if not swaps:
        return text
    named = "; ".join(f"{a} before {b}" for a, b in swaps[:_NAMED_SWAPS])
    more = f"; and {len(swaps) - _NAMED_SWAPS} more" if len(swaps) > _NAMED_SWAPS else ""
    return f"{text} (under {twin.names[0]} {named}{more})"


def later_training(table: ResultsTable) -> list[float]:
    """The distinct shares of training interactions later than a target in a table's records, smallest first."""
    return sorted({run.data.later_training for row in table.rows for run in row.runs
                   if run.data and run.data.later_training is not None})  # fmt: skip


def _later(twin: Twin) -> list[str]:
    """The share of training interactions that are later than a test target, by protocol."""
    parts = []
    for name, table in zip(twin.names, twin.tables, strict=True):
        shares = [f"{share:.1%}" for share in later_training(table)]
        parts.append(f"{' to '.join(shares[:1] + shares[1:][-1:])} under {name}" if shares else f"unknown under {name}")
    return [f"training interactions that are later than a test target, on average: {', '.join(parts)}"]


def _alone(twin: Twin) -> list[str]:
    """The rows that only one protocol has, and the rows that failed under a protocol."""
    found = []
    for side, name in enumerate(twin.names):
        labels = [pair.row.label for pair in twin.pairs if pair.sides[1 - side] is None]
        if labels:
            found.append(f"under {name} only, with these settings: {', '.join(labels)}")
        failed = [pair.row.label for pair in twin.pairs if (row := pair.sides[side]) is not None and not row.runs]
        if failed:
            found.append(f"failed under {name}: {', '.join(failed)}")
    return found


def _unlike(twin: Twin) -> list[str]:
    """The pairs of tuned rows that differ in more than a search of the model sets."""
    found = []
    for pair in twin.pairs:
        runs = [(side.runs or side.failed)[0] for side in pair.sides if side is not None]
        if len(runs) == 2 and pair.row.name.tuned:
            free = _settings_of(*twin.names).union(*map(searchable, runs))
            one, two = ({key: value for key, value in row_identity(run).items() if key not in free} for run in runs)
            keys = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
            if keys:
                values = ", ".join(f"{key} {runs[0].settings.get(key)} and {runs[1].settings.get(key)}" for key in keys)
                found.append(f"{pair.row.label} has other settings under {' and '.join(twin.names)}: {values}")
    return found


def _improving(twin: Twin) -> list[str]:
    """The rows whose training ended too soon, by protocol: a row may be one of them under one protocol alone."""
    found = []
    for side, name in enumerate(twin.names):
        rows = [(pair.row.label, pair.sides[side]) for pair in twin.pairs]
        labels = [label for label, row in rows if row is not None and row.still_improving]
        if labels:
            found.append(f"{name}: {IMPROVING_NOTE}: {', '.join(labels)}")
    return found


def _by_group(twin: Twin) -> RenderedTable:
    """The compared metric by subgroup of the test cases, under both protocols."""
    means = _group_means(twin)
    shown = sorted({place for place, _ in means})
    lines = {place: twin.pairs[place].cells(twin.identity_columns) for place in shown}
    header = list(twin.identity_columns)
    titles = [
        group_titles((found for (_, number), found in means.items() if number == side), protocol)
        for side, protocol in enumerate(twin.names)
    ]
    for name, side in product(SUBGROUPS, (0, 1)):
        own = {str(place): means[place, side][name] for place in shown if (place, side) in means}
        if name not in titles[side]:
            continue
        header.append(titles[side][name])
        values = {place: mean for place, (_, mean) in own.items() if not math.isnan(mean)}
        for place, cell in zip(shown, ranked_cells(values, map(str, shown)), strict=True):
            lines[place].append(cell)
    note = "cold: without a training interaction under that protocol; warm: all others, where a protocol has cold users"
    title = f"{metric_title(twin.primary)} by group"
    return RenderedTable(title, header, list(lines.values()), [note], len(twin.identity_columns))


def _group_means(twin: Twin) -> dict[tuple[int, int], dict[str, tuple[int, float]]]:
    """Sizes and means of the subgroups, by index of the pair and side."""
    return {
        (place, number): subgroup_means(side.ranks, twin.primary)
        for place, pair in enumerate(twin.pairs)
        for number, side in enumerate(pair.sides)
        if side is not None and side.ranks
    }


_SIDE = ("protocol", "seeds", "cases", "mean", "sd", "ci_low", "ci_high", "place", "later_training", "still_improving")
_CSV = (
    *("dataset", "model", "label", "kind", "semantics", "language_model", "tuned", "metric", "group"),
    *(f"{name}_{side}" for side in (1, 2) for name in _SIDE),
    *("kendall_tau", "spearman_rho", "rows_compared"),
)


def _lines(found: Sequence[Twin], groups: bool) -> Iterator[dict[str, str | float | None]]:
    """One line per row and metric, and with ``groups`` one per row and subgroup."""
    for twin in found:
        tau, rho = twin.correlations()
        agreement = {"kendall_tau": tau, "spearman_rho": rho, "rows_compared": len(twin.ordered_pairs())}
        means = _group_means(twin) if groups else {}
        places = [twin.places(side) for side in (0, 1)]
        for number, pair in enumerate(twin.pairs):
            row = pair.row
            base: dict[str, str | float | None] = {
                "dataset": twin.tables[0].key.dataset, "model": row.model, "label": row.label, "kind": row.kind,
                "semantics": row.name.semantics, "language_model": row.name.language_model, "tuned": row.name.tuned,
            }  # fmt: skip
            for metric in twin.metrics:
                compared = agreement if metric == twin.primary else {}
                line = {**base, "metric": metric, "group": "all", **compared}
                for side in (0, 1):
                    shown = _side(twin, pair, side, metric, places[side][number])
                    line |= {f"{key}_{side + 1}": value for key, value in shown.items()}
                yield line
            for group in SUBGROUPS if groups else ():
                line = {**base, "metric": twin.primary, "group": group}
                for side, protocol in enumerate(twin.names):
                    size, mean = means.get((number, side), {}).get(group, (0, math.nan))
                    line |= {f"protocol_{side + 1}": protocol, f"mean_{side + 1}": mean, f"cases_{side + 1}": size}
                if any(line[f"cases_{side}"] for side in (1, 2)):
                    yield line


def _side(twin: Twin, pair: Pair, side: int, metric: str, place: int | None) -> dict[str, str | float | None]:
    """The cells of one protocol, with the row's place by the compared metric."""
    table, row = twin.tables[side], pair.sides[side]
    shares = later_training(table)
    found: dict[str, str | float | None] = {
        "protocol": visible(twin.names[side]),
        "cases": table.cases,
        "later_training": shares[-1] if shares else None,
    }
    if row is not None and row.runs:
        found["seeds"] = seeds_text(run.seed for run in row.runs)
        found["cases"] = row.cases or table.cases
        found["still_improving"] = row.still_improving
        value = row.values.get(metric)
        if value is not None:
            found |= {"mean": value.mean, "sd": value.deviation, "ci_low": value.low, "ci_high": value.high}
        if metric == twin.primary:
            found["place"] = place
    return found
