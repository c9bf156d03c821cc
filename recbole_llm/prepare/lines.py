"""Raw text as streams, and a tally of the lines that could not be used."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from recbole_llm.errors import UserError

DAMAGE = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error)
# What parsing an untrusted line may raise.
BAD_LINE = (
    *(ValueError, KeyError, TypeError, IndexError, OverflowError, AttributeError),
    *(SyntaxError, RecursionError, MemoryError, csv.Error),
)
_BUFFER = 1 << 20
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
    """Turn the complaints of gzip and zip, and of the system, into an error that names the file."""
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
                yield from io.BufferedReader(packed, _BUFFER)  # type: ignore[type-var]
        else:
            with path.open("rb", buffering=_BUFFER) as stream:
                yield from stream


def read_member(path: Path, name: str) -> Iterator[bytes]:
    """Lines of one file in a zip archive, found by its last name (``ratings.dat``) in whatever folder.

    Raises:
        UserError: the archive is damaged or holds no such file.
    """
    with damage_named(path), zipfile.ZipFile(path) as archive:
        found = [n for n in archive.namelist() if n.rsplit("/", 1)[-1] == name and not n.startswith("__MACOSX")]
        if not found:
            raise UserError(f"{path} holds no {name}: is it the right archive?")
        with archive.open(min(found, key=len)) as member:
            yield from io.BufferedReader(member, _BUFFER)  # type: ignore[type-var]


def decode(line: bytes, tally: Tally) -> str:
    """UTF-8 text of a line; bytes that are none become U+FFFD and the line is counted."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        tally.counts["lines_not_utf8"] += 1
        return line.decode("utf-8", errors="replace")


def text_stream(path: Path, tally: Tally) -> Iterator[str]:
    """Lines of a file as text, without a byte order mark."""
    for number, line in enumerate(read_lines(path)):
        yield decode(line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line, tally)
