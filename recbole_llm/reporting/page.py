"""Writes the report: a template filled with plain values, with styles, scripts and plotly.js inside the page.

Everything that comes from results is untrusted. The template escapes it, the data for the charts travel as
JSON that cannot close its element, and a content security policy forbids the page any request.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import plotly.offline

from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.reporting.content import table_content
from recbole_llm.reporting.results_table import build
from recbole_llm.utils.environment import package_version
from recbole_llm.utils.files import whole_file


def render_report(
    records: Iterable[Record],
    store: ResultStore,
    baseline: str | None = None,
    correction: str = "holm",
    margin: float | None = None,
) -> str:
    """The page as text; see :func:`write_report`."""
    tables = build(records, store, None, [], baseline, True, correction, margin)
    loader = jinja2.PackageLoader("recbole_llm.reporting", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        tables=[table_content(table, f"t{number}") for number, table in enumerate(tables, start=1)],
        version=package_version(),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        plotly=plotly.offline.get_plotlyjs(),
    )


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
        store: where their ranks lie.
        path: the page.
        baseline: model or label that the others are measured against; default the best baseline of each table.
        correction, margin: of the tests; see :func:`recbole_llm.reporting.results_table.build`.

    Raises:
        UserError: a baseline that no table has, an unknown correction, or a margin that is none.
    """
    page = render_report(records, store, baseline, correction, margin)
    with whole_file(path, "w") as stream:
        stream.write(page)
