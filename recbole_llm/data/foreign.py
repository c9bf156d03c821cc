"""Recognises files that are no atomic files and says in one line what they are and what to do with them."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from recbole_llm.errors import UserError

GZIP = b"\x1f\x8b"
_HEAD = 512  # bytes read to recognise a file
_UTF16 = "it with `iconv -f {code} -t utf-8`"
# First bytes, the kind of file, and what to do with it.
_SIGNS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe\x00\x00", "UTF-32", "convert " + _UTF16.format(code="utf-32")),
    (b"\x00\x00\xfe\xff", "UTF-32", "convert " + _UTF16.format(code="utf-32")),
    (b"\xff\xfe", "UTF-16", "convert " + _UTF16.format(code="utf-16")),
    (b"\xfe\xff", "UTF-16", "convert " + _UTF16.format(code="utf-16")),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save it as tab-separated text"),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet", "save it as tab-separated text"),
    (b"BZh", "compressed with bzip2", "unpack it; plain and gzipped files are read"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it; plain and gzipped files are read"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it; plain and gzipped files are read"),
    (b"PAR1", "a Parquet file", "write it as tab-separated text"),
    (b"SQLite format 3", "an SQLite database", "write the table as tab-separated text"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch the file: git lfs pull"),
)


def check_contents(path: Path) -> None:
    """Raise if the first bytes of a file show that it is neither plain nor gzipped text.

    Raises:
        UserError: the file is gzipped but not named ``.gz``, or the reverse, or its first bytes are those of
            another format.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if path.suffix == ".gz":
        if head and not head.startswith(GZIP):
            raise UserError(
                f"{path} is not gzip, whatever its name says: {_named(path.name.removesuffix('.gz'), head)}"
            )
        head = _unpacked(path)
    elif head.startswith(GZIP):
        raise UserError(f"{path} is gzipped: rename it to {path.name}.gz.")
    if (found := _kind(head)) is not None:
        kind, advice = found
        raise UserError(f"{path} is {kind}: {advice}.")


def _named(name: str, head: bytes) -> str:
    """What to do about a file whose name wrongly ends in ``.gz``."""
    found = _kind(head)
    return f"rename it to {name}." if found is None else f"it is {found[0]}; {found[1]}."


def _unpacked(path: Path) -> bytes:
    """The first unpacked bytes of a gzipped file; none if it is damaged, which the reader will report."""
    try:
        with gzip.open(path, "rb") as stream:
            return stream.read(_HEAD)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return b""


def _kind(head: bytes) -> tuple[str, str] | None:
    """The kind of file that begins with these bytes, and what to do with it; ``None`` if it may be an atomic file."""
    for sign, kind, advice in _SIGNS:
        if head.startswith(sign):
            return kind, advice
    text = head.lstrip()
    if text.startswith(b"<"):
        return "a web page or XML", "fetch the file again; a server may have answered with a page"
    if text[:1] in (b"{", b"["):
        return "JSON", "write it as tab-separated text with a header such as user_id:token<TAB>item_id:token"
    if b"\0" in head:
        even, odd = head[::2].count(0), head[1::2].count(0)
        if max(even, odd) > len(head) // 4:
            code = "utf-16le" if odd > even else "utf-16be"
            return "UTF-16 without a mark of it", "convert " + _UTF16.format(code=code)
        return "no text (it holds NUL bytes)", "write it as tab-separated UTF-8 text"
    return None


_WORDS = {
    ",": "commas", ";": "semicolons", "|": "bars", " ": "blanks", ":": "colons", "\t": "tabs", "::": "double colons",
}  # fmt: skip


def word_of(separator: str) -> str:
    """A separator in words, such as ``commas``."""
    return _WORDS.get(separator, repr(separator))


def explain_header(path: Path, line: str, separator: str, types: tuple[str, ...], part: str) -> UserError:
    """An error that says why a file's first line is not the header of an atomic file.

    Args:
        path: the file.
        line: its first line.
        separator: the expected column separator.
        types: the valid column types.
        part: the first column without a valid type.
    """
    where = f"{path}, line 1"
    forms = ", ".join("name:" + kind for kind in types)
    for other in ("\t", ",", ";", "|", " "):
        names = line.split(other)
        if other == separator or len(names) < 2:
            continue
        if all(name.strip().rpartition(":")[2] in types for name in names):
            advice = (
                "leave field_separator out" if other == "\t" else f"give --field_separator='{other}', or write tabs"
            )
            words = f"{word_of(other)}, not by {word_of(separator)}"
            return UserError(f"{where}: columns are separated by {words}: {advice}.")
        if separator not in line:
            mend = "" if other == "\t" else f" and give --field_separator='{other}'"
            return UserError(
                f"{where}: columns are separated by {word_of(other)} and have no types: write {names[0].strip()}:token "
                f"and so on ({forms}){mend}."
            )
    if "\r" in line:
        return UserError(f"{where}: lines end in a carriage return alone, as old Macintosh files do: write line feeds.")
    if not any(name.rpartition(":")[2] in types for name in line.split(separator)):
        return UserError(
            f"{where}: column {part!r} needs a type ({forms}), and so do all others: is the header missing, or is it "
            "that of another form?"
        )
    return UserError(f"{where}: column {part!r} needs a type: {forms}.")
