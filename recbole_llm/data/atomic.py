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
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from recbole_llm.errors import UserError
from recbole_llm.utils.files import whole_file

TYPES = ("token", "token_seq", "float", "float_seq")
CHUNK_ROWS = 1_000_000
BLOCK_BYTES = 1 << 24
_DAMAGE = (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error)


@dataclass(frozen=True)
class Column:
    """One column of an atomic file."""

    name: str
    type: str

    def __str__(self) -> str:
        return f"{self.name}:{self.type}"


def open_bytes(path: Path) -> IO[bytes]:
    """Open a plain or gzipped file."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def open_text(path: Path) -> IO[str]:
    """Open a plain or gzipped file as UTF-8 text."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8", newline="\n")


def line_blocks(path: Path) -> Iterator[bytes]:
    """Whole lines of a plain or gzipped file, header and all, some megabytes at a time; each ends with a line's end."""
    with open_bytes(path) as stream:
        left = b""
        while block := stream.read(BLOCK_BYTES):
            lines, newline, left = (left + block).rpartition(b"\n")
            if newline:
                yield lines + newline
    if left:
        yield left + b"\n"


def read_header(path: Path) -> list[Column]:
    """The columns of an atomic file.

    Raises:
        UserError: the file is empty or unreadable, or a column lacks its type.
    """
    try:
        with open_text(path) as stream:
            line = stream.readline().rstrip("\r\n").lstrip("\ufeff")
    except _DAMAGE as error:
        raise _explain(path, error) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if not line.strip():
        raise UserError(
            f"{path} is empty: its first line must name the columns, such as user_id:token<TAB>item_id:token."
        )
    columns: list[Column] = []
    for part in line.split("\t"):
        name, colon, kind = part.partition(":")
        if not colon or kind not in TYPES:
            raise UserError(
                f"{path}, line 1: column {part!r} needs a type: {', '.join('name:' + kind for kind in TYPES)}."
            )
        if name in (column.name for column in columns):
            raise UserError(f"{path}, line 1: column {name!r} stands there twice.")
        columns.append(Column(name, kind))
    return columns


def _explain(path: Path, error: Exception) -> UserError:
    """A parser's complaint in words that name the line."""
    if isinstance(error, UnicodeDecodeError):
        return UserError(
            f"{path} is not UTF-8 ({error.reason}): convert it, for example with `iconv -f latin1 -t utf-8`."
        )
    if isinstance(error, (EOFError, gzip.BadGzipFile, zlib.error)):
        return UserError(f"{path} is a damaged or truncated gzip file: fetch it again.")
    return UserError(f"{path} cannot be parsed: {' '.join(str(error).split())}. Columns are separated by single tabs.")


def _unwrap(values: pd.Series) -> pd.Series:
    """Undo CSV quoting: ``"5"" screen"`` becomes ``5" screen``."""
    quoted = values.str.startswith('"', na=False) & values.str.endswith('"', na=False) & (values.str.len() > 1)
    if quoted.any():
        values = values.copy()
        values[quoted] = values[quoted].str.slice(1, -1).str.replace('""', '"', regex=False)
    return values


class Vocabulary(dict[str, int]):
    """Ids of the tokens of a column, from 1 by first appearance, over all pieces of a file."""

    def __missing__(self, token: str) -> int:
        self[token] = number = len(self) + 1
        return number

    def ids(self, values: pd.Series, quoted: bool) -> np.ndarray:
        """Ids ``(n,)`` int32 of text; -1 where it is missing. Tokens are unwrapped where ``quoted``."""
        # Each token of the piece is looked up once; sorting them, as categories are, would take longer than reading.
        places, found = pd.factorize(values)
        names = (_unwrap(pd.Series(found)) if quoted else found).tolist()
        ids = np.fromiter(map(self.__getitem__, names), np.int32, len(names))
        return np.append(ids, np.int32(-1))[places]


def _check_widths(path: Path, width: int) -> bool:
    """Raise where a line holds more fields than the header: pandas would drop them without a word.

    Returns:
        Whether there are quotation marks, so that fields may be wrapped in them.
    """
    number = 1
    quoted = False
    for block in line_blocks(path):
        quoted = quoted or b'"' in block
        text = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(text == ord("\n"))
        fields = np.diff(np.searchsorted(np.flatnonzero(text == ord("\t")), ends), prepend=0) + 1
        for line in np.flatnonzero(fields > width):
            _check_line(path, number + int(line), block[ends[line - 1] + 1 if line else 0 : ends[line]], width)
        number += len(ends)
    return quoted


def _check_line(path: Path, number: int, line: bytes, width: int) -> None:
    if any(line.rstrip(b"\r\n").split(b"\t")[width:]):
        raise UserError(
            f"{path}, line {number}: more fields than the header's {width}. Fields are separated by single tabs "
            "and hold none themselves."
        )


def read_chunks(
    path: Path,
    names: Sequence[str],
    vocabularies: Mapping[str, Vocabulary] | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[pd.DataFrame]:
    """Read some columns of an atomic file in pieces.

    Args:
        path: plain or gzipped atomic file.
        names: columns wanted; each must be in the header.
        vocabularies: by token column that is returned as ids; tokens not seen before are added.
        chunk_rows: rows of one piece.

    Yields:
        Frames with ``names`` as columns: tokens and sequences as text (missing ones ``NaN``), or as int32 ids
        (missing ones -1) where there is a vocabulary; floats as float64.

    Raises:
        UserError: a missing column, a number that is none, a line with too many tabs, bad bytes.
    """
    header = {column.name: column for column in read_header(path)}
    for name in names:
        if name not in header:
            raise UserError(f"{path} has no column {name!r}; it has {', '.join(header)}.")
    vocabularies = vocabularies or {}
    dtypes: dict[str, Any] = {str(header[name]): np.float64 if header[name].type == "float" else str for name in names}
    try:
        quoted = _check_widths(path, len(header))
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
                if name in vocabularies:
                    chunk[name] = vocabularies[name].ids(chunk[name], quoted)
                elif quoted and header[name].type != "float":
                    chunk[name] = _unwrap(chunk[name])
            yield chunk
    except ValueError as error:
        raise _bad_number(path, header, names) or _explain(path, error) from error
    except (OSError, *_DAMAGE) as error:
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
                    if position < len(parts) and parts[position] and not _is_number(parts[position]):
                        return UserError(f"{path}, line {number}: {name} is {parts[position]!r}, not a number.")
    except (OSError, *_DAMAGE):
        return None
    return None


def _is_number(text: str) -> bool:
    """Whether pandas reads the text as a number; Python also takes ``nan`` and ``1_000``."""
    try:
        value = float(text)
    except ValueError:
        return False
    return value == value and "_" not in text


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


def join_ids(tokens: Iterable[str]) -> str:
    """Ids as one sequence; a blank within an id becomes ``%20``, and a percent sign that would be misread ``%25``."""
    return " ".join(re.sub("%(?=2[05])", "%25", token).replace(" ", "%20") for token in tokens)


def split_ids(text: str) -> list[str]:
    """The ids of a sequence that :func:`join_ids` wrote."""
    return [re.sub("%2([05])", lambda found: " " if found[1] == "0" else "%", token) for token in text.split(" ")]


def write_table(path: Path, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> int:
    """Write an atomic file whole or not at all; returns the number of rows.

    Lists become blank-separated sequences; text that stands in quotation marks is wrapped in another pair, so
    that reading gives it back. The file appears under its name only when complete.
    """
    count = 0
    with whole_file(path, "w") as stream:
        stream.write("\t".join(map(str, columns)) + "\n")
        for row in rows:
            stream.write("\t".join(map(_cell, row)) + "\n")
            count += 1
    return count


def _cell(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple, np.ndarray)) else str(value)
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = '"' + text.replace('"', '""') + '"'
    return text
