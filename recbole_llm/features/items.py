"""Item texts, from metadata only: reviews would reveal the users' taste."""

from __future__ import annotations

import gzip
import json
import logging
import re
import string
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llm.data.atomic import TAB, read_header, read_table, short_lines
from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.data.interactions import Interactions
from recbole_llm.errors import UserError
from recbole_llm.utils.text import clean, match_form

logger = logging.getLogger(__name__)

MISSING = {"", "unknown", "nan", "none", "null"}
_TITLE_COLUMNS = ("title", "movie_title", "name", "item_name")
# Further column names; case and punctuation are ignored: ``Product Title``, ``productTitle``.
_TITLE_NAMES = (
    *("title", "movietitle", "name", "itemname", "itemtitle", "producttitle", "productname", "booktitle", "songtitle"),
    *("trackname", "gametitle", "appname", "videotitle", "businessname", "headline"),
)


@dataclass(frozen=True)
class ItemTexts:
    """Text of each item by its id; index 0 is the padding item.

    Attributes:
        title: never empty: items without one are called ``item <token>``.
        categories, brand, description: empty strings if there is none.
        named: share of items that have a real title.
        source: where titles come from; ``model`` for text that a model wrote (``idgen_text``).
        profile: text written elsewhere (``--profiles=FILE``), an empty list without such a file.
        found_by: columns that were found under other names than ``item_id``, ``title`` and so on; part of the
            features' identity, and empty for most files.
    """

    title: list[str]
    categories: list[str]
    brand: list[str]
    description: list[str]
    named: float
    source: str
    profile: list[str] = field(default_factory=list)
    found_by: dict[str, str] = field(default_factory=dict)

    def titled(self, tokens: Sequence[str]) -> list[int]:
        """Ids of the items that have a real title; ``tokens`` are the items' tokens by id."""
        return [item for item in range(1, len(self.title)) if self.title[item] != f"item {tokens[item]}"]


def _columns_of(template: Any) -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(template) if name]
    except (TypeError, ValueError) as error:
        raise _no_template(template, f" ({error})") from error


def _no_template(template: Any, why: str = "") -> UserError:
    return UserError(
        f"the dataset's text: settings: {template!r} is no template{why}; write the name of a column, or text with "
        "columns in braces, such as {title}."
    )


def _value(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    text = clean(value, 2000) if isinstance(value, str) else ""
    return "" if text.casefold() in MISSING else text


def _fill(template: str, row: dict[str, Any]) -> str:
    """The template with a row's values; brackets that a missing value leaves empty are removed."""
    values = {name: _value(row, name) for name in _columns_of(template)}
    if not any(values.values()):
        return ""
    parts = string.Formatter().parse(template)
    text = "".join(literal + (values[name] if name else "") for literal, name, _, _ in parts)
    return clean(re.sub(r"\(\s*\)|\[\s*\]", "", text))


def _first_template(entries: list[Any], header: list[str]) -> tuple[Any, str | None]:
    """Template and source of the first entry whose columns all exist, or else of the last entry."""
    known = [entry if isinstance(entry, dict) else {"template": entry} for entry in entries]
    chosen = next((e for e in known if set(_columns_of(_as_template(e["template"], header))) <= set(header)), known[-1])
    return chosen["template"], chosen.get("source")


def _as_template(given: Any, header: list[str]) -> Any:
    """The template; a column's bare name means ``{name}``."""
    return "{" + given + "}" if isinstance(given, str) and given in header else given


def _letters(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def _columns(spec: dict[str, Any], header: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The title template, the other texts' columns and the source; and the columns found under other names.

    Raises:
        UserError: the template is invalid.
    """
    texts: dict[str, Any] = {"title": spec.get("title"), "source": str(spec.get("source", "metadata"))}
    unusual: dict[str, str] = {}
    if isinstance(texts["title"], list):
        texts["title"], source = _first_template(texts["title"], header)
        texts["source"] = source or texts["source"]
    if texts["title"] is None:
        column = next((name for name in _TITLE_COLUMNS if name in header), None)
        if column is None:
            column = next((name for known in _TITLE_NAMES for name in header if _letters(name) == known), None)
            unusual |= {"title": column} if column else {}
        texts["title"] = column or ""
    given = texts["title"]
    texts["title"] = _as_template(given, header)
    if given and not _columns_of(texts["title"]):
        raise _no_template(given)
    for name in ("categories", "brand", "description"):
        texts[name] = spec.get(name, name if name in header else None)
        if texts[name] is None and name not in spec:
            texts[name] = next((column for column in header if _letters(column) == name), None)
            unusual |= {name: texts[name]} if texts[name] else {}
    return texts, unusual


def item_texts(settings: Mapping[str, Any], location: DatasetLocation, table: Interactions) -> ItemTexts:
    """Read ``.item`` as a run's settings say; see :func:`read_item_texts`."""
    key, separator = str(settings["ITEM_ID_FIELD"]), str(settings["field_separator"])
    return read_item_texts(location, table, settings.get("text"), key, separator)


def read_item_texts(
    location: DatasetLocation,
    table: Interactions,
    spec: dict[str, Any] | None,
    key: str = "item_id",
    separator: str = TAB,
) -> ItemTexts:
    """Read ``.item`` as the dataset's ``text:`` settings say.

    Args:
        location: where the files are.
        table: gives the items and their ids.
        spec: ``title`` (a column, a template such as ``"{movie_title} ({release_year})"``, or a list of them, each
            alone or as ``{template: ..., source: ...}``: the first whose columns the file has is taken),
            ``categories``, ``brand``, ``description`` (column names), ``source``; columns that are not given are
            guessed from the header.
        key: the column of item ids (``ITEM_ID_FIELD``).
        separator: character between columns.

    Raises:
        UserError: the spec names a column that the file lacks, or the file has no column of item ids.
    """
    tokens = [str(token) for token in table.item_tokens]
    blank = [""] * len(tokens)
    path = location.file("item")
    if path is None:
        logger.warning(
            "%s has no .item file: items are called by their ids, and text features say little", location.name
        )
        return ItemTexts([""] + [f"item {t}" for t in tokens[1:]], blank, blank, blank, 0.0, "none")
    types = {column.name: column.type for column in read_header(path, separator)}
    header = list(types)
    if types.get(key) != "token":
        state = f"is declared {types[key]}" if key in types else f"is not there; it has {', '.join(header)}"
        raise UserError(
            f"{path}: the column of item ids, {key}:token, {state}. Rename the column, or name it as in .inter with "
            "--ITEM_ID_FIELD."
        )
    texts, unusual = _columns(dict(spec or {}), header)
    if key != "item_id" and ("item_id" in header or header[0] != key):
        unusual["item_id"] = key
    wanted = {*_columns_of(texts["title"]), *(texts[k] for k in ("categories", "brand", "description") if texts[k])}
    for name in sorted(wanted):
        if name not in header:
            raise UserError(
                f"{path} has no column {name!r} (the dataset's text: settings ask for it); it has {', '.join(header)}."
            )
    frame = read_table(path, [key, *sorted(wanted - {key})], separator)
    if separator == TAB and (short := short_lines(path)):
        logger.warning(
            "%s: lines with fewer fields than the header: %d, first line %d; a title with a line break is cut there",
            path,
            len(short),
            short[0],
        )
    first = frame.drop_duplicates(subset=[key], keep="first")
    if len(first) < len(frame):
        logger.warning("%s: rows of items that earlier rows have, not read: %d", path, len(frame) - len(first))
    rows = {str(row[key]): row for row in first.to_dict("records")}
    absent = sum(token not in rows for token in tokens[1:])
    if absent:
        logger.warning("%s lacks %d of %d items; they have no text", path, absent, len(tokens) - 1)
    found = [rows.get(token, {}) for token in tokens]
    titles = [_fill(texts["title"], row) for row in found]
    named = sum(map(bool, titles[1:])) / max(1, len(titles) - 1)

    def column(name: str) -> list[str]:
        return [_value(row, texts[name]) for row in found] if texts[name] else list(blank)

    return ItemTexts(
        title=[""] + [title or f"item {token}" for title, token in zip(titles[1:], tokens[1:], strict=True)],
        categories=column("categories"),
        brand=column("brand"),
        description=column("description"),
        named=named,
        source=texts["source"] if texts["title"] else "none",
        found_by=unusual,
    )


def check_titles(location: DatasetLocation, items: ItemTexts, separator: str = TAB) -> None:
    """Refuse items without any text: features would be made from ids, in a result row that claims text.

    Raises:
        UserError: no item has a title or a profile.
    """
    if items.named or any(items.profile):
        return
    path = location.file("item")
    without = "or run the model without its texts: --semantics=none"
    if path is None:
        raise UserError(
            f"--dataset={location.name}: there is no {location.stem}.item in {location.folder}, so that no item has a "
            f"title: put it there (item_id:token, title:token_seq), {without}."
        )
    if items.source == "none":
        header = ", ".join(column.name for column in read_header(path, separator))
        raise UserError(
            f"{path}: no column is known to hold titles; it has {header}. Name it with --text.title=COLUMN, {without}."
        )
    raise UserError(
        f"{path}: not one of the {len(items.title) - 1:,} items of .inter has a title there. Are its ids the same as "
        f"those of .inter? Correct the file, {without}."
    )


LONGEST = 4000  # characters of a profile that are kept
_YEAR = re.compile(r"\s*\((\d{4})\)\s*$")
_NAMED = re.compile(r"^(.{1,200}?)\s*\((\d{4})\)", flags=re.S)
_ARTICLE = re.compile(r"^(.*), (the|a|an|le|la|les|l'|il|el|los|das|der|die)$", flags=re.I)
_OTHER_NAME = re.compile(r"\s*\((?!\d{4}\))[^()]*\)")


def title_key(title: str, year: str = "", other_names: bool = False) -> str:
    """The form in which titles are compared: ``Godfather, The (1972)`` is ``The Godfather (1972)``.

    Text in brackets, such as another name or a pack size, counts only with ``other_names``.
    """
    title, year = _name_and_year(title, year)
    if not other_names:
        title = _OTHER_NAME.sub("", title).strip()
    article = _ARTICLE.match(title)
    if article:
        title = f"{article[2]} {article[1]}"
    return f"{match_form(title)}:{year}"


def _name_and_year(title: str, year: str) -> tuple[str, str]:
    """A title without its year, and the given year or else the one in the title."""
    title = " ".join(clean(title, 1000).replace("&", " and ").split())
    found = _YEAR.search(title)
    return (title[: found.start()], year or found[1]) if found else (title, year)


def read_profiles(path: Path, titles: Sequence[str], tokens: Sequence[str], by: str = "title") -> list[str]:
    """The profile of each item, an empty string if it has none; index 0 is the padding item.

    Titles are matched in three steps: the same title apart from case; another spelling (:func:`title_key`); a title
    where only one of the two has text in brackets. The last two steps find nothing if the matching profiles differ,
    since punctuation (``C++``) or the text in brackets may be what distinguishes the items. If a title or id has
    several profiles, the first counts.

    Args:
        path: JSON lines, gzipped if the name ends in ``.gz``.
        titles: the items' titles.
        tokens: the items' ids.
        by: ``title`` or ``item_id``.

    Raises:
        UserError: the file cannot be read, a line is not a profile, or no profile belongs to an item.
    """
    records: list[tuple[dict[str, Any], str]] = []
    for number, record in _records(path):
        text = record.get("text", record.get("profile"))
        if not isinstance(text, str):
            raise UserError(f'{path}, line {number}: a profile is {{"title": ..., "text": ...}}.')
        records.append((record, clean(text, LONGEST)))
    if by == "item_id":
        named = [(record["item_id"], text) for record, text in records if record.get("item_id") is not None and text]
        found = {str(token): text for token, text in reversed(named)}
        _warn_of_others(path, sum(found[str(token)] != text for token, text in named), "id")
        profiles = [found.get(str(token), "") for token in tokens]
    else:
        profiles = _by_title(path, records, titles)
    profiles[0] = ""
    matched = sum(map(bool, profiles))
    if not matched:
        raise UserError(
            f"{path}: none of its {len(records)} profiles belongs to an item "
            f"(compared by {by}; --profiles_by=title or item_id)."
        )
    logger.info("%s: %d profiles, for %d of %d items", path, len(records), matched, len(titles) - 1)
    return profiles


def _by_title(path: Path, records: Sequence[tuple[dict[str, Any], str]], titles: Sequence[str]) -> list[str]:
    same: dict[tuple[str, str], str] = {}
    whole: dict[str, set[str]] = {}
    short: dict[str, dict[str, bool]] = {}  # by key and text: has a title without brackets
    others = 0
    for record, text in records:
        title, year = _title_of(record, text)
        if title and text:
            others += same.setdefault(_same_key(title, year), text) != text
            if match_form(title):
                whole.setdefault(title_key(title, year, other_names=True), set()).add(text)
                texts = short.setdefault(title_key(title, year), {})
                texts[text] = texts.get(text, False) or not _OTHER_NAME.search(title)
    _warn_of_others(path, others, "title")
    profiles, unclear = [], 0
    for title in titles:
        text = same.get(_same_key(title, ""), "")
        if not text and match_form(title):
            near, bracketed = short.get(title_key(title), {}), _OTHER_NAME.search(title)
            fits = whole.get(title_key(title, other_names=True)) or {
                text for text, is_plain in near.items() if is_plain or not bracketed
            }
            text = next(iter(fits)) if len(fits) == 1 else ""
            unclear += not text and bool(near)
        profiles.append(text)
    if unclear:
        logger.info("%s: items without a profile, since those of like titles may be of other items: %d", path, unclear)
    return profiles


def _warn_of_others(path: Path, count: int, of: str) -> None:
    """Say how many profiles are not read since an earlier line has another text for the same title or id."""
    if count:
        logger.warning(
            "%s: profiles not read, since an earlier line has another one of the same %s: %d", path, of, count
        )


def _same_key(title: str, year: str) -> tuple[str, str]:
    title, year = _name_and_year(title, year)
    return title.casefold(), year


def _title_of(record: dict[str, Any], text: str) -> tuple[str, str]:
    """The title of a profile and its year; empty strings if it names none."""
    if isinstance(record.get("title"), str):
        return record["title"], _year_of(record.get("year"))
    named = _NAMED.match(text)
    return (named[1].lstrip("\"'“”‘* "), named[2]) if named else ("", "")


def _year_of(value: Any) -> str:
    """The four digits of a year, however JSON writes it; empty if there is none (``null``, ``"unknown"``)."""
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
