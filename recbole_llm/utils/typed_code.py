"""The hash of classes that were typed into a session, such as a notebook's: no file holds their code."""

from __future__ import annotations

import dis
import hashlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from functools import cached_property, partial, partialmethod
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any

# What Python adds to a class by itself: references to itself, places in the text.
_OF_PYTHON = ("__dict__", "__weakref__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__")
# What a member of a class is made of.
_PARTS: tuple[tuple[Any, Callable[[Any], tuple[Any, ...]]], ...] = (
    ((staticmethod, classmethod), lambda one: (one.__func__,)),
    (property, lambda one: (one.fget, one.fset, one.fdel)),
    (cached_property, lambda one: (one.func,)),
    ((partial, partialmethod), lambda one: (one.func, one.args, one.keywords)),
)


def file_of(module: str) -> Path | None:
    """The source file of an imported module; ``None`` for a session, which has none."""
    path = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return path if path.is_file() else None


def hash_of_typed(classes: Iterable[type]) -> str:
    """SHA-256 of the code of classes from a session, and of what they use that was typed there too.

    Comments, blank lines and the order of cells do not count. Of values other than texts, numbers and collections of
    these only the type counts; they count as they are now, so a run that changes them has another key the next time.
    Another version of Python compiles the code to another hash.
    """
    classes = [one for one in classes if file_of(one.__module__) is None]
    reader = _Reader({one.__module__ for one in classes})
    return hashlib.sha256(repr([reader.held(one) for one in classes]).encode("utf-8")).hexdigest()


class _Reader:
    """Reads each class and function of a session once, since they may use each other.

    Args:
        modules: those of the session.
    """

    def __init__(self, modules: Collection[str]) -> None:
        self._modules = modules
        self._read: list[Any] = []
        self._within: list[Any] = []  # collections that are being read

    def held(self, value: Any) -> Any:
        """What a class, a function or a value holds, in a form whose ``repr`` is the same in every process."""
        if isinstance(value, (type, FunctionType)):
            return self._defined(value)
        if isinstance(value, (Mapping, list, tuple, set, frozenset)):
            return self._collection(value)
        if isinstance(value, (type(None), bool, int, float, complex, str, bytes, Enum)):
            return repr(value)
        parts = next((parts(value) for kind, parts in _PARTS if isinstance(value, kind)), ())
        wrapped = getattr(value, "__wrapped__", None)  # of functools.lru_cache, for instance
        return [type(value).__qualname__, *map(self.held, parts), *([] if wrapped is None else [self.held(wrapped)])]

    def _collection(self, value: Any) -> Any:
        if any(value is one for one in self._within):
            return "itself"
        self._within.append(value)
        try:
            if isinstance(value, Mapping):
                return [(str(key), self.held(one)) for key, one in value.items() if key not in _OF_PYTHON]
            if isinstance(value, (list, tuple)):
                return [self.held(one) for one in value]
            return sorted(repr(self.held(one)) for one in sorted(value, key=lambda one: getattr(one, "__name__", "")))
        finally:
            self._within.pop()

    def _defined(self, value: Any) -> Any:
        """A class or a function: its name alone if it is not of the session or was read before."""
        name = f"{value.__module__}.{value.__qualname__}"
        if value.__module__ not in self._modules or any(value is one for one in self._read):
            return name
        self._read.append(value)
        if isinstance(value, type):
            return [
                name,
                [f"{base.__module__}.{base.__qualname__}" for base in value.__bases__],
                self.held(vars(value)),
            ]
        return [
            name,
            self._code(value.__code__, value.__globals__),
            self.held(value.__defaults__),
            self.held(value.__kwdefaults__),
            [self._cell(cell) for cell in value.__closure__ or ()],
        ]

    def _cell(self, cell: CellType) -> Any:
        try:
            return self.held(cell.cell_contents)
        except ValueError:
            return "empty"

    def _code(self, code: CodeType, names: Mapping[str, Any]) -> Any:
        loaded = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
        inner = [self._code(one, names) if isinstance(one, CodeType) else self.held(one) for one in code.co_consts]
        used = [(name, self.held(names[name])) for name in sorted(loaded) if name in names]
        takes = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        return [code.co_code, takes, code.co_names, code.co_varnames, code.co_freevars, inner, used]
