"""RecBole's atomic files: tab-separated text whose header names each column as ``name:type``.

The reader differs from RecBole's in three ways: it uses pandas' C parser (RecBole's Python one is
twenty times slower), it reads ``.gz``, and a quotation mark is an ordinary character, so that one
inch sign in a title cannot swallow the lines after it. A field that is wrapped in quotation marks,
as CSV writers do, is unwrapped.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from recbole_llm.errors import UserError
from recbole_llm.files import whole_file

TYPES = ("token", "token_seq", "float", "float_seq")
CHUNK_ROWS = 1_000_000


@dataclass(frozen=True)
class Column:
    """One column of an atomic file."""

    name: str
    type: str

    def __str__(self) -> str:
        return f"{self.name}:{self.type}"


def open_text(path: Path) -> IO[str]:
    """Open a plain or gzipped file as UTF-8 text."""
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8", newline="\n")
    return path.open(encoding="utf-8", newline="\n")


def read_header(path: Path) -> list[Column]:
    """The columns of an atomic file.

    Raises:
        UserError: the file is empty or unreadable, or a column lacks its type.
    """
    try:
        with open_text(path) as stream:
            line = stream.readline().rstrip("\r\n").lstrip("\ufeff")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not line.strip():
        raise UserError(
            f"{path} is empty: its first line must name the columns, such as user_id:token<TAB>item_id:token."
        )
    columns = []
    for part in line.split("\t"):
        name, colon, kind = part.partition(":")
        if not colon or kind not in TYPES:
            raise UserError(
                f"{path}, line 1: column {part!r} needs a type: {', '.join('name:' + kind for kind in TYPES)}."
            )
        columns.append(Column(name, kind))
    return columns


def _explain(path: Path, error: Exception) -> UserError:
    """A parser's complaint in words that name the line."""
    if isinstance(error, UnicodeDecodeError):
        return UserError(
            f"{path} is not UTF-8 ({error.reason}): convert it, for example with `iconv -f latin1 -t utf-8`."
        )
    if isinstance(error, (EOFError, gzip.BadGzipFile)):
        return UserError(f"{path} is a damaged or truncated gzip file: fetch it again.")
    return UserError(f"{path} cannot be parsed: {' '.join(str(error).split())}. Columns are separated by single tabs.")


def _unwrap(values: pd.Series) -> pd.Series:
    """Undo CSV quoting: ``"5"" screen"`` becomes ``5" screen``."""
    quoted = values.str.startswith('"', na=False) & values.str.endswith('"', na=False) & (values.str.len() > 1)
    if quoted.any():
        values = values.copy()
        values[quoted] = values[quoted].str.slice(1, -1).str.replace('""', '"', regex=False)
    return values


def read_chunks(
    path: Path, names: Sequence[str], categorical: Iterable[str] = (), chunk_rows: int = CHUNK_ROWS
) -> Iterator[pd.DataFrame]:
    """Read some columns of an atomic file in pieces.

    Args:
        path: plain or gzipped atomic file.
        names: columns wanted; each must be in the header.
        categorical: token columns to return as pandas categories (ids in a few bytes a row).
        chunk_rows: rows of one piece.

    Yields:
        Frames with ``names`` as columns: tokens and sequences as text (missing ones ``NaN``),
        floats as float64.

    Raises:
        UserError: a missing column, a number that is none, a line with too many tabs, bad bytes.
    """
    header = {column.name: column for column in read_header(path)}
    for name in names:
        if name not in header:
            raise UserError(f"{path} has no column {name!r}; it has {', '.join(header)}.")
    categorical = set(categorical)
    dtypes: dict[str, Any] = {}
    for name in names:
        kind = header[name].type
        dtypes[str(header[name])] = "category" if name in categorical else (np.float64 if kind == "float" else str)
    try:
        reader = pd.read_csv(
            path,
            sep="\t",
            usecols=list(dtypes),
            dtype=dtypes,
            quoting=csv.QUOTE_NONE,
            na_values=[""],
            keep_default_na=False,
            encoding="utf-8",
            chunksize=chunk_rows,
            compression="infer",
        )
        for chunk in reader:
            chunk = chunk[list(dtypes)]
            chunk.columns = pd.Index(names)
            for name in names:
                if header[name].type != "float" and name not in categorical:
                    chunk[name] = _unwrap(chunk[name])
            yield chunk
    except ValueError as error:
        raise _bad_number(path, header, names) or _explain(path, error) from error
    except (OSError, EOFError) as error:
        raise _explain(path, error) from error


def _bad_number(path: Path, header: dict[str, Column], names: Sequence[str]) -> UserError | None:
    """The first line whose float column holds no number, as an error; ``None`` where all are numbers."""
    order = list(header)
    wanted = [(order.index(name), name) for name in names if header[name].type == "float"]
    try:
        with open_text(path) as stream:
            next(stream)
            for number, line in enumerate(stream, start=2):
                parts = line.rstrip("\r\n").split("\t")
                for position, name in wanted:
                    if position < len(parts) and parts[position]:
                        try:
                            float(parts[position])
                        except ValueError:
                            return UserError(f"{path}, line {number}: {name} is {parts[position]!r}, not a number.")
    except (OSError, EOFError, UnicodeDecodeError):
        return None
    return None


def read_table(path: Path, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Read an atomic file whole; see :func:`read_chunks`."""
    if names is None:
        names = [column.name for column in read_header(path)]
    chunks = list(read_chunks(path, names))
    if not chunks:
        return pd.DataFrame({name: pd.Series(dtype=str) for name in names})
    return pd.concat(chunks, ignore_index=True) if len(chunks) > 1 else chunks[0]


def clean_field(text: str) -> str:
    """Text as one field of an atomic file: tabs, line ends and other control characters become blanks."""
    return " ".join("".join(ch if ch.isprintable() else " " for ch in text).split())


def write_table(path: Path, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> int:
    """Write an atomic file whole or not at all; returns the number of rows.

    Lists become blank-separated sequences. The file appears under its name only when complete.
    """
    count = 0
    with whole_file(path, "w") as stream:
        stream.write("\t".join(map(str, columns)) + "\n")
        for row in rows:
            stream.write("\t".join(map(_cell, row)) + "\n")
            count += 1
    return count


def _cell(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple, np.ndarray)) else str(value)
