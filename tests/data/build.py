"""Builders of small files and tables that several data tests share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_llm.data.inter_file import ReadSpec, read_interactions
from recbole_llm.data.interactions import Interactions
from recbole_llm.data.sessions import cut_sessions

WINDOWS = {"by": "day", "window": 4, "min_length": 2}  # a ``sessions`` setting: sliding windows
HEADER = "user_id:token\titem_id:token\ttimestamp:float"


def write_rows(path: Path, rows: Sequence[Sequence[Any]], header: str = HEADER) -> Path:
    """Write an atomic file with the cells exactly as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def table_of(folder: Path, rows: Sequence[Sequence[Any]], header: str = HEADER, **spec: Any) -> Interactions:
    """Interactions read from a file of ``rows``."""
    return read_interactions(write_rows(folder / "x.inter", rows, header), ReadSpec(**spec))


def names(table: Interactions) -> list[tuple[str, str]]:
    """The user and item tokens of all rows, in the order of the table."""
    return list(zip(table.user_tokens[table.user].tolist(), table.item_tokens[table.item].tolist(), strict=True))


def walks(lengths: Sequence[int]) -> list[tuple[str, str, int]]:
    """Users ``u0, u1, ...`` with the given numbers of interactions in time order; no two users share an item."""
    return [(f"u{user}", f"i{user}.{step}", 100 * user + step) for user, n in enumerate(lengths) for step in range(n)]


def windows(folder: Path, lengths: Sequence[int]) -> Interactions:
    """Sliding windows of users whose items all have the same timestamp, and of one earlier user."""
    rows = [(f"u{user}", f"i{user}.{step}", 100) for user, n in enumerate(lengths) for step in range(n)]
    rows += [("early", "i", 1), ("early", "j", 50)]
    return cut_sessions(table_of(folder, rows), WINDOWS)
