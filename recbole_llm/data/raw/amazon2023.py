"""Amazon reviews of 2023: ``<Category>.csv.gz`` (5-core) or ``<Category>.jsonl.gz``, ``meta_<Category>.jsonl.gz``.

Items are products with all their variants (``parent_asin``); times are in milliseconds and become seconds.
Y. Hou, J. Li, Z. He, A. Yan, X. Chen, J. McAuley: Bridging language and items for retrieval and
recommendation, arXiv:2403.03952.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import ClassVar

from recbole_llm.data.raw.amazon2014 import Amazon2014
from recbole_llm.data.raw.lines import BAD_LINE, decode
from recbole_llm.data.raw.table import Collector
from recbole_llm.errors import UserError

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
        places: list[int] | None = None
        for line_number, line in self.each_line(path):
            cells = decode(line, self.tally).rstrip("\r\n").split(",")
            if places is None:
                try:
                    places = [cells.index(name) for name in _COLUMNS]
                except ValueError:
                    raise UserError(
                        f"{path}, line 1: the header must name {', '.join(_COLUMNS)}; it is {','.join(cells)[:120]!r}."
                    ) from None
                continue
            self.tally.counts["rows_read"] += 1
            try:
                user, item, rating, time = (cells[place] for place in places)
                rows.add(user, item, int(time), float(rating))
            except BAD_LINE as error:
                self.tally.bad(path, line_number, error)

    def _filter(self, wanted: Collection[str]) -> Callable[[bytes], bool]:
        return lambda line: True  # JSON parses fast, and variants name other ids
