"""Amazon reviews of 2014: ``reviews_<Category>_5.json.gz`` and ``meta_<Category>.json.gz``.

The reviews are JSON lines; the metadata are Python literals, one per line, which ``ast.literal_eval`` reads
without executing code. J. McAuley, C. Targett, Q. Shi, A. van den Hengel: Image-based recommendations on
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
    """Reviews as JSON lines, metadata as JSON or Python literals; later editions differ mainly in key names."""

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
        """Add a row for each review; its text and summary are ignored."""
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
        """Add the row that ``parse`` returns for each line of the reviews; lines that it rejects are counted."""
        path, counts, add = self.files["reviews"], self.tally.counts, rows.add
        for line_number, line in lines:
            counts["rows_read"] += 1
            try:
                add(*parse(line))
            except BAD_LINE as error:
                self.tally.bad(path, line_number, error)

    def items(self, wanted: Collection[str]) -> Iterator[tuple[str, ...]]:
        """Id, title, categories, brand and description; if an item has several records, the first is used."""
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
        """A test whether a line may describe a wanted item, made without parsing because literals parse slowly.

        A line is skipped only if it names items in the usual spelling and none of them is wanted; all other
        lines are parsed.
        """
        names = {name.encode() for name in wanted}

        def may_matter(line: bytes) -> bool:
            found = _QUOTED.findall(line)
            return not found or any(name in names for name in found)

        return may_matter


def literal_or_json(line: bytes) -> dict[str, Any]:
    """Parse a line that holds a JSON object or a Python literal.

    Raises:
        TypeError: the value is not a dictionary.
    """
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
    """Like 2014, but with one category path and the description as a list of strings."""

    categories_key: ClassVar[str] = "category"


_COLUMNS = ["user_id", "parent_asin", "rating", "timestamp"]


class Amazon2023(Amazon2014):
    """Reviews as JSON lines, or ratings only as comma-separated lines."""

    per_second: ClassVar[int] = 1000
    user_key: ClassVar[str] = "user_id"
    item_key: ClassVar[str] = "parent_asin"
    rating_key: ClassVar[str] = "rating"
    time_key: ClassVar[str] = "timestamp"
    meta_key: ClassVar[str] = "parent_asin"
    brand_key: ClassVar[str] = "store"

    def read(self, rows: Collector) -> None:
        """Add every review; in the comma-separated form, the header names the columns."""
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
        return lambda line: True  # JSON parses fast, and lines may name the ids of variants
