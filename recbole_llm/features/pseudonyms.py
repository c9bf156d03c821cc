"""Invented titles: what an LLM remembers of an item is of no use where it cannot tell which item it is.

A pseudonym is a keyed function of the title alone, so that an item has one name in every prompt, exemplar and text, two
items of one title share a name, and another key gives other names. It is made of syllables, so that it is a name to a
reader and no known title to a model. Years go with the titles: a year and a genre often name a film.
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
_TITLE_WORDS, _NAME_WORDS = (3, 3, 2), (3,)  # syllables of each word; of 10^16 titles two are hardly ever equal
_WORD = re.compile(r"[^\W_]+(?:['’&-][^\W_]+)*")


def pseudonymous(items: ItemTexts, titles: str, key: int) -> ItemTexts:
    """The texts of items under invented names.

    Titles and brands are invented and descriptions left out, since they quote the one and tell the other. Categories
    keep their words with ``pseudonym``; with ``pseudonym_all`` each word has an invented one, the same everywhere.

    Args:
        items: the real texts.
        titles: ``real``, ``pseudonym`` or ``pseudonym_all``.
        key: other keys give other names.
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
    """The invented name of a text; the same for texts that differ by case and punctuation alone.

    Args:
        text: that is named.
        kind: what it is of; a brand and a title of the same word have different names.
        words: how many syllables each word of the name has.
        key: of the function.
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
