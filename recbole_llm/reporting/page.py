"""Writes the report: one page with tables and charts of finished runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.pages.render import render_page, write_page
from recbole_llm.reporting.content import table_content
from recbole_llm.reporting.results_table import build


def render_report(
    records: Iterable[Record],
    store: ResultStore,
    baseline: str | None = None,
    correction: str = "holm",
    margin: float | None = None,
) -> str:
    """The page as text; see :func:`write_report`."""
    tables = build(records, store, topk=[], baseline=baseline, intervals=True, correction=correction, margin=margin)
    contents = [table_content(table, f"t{number}") for number, table in enumerate(tables, start=1)]
    return render_page("recbole_llm.reporting", "report.html.j2", tables=contents)


def write_report(
    records: Iterable[Record],
    store: ResultStore,
    path: Path,
    baseline: str | None = None,
    correction: str = "holm",
    margin: float | None = None,
) -> None:
    """Write one HTML page that opens without a server or a network.

    Args:
        records: what to show.
        store: the results folder with their ranks.
        path: the page.
        baseline: model or label that the others are measured against; default the best baseline of each table.
        correction, margin: of the tests; see :func:`recbole_llm.reporting.results_table.build`.

    Raises:
        UserError: a baseline that no table has, an unknown correction, or an invalid margin.
    """
    write_page(path, render_report(records, store, baseline, correction, margin))
