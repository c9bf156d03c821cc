"""Amazon reviews of 2014: ``reviews_<Category>_5.json.gz`` and ``meta_<Category>.json.gz``.

The reviews are JSON lines; the metadata are Python literals, a line each, which ``ast.literal_eval`` reads
without running anything. J. McAuley, C. Targett, Q. Shi, A. van den Hengel: Image-based recommendations on
styles and substitutes, SIGIR 2015; R. He, J. McAuley: Ups and downs, WWW 2016.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from recbole_llm.data.atomic import Column
from recbole_llm.errors import UserError
from recbole_llm.raw.source import (
    BAD_LINE,
    DESCRIPTION_LIMIT,
    NAME_LIMIT,
    Collector,
    Source,
    categories_of,
    decode,
    plain,
    title_of,
    token,
)

_QUOTED = re.compile(rb"""['"]asin['"]\s*:\s*['"]([^'"]{1,100})['"]""")


class Amazon2014(Source):
    """Reviews and metadata as JSON lines; later editions differ in names only."""

    user_key: ClassVar[str] = "reviewerID"
    item_key: ClassVar[str] = "asin"
    rating_key: ClassVar[str] = "overall"
    time_key: ClassVar[str] = "unixReviewTime"
    meta_key: ClassVar[str] = "asin"
    brand_key: ClassVar[str] = "brand"
    categories_key: ClassVar[str] = "categories"
    item_columns: ClassVar[tuple[Column, ...]] = (
        Column("item_id", "token"),
        Column("title", "token_seq"),
        Column("categories", "token_seq"),
        Column("brand", "token"),
        Column("description", "token_seq"),
    )

    def read(self, rows: Collector) -> None:
        """Add a row for each review; text and summary are parsed over and dropped."""
        user, item, rating, time = self.user_key, self.item_key, self.rating_key, self.time_key

        def parse(line: bytes) -> tuple[str, str, int, float]:
            review = json.loads(line.decode("utf-8"))
            return token(review[user]), token(review[item]), int(review[time]), float(review.get(rating, "nan"))

        self.add_each(rows, self.each_line(self.files["reviews"]), parse)

    def add_each(
        self,
        rows: Collector,
        lines: Iterable[tuple[int, bytes]],
        parse: Callable[[bytes], tuple[str, str, int, float]],
    ) -> None:
        """Add what ``parse`` makes of each line of the reviews; lines that it refuses are counted."""
        path, counts, add = self.files["reviews"], self.tally.counts, rows.add
        for line_number, line in lines:
            counts["rows_read"] += 1
            try:
                add(*parse(line))
            except BAD_LINE as error:
                self.tally.bad(path, line_number, error)

    def items(self, wanted: Collection[str]) -> Iterator[tuple[str, ...]]:
        """Title, categories, brand and description; the first of several records of an item counts."""
        path = self.files["items"]
        done: set[str] = set()
        may_matter = self._filter(wanted)
        for line_number, line in self.each_line(path):
            if not may_matter(line):
                continue
            try:
                record = literal_or_json(line)
                item = token(record[self.meta_key])
            except BAD_LINE as error:
                self.tally.bad(path, line_number, error)
                continue
            if item not in wanted:
                continue
            if item in done:
                self.tally.counts["repeated_item_records"] += 1
                continue
            done.add(item)
            yield (
                item,
                title_of(record.get("title")),
                categories_of(record.get(self.categories_key)),
                plain(record.get(self.brand_key), NAME_LIMIT),
                plain(record.get("description"), DESCRIPTION_LIMIT),
            )

    def _filter(self, wanted: Collection[str]) -> Callable[[bytes], bool]:
        """Whether a line may describe a wanted item, without parsing it: literals parse slowly.

        A line is passed over only where it names an item in the usual spelling and none of those named is
        wanted; whatever looks different is parsed.
        """
        names = {name.encode() for name in wanted}

        def may_matter(line: bytes) -> bool:
            found = _QUOTED.findall(line)
            return not found or any(name in names for name in found)

        return may_matter


def literal_or_json(line: bytes) -> dict[str, Any]:
    """A line of either form."""
    text = line.decode("utf-8").strip()
    if text.startswith('{"'):
        try:
            record = json.loads(text)
        except ValueError:
            record = ast.literal_eval(text)
    else:
        record = ast.literal_eval(text)
    if not isinstance(record, dict):
        raise TypeError("not a record")
    return record


class Amazon2018(Amazon2014):
    """As 2014, with one category path and a description in pieces."""

    categories_key: ClassVar[str] = "category"


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
