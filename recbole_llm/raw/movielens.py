"""MovieLens as GroupLens ships it: ``ml-100k.zip``, ``ml-1m.zip`` and ``ml-20m.zip``.

The columns have the names that RecBole's own atomic files use. F. M. Harper, J. A. Konstan: The MovieLens
datasets: history and context, ACM TiiS 5 (4), 2015.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar

from recbole_llm.data.atomic import Column
from recbole_llm.raw.source import BAD_LINE, NAME_LIMIT, TITLE_LIMIT, Collector, Source, decode, plain, read_member

# Genres of the last columns of u.item, in the order of u.genre.
GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_YEAR = re.compile(r"^(.*?)\s*\((\d{4})(?:[-–]\d{0,4})?\)\s*$")


def _columns(genres: str) -> tuple[Column, ...]:
    names = (("item_id", "token"), ("movie_title", "token_seq"), ("release_year", "token"), (genres, "token_seq"))
    return tuple(Column(name, kind) for name, kind in names)


class MovieLens(Source):
    """An archive with a file of ratings and a file of movies, one record per line."""

    ratings, movies = "ratings.dat", "movies.dat"
    genre_separator = "|"
    item_columns: ClassVar[tuple[Column, ...]] = _columns("genre")

    def split(self, line: bytes) -> list[str]:
        """The fields of a line."""
        return line.decode("latin-1").rstrip("\r\n").split("::")

    def movie(self, fields: list[str]) -> tuple[str, str, list[str]]:
        """Id, title with year, and genres."""
        return fields[0], fields[1], fields[2].split("|")

    def _fields(self, member: str) -> Iterator[tuple[int, Path, list[str]]]:
        path = self.files["archive"]
        for line_number, line in enumerate(read_member(path, member), 1):
            if line.isspace():
                continue
            try:
                fields = self.split(line)
            except BAD_LINE as error:
                self.tally.bad(path / member, line_number, error)
                continue
            yield line_number, path / member, fields

    def read(self, rows: Collector) -> None:
        """Add every rating."""
        for line_number, path, fields in self._fields(self.ratings):
            self.tally.counts["rows_read"] += 1
            try:
                user, item, rating, time = fields
                rows.add(user, item, int(time), float(rating))
            except BAD_LINE as error:
                self.tally.bad(path, line_number, error)

    def items(self, wanted: Collection[str]) -> Iterator[tuple[str, ...]]:
        """Id, title, year and genres of the wanted movies."""
        done: set[str] = set()
        for line_number, path, fields in self._fields(self.movies):
            try:
                item, title, genres = self.movie(fields)
            except BAD_LINE as error:
                self.tally.bad(path, line_number, error)
                continue
            if item not in wanted or item in done:
                continue
            done.add(item)
            match = _YEAR.match(title)
            name, year = (match[1], match[2]) if match else (title, "")
            kept = [plain(genre, NAME_LIMIT) for genre in genres if genre and not genre.startswith("(no genres")]
            yield item, plain(name, TITLE_LIMIT), year, " ".join(kept)


class MovieLens1M(MovieLens):
    """``ratings.dat`` and ``movies.dat``: fields separated by ``::``, Latin-1."""


class MovieLens100K(MovieLens):
    """``u.data`` (separated by tabs) and ``u.item`` (by bars, with one column per genre), Latin-1."""

    ratings, movies = "u.data", "u.item"
    item_columns: ClassVar[tuple[Column, ...]] = _columns("class")

    def split(self, line: bytes) -> list[str]:
        """The fields of a line."""
        text = line.decode("latin-1").rstrip("\r\n")
        return text.split("|" if "|" in text else "\t")

    def movie(self, fields: list[str]) -> tuple[str, str, list[str]]:
        """Id, title with year, and genres."""
        flags = fields[5 : 5 + len(GENRES_100K)]
        return fields[0], fields[1], [genre for genre, flag in zip(GENRES_100K, flags, strict=True) if flag == "1"]


class MovieLens20M(MovieLens):
    """``ratings.csv`` and ``movies.csv``: UTF-8 with a header; titles with commas are in quotation marks."""

    ratings, movies = "ratings.csv", "movies.csv"

    def split(self, line: bytes) -> list[str]:
        """The fields of a line."""
        text = decode(line, self.tally)
        return next(csv.reader([text])) if '"' in text else text.rstrip("\r\n").split(",")

    def _fields(self, member: str) -> Iterator[tuple[int, Path, list[str]]]:
        return (found for found in super()._fields(member) if found[0] > 1 or not found[2][0].endswith("Id"))
