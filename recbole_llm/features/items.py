"""The text of items, from metadata alone (never from reviews, which quote the user's taste)."""

from __future__ import annotations

import logging
import re
import string
from dataclasses import dataclass, field
from typing import Any

from recbole_llm.data.atomic import read_header, read_table
from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.data.interactions import Interactions
from recbole_llm.errors import UserError
from recbole_llm.utils.text import clean

logger = logging.getLogger(__name__)

MISSING = {"", "unknown", "nan", "none", "null"}
_TITLE_COLUMNS = ("title", "movie_title", "name", "item_name")


@dataclass(frozen=True)
class ItemTexts:
    """Text of each item by its id; index 0 is the padding item.

    Attributes:
        title: never empty: items without one are called ``item <token>``.
        categories, brand, description: empty strings where there is none.
        named: share of items that have a real title.
        source: where titles come from; ``model`` for text that a model wrote (``idgen_text``).
        profile: text written elsewhere (``--profiles=FILE``), an empty list where there is no such file.
    """

    title: list[str]
    categories: list[str]
    brand: list[str]
    description: list[str]
    named: float
    source: str
    profile: list[str] = field(default_factory=list)


def _columns_of(template: Any) -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(template) if name]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the dataset's text: settings: {template!r} is no template ({error}); write text with columns in braces, "
            "such as {title}."
        ) from error


def _value(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    text = clean(value, 2000) if isinstance(value, str) else ""
    return "" if text.casefold() in MISSING else text


def _fill(template: str, row: dict[str, Any]) -> str:
    """The template with a row's values; brackets around a missing value go with it."""
    values = {name: _value(row, name) for name in _columns_of(template)}
    if not any(values.values()):
        return ""
    parts = string.Formatter().parse(template)
    text = "".join(literal + (values[name] if name else "") for literal, name, _, _ in parts)
    return clean(re.sub(r"\(\s*\)|\[\s*\]", "", text))


def _first_template(spec: dict[str, Any], header: list[str]) -> dict[str, Any]:
    """``title`` and ``source`` of the first template whose columns are there; of the last where none is."""
    entries = [{"template": entry} if isinstance(entry, str) else entry for entry in spec["title"]]
    chosen = next((e for e in entries if set(_columns_of(e["template"])) <= set(header)), entries[-1])
    return {"title": chosen["template"], "source": chosen.get("source", spec.get("source", "metadata"))}


def read_item_texts(location: DatasetLocation, table: Interactions, spec: dict[str, Any] | None) -> ItemTexts:
    """Read ``.item`` as the dataset's ``text:`` settings say.

    Args:
        location: where the files lie.
        table: gives the items and their ids.
        spec: ``title`` (a template such as ``"{movie_title} ({release_year})"``, or a list of them, each alone or
            as ``{template: ..., source: ...}``: the first whose columns the file has is taken), ``categories``,
            ``brand``, ``description`` (column names), ``source``; guessed from the columns where absent.

    Raises:
        UserError: the spec names a column that the file lacks.
    """
    tokens = [str(token) for token in table.item_tokens]
    blank = [""] * len(tokens)
    path = location.file("item")
    if path is None:
        logger.warning(
            "%s has no .item file: items are called by their ids, and text features say little", location.name
        )
        return ItemTexts([""] + [f"item {t}" for t in tokens[1:]], blank, blank, blank, 0.0, "none")
    header = [column.name for column in read_header(path)]
    spec = dict(spec or {})
    if isinstance(spec.get("title"), list):
        spec |= _first_template(spec, header)
    if "title" not in spec:
        guess = next((name for name in _TITLE_COLUMNS if name in header), None)
        if guess is not None:
            spec["title"] = "{" + guess + "}"
    for name in ("categories", "brand", "description"):
        spec.setdefault(name, name if name in header else None)
    wanted = {
        *_columns_of(spec.get("title", "")),
        *(spec[k] for k in ("categories", "brand", "description") if spec[k]),
    }
    for name in sorted(wanted):
        if name not in header:
            raise UserError(
                f"{path} has no column {name!r} (the dataset's text: settings ask for it); it has {', '.join(header)}."
            )
    key = "item_id" if "item_id" in header else header[0]
    frame = read_table(path, [key, *sorted(wanted - {key})])
    first = frame.drop_duplicates(subset=[key], keep="first")
    if len(first) < len(frame):
        logger.warning("%s: %d rows repeat an item; the first of each counts", path, len(frame) - len(first))
    rows = {str(row[key]): row for row in first.to_dict("records")}
    absent = sum(token not in rows for token in tokens[1:])
    if absent:
        logger.warning("%s lacks %d of %d items; they have no text", path, absent, len(tokens) - 1)
    found = [rows.get(token, {}) for token in tokens]
    titles = [_fill(spec.get("title", ""), row) for row in found]
    named = sum(map(bool, titles[1:])) / max(1, len(titles) - 1)

    def column(name: str) -> list[str]:
        return [_value(row, spec[name]) for row in found] if spec[name] else list(blank)

    return ItemTexts(
        title=[""] + [title or f"item {token}" for title, token in zip(titles[1:], tokens[1:], strict=True)],
        categories=column("categories"),
        brand=column("brand"),
        description=column("description"),
        named=named,
        source=str(spec.get("source", "metadata")),
    )
