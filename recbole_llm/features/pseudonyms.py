"""Invented titles: an LLM cannot use what it remembers of an item that it cannot identify.

A pseudonym is a keyed function of the title alone: an item has the same name in every prompt, exemplar and text, items
with the same title share a name, and another key gives other names. It is made of syllables, so that it reads like a
name but is no title that a model knows. Years are lost with the titles, since year and genre often identify a film.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from recbole_llm.features.items import ItemTexts
from recbole_llm.utils.text import match_form

REAL, PSEUDONYM, PSEUDONYM_ALL = "real", "pseudonym", "pseudonym_all"
_BEGINNINGS = (*"bdfgklmnprstvz", "br", "dr", "kr", "pl", "st", "tr")
_SYLLABLES = [beginning + vowel for beginning in _BEGINNINGS for vowel in "aeiou"]
_TITLE_WORDS, _NAME_WORDS = (3, 3, 2), (3,)  # syllables of each word; 10^16 titles make collisions unlikely
_WORD = re.compile(r"[^\W_]+(?:['’&-][^\W_]+)*")


def pseudonymous(items: ItemTexts, titles: str, key: int) -> ItemTexts:
    """Item texts with invented names.

    Titles and brands are invented, and descriptions are left out, since they would give both away. Categories keep
    their words with ``pseudonym``; with ``pseudonym_all`` each word is replaced by an invented one, always the same.

    Args:
        items: the real texts.
        titles: ``real``, ``pseudonym`` or ``pseudonym_all``.
        key: another key gives other names.
    """
    if titles == REAL:
        return items

    def named(texts: list[str], kind: str, words: tuple[int, ...]) -> list[str]:
        return [pseudonym(text, kind, words, key) if text else "" for text in texts]

    categories = items.categories
    if titles == PSEUDONYM_ALL:
        categories = [
            _WORD.sub(lambda word: pseudonym(word[0], "category", _NAME_WORDS, key), text) for text in categories
        ]
    return replace(
        items,
        title=named(items.title, "title", _TITLE_WORDS),
        brand=named(items.brand, "brand", _NAME_WORDS),
        categories=categories,
        description=[""] * len(items.description),
        source=f"{items.source} ({titles})",
    )


def pseudonym(text: str, kind: str, words: tuple[int, ...], key: int) -> str:
    """The invented name of a text; texts that differ only in case and punctuation have the same one.

    Args:
        text: the real text.
        kind: ``title``, ``brand`` or ``category``; a brand and a title with the same text get different names.
        words: how many syllables each word of the name has.
        key: another key gives other names.
    """
    form = match_form(text) or text
    digest = hashlib.blake2b(f"{kind}:{form}".encode(), key=str(key).encode(), digest_size=16).digest()
    number = int.from_bytes(digest, "big")
    found = []
    for length in words:
        word = ""
        for _ in range(length):
            number, place = divmod(number, len(_SYLLABLES))
            word += _SYLLABLES[place]
        found.append(word.capitalize())
    return " ".join(found)
