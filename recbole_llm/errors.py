"""Errors that a user can cause, and the hints that go with them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


class UserError(Exception):
    """An error that the user can fix; the message says what was wrong, where, and what to do.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """


class NoRoomError(OSError):
    """A file cannot be written: the disk is full, at a limit, read-only or failing.

    No run or trial is at fault, so none is recorded as failed, and the whole command ends. What is finished is kept,
    and the same command goes on once the disk can be written.

    Args:
        place: the file or the address that could not be written.
        reason: the system's message.
    """

    def __init__(self, place: object, reason: object) -> None:
        super().__init__(
            f"{place} cannot be written ({reason}); finished work is kept: run the same command again to continue."
        )
        self.place, self.reason = str(place), str(reason)

    def __reduce__(self) -> tuple[type[NoRoomError], tuple[str, str]]:
        return type(self), (self.place, self.reason)


def check_choice(option: str, value: str, known: Collection[str]) -> None:
    """Raise a ``UserError`` if a value is not among those that an option takes."""
    if value not in known:
        raise UserError(f"{option}={value}: use {', '.join(known)}.{did_you_mean(value, known)}")


def check_known(complaint: str, word: object, known: Collection[str]) -> None:
    """Raise a ``UserError`` with the complaint, a hint and the known names if a word is not a known name."""
    if word not in known:
        raise UserError(f"{complaint}.{did_you_mean(str(word), known)} Known: {', '.join(known)}.")


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A hint such as `` Did you mean LLMDMsRec?``, or an empty string when nothing is near.

    Names that differ only in case or punctuation come first, similar spellings only if there are none.
    """
    word, candidates = str(word), sorted(set(known))

    def fold(text: str) -> str:
        return "".join(ch for ch in text.casefold() if ch.isalnum())

    same = [name for name in candidates if fold(name) == fold(word)]
    if not same:
        folded = {fold(name): name for name in candidates}
        same = [folded[near] for near in difflib.get_close_matches(fold(word), folded, n=2, cutoff=0.6)]
    if not same:
        return ""
    return f" Did you mean {' or '.join(same)}?"
