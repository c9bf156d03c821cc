"""Item profiles that were written elsewhere (``--profiles=FILE``): JSON lines of text, matched to the items.

A line is ``{"text": ...}`` with ``title`` (and ``year``) or ``item_id``. Ids of another edition of a dataset name
other items, so that titles are compared unless ``--profiles_by=item_id`` says that the ids are this dataset's. Where
a line has no title, the first ``Title (1995)`` in its text is taken.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.utils.text import clean, match_form

logger = logging.getLogger(__name__)

LONGEST = 4000  # characters of a profile that are kept
_YEAR = re.compile(r"\s*\((\d{4})\)\s*$")
_NAMED = re.compile(r"^(.{1,200}?)\s*\((\d{4})\)", flags=re.S)
_ARTICLE = re.compile(r"^(.*), (the|a|an|le|la|les|l'|il|el|los|das|der|die)$", flags=re.I)
_OTHER_NAME = re.compile(r"\s*\((?!\d{4}\))[^()]*\)")


def title_key(title: str, year: str = "") -> str:
    """The form in which titles are compared: ``Godfather, The (1972)`` is ``The Godfather (1972)``."""
    title = clean(title, 1000)
    found = _YEAR.search(title)
    if found:
        title, year = title[: found.start()], year or found[1]
    title = _OTHER_NAME.sub("", title).strip()
    article = _ARTICLE.match(title)
    if article:
        title = f"{article[2]} {article[1]}"
    return f"{match_form(title)}:{year}"


def read_profiles(path: Path, titles: Sequence[str], tokens: Sequence[str], by: str = "title") -> list[str]:
    """The profile of each item, an empty string where there is none; index 0 is the padding item.

    Args:
        path: JSON lines, gzipped where the name ends in ``.gz``.
        titles: of the items.
        tokens: ids of the items.
        by: ``title`` or ``item_id``.

    Raises:
        UserError: the file cannot be read, a line is none, or no profile belongs to an item.
    """
    found: dict[str, str] = {}
    count = 0
    for number, record in _records(path):
        text = record.get("text", record.get("profile"))
        if not isinstance(text, str):
            raise UserError(f'{path}, line {number}: a profile is {{"title": ..., "text": ...}}.')
        text, key = clean(text, LONGEST), _key_of(record, text, by)
        count += 1
        if key and text:
            found.setdefault(key, text)
    keys = tokens if by == "item_id" else [title_key(title) for title in titles]
    profiles = ["", *(found.get(str(key), "") for key in keys[1:])]
    matched = sum(map(bool, profiles))
    if not matched:
        raise UserError(
            f"{path}: none of its {count} profiles belongs to an item "
            f"(compared by {by}; --profiles_by=title or item_id)."
        )
    logger.info("%s: %d profiles, for %d of %d items", path, count, matched, len(titles) - 1)
    return profiles


def _key_of(record: dict[str, Any], text: str, by: str) -> str:
    if by == "item_id":
        return str(record.get("item_id", ""))
    if isinstance(record.get("title"), str):
        return title_key(record["title"], _year_of(record.get("year")))
    named = _NAMED.match(text)
    return title_key(named[1].lstrip("\"'“”‘* "), named[2]) if named else ""


def _year_of(value: Any) -> str:
    """The four digits of a year, however JSON writes it; empty where there is none (``null``, ``"unknown"``)."""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    return text if re.fullmatch(r"[0-9]{4}", text) else ""


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        code = "utf-8-sig"  # some editors put a byte order mark first
        with gzip.open(path, "rt", encoding=code) if path.suffix == ".gz" else path.open(encoding=code) as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
                if not isinstance(record, dict):
                    raise UserError(f"{path}, line {number} is not a JSON object.")
                yield number, record
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"--profiles={path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
