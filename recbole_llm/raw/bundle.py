"""BundleRec's shopping sessions in the folders that PO4ISR ships: ``electronic/``, ``clothing/``, ``food/``.

Each holds comma-separated (or tab-separated) tables with a header: ``user_session.csv`` (user ID, session ID,
timestamp), ``session_item.csv`` (session ID, item ID; the order within a session is that of the file),
``item_titles.csv``, ``item_categories.csv`` and ``item_idx_mapping.csv`` (the ASIN). The three domains number
their ids independently, so ids are prefixed with ``e``, ``c`` or ``f``.

Times are days, and the order within a session is known only from the file. ``timestamp`` is therefore the row's
number in the order of (day, user, session, place in the file), and ``unix_time`` is the day itself. Items without
a title are left out, as in the ready-made atomic files. Y. Sun et al.: Revisiting bundle recommendation, SIGIR
2022; Z. Sun et al.: Large language models for intent-driven session recommendations, SIGIR 2024.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from typing import Any, ClassVar

import numpy as np

from recbole_llm.data.atomic import Column
from recbole_llm.errors import UserError
from recbole_llm.raw.source import (
    CATEGORIES_LIMIT,
    NAME_LIMIT,
    TITLE_LIMIT,
    Collector,
    RawTable,
    Source,
    plain,
    text_stream,
)

DOMAINS = ("electronic", "clothing", "food")


class Bundle(Source):
    """Sessions take the place of users in the table; ``owner`` maps each session to its user."""

    item_columns: ClassVar[tuple[Column, ...]] = (
        Column("item_id", "token"),
        Column("title", "token_seq"),
        Column("categories", "token_seq"),
        Column("domain", "token"),
        Column("asin", "token"),
    )
    inter_columns: ClassVar[tuple[Column, ...]] = (
        Column("user_id", "token"),
        Column("session_id", "token"),
        Column("item_id", "token"),
        Column("timestamp", "float"),
        Column("unix_time", "float"),
    )

    def read(self, rows: Collector) -> None:
        """Add the items of every session that has a user and a day, and fill ``owner``."""
        self.owner: dict[str, str] = {}
        for domain in DOMAINS:
            letter = domain[0]
            titled = {item for item, title in self._cells(domain, "item_titles", "item ID", "titles") if title.strip()}
            days: dict[str, int] = {}
            for user, session, day in self._cells(domain, "user_session", "user ID", "session ID", "timestamp"):
                if session not in days and day.strip().isdecimal():
                    days[session] = int(day)
                    self.owner[letter + session] = letter + user
                else:
                    self.tally.counts["sessions_listed_twice_or_undated"] += 1
            self.tally.counts["sessions_listed"] += len(days)
            for session, item in self._cells(domain, "session_item", "session ID", "item ID"):
                self.tally.counts["rows_read"] += 1
                if session not in days:
                    self.tally.counts["rows_of_unknown_sessions"] += 1
                elif item not in titled:
                    self.tally.counts["rows_without_title"] += 1
                else:
                    rows.add(letter + session, letter + item, days[session])

    def _cells(self, domain: str, table: str, *names: str) -> Iterator[tuple[str, ...]]:
        """Some columns of a table; rows that are too short are counted as malformed."""
        path = self.files[f"{domain}/{table}"]
        stream = text_stream(path, self.tally)
        header = next(stream, "")
        reader = csv.reader(stream, delimiter="\t" if "\t" in header else ",")
        known = [name.strip().strip('"').casefold() for name in header.split("\t" if "\t" in header else ",")]
        wanted = [name.casefold() for name in names]
        if any(name not in known for name in wanted):
            raise UserError(f"{path}, line 1: the header must name {', '.join(names)}; it is {header.strip()[:120]!r}.")
        places = [known.index(name) for name in wanted]
        try:
            for row in reader:
                if len(row) > max(places):
                    yield tuple(row[place] for place in places)
                elif row:
                    self.tally.bad(path, reader.line_num + 1, f"{len(row)} fields")
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num + 1}: {error}; is a quotation mark left open?") from error

    def ordered(self, table: RawTable) -> RawTable:
        """Rows by day, user, session and place in the file."""
        _, session = np.unique(np.array(table.users), return_inverse=True)
        _, user = np.unique(np.array([self.owner[name] for name in table.users]), return_inverse=True)
        return table.take(np.lexsort((session[table.user], user[table.user], table.time)))

    def counts(self, table: RawTable) -> dict[str, int]:
        """Users, sessions, items and interactions."""
        found = table.counts()
        owners = {self.owner[table.users[code]] for code in np.unique(table.user)}
        return {"users": len(owners), "sessions": found.pop("users"), **found}

    def rows(self, table: RawTable) -> Iterator[tuple[Any, ...]]:
        """Rows of ``inter_columns``."""
        for ordinal, (session, item, day) in enumerate(zip(table.user, table.item, table.time, strict=True), 1):
            name = table.users[session]
            yield self.owner[name], name, table.items[item], ordinal, int(day)

    def items(self, wanted: Collection[str]) -> Iterator[tuple[str, ...]]:
        """Id, title, categories, domain and ASIN."""
        for domain in DOMAINS:
            letter = domain[0]
            categories = {row[0]: row[1] for row in self._cells(domain, "item_categories", "item ID", "categories")}
            asin = {row[0]: row[1] for row in self._cells(domain, "item_idx_mapping", "item ID", "source ID")}
            done: set[str] = set()
            for item, title in self._cells(domain, "item_titles", "item ID", "titles"):
                if letter + item not in wanted or item in done:
                    continue
                done.add(item)
                yield (
                    letter + item,
                    plain(title, TITLE_LIMIT),
                    _category_names(categories.get(item, "")),
                    domain,
                    plain(asin.get(item, ""), NAME_LIMIT),
                )


def _category_names(text: str) -> str:
    """``[[Clothing,Women],[Clothing,Shoes]]`` as names, each once; commas inside names are taken as separators."""
    cells = text.replace("[", ",").replace("]", ",").split(",")
    names = dict.fromkeys(plain(cell.strip().strip("'\""), NAME_LIMIT) for cell in cells)
    return plain(", ".join(name for name in names if name), CATEGORIES_LIMIT)
