"""Metadata as clean one-line text. Reviews are never read: they tell what the user is about to rate."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import Any

from recbole_llm.utils.text import clean

TITLE_LIMIT = 500
NAME_LIMIT = 100
DESCRIPTION_LIMIT = 1000
CATEGORIES_LIMIT = 1000

_TAG = re.compile(r"</?[A-Za-z][^<>]{0,1000}>|<!--.*?-->")
_SCRIPT = re.compile(r"(?is)<(script|style)\b.*?(</\1\s*>|$)")


def plain(value: Any, limit: int) -> str:
    """Any metadata value as text: lists joined, entities decoded, tags gone, quotation marks doubled.

    RecBole reads atomic files with ``"`` as the quoting character, so that one inch sign would swallow the
    lines after it; two apostrophes stand for it.
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
    """A product's title; the 2018 metadata hold scripts in place of some."""
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
