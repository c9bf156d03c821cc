"""RecBole's atomic files: tab-separated text whose header names each column as ``name:type``.

The reader differs from RecBole's in three ways: it uses pandas' C parser (RecBole's Python one is
twenty times slower), it reads ``.gz``, and a quotation mark is an ordinary character, so that one
inch sign in a title cannot swallow the lines after it. A field that a CSV writer has wrapped in
quotation marks is unwrapped.

With another separator (RecBole's ``field_separator``) a file is read as CSV, in which quotation marks do quote. A file
with a tab-separated header is read as tab-separated regardless, so that one setting serves all files of a dataset.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pandas as pd

from recbole_llm.data.foreign import check_contents, explain_header, word_of
from recbole_llm.errors import UserError
from recbole_llm.utils.files import whole_file
from recbole_llm.utils.text import one_line

TAB = "\t"
TYPES = ("token", "token_seq", "float", "float_seq")
_EXAMPLE = "user_id:token<TAB>item_id:token"
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
    """Yield a plain or gzipped file's lines, header included, in blocks of some megabytes that end in a newline."""
    with open_bytes(path) as stream:
        left = b""
        while block := stream.read(BLOCK_BYTES):
            lines, newline, left = (left + block).rpartition(b"\n")
            if newline:
                yield lines + newline
    if left:
        yield left + b"\n"


def lines_alike(path: Path) -> int:
    """How many lines after the header repeat an earlier one exactly; blank lines do not count."""
    lines = itertools.chain.from_iterable(block.splitlines() for block in line_blocks(path))
    hashes = np.fromiter(map(hash, filter(None, itertools.islice(lines, 1, None))), np.int64)
    return len(hashes) - len(np.unique(hashes))


def short_lines(path: Path) -> list[int]:
    """The numbers, from 1, of the lines of a tab-separated file that lack fields; blank lines do not count."""
    lines = enumerate(itertools.chain.from_iterable(block.splitlines() for block in line_blocks(path)), start=1)
    tabs = next((line.count(b"\t") for _, line in lines), 0)
    return [number for number, line in lines if line and line.count(b"\t") < tabs]


@dataclass(frozen=True)
class Header:
    """The first line of an atomic file.

    Attributes:
        columns: in file order.
        separator: of the columns.
        padded: whether a CSV file has blanks after its separators; they then belong to no field.
    """

    columns: list[Column]
    separator: str = TAB
    padded: bool = False


def read_header(path: Path, separator: str = TAB) -> list[Column]:
    """The columns of an atomic file; see :func:`header_of`."""
    return header_of(path, separator).columns


def header_of(path: Path, separator: str = TAB) -> Header:
    """The columns of an atomic file and their separator.

    Args:
        path: plain or gzipped atomic file.
        separator: column separator of a file that is not tab-separated.

    Raises:
        UserError: the file is empty, unreadable or no atomic file, or a column has no type or occurs twice.
    """
    try:
        check_contents(path)
        with open_text(path) as stream:
            line = stream.readline().rstrip("\r\n").lstrip("\ufeff")
            later = "" if line.strip() else next((text for text in stream if text.strip()), "")
    except _DAMAGE as error:
        raise _explain(path, error) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if not line.strip():
        found = f"begins with a blank line, and {one_line(later)[:80]!r} comes after it" if later else "is empty"
        raise UserError(f"{path} {found}: its first line must name the columns, such as {_EXAMPLE}.")
    if separator != TAB and _column(line.split(TAB)[0]) is not None:
        separator = TAB
    columns: list[Column] = []
    parts = line.split(separator)
    for part in parts:
        column = _column(part if separator == TAB else part.strip().strip('"'))
        if column is None:
            raise explain_header(path, line, separator, TYPES, part)
        if column.name in (known.name for known in columns):
            raise UserError(f"{path}, line 1: column {column.name!r} occurs twice.")
        columns.append(column)
    padded = separator not in (TAB, " ") and any(part.startswith(" ") for part in parts[1:])
    return Header(columns, separator, padded)


def _column(part: str) -> Column | None:
    """``name:type`` as a column, ignoring blanks around both; ``None`` for any other text."""
    name, colon, kind = map(str.strip, part.partition(":"))
    return Column(name, kind) if colon and kind in TYPES else None


def _explain(path: Path, error: Exception) -> UserError:
    """Turn a parser's exception into an error that names the file and says what to do."""
    if isinstance(error, UnicodeDecodeError):
        return UserError(
            f"{path} is not UTF-8 ({error.reason}): convert it, for example with `iconv -f latin1 -t utf-8`."
        )
    if isinstance(error, (EOFError, gzip.BadGzipFile, zlib.error)):
        return UserError(f"{path} is a damaged or truncated gzip file: fetch it again.")
    return UserError(f"{path} cannot be parsed: {one_line(error)}. Columns are separated by single tabs.")


def _unwrap(values: pd.Series) -> pd.Series:
    """Undo CSV quoting: ``"5"" screen"`` becomes ``5" screen``."""
    quoted = values.str.startswith('"', na=False) & values.str.endswith('"', na=False) & (values.str.len() > 1)
    if quoted.any():
        values = values.copy()
        values[quoted] = values[quoted].str.slice(1, -1).str.replace('""', '"', regex=False)
    return values


class Vocabulary(dict[str, int]):
    """Token to id for one column: ids count from 1 by first appearance, over all chunks of a file."""

    def __missing__(self, token: str) -> int:
        self[token] = number = len(self) + 1
        return number

    def ids(self, values: pd.Series, quoted: bool) -> np.ndarray:
        """Ids ``(n,)`` int32 of tokens, -1 for missing ones; ``quoted`` tokens are unwrapped first."""
        # Each distinct token is looked up once. pandas categories would sort them, which takes longer than reading.
        places, found = pd.factorize(values)
        names = (_unwrap(pd.Series(found)) if quoted else found).tolist()
        ids = np.fromiter((self[name] if name else -1 for name in names), np.int32, len(names))
        return np.append(ids, np.int32(-1))[places]


def check_lines(path: Path, header: Header) -> bool:
    """Check for what pandas would pass over: values beyond the header's columns, and carriage returns inside lines.

    Returns:
        Whether the file contains quotation marks, so that fields may be wrapped in them.

    Raises:
        UserError: a line has too many fields, or a carriage return that does not belong to its end.
    """
    number, width, separator = 1, len(header.columns), header.separator.encode()
    quoted = False
    for block in line_blocks(path):
        quoted = quoted or b'"' in block
        if quoted and header.separator != TAB:
            _check_rows(path, header)  # a quoted field may hold separators and line ends
            return quoted
        text = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(text == ord("\n"))
        if b"\r" in block:
            _check_returns(path, number, text, ends)
        fields = np.diff(np.searchsorted(np.flatnonzero(text == ord(separator)), ends), prepend=0) + 1
        for line in np.flatnonzero(fields > width):
            begin = ends[line - 1] + 1 if line else 0
            _check_fields(path, number + int(line), block[begin : ends[line]].rstrip(b"\r\n").split(separator), header)
        number += len(ends)
    return quoted


def _check_returns(path: Path, number: int, text: np.ndarray, ends: np.ndarray) -> None:
    """Raise if a line has a carriage return that does not belong to its end.

    Args:
        path: the file.
        number: of the block's first line.
        text: ``(n,)`` uint8, a block of whole lines.
        ends: where its line feeds are.
    """
    returns = np.flatnonzero(text[:-1] == ord("\r"))
    inside = returns[~np.isin(text[returns + 1], (ord("\r"), ord("\n")))]
    if len(inside):
        line = number + int(np.searchsorted(ends, inside[0]))
        raise UserError(
            f"{path}, line {line}: a carriage return inside the line, which would be cut in two there. Take it out; "
            "if lines are to end there, write line feeds."
        )


def _check_rows(path: Path, header: Header) -> None:
    """Do the check of :func:`check_lines` for a CSV file with quotation marks."""
    with open_text(path) as stream:
        rows = csv.reader(stream, delimiter=header.separator, skipinitialspace=header.padded)
        first = 1  # line of the row
        try:
            for row in rows:
                if len(row) > len(header.columns):
                    _check_fields(path, rows.line_num, row, header)
                first = rows.line_num + 1
        except csv.Error as error:
            raise explain_row(path, first, error) from error


def explain_row(path: Path, number: int, error: csv.Error) -> UserError:
    """An error for the row of a CSV file that begins in line ``number`` and that Python's csv module cannot read."""
    if "limit" in str(error):
        what = f"a field of more than {csv.field_size_limit():,} characters. Is its quotation mark closed?"
    else:
        what = "a carriage return outside quotation marks. Put the field in quotation marks, or take it out."
    return UserError(f"{path}, line {number}: {what}")


def _check_fields(path: Path, number: int, fields: Sequence[str | bytes], header: Header) -> None:
    width, word = len(header.columns), word_of(header.separator)
    if any(fields[width:]):
        advice = "hold none themselves" if header.separator == TAB else "those that hold one stand in quotation marks"
        raise UserError(
            f"{path}, line {number}: more fields than the header's {width}. Fields are separated by single {word} "
            f"and {advice}."
        )


def read_chunks(
    path: Path,
    names: Sequence[str],
    vocabularies: Mapping[str, Vocabulary] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    separator: str = TAB,
) -> Iterator[pd.DataFrame]:
    """Read some columns of an atomic file in chunks.

    Args:
        path: plain or gzipped atomic file.
        names: columns to read; each must be in the header.
        vocabularies: one for each token column that is to be returned as ids; new tokens are added.
        chunk_rows: rows per chunk.
        separator: column separator of a file that is not tab-separated.

    Yields:
        Frames with ``names`` as columns: tokens and sequences as text (``NaN`` if missing), or as int32 ids
        (-1 if missing) for columns with a vocabulary; floats as float64, each finite or ``NaN`` if missing.

    Raises:
        UserError: a column is missing, a float field is no number, a line has too many fields or a carriage return
            inside, or the file is damaged or not UTF-8.
    """
    header = header_of(path, separator)
    columns = {column.name: column for column in header.columns}
    for name in names:
        if name not in columns:
            raise UserError(f"{path} has no column {name!r}; it has {', '.join(columns)}.")
    vocabularies = vocabularies or {}
    floats = [name for name in names if columns[name].type == "float"]
    by_tabs = header.separator == TAB
    try:
        quoted = check_lines(path, header) and by_tabs
        reader = pd.read_csv(
            path,
            sep=header.separator,
            header=0,
            names=list(columns),
            index_col=False,
            usecols=list(names),
            dtype={name: np.float64 if name in floats else str for name in names},
            quoting=csv.QUOTE_NONE if by_tabs else csv.QUOTE_MINIMAL,
            skipinitialspace=header.padded,
            na_values=[""],
            keep_default_na=False,
            encoding="utf-8",
            chunksize=chunk_rows,
            compression="infer",
        )
        for chunk in reader:
            chunk = chunk[list(names)]
            if floats and np.isinf(chunk[floats].to_numpy()).any():
                raise bad_number(path, header, names) or UserError(f"{path} holds infinite numbers.")
            for name in names:
                if name in vocabularies:
                    chunk[name] = vocabularies[name].ids(chunk[name], quoted)
                elif quoted and name not in floats:
                    chunk[name] = _unwrap(chunk[name])
            yield chunk
    except ValueError as error:
        raise bad_number(path, header, names) or _explain(path, error) from error
    except (OSError, *_DAMAGE) as error:
        raise _explain(path, error) from error


def is_number(text: str) -> bool:
    """Whether pandas reads the text as a finite number; Python's ``float`` also accepts ``nan`` and ``1_000``."""
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and "_" not in text


def bad_number(
    path: Path, header: Header, names: Sequence[str], accepts: Callable[[str], bool] = is_number
) -> UserError | None:
    """An error for the first line whose float field is not accepted as a number; ``None`` if there is no such line."""
    wanted = [(n, c.name) for n, c in enumerate(header.columns) if c.name in names and c.type == "float"]
    try:
        with open_text(path) as stream:
            by_tabs = header.separator == TAB
            quoting: Literal[0, 3] = csv.QUOTE_NONE if by_tabs else csv.QUOTE_MINIMAL
            rows = csv.reader(stream, delimiter=header.separator, quoting=quoting, skipinitialspace=header.padded)
            next(rows)
            for parts in rows:
                for position, name in wanted:
                    if position < len(parts) and parts[position] and not accepts(parts[position]):
                        kind = _what_it_is(parts[position])
                        return UserError(f"{path}, line {rows.line_num}: {name} is {parts[position]!r}, not a {kind}.")
    except (OSError, csv.Error, *_DAMAGE):
        return None
    return None


def _what_it_is(text: str) -> str:
    """What a bad number should have been, with advice where the mistake can be recognised."""
    if re.match(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}", text):
        return "number (write dates as seconds since 1970, or as 20140131)"
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        return "number (write a point, not a comma)"
    try:
        return "finite number" if math.isinf(float(text)) else "number"
    except ValueError:
        return "number"


def read_table(path: Path, names: Sequence[str] | None = None, separator: str = TAB) -> pd.DataFrame:
    """Read a whole atomic file; see :func:`read_chunks`."""
    if names is None:
        names = [column.name for column in read_header(path, separator)]
    chunks = list(read_chunks(path, names, separator=separator))
    if not chunks:
        return pd.DataFrame({name: pd.Series(dtype=str) for name in names})
    return pd.concat(chunks, ignore_index=True) if len(chunks) > 1 else chunks[0]


def clean_field(text: str) -> str:
    """Text as one field of an atomic file: tabs, line ends and other control characters become blanks."""
    return " ".join("".join(ch if ch.isprintable() else " " for ch in text).split())


def join_ids(tokens: Iterable[str]) -> str:
    """Join ids with blanks; a blank inside an id becomes ``%20``, and a percent sign that would be misread ``%25``."""
    return " ".join(re.sub("%(?=2[05])", "%25", token).replace(" ", "%20") for token in tokens)


def split_ids(text: str) -> list[str]:
    """Split a sequence that :func:`join_ids` wrote into its ids."""
    return [re.sub("%2([05])", lambda found: " " if found[1] == "0" else "%", token) for token in text.split(" ")]


def write_table(path: Path, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> int:
    """Write an atomic file, complete or not at all; returns the number of rows.

    Fields are as :func:`cell` gives them. The file appears under its name only when complete.

    Raises:
        UserError: a field holds a tab or a line break, as ids of CSV files may.
    """
    with whole_file(path, "w") as stream:
        return write_rows(stream, path, columns, rows)


def write_rows(stream: IO[str], path: Path, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> int:
    """Write header and rows of an atomic file to a stream; returns the number of rows.

    Args:
        stream: text with plain line ends.
        path: the file that the stream will be, for messages.
        columns: of the header.
        rows: their fields, as :func:`cell` gives them.

    Raises:
        UserError: a field holds a tab or a line break, as ids of CSV files may.
    """
    count = 0
    stream.write("\t".join(map(str, columns)) + "\n")
    for row in rows:
        line = "\t".join(map(cell, row))
        if line.count("\t") >= len(row) or "\n" in line or "\r" in line:
            raise _broken(path, columns, row)
        stream.write(line + "\n")
        count += 1
    return count


def _broken(path: Path, columns: Sequence[Column], row: Sequence[Any]) -> UserError:
    """An error that names the first field of a row which would break the lines of a file."""
    breaks = set("\t\r\n")
    column, text = next(
        (column, text) for column, text in zip(columns, map(cell, row), strict=True) if breaks & {*text}
    )
    if column.type.endswith("_seq"):
        text = next(part for part in text.split(" ") if breaks & {*part})
    return UserError(
        f"{path} cannot be written: {text!r}, in the column {column.name}, holds a tab or a line break, which would "
        "break its lines; rename it in the dataset."
    )


def cell(value: Any) -> str:
    """A value as a field of a tab-separated file; lists become blank-separated sequences.

    Text that is itself in quotation marks gets another pair, so that reading restores it.
    """
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple, np.ndarray)) else str(value)
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = '"' + text.replace('"', '""') + '"'
    return text


WORD = 8  # bytes per packed word
MAX_WORDS = 4  # words per token; the fast path refuses longer ones
_MASKS = np.array([2 ** (8 * n) - 1 for n in range(WORD + 1)], dtype=np.uint64)  # the first n bytes of a word


def read_columns(
    path: Path, names: Sequence[str], separator: str = TAB
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Read columns of an atomic file into arrays.

    Args:
        path: plain or gzipped atomic file.
        names: token and float columns.
        separator: column separator of a file that is not tab-separated.

    Returns:
        Two dictionaries by column name: the values, ``(n,)`` each, as int32 ids from 1 for token columns (-1 if
        missing) and float64 for float columns; and, for token columns, the tokens in the order of their ids.

    Raises:
        UserError: as :func:`read_chunks`.
    """
    return _read_regular(path, names, separator) or _read_any(path, names, separator)


def _read_any(path: Path, names: Sequence[str], separator: str) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    vocabularies = {column.name: Vocabulary() for column in read_header(path, separator) if column.type == "token"}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for chunk in read_chunks(path, names, vocabularies, separator=separator):
        for name in names:
            parts[name].append(chunk[name].to_numpy())
    values = {name: np.concatenate(parts.pop(name) or [np.empty(0)]) for name in names}
    return values, {name: list(vocabularies[name]) for name in names if name in vocabularies}


def _read_regular(
    path: Path, names: Sequence[str], separator: str
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]] | None:
    """Fast path of :func:`read_columns`; ``None`` for files with quotation marks or with missing or long tokens."""
    header = header_of(path, separator)
    position = {column.name: place for place, column in enumerate(header.columns)}
    if not set(names) <= set(position) or len(position) < 2 or header.padded:
        return None
    tokens = [name for name in names if header.columns[position[name]].type == "token"]
    packed: dict[str, list[list[np.ndarray]]] = {name: [] for name in tokens}
    try:
        for block in _rows(path):
            fields = _fields(block, len(position), ord(header.separator))
            if fields is None:
                return None
            for name in tokens:
                words = _pack(block, *fields[position[name]])
                if words is None:
                    return None
                packed[name].append(words)
        values: dict[str, np.ndarray] = {}
        found: dict[str, list[str]] = {}
        for name in tokens:
            values[name], found[name] = _number(packed.pop(name))
        floats = [name for name in names if name not in values]
        if floats:
            frame = pd.read_csv(
                path, sep=header.separator, header=0, names=list(position), index_col=False, usecols=floats,
                dtype=np.float64, quoting=csv.QUOTE_NONE, na_values=[""], keep_default_na=False,
            )  # fmt: skip
            values |= {name: frame[name].to_numpy() for name in floats}
            if any(np.isinf(values[name]).any() for name in floats):
                return None
    except (OSError, EOFError, ValueError):
        return None  # read_chunks will meet the same problem and explain it
    return (values, found) if len({len(column) for column in values.values()}) == 1 else None


def _rows(path: Path) -> Iterator[bytes]:
    """The lines after the header, block by block."""
    blocks = line_blocks(path)
    first = next(blocks).partition(b"\n")[2]
    yield from itertools.chain([first] if first else [], blocks)


def _fields(block: bytes, width: int, separator: int) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Where each column's fields begin and end, ``(n,)`` each; ``None`` for other widths and for quotes, CR or NUL."""
    if any(mark in block for mark in (b'"', b"\r", b"\0")):
        return None
    text = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    marks = np.flatnonzero(text == separator)
    if len(marks) != len(ends) * (width - 1):
        return None
    inner = marks.reshape(len(ends), width - 1)
    begins = np.concatenate([[0], ends[:-1] + 1])
    if (inner[:, 0] < begins).any() or (inner[:, -1] > ends).any():
        return None
    return list(zip([begins, *(inner.T + 1)], [*inner.T, ends], strict=True))


def _pack(block: bytes, begins: np.ndarray, ends: np.ndarray) -> list[np.ndarray] | None:
    """Each field's bytes as zero-padded words, ``(n,)`` uint64 each; ``None`` if a field is empty or too long."""
    lengths = ends - begins
    count = -(-int(lengths.max(initial=0)) // WORD)
    if count > MAX_WORDS or not lengths.all():
        return None
    text = block + bytes(WORD * MAX_WORDS)
    windows = np.ndarray((len(text) - WORD + 1,), dtype="<u8", buffer=text, strides=(1,))  # the word at each byte
    return [windows[begins + WORD * word] & _MASKS[np.clip(lengths - WORD * word, 0, WORD)] for word in range(count)]


def _number(blocks: list[list[np.ndarray]]) -> tuple[np.ndarray, list[str]]:
    """Int32 ids from 1 by first appearance, and the token of each id."""
    words = [
        np.concatenate([block[place] if place < len(block) else np.zeros_like(block[0]) for block in blocks])
        for place in range(max(map(len, blocks), default=0))
    ]
    if not words:
        return np.empty(0, dtype=np.int32), []
    ids, first = pd.factorize(words[0])
    found = [first]
    for word in words[1:]:
        codes, values = pd.factorize(word)
        ids, pairs = pd.factorize(ids * len(values) + codes)
        found = [*(part[pairs // len(values)] for part in found), values[pairs % len(values)]]
    text = np.stack(found, axis=1).astype("<u8").view(f"S{WORD * len(found)}").ravel()
    return (ids + 1).astype(np.int32), [token.decode("utf-8") for token in text.tolist()]
