"""Options of verbs, as their signatures declare them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path, PurePath
from types import NoneType
from typing import Any, ParamSpec, TypeVar, get_args, get_origin

from recbole_llm.errors import UserError
from recbole_llm.utils.text import NAMES

P = ParamSpec("P")
R = TypeVar("R")

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
_PLAIN = {*_WORDS, NoneType}


def checked(verb: Callable[P, R]) -> Callable[P, R]:
    """A verb that refuses options of another type than its signature declares, before anything runs.

    Raises:
        UserError: such an option; see :func:`of_types`.
        TypeError: as Python raises it, for options that the verb does not have.
    """
    signature = inspect.signature(verb)

    @wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:
            return verb(*args, **kwargs)  # for Python's own message, which names the verb
        given.arguments.update(of_types(verb, given.arguments))
        return verb(*given.args, **given.kwargs)

    return call


def of_types(verb: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options that a verb's signature declares as numbers, texts, paths, flags or names, as such values.

    Numbers are read as texts and names where those are taken: a dataset or a user may be called 7. Other options and
    settings are left out: they have checks of their own. ``None`` stands for the default.

    Raises:
        UserError: a value is of another type and cannot be read as the declared one.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    found = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        kinds = _kinds(parameter.annotation)
        takes_names = any(get_origin(kind) is Sequence for kind in kinds)
        if name not in given or not (takes_names or kinds <= _PLAIN):
            continue
        value = given[name]
        if value is None and parameter.default is not parameter.empty:
            found[name] = parameter.default
            continue
        value = _plain(value)
        try:
            if isinstance(value, bool) and bool not in kinds:  # would be read as 1 or 0
                raise TypeError(f"{value} is no number or text")
            adapter = TypeAdapter[Any](parameter.annotation, config=ConfigDict(coerce_numbers_to_str=True))
            found[name] = adapter.validate_python(value)
        except (TypeError, ValidationError) as error:
            words = [NAMES] if takes_names else sorted(_WORDS[kind] for kind in kinds - {NoneType})
            raise UserError(f"--{name}={given[name]}: give {' or '.join(words)}.") from error
    return found


def _plain(value: Any) -> Any:
    """A value of numpy, pandas or torch, a path, or several of these, as plain values; several in a list or tuple."""
    if isinstance(value, (type, str, bytes, Mapping)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, Iterable) or isinstance(value, str):
        return value
    return tuple(map(_plain, value)) if isinstance(value, tuple) else [*map(_plain, value)]


def _kinds(annotation: Any) -> set[Any]:
    """The types of ``Annotated[int | None, ...]``: int and NoneType."""
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    return {*(get_args(annotation) or (annotation,))}
