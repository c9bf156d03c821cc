"""Titles and answers as clean text. Both are untrusted: they are data, never instructions or markup."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from recbole_llm.errors import UserError

TITLE_LENGTH = 200
NAMES = "a name, names with commas between them, or a list of names"  # what options of names take
# Line and paragraph separators, bidirectional overrides, zero-width and other invisible characters.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor movements
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # window titles, links
    r"|\x1b[@-Z\\^_]"
)


def visible(text: str) -> str:
    """Text without escape sequences and invisible characters, which a terminal would obey; line breaks stay."""
    if text.isprintable():
        return text
    text = _ESCAPES.sub("", text).replace("\t", " ")
    return "".join(ch for ch in text if ch == "\n" or unicodedata.category(ch) not in _INVISIBLE)


def storable(text: str) -> str:
    """A text without lone surrogates (half an emoji), which JSON can express but no UTF-8 file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(error: object, limit: int | None = None) -> str:
    """An error's message on one line of at most ``limit`` characters."""
    return " ".join(str(error).split())[:limit]


def complaint(error: Exception, whole: str = "the file") -> str:
    """The first complaint of an error: from pydantic the field and what is wrong with it, else the first line.

    Args:
        error: the error.
        whole: what to blame if no single field is at fault.
    """
    if not isinstance(error, ValidationError):
        return str(error).partition("\n")[0]
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"


def reason_of(error: BaseException, limit: int = 160) -> str:
    """The message of a library's error, in one line, without a full stop.

    For a file that holds more than tensors, torch's own message advises running the file's code; it is not repeated.
    """
    words = one_line(visible(str(error)))
    if "weights_only" in words or "Weights only" in words or "WeightsUnpickler" in words:
        return "it holds objects that are neither tensors nor plain values"
    return words[:limit].rstrip(".") or type(error).__name__


def counted(number: int, what: str) -> str:
    """``1 trial``, ``20 trials``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def price_text(amount: float) -> str:
    """An amount of US dollars to the cent; what is less than half a cent and not nothing is ``<0.01``."""
    return "<0.01" if 0 < amount < 0.005 else f"{amount:,.2f}"


def four_digits(value: object) -> str:
    """A setting's value as text, numbers with a fraction to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(share: float) -> str:
    """A share as a percentage, rounded down so that only a whole one is ``100 %``: ``99.9 %``."""
    return f"{math.floor(1000 * share) / 10:g} %"


def share_of(part: int, whole: int) -> float:
    """A share to four digits; it is 0 or 1 only if the part is nothing or the whole, and 0 for none of none.

    One gap in 176,139 answers must remain visible: a rounded share would hide it.
    """
    found = math.floor(10_000 * part / max(1, whole)) / 10_000
    return max(found, 0.0001) if part else 0.0


def names_of(given: Any) -> list[Any]:
    """A list of names from ``"A, B"``, ``"[A,B]"``, a sequence or a single class; an empty one from ``None``.

    Raises:
        UserError: it is nothing of the kind.
    """
    if isinstance(given, type):
        return [given]
    if given is not None and not isinstance(given, Iterable):
        raise UserError(f"{given!r}: give {NAMES}.")
    parts = given.strip().removeprefix("[").removesuffix("]").split(",") if isinstance(given, str) else given
    parts = () if parts is None else parts
    return [name for part in parts if (name := part.strip() if isinstance(part, str) else part) != ""]


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
    if not text.isprintable():  # most texts are, and this check is much faster
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
