"""The base class of all sources of raw files, and the helpers that they share."""

from __future__ import annotations

import codecs
import csv
import gzip
import html
import io
import math
import re
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recbole_llm.data.atomic import Column
from recbole_llm.data.interactions import canonical_order
from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.utils.text import clean
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

_CHUNK = 1 << 17


class Source:
    """Reads one dataset's raw files; each family of datasets has a subclass.

    Args:
        files: role to path; the dataset's YAML names the roles.
        tally: collects counts of what was read and left out.
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
        """Order the rows, drop repeats (the first in time stays) and filter; counts the dropped rows."""
        ordered = self.ordered(table)
        first = without_repeats(ordered)
        kept = k_core(first, kcore)
        self.tally.counts["repeats_of_user_and_item"] = len(ordered) - len(first)
        self.tally.counts["rows_below_kcore"] = len(first) - len(kept)
        return kept

    def ordered(self, table: RawTable) -> RawTable:
        """The rows, each user's in the order of time."""
        return in_order(table)

    def counts(self, table: RawTable) -> dict[str, int]:
        """Counts to compare with the published ones."""
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
        """A time of the source in seconds, as text."""
        whole, rest = divmod(time, self.per_second)
        return f"{time / self.per_second:.3f}" if rest else str(whole)

    def each_line(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Lines that are not blank, with their numbers from 1; a byte order mark is removed."""
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
    """An id from JSON, as text.

    Raises:
        TypeError: it is neither text nor a whole number.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"{str(value)[:20]!r} is no id")


DAMAGE = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error)
# What parsing an untrusted line may raise.
BAD_LINE = (
    *(ValueError, KeyError, TypeError, IndexError, OverflowError, AttributeError),
    *(SyntaxError, RecursionError, MemoryError, csv.Error),
)
_BUFFER = 1 << 20
LONGEST_LINE = 1 << 24  # bytes; lines of the known datasets have thousands
_EXAMPLES = 3


@dataclass
class Tally:
    """What was read and what was left out.

    Attributes:
        counts: by reason; ``rows_read`` counts lines that should be interactions.
        examples: the first bad lines, as ``file, line 7: reason``.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def bad(self, path: Path, number: int, error: object) -> None:
        """Count a malformed line; the first few are kept as examples."""
        self.counts["malformed_lines"] += 1
        if len(self.examples) < _EXAMPLES:
            reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
            self.examples.append(f"{path.name}, line {number}: {' '.join(reason.split())[:120]}")


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn errors of gzip, zip and the operating system into a ``UserError`` that names the file."""
    try:
        yield
    except DAMAGE as error:
        kind = "zip" if isinstance(error, zipfile.BadZipFile) else "gzip"
        raise UserError(
            f"{path} is a damaged or truncated {kind} file ({error}): delete it and fetch it again."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def is_gzip(path: Path) -> bool:
    """Whether a file is gzipped, whatever its name says (browsers unpack and keep the name)."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def read_lines(path: Path) -> Iterator[bytes]:
    """Lines of a plain or gzipped file, one by one.

    Raises:
        UserError: the file is damaged or cannot be read.
    """
    with damage_named(path):
        if is_gzip(path):
            with gzip.open(path, "rb") as packed:
                yield from _unpacked_lines(path, packed)
        else:
            with path.open("rb", buffering=_BUFFER) as stream:
                yield from stream


def _unpacked_lines(path: Path, stream: Any) -> Iterator[bytes]:
    """Lines of an archive's stream; a few megabytes of an archive may unpack to one line of many gigabytes.

    Raises:
        UserError: a line is longer than any in a dataset.
    """
    for line in iter(partial(io.BufferedReader(stream, _BUFFER).readline, LONGEST_LINE), b""):
        if len(line) == LONGEST_LINE:
            raise UserError(f"{path} has a line of more than {LONGEST_LINE >> 20} MiB: is it the right file?")
        yield line


def read_member(path: Path, name: str) -> Iterator[bytes]:
    """Lines of one file in a zip archive, found by file name (``ratings.dat``) in any folder.

    Raises:
        UserError: the archive is damaged or holds no such file.
    """
    with damage_named(path), zipfile.ZipFile(path) as archive:
        found = [n for n in archive.namelist() if n.rsplit("/", 1)[-1] == name and not n.startswith("__MACOSX")]
        if not found:
            raise UserError(f"{path} holds no {name}: is it the right archive?")
        with archive.open(min(found, key=len)) as member:
            yield from _unpacked_lines(path, member)


def decode(line: bytes, tally: Tally) -> str:
    """A line as UTF-8 text; invalid bytes become U+FFFD and the line is counted."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        tally.counts["lines_not_utf8"] += 1
        return line.decode("utf-8", errors="replace")


def text_stream(path: Path, tally: Tally) -> Iterator[str]:
    """Lines of a file as text, without a byte order mark."""
    for number, line in enumerate(read_lines(path)):
        yield decode(line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line, tally)


LONGEST_NAME = 100  # characters of an id; a longer one is a sign of damage


@dataclass(frozen=True)
class RawTable:
    """``n`` interactions; codes index the names.

    Attributes:
        user, item: ``(n,)`` int32 codes from 0.
        time: ``(n,)`` int64 in the unit of the source.
        rating: ``(n,)`` float32, NaN if there is none.
        users, items: names by code; some may be used by no row.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    rating: np.ndarray
    users: list[str]
    items: list[str]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> RawTable:
        """Some rows, in the order given."""
        return replace(self, user=self.user[rows], item=self.item[rows], time=self.time[rows], rating=self.rating[rows])

    def used_items(self) -> set[str]:
        """Names of the items that occur in rows."""
        return {self.items[code] for code in np.unique(self.item)}

    def counts(self) -> dict[str, int]:
        """Users, items and interactions."""
        return {"users": len(np.unique(self.user)), "items": len(np.unique(self.item)), "interactions": len(self)}


class Collector:
    """Takes interactions one by one."""

    def __init__(self) -> None:
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._user, self._item = array("i"), array("i")
        self._time, self._rating = array("q"), array("f")

    def add(self, user: str, item: str, time: int, rating: float = float("nan")) -> None:
        """Add a row.

        Raises:
            ValueError: an id is empty, too long or holds control characters; the time is out of range.
        """
        for name, known in ((user, self._users), (item, self._items)):
            if name not in known and not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
                raise ValueError(f"{name[:20]!r} is no id")
        if not -(2**53) < time < 2**53:
            raise ValueError(f"{time} is no time")
        self._user.append(self._users.setdefault(user, len(self._users)))
        self._item.append(self._items.setdefault(item, len(self._items)))
        self._time.append(time)
        self._rating.append(rating)

    def __len__(self) -> int:
        return len(self._user)

    def table(self) -> RawTable:
        """All rows; the collector must not be used afterwards."""
        return RawTable(
            np.frombuffer(self._user, dtype=np.int32),
            np.frombuffer(self._item, dtype=np.int32),
            np.frombuffer(self._time, dtype=np.int64),
            np.frombuffer(self._rating, dtype=np.float32),
            list(self._users),
            list(self._items),
        )


def in_order(table: RawTable) -> RawTable:
    """Rows by user (first appearance in the source), time and a stable hash, never by item id."""
    users, items = np.array(table.users, dtype=np.str_), np.array(table.items, dtype=np.str_)
    order, _ = canonical_order(table.user, table.item, table.time, users, items)
    return table.take(order)


def without_repeats(table: RawTable) -> RawTable:
    """The first of several rows of one user and item, which is the earliest if rows are in time order."""
    pair = table.user.astype(np.int64) * max(1, len(table.items)) + table.item
    _, first = np.unique(pair, return_index=True)
    return table if len(first) == len(table) else table.take(np.sort(first))


def k_core(table: RawTable, k: int) -> RawTable:
    """Rows whose user and item have at least ``k`` rows each, filtered until nothing changes."""
    rows = np.arange(len(table))
    while k > 1:
        user, item = table.user[rows], table.item[rows]
        keep = (np.bincount(user) >= k)[user] if len(rows) else np.zeros(0, dtype=bool)
        keep &= (np.bincount(item) >= k)[item] if len(rows) else keep
        if keep.all():
            break
        rows = rows[keep]
    return table if len(rows) == len(table) else table.take(rows)


TITLE_LIMIT = 500
NAME_LIMIT = 100
DESCRIPTION_LIMIT = 1000
CATEGORIES_LIMIT = 1000

_TAG = re.compile(r"</?[A-Za-z][^<>]{0,1000}>|<!--.*?-->")
_SCRIPT = re.compile(r"(?is)<(script|style)\b.*?(</\1\s*>|$)")


def plain(value: Any, limit: int) -> str:
    """Any metadata value as text: lists joined, entities decoded, tags removed, ``"`` replaced by two apostrophes.

    RecBole reads atomic files with ``"`` as the quoting character, so that one inch sign would swallow the
    lines after it.
    """
    if isinstance(value, (list, tuple)):
        value = " ".join(part for part in value if isinstance(part, str))
    if not isinstance(value, str):
        return ""
    text = html.unescape(value[: 20 * limit])
    if "<" in text:
        text = _TAG.sub(" ", _SCRIPT.sub(" ", text))
    return clean(text, limit).replace('"', "''")


def title_of(value: Any) -> str:
    """A product's title; empty if it is a script, as for some items of the 2018 metadata."""
    return "" if isinstance(value, str) and "getTime" in value else plain(value, TITLE_LIMIT)


def categories_of(value: Any) -> str:
    """Category names, each once, joined by commas; the department that starts a path is left out.

    Args:
        value: a list of paths (2014) or one path (2018, 2023).
    """
    if not isinstance(value, (list, tuple)):
        return ""
    paths = value if all(isinstance(path, (list, tuple)) for path in value) else [value]
    names = dict.fromkeys(name for path in paths for name in _below_root(path))
    return clean(", ".join(names), CATEGORIES_LIMIT)


def _below_root(path: Iterable[Any]) -> Iterator[str]:
    names = [name for name in (plain(part, NAME_LIMIT) for part in path) if name]
    yield from names[1:] if len(names) > 1 else names


@dataclass(frozen=True)
class RawFile:
    """One file of a source.

    Attributes:
        name: file name below the raw folder; it may include a folder (``food/user_session.csv``).
        urls: addresses in the order in which they are tried, the official one first; empty if there is no download.
        sha256: published or pinned checksum, empty if there is none.
    """

    name: str
    urls: tuple[str, ...] = ()
    sha256: str = ""

    def place(self, folder: Path, url: str) -> Path:
        """The path for a download; without ``.gz`` if ``url`` serves the file unpacked, as a mirror may."""
        return folder / (self.name if url.endswith(".gz") else self.name.removesuffix(".gz"))

    def find(self, folder: Path) -> Path | None:
        """The file in ``folder``, with or without ``.gz``; ``None`` if it is missing."""
        for name in dict.fromkeys([self.name, self.name.removesuffix(".gz"), self.name + ".gz"]):
            if (folder / name).is_file():
                return folder / name
        return None


@dataclass(frozen=True)
class RawSpec:
    """How a dataset is made from raw files.

    Attributes:
        name: alias of the dataset and name of its atomic files.
        title: readable name of the dataset.
        family: kind of source; a key of ``prepare.FAMILIES``.
        files: role to alternative files, the preferred first.
        kcore: default of ``--kcore``.
        page: web page of the source.
        published: counts that papers report.
    """

    name: str
    title: str
    family: str
    files: Mapping[str, tuple[RawFile, ...]]
    kcore: int = 0
    page: str = ""
    published: Mapping[str, int] = field(default_factory=dict)


def preparable() -> list[str]:
    """Names of the datasets that can be made from raw files."""
    folder = properties_folder() / "dataset"
    return [name for name in property_names("dataset") if "raw" in read_yaml(folder / f"{name}.yaml")]


def read_spec(name: str) -> RawSpec:
    """The spec of a dataset by its alias.

    Raises:
        UserError: there is no such alias, or nothing is known about its raw files.
    """
    file = properties_folder() / "dataset" / f"{name}.yaml"
    values = read_yaml(file) if Path(name).name == name and file.is_file() else {}
    if "raw" not in values:
        known = preparable()
        more = f"no raw files are known for it; `recbole-llm doctor --dataset={name}` says where it can be had"
        what = more if values else "there is no such dataset"
        raise UserError(f"prepare {name}: {what}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    raw, about = values["raw"], values.get("about") or {}
    bases = _listed(raw.get("base"))
    return RawSpec(
        name=name,
        title=str(about.get("title", name)),
        family=str(raw["family"]),
        files={role: _alternatives(entry, bases) for role, entry in raw["files"].items()},
        kcore=int(raw.get("kcore", 0)),
        page=str(raw.get("page", "")),
        published=dict(about.get("published") or {}),
    )


def _alternatives(entry: Any, bases: tuple[str, ...]) -> tuple[RawFile, ...]:
    entries = entry if isinstance(entry, list) else [entry]
    return tuple(_file(item if isinstance(item, dict) else {"name": str(item)}, bases) for item in entries)


def _file(entry: Mapping[str, Any], bases: tuple[str, ...]) -> RawFile:
    name = str(entry["name"])
    urls = _listed(entry.get("url")) or tuple(base + name for base in bases)
    return RawFile(name, urls, str(entry.get("sha256", "")))


def _listed(value: Any) -> tuple[str, ...]:
    """An address or a list of them."""
    return tuple(map(str, value if isinstance(value, list) else [value] if value else ()))
