"""Titles and answers as clean text. Both are untrusted: they are data, never instructions or markup."""

from __future__ import annotations

import html
import re
import unicodedata

TITLE_LENGTH = 200
# Line and paragraph separators, bidirectional overrides, zero-width and other invisible characters.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def clean(text: str, limit: int = TITLE_LENGTH) -> str:
    """Text on one line: entities decoded, invisible characters gone, blanks single, at most ``limit`` long.

    Entities are decoded before anything is split or shown: a ``;`` inside ``&amp;`` once cut titles in two.
    """
    for _ in range(3):  # titles are found escaped twice, never more than three times
        decoded = html.unescape(text)
        if decoded == text:
            break
        text = decoded
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():  # most texts are, and this tells it much faster
        text = "".join(" " if unicodedata.category(ch) in _INVISIBLE else ch for ch in text)
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    cut = text[: limit - 1]
    head, blank, _ = cut.rpartition(" ")
    return (head if blank and len(head) > limit // 2 else cut).rstrip() + "…"


_NUMBERING = re.compile(r"^\s*(?:\(?\d{1,3}[.):]|[-*•])\s+")


def match_form(text: str) -> str:
    """The form in which titles are compared: no case, no punctuation, no leading number."""
    text = _NUMBERING.sub("", clean(text, 1000))
    return "".join(ch for ch in unicodedata.normalize("NFKC", text).casefold() if ch.isalnum())
