"""What the LLM behind a row knew of the data beforehand: columns from probes and from its knowledge cut."""

from __future__ import annotations

from recbole_llm.experiments.probe_record import PROBES, Recall
from recbole_llm.reporting.rendered import RenderedTable, TableCell
from recbole_llm.reporting.results_table import ResultsTable, Row
from recbole_llm.utils.text import percent

TITLES = {"title": "titles known", "next": "next known", "item": "ids known", "row": "rows known"}
AFTER_CUT = "after cut"


def after_cut(row: Row) -> float | None:
    """The share of a row's test targets that are later than the knowledge cut of its LLM."""
    known = [run.features.after_cut for run in row.runs if run.features is not None]
    return next((share for share in known if share is not None), None)


def recalls(row: Row) -> dict[str, Recall]:
    """What the row's LLM recalled of the data, by probe."""
    return row.memory.probes if row.memory is not None else {}


def memory_columns(table: ResultsTable) -> dict[str, list[str]]:
    """Cells of the rows by column; columns that no row fills are left out."""
    columns = {TITLES[name]: [_recall_text(recalls(row).get(name)) for row in table.rows] for name in PROBES}
    columns[AFTER_CUT] = [percent(share) if (share := after_cut(row)) is not None else "" for row in table.rows]
    return {title: cells for title, cells in columns.items() if any(cells)}


def memory_notes(table: ResultsTable) -> list[str]:
    """Notes on how to read the columns."""
    found, columns = [], memory_columns(table)
    if set(columns) - {AFTER_CUT}:
        found.append(
            "known: what the LLM gives back of the data without being shown it (by chance: the same answers held "
            "against other questions)"
        )
    if AFTER_CUT in columns:
        cuts = {str(run.features.knowledge_cut) for row in table.rows for run in row.runs if run.features is not None}
        days = ", ".join(sorted(cuts - {"None"}))
        found.append(f"{AFTER_CUT}: test targets later than the last day of which the LLM can know anything ({days})")
    return found


def memory_table(table: ResultsTable) -> RenderedTable | None:
    """The columns as a table of their own; ``None`` where there are none."""
    columns = memory_columns(table)
    if not columns:
        return None
    lines = [
        [*row.cells(table.identity_columns), *map(TableCell, cells)]
        for row, cells in zip(table.rows, zip(*columns.values(), strict=True), strict=True)
    ]
    header = [*table.identity_columns, *columns]
    return RenderedTable("", header, lines, text_columns=len(header))


def memory_fields(row: Row) -> dict[str, str | float | None]:
    """The probes and the share after the cut as plain values for CSV."""
    found: dict[str, str | float | None] = {}
    for name, recall in recalls(row).items():
        found |= {f"{name}_recall": recall.recall, f"{name}_chance": recall.chance}
    share = after_cut(row)
    return found | ({"after_cut": share} if share is not None else {})


def _recall_text(found: Recall | None) -> str:
    return "" if found is None else f"{percent(found.recall)} ({percent(found.chance)})"
