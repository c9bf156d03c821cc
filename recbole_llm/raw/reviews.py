"""Reviews of Steam and of Yelp, in the files of their publishers; the texts of reviews are not kept.

Steam: ``steam_reviews.json.gz`` and ``steam_games.json.gz`` (UCSD, version 2) hold Python literals, one per line, which
``ast.literal_eval`` reads without executing code. Users are identified by name, since most lines lack an id; times are
days. W.-C. Kang, J. McAuley: Self-attentive sequential recommendation, ICDM 2018.

Yelp: ``yelp_academic_dataset_review.json`` and ``yelp_academic_dataset_business.json`` hold JSON, one record per line.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar

from recbole_llm.data.atomic import Column
from recbole_llm.raw.amazon import literal_or_json
from recbole_llm.raw.source import (
    BAD_LINE,
    CATEGORIES_LIMIT,
    NAME_LIMIT,
    Collector,
    Source,
    plain,
    title_of,
    token,
)

Row = tuple[str, str, int, float]


def seconds_of(date: Any) -> int:
    """``2017-12-17`` or ``2017-12-17 09:30:00`` as seconds since 1970, UTC.

    Raises:
        ValueError, TypeError: it is not a date.
    """
    found = datetime.fromisoformat(date)
    return int(found.replace(tzinfo=UTC).timestamp())


class Reviews(Source):
    """A file of reviews and a file of the reviewed items, one record per line; subclasses name the fields."""

    item_key: ClassVar[str]
    item_columns: ClassVar[tuple[Column, ...]]

    @staticmethod
    def record(line: bytes) -> dict[str, Any]:
        """A line as a record."""
        raise NotImplementedError

    @staticmethod
    def row(review: dict[str, Any]) -> Row:
        """User, item, time and rating of a review."""
        raise NotImplementedError

    @staticmethod
    def described(item: dict[str, Any]) -> tuple[str, ...]:
        """The columns of an item after its id."""
        raise NotImplementedError

    def read(self, rows: Collector) -> None:
        """Add a row for each review."""
        path = self.files["reviews"]
        for number, line in self.each_line(path):
            self.tally.counts["rows_read"] += 1
            try:
                rows.add(*self.row(self.record(line)))
            except BAD_LINE as error:
                self.tally.bad(path, number, error)

    def items(self, wanted: Collection[str]) -> Iterator[tuple[str, ...]]:
        """The wanted items; if an item has several records, the first is used."""
        path, done = self.files["items"], set[str]()
        for number, line in self.each_line(path):
            try:
                record = self.record(line)
                item = token(record[self.item_key])
                described = (item, *self.described(record)) if item in wanted and item not in done else None
            except BAD_LINE as error:
                self.tally.bad(path, number, error)
                continue
            self.tally.counts["repeated_item_records"] += item in done
            if described is not None:
                done.add(item)
                yield described


class Steam(Reviews):
    """Reviews count as interactions; there are no ratings, and hours of play are not kept."""

    item_key: ClassVar[str] = "id"
    item_columns: ClassVar[tuple[Column, ...]] = (
        Column("item_id", "token"),
        Column("title", "token_seq"),
        Column("categories", "token_seq"),
        Column("brand", "token"),
    )

    record = staticmethod(literal_or_json)

    @staticmethod
    def row(review: dict[str, Any]) -> Row:
        """User name, game, day, no rating."""
        return token(review["username"]), token(review["product_id"]), seconds_of(review["date"]), float("nan")

    @staticmethod
    def described(item: dict[str, Any]) -> tuple[str, ...]:
        """Title, genres and developer; tags, prices and opinions change over time and are left out."""
        genres = item.get("genres")
        names = dict.fromkeys(plain(name, NAME_LIMIT) for name in (genres if isinstance(genres, (list, tuple)) else ()))
        return (
            title_of(item.get("app_name") or item.get("title")),
            plain(", ".join(name for name in names if name), CATEGORIES_LIMIT),
            plain(item.get("developer"), NAME_LIMIT),
        )


class Yelp(Reviews):
    """Stars are kept as ratings; businesses keep name, categories and city, but no aggregates of their reviews."""

    item_key: ClassVar[str] = "business_id"
    item_columns: ClassVar[tuple[Column, ...]] = (
        Column("item_id", "token"),
        Column("title", "token_seq"),
        Column("categories", "token_seq"),
        Column("city", "token_seq"),
    )

    @staticmethod
    def record(line: bytes) -> dict[str, Any]:
        """A line of JSON.

        Raises:
            ValueError, TypeError: it is not JSON, or not an object.
        """
        found = json.loads(line)
        if not isinstance(found, dict):
            raise TypeError("not a record")
        return found

    @staticmethod
    def row(review: dict[str, Any]) -> Row:
        """User, business, time and stars."""
        stars = float(review.get("stars", "nan"))
        return token(review["user_id"]), token(review["business_id"]), seconds_of(review["date"]), stars

    @staticmethod
    def described(item: dict[str, Any]) -> tuple[str, ...]:
        """Name, categories (text, or a list in older editions) and city."""
        categories = item.get("categories")
        listed = ", ".join(map(str, categories)) if isinstance(categories, (list, tuple)) else categories
        return title_of(item.get("name")), plain(listed, CATEGORIES_LIMIT), plain(item.get("city"), NAME_LIMIT)
