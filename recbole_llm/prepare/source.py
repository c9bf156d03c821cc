"""What every family of sources has in common."""

from __future__ import annotations

import codecs
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from recbole_llm.data.atomic import Column
from recbole_llm.prepare.lines import Tally, read_lines
from recbole_llm.prepare.table import Collector, RawTable, in_order, k_core, without_repeats

_CHUNK = 1 << 17


class Source:
    """Reads one dataset's raw files; the families derive from it.

    Args:
        files: role to path, as the dataset's YAML names the roles.
        tally: takes the counts of what was read and left out.
    """

    per_second: ClassVar[int] = 1
    item_columns: ClassVar[tuple[Column, ...]] = ()
    inter_columns: ClassVar[tuple[Column, ...]] = (
        Column("user_id", "token"),
        Column("item_id", "token"),
        Column("rating", "float"),
        Column("timestamp", "float"),
    )

    def __init__(self, files: Mapping[str, Path], tally: Tally) -> None:
        self.files, self.tally = files, tally

    def read(self, rows: Collector) -> None:
        """Add every interaction of the source."""
        raise NotImplementedError

    def items(self, wanted: Collection[str]) -> Iterator[tuple[str, ...]]:
        """One row of ``item_columns`` for each item of ``wanted`` that the source describes, each once."""
        raise NotImplementedError

    def tidy(self, table: RawTable, kcore: int) -> RawTable:
        """Order, drop repeats (the first in time stays) and filter; counts what goes."""
        ordered = in_order(table)
        first = without_repeats(ordered)
        kept = k_core(first, kcore)
        self.tally.counts["repeats_of_user_and_item"] = len(ordered) - len(first)
        self.tally.counts["rows_below_kcore"] = len(first) - len(kept)
        return kept

    def counts(self, table: RawTable) -> dict[str, int]:
        """Counts to stand beside the published ones."""
        return table.counts()

    def rows(self, table: RawTable) -> Iterator[tuple[Any, ...]]:
        """Rows of ``inter_columns``."""
        users, items = table.users, table.items
        for begin in range(0, len(table), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            columns = (table.user[part], table.item[part], table.rating[part], table.time[part])
            for user, item, rating, time in zip(*(column.tolist() for column in columns), strict=True):
                yield users[user], items[item], number(rating), self.seconds(time)

    def seconds(self, time: int) -> str:
        """A time of the source in seconds."""
        whole, rest = divmod(time, self.per_second)
        return f"{time / self.per_second:.3f}" if rest else str(whole)

    def each_line(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Lines that are not blank, with their numbers from 1; a byte order mark is taken off."""
        for place, line in enumerate(read_lines(path), 1):
            if place == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.isspace():
                yield place, line


def number(value: float) -> str:
    """A number as short text; empty for NaN."""
    if math.isnan(value):
        return ""
    return str(int(value)) if value == int(value) else f"{value:.4g}"


def token(value: Any) -> str:
    """An id of JSON as text.

    Raises:
        TypeError: it is neither text nor a whole number.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"{str(value)[:20]!r} is no id")
