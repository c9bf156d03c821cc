"""The hash of classes without a file."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from recbole_llm.utils.typed_code import hash_of_typed

TYPED = """
import functools
def twice(f):
    @functools.wraps(f)
    def doubled(*args): return 2 * f(*args)
    return doubled
def times(factor):
    def scaled(value): return factor * value
    return scaled
loss, seen = times(0.5), []
seen.append(seen)
class Mine:
    alias = functools.partialmethod(print, 1)
    @staticmethod
    def ready(value): return value
    @functools.cached_property
    def width(self): return 8
    @functools.lru_cache(4)
    def depth(self): return 2
    @property
    def name(self): return "mine"
    @twice
    def score(self, user, item): return loss(user) + item + len(seen)
"""


@pytest.fixture
def hash_of(monkeypatch: pytest.MonkeyPatch):
    def found(text: str) -> str:
        session = ModuleType("session")
        monkeypatch.setitem(sys.modules, "session", session)
        exec(text, vars(session))
        return hash_of_typed([session.Mine])

    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("    @twice\n", ""),
        ("return 2 * f(*args)", "return 3 * f(*args)"),
        ("times(0.5)", "times(0.7)"),
        ("return factor * value", "return factor + value"),
        ("partialmethod(print, 1)", "partialmethod(print, 2)"),
        ("@staticmethod", "@classmethod"),
        ("return 8", "return 9"),
        ("return 2\n", "return 3\n"),
        ('return "mine"', 'return "yours"'),
        ("user, item):", "user, *, item):"),
    ],
)
def test_code_that_does_something_else_has_another_hash(hash_of, before, after):
    assert before in TYPED
    assert hash_of(TYPED.replace(before, after)) != hash_of(TYPED)


@pytest.mark.parametrize("after", ["    # the item's bias\n    @twice\n", "\n\n    @twice\n"])
def test_comments_and_blank_lines_do_not_count(hash_of, after):
    assert hash_of(TYPED.replace("    @twice\n", after)) == hash_of(TYPED)
