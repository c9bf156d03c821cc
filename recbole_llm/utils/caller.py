"""What the verbs of the Python API do for the process that calls them: a script or a notebook with work of its own."""

from __future__ import annotations

import inspect
import logging
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path, PurePath
from types import NoneType
from typing import Any, ParamSpec, TypeVar, get_args

from recbole_llm.errors import UserError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_at_work = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Work that no other thread of the process does at the same time, and that leaves its random generators alone.

    A training seeds the global generators of Python, numpy and torch and draws from them. Two at once would draw each
    other's numbers, and what the caller draws afterwards would be the same after every call.
    """
    if not _at_work.acquire(blocking=False):
        logger.info("another thread is at work; waiting for it")
        _at_work.acquire()
    try:
        restored = _states()
        try:
            yield
        finally:
            for restore in restored:
                restore()
    finally:
        _at_work.release()


def checked(verb: Callable[P, R]) -> Callable[P, R]:
    """A verb that refuses options of another type than its signature gives, before anything runs.

    Raises:
        UserError: such an option.
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
    """The given options that a verb's signature says to be numbers, texts, paths or true and false, as these.

    Of the verb's other options, and of its settings, it says nothing.

    Raises:
        UserError: a value is of another type and cannot be read as this one.
    """
    from pydantic import TypeAdapter, ValidationError

    found = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        if name not in given or not _kinds(parameter.annotation) <= _PLAIN:
            continue
        value = given[name]
        value = value.tolist() if hasattr(value, "tolist") else value  # numbers of numpy and torch
        if isinstance(value, PurePath):
            value = str(value)
        try:
            found[name] = TypeAdapter(parameter.annotation).validate_python(value)
        except ValidationError as error:
            kinds = sorted(_WORDS[kind] for kind in _kinds(parameter.annotation) - {NoneType})
            raise UserError(f"--{name}={given[name]}: give {' or '.join(kinds)}.") from error
    return found


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
_PLAIN = {*_WORDS, NoneType}


def _kinds(annotation: Any) -> set[Any]:
    """The types of ``Annotated[int | None, ...]``: int and NoneType."""
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    return {*(get_args(annotation) or (annotation,))}


def _states() -> list[Callable[[], Any]]:
    """Functions that restore the generators of the loaded libraries, and torch's choice of cuDNN's algorithms."""
    found: list[Callable[[], Any]] = [partial(random.setstate, random.getstate())]
    if (numpy := sys.modules.get("numpy")) is not None:
        found.append(partial(numpy.random.set_state, numpy.random.get_state()))
    if (torch := sys.modules.get("torch")) is not None:
        found.append(partial(torch.set_rng_state, torch.get_rng_state()))
        if torch.cuda.is_initialized():
            found.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
        cudnn = torch.backends.cudnn
        found += [partial(setattr, cudnn, name, getattr(cudnn, name)) for name in ("deterministic", "benchmark")]
    return found
