"""Baselines compared with published numbers: whether they are in the band, and what could explain a difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import metric_title, parse_metric
from recbole_llm.experiments.record import Record
from recbole_llm.reporting.rendered import RenderedTable, TableCell
from recbole_llm.reporting.results_table import DIGITS, ResultsTable, Row, still_improving
from recbole_llm.utils.text import complaint, counted
from recbole_llm.utils.yaml import properties_folder, read_yaml

IN_BAND, BELOW, ABOVE = "in band", "below", "above"


class Reference(BaseModel):
    """Numbers of one source under one protocol.

    Attributes:
        title, source: what it is and who reports it.
        dataset, protocol: as ``--dataset`` and ``--protocol`` name them.
        mask_history: whether the source left items of the history out.
        train_targets: at which positions its models were trained (``last``, ``all``); null for models without a choice.
        data: counts of the source's dataset.
        settings: settings of the source that can change the numbers.
        when: settings that a run must have for the reference to apply.
        leak: how the source's models saw tested interactions; empty if no leak is known.
        models: for each model its metrics, as a number or a band.
    """

    model_config = ConfigDict(extra="forbid")

    title: str
    source: str
    dataset: str
    protocol: str
    mask_history: bool
    train_targets: Literal["last", "all"] | None
    data: dict[str, int] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    when: dict[str, Any] = Field(default_factory=dict)
    leak: str = ""
    models: dict[str, dict[str, float | tuple[float, float]]]

    def applies(self, record: Record) -> bool:
        """Whether the reference applies to a run: the run is of one of its models, ranked and trained in the same way.

        Keys of ``when`` that the run's model lacks are ignored (Pop). Records without ``train_targets`` are older than
        that setting and were trained at the last position.
        """
        settings = record.settings
        if (record.dataset, record.protocol) != (self.dataset, self.protocol) or record.model not in self.models:
            return False
        if bool(settings.get("mask_history", True)) != self.mask_history:
            return False
        if self.train_targets not in (None, settings.get("train_targets", "last")):
            return False
        return all(record.settings.get(key, value) == value for key, value in self.when.items())

    def differences(self, record: Record) -> list[str]:
        """How the run differs from the source."""
        found = [f"{self.leak} there"] if self.leak else []
        statistics = record.data.statistics if record.data else {}
        found += [
            f"{name} {statistics[name]:,.0f} here, {count:,} there"
            for name, count in self.data.items()
            if name in statistics and statistics[name] != count
        ]
        found += [
            f"{key} {record.settings[key]} here, {value} there"
            for key, value in self.settings.items()
            if key in record.settings and record.settings[key] != value
        ]
        if still_improving(record):
            found.append(f"training ended after {counted(record.epochs or 0, 'epoch')}, still improving")
        return found


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tolerance: float = Field(ge=0, lt=1)
    references: list[Reference]


@dataclass(frozen=True)
class Verdict:
    """One metric of one row against one reference.

    Attributes:
        label, metric, value: what was measured.
        low, high: the band.
        differences: between the run and the source.
        reference: the source.
    """

    label: str
    metric: str
    value: float
    low: float
    high: float
    differences: list[str]
    reference: Reference

    @property
    def word(self) -> str:
        """``in band``, ``below`` or ``above``."""
        return BELOW if self.value < self.low else ABOVE if self.value > self.high else IN_BAND


def load_references(path: Path | None = None) -> tuple[float, list[Reference]]:
    """Relative tolerance of single numbers, and all references of a file; ``properties/reference.yaml`` by default.

    Raises:
        UserError: the file is malformed or names an unknown metric.
    """
    path = path or properties_folder() / "reference.yaml"
    try:
        file = _File.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path}: {complaint(error)}") from error
    for reference in file.references:
        for metrics in reference.models.values():
            for name in metrics:
                parse_metric(name)
    return file.tolerance, file.references


def check(tables: Iterable[ResultsTable], path: Path | None = None) -> list[tuple[ResultsTable, list[Verdict]]]:
    """Verdicts on all rows that a reference applies to, by table.

    If one source used the same data as the run, sources with other data are ignored.
    """
    tolerance, references = load_references(path)
    return [(table, [v for row in table.finished for v in _verdicts(row, references, tolerance)]) for table in tables]


def _verdicts(row: Row, references: Sequence[Reference], tolerance: float) -> list[Verdict]:
    run = row.runs[0]
    applying = [reference for reference in references if reference.applies(run)]
    statistics = run.data.statistics if run.data else {}
    same_data = [r for r in applying if all(statistics.get(name) == count for name, count in r.data.items())]
    found = []
    for reference in same_data or applying:
        for metric, band in reference.models[run.model].items():
            low, high = band if isinstance(band, tuple) else (band * (1 - tolerance), band * (1 + tolerance))
            value = row.values.get(metric)
            if value is not None:
                differences = reference.differences(run)
                found.append(Verdict(row.label, metric, value.mean, low, high, differences, reference))
    return found


def reference_metrics(path: Path | None = None) -> list[str]:
    """All metrics that the references have numbers of."""
    _, references = load_references(path)
    return list(dict.fromkeys(name for r in references for metrics in r.models.values() for name in metrics))


def reference_table(title: str, verdicts: Sequence[Verdict]) -> RenderedTable:
    """Verdicts as a table, with the sources below it."""
    if not verdicts:
        return RenderedTable(title, ["model", "reference"], [[TableCell("-"), TableCell("none of these rows has one")]])
    rows = [
        [
            TableCell(verdict.label),
            TableCell(metric_title(verdict.metric)),
            TableCell(f"{verdict.value:.{DIGITS}f}"),
            TableCell(f"{verdict.low:.{DIGITS}f} - {verdict.high:.{DIGITS}f}"),
            TableCell(verdict.word, "" if verdict.word == IN_BAND else "best"),
            TableCell("; ".join(verdict.differences) or "-"),
        ]
        for verdict in verdicts
    ]
    sources = dict.fromkeys(f"{v.reference.title}: {v.reference.source}" for v in verdicts)
    return RenderedTable(title, ["model", "metric", "here", "band", "verdict", "what differs"], rows, list(sources))
