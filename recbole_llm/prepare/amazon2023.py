"""Amazon reviews of 2023: ``<Category>.csv.gz`` (5-core) or ``<Category>.jsonl.gz``, ``meta_<Category>.jsonl.gz``.

Items are products with all their variants (``parent_asin``); times are in milliseconds and become seconds.
Y. Hou, J. Li, Z. He, A. Yan, X. Chen, J. McAuley: Bridging language and items for retrieval and
recommendation, arXiv:2403.03952.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import ClassVar

from recbole_llm.errors import UserError
from recbole_llm.prepare.amazon import Amazon2014
from recbole_llm.prepare.lines import decode
from recbole_llm.prepare.table import Collector

_COLUMNS = ["user_id", "parent_asin", "rating", "timestamp"]


class Amazon2023(Amazon2014):
    """Reviews as JSON lines, or ratings alone as comma-separated lines."""

    per_second: ClassVar[int] = 1000
    user_key: ClassVar[str] = "user_id"
    item_key: ClassVar[str] = "parent_asin"
    rating_key: ClassVar[str] = "rating"
    time_key: ClassVar[str] = "timestamp"
    meta_key: ClassVar[str] = "parent_asin"
    brand_key: ClassVar[str] = "store"

    def read(self, rows: Collector) -> None:
        """Add every review; the header of the comma-separated form tells its columns."""
        path = self.files["reviews"]
        if ".csv" not in path.name:
            super().read(rows)
            return
        lines = self.each_line(path)
        header = next(lines, None)
        if header is None:
            return
        places = self._places(self._cells(header[1]), path)

        def parse(line: bytes) -> tuple[str, str, int, float]:
            cells = self._cells(line)
            user, item, rating, time = (cells[place] for place in places)
            return user, item, int(time), float(rating)

        self.add_each(rows, lines, parse)

    def _cells(self, line: bytes) -> list[str]:
        return decode(line, self.tally).rstrip("\r\n").split(",")

    @staticmethod
    def _places(header: list[str], path: Path) -> list[int]:
        try:
            return [header.index(name) for name in _COLUMNS]
        except ValueError:
            raise UserError(
                f"{path}, line 1: the header must name {', '.join(_COLUMNS)}; it is {','.join(header)[:120]!r}."
            ) from None

    def _filter(self, wanted: Collection[str]) -> Callable[[bytes], bool]:
        return lambda line: True  # JSON parses fast, and variants name other ids
