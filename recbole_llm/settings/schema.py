"""How a setting is defined, once and in one place: its type, bounds and choices, its meaning and its role.

A method lists its settings in a :class:`SettingsModel`; ``settings/core.py`` has those that every run has. The command
line, YAML files, the Python API, the identity of a run, search spaces and the reference pages all read these classes.
Values are in ``properties/``. RecBole's own settings that no class lists take the type of their default.
"""

from __future__ import annotations

import math
import re
import struct
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import date
from enum import StrEnum
from functools import cache
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.utils.yaml import value_of


class Role(StrEnum):
    """What a setting can change."""

    NUMBERS = "numbers"  # a result; it tells two runs apart
    SEMANTIC = "semantic"  # how text features are made; it tells runs apart if their model reads such features
    LOOP = "loop"  # what our training loop does beyond RecBole's; it tells two runs apart
    MACHINE = "machine"  # where, how fast and at what cost a run is done; never a result
    FOLDER = "folder"  # where files are on this machine; not recorded
    SHOWN = "shown"  # what is computed from the ranks and shown


IDENTITY = (Role.NUMBERS, Role.SEMANTIC, Role.LOOP)
ITEM, USER = "item_id", "user_id"  # what a row of vectors made elsewhere stands for


def setting(
    help: str,
    role: Role = Role.NUMBERS,
    *,
    before: Any = ...,
    plain: Any = None,
    keyed_as: str | None = None,
    **bounds: Any,
) -> Any:
    """One field of a :class:`SettingsModel`.

    Args:
        help: what it does, in one sentence.
        role: what it can change.
        before: the value that reproduces runs from before the setting existed, so that these keep their key and
            result row; ``...`` for a setting that has always existed.
        plain: for ``Role.LOOP``: the value that RecBole's own loop accepts.
        keyed_as: name under which the value enters a run's key, if the setting was renamed.
        **bounds: pydantic's ``ge``, ``gt``, ``le``, ``lt``, ``min_length``.
    """
    extra = {"role": role, "before": before, "plain": plain, "keyed_as": keyed_as}
    return Field(description=help, json_schema_extra=extra, **bounds)


class SettingsModel(BaseModel):
    """Settings of a method, typed.

    A field without a value in ``properties/`` may be null. A subclass may override :meth:`reads`,
    :meth:`reads_vectors`, :meth:`unread` and :meth:`check`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    # Settings that were removed, with the only value that stored runs have: it still enters the key.
    retired: ClassVar[dict[str, Any]] = {}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The settings among ``values`` (RecBole's configuration, or layered settings), which were checked before."""
        return cls.model_construct(**{name: _get(values, name) for name in cls.model_fields})

    def reads(self, features: tuple[str, ...]) -> tuple[str, ...]:
        """The method's features that its model reads under these settings; no others are asked for or made."""
        return features

    def reads_vectors(self, features: tuple[str, ...], by_rule: bool) -> set[str]:
        """Which given vectors are read under these settings: ``ITEM``, ``USER``, both or none.

        Args:
            features: the method's features.
            by_rule: whether the offline rule makes the features, all of them or those that an LLM left out.
        """
        return vectors_of_texts(features)

    def unread(self, epochs: int | None) -> dict[str, str]:
        """Settings that nothing reads in a training of at most ``epochs`` epochs, with the reason.

        A search would draw values for them without any effect, and report one of these as the best.
        """
        return {}

    def check(self, values: Mapping[str, Any]) -> None:
        """Check the settings against each other, and against those of the run (``values``).

        Raises:
            UserError: two of them contradict each other.
        """


def vectors_of_texts(features: tuple[str, ...]) -> set[str]:
    """``ITEM`` if the features are item texts or clusters of them, which given item vectors replace."""
    return {ITEM} if {"itemtext", "codes"} & {*features} else set()


def _get(values: Any, name: str) -> Any:
    """A value of a mapping, or of RecBole's ``Config``, which gives ``None`` for names that it lacks."""
    return values.get(name) if isinstance(values, Mapping) else values[name]


def role_of(field: FieldInfo) -> Role:
    """The role of a field: what it can change."""
    return Role(_extra(field, "role") or Role.NUMBERS)


def _extra(field: FieldInfo, name: str, default: Any = None) -> Any:
    extra = field.json_schema_extra
    return extra.get(name, default) if isinstance(extra, dict) else default


def before_of(field: FieldInfo) -> Any:
    """The value that reproduces runs from before the setting existed; ``...`` if it has always existed."""
    return _extra(field, "before", ...)


def plain_of(field: FieldInfo) -> Any:
    """The value that RecBole's own loop accepts."""
    return _extra(field, "plain")


def key_name(name: str, field: FieldInfo) -> str:
    """The name under which a field's value enters a run's key."""
    return str(_extra(field, "keyed_as") or name)


# ---- types --------------------------------------------------------------------------------------

_TYPE_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list such as [5,10]",
    dict: "a mapping such as {a: 1}",
}


def _parts(annotation: Any) -> Iterator[Any]:
    """The alternatives of an annotation, without the wrapping of ``Annotated``."""
    if get_origin(annotation) is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def choices_of(field: FieldInfo) -> tuple[Any, ...]:
    """The words among which a field chooses; empty if it takes something else."""
    return tuple(word for part in _parts(field.annotation) if get_origin(part) is Literal for word in get_args(part))


def kinds_of(field: FieldInfo) -> tuple[type, ...]:
    """The plain types that a field takes besides words."""
    found = [get_origin(part) or part for part in _parts(field.annotation)]
    return tuple(kind for kind in found if kind in _TYPE_NAMES)


def may_be_null(field: FieldInfo) -> bool:
    """Whether a field may be null (``key: ~``)."""
    return any(part is type(None) for part in _parts(field.annotation))


def bounds_of(field: FieldInfo) -> str:
    """A field's bounds in words, such as ``at least 1``; empty if it has none."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [f"{words[name]} {getattr(item, name)}" for item in field.metadata for name in words if hasattr(item, name)]
    return ", ".join(found)


def described(field: FieldInfo) -> str:
    """What a field takes, in words."""
    names = [_TYPE_NAMES[kind] for kind in kinds_of(field)]
    return " or ".join([*names, *map(str, choices_of(field))])


def normalised(value: Any, kinds: tuple[type, ...]) -> Any:
    """A YAML value converted to the wanted type: ``20.0`` to a whole number, ``8`` to 8.0, ``10`` to a list of one."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if int in kinds and float not in kinds and number and float(value).is_integer():
        return int(value)
    if kinds == (float,) and number:
        with suppress(OverflowError):  # beyond all floats: refused like any number that is not finite
            return float(value)  # 8 and 8.0 are one run
    if kinds == (str,) and number:
        return str(value)
    if str in kinds and isinstance(value, date):
        return value.isoformat()  # YAML makes a date of 2014-03-01
    if kinds == (list,) and isinstance(value, str) and isinstance(whole := value_of(value), list):
        return whole  # a list in quotation marks, as RecBole's files have them
    if kinds == (list,) and isinstance(value, str) and "," in value:
        return [value_of(part) for part in value.split(",") if part.strip()]
    if kinds == (list,) and not isinstance(value, (dict, type(None))):
        return list(value) if isinstance(value, (list, tuple)) else [value]
    return value


_NARROW = {"float32": "f", "float16": "e"}  # precisions of numpy and torch, as struct names them


def _shortest(value: Any, precision: str) -> Any:
    """The shortest decimals that are the same numbers in a narrow precision: 0.1, not 0.10000000149011612."""
    if isinstance(value, list):
        return [_shortest(each, precision) for each in value]
    tried = (float(f"{value:.{digits}g}") for digits in range(1, 18))
    return next(found for found in tried if struct.pack(precision, found) == struct.pack(precision, value))


def from_python(value: Any, where: str) -> Any:
    """A value from Python as YAML has it: of numpy, pandas and torch numbers and lists, of paths text.

    Args:
        value: what the caller of the Python API gave.
        where: what to blame in the message.

    Raises:
        UserError: YAML has nothing of the kind.
    """
    if hasattr(value, "tolist"):
        precision = _NARROW.get(str(getattr(value, "dtype", "")).removeprefix("torch."))
        value = value.tolist()
        if precision is not None:
            return _shortest(value, precision)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {key: from_python(each, where) for key, each in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [from_python(each, where) for each in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    raise UserError(
        f"{where}: settings are numbers, texts, true, false and null, and lists and mappings of these; got a "
        f"value of type {type(value).__name__}."
    )


@cache
def _adapter(owner: type[SettingsModel], name: str) -> TypeAdapter[Any]:
    field = owner.model_fields[name]
    annotation: Any = field.annotation
    for item in field.metadata:
        annotation = Annotated[annotation, item]
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def check_value(owner: type[SettingsModel], name: str, value: Any, default: Any, where: str) -> Any:
    """``value``, checked and converted for the field ``name`` of a class.

    Args:
        owner: the class that defines the setting.
        name: the setting.
        value: the parsed YAML value.
        default: the value of the layer below.
        where: what to blame in the message, such as ``--epochs=abc`` or a file's name.

    Raises:
        UserError: the value is of another type, out of bounds or not among the choices.
    """
    field = owner.model_fields[name]
    if value is None and may_be_null(field):
        return None
    taken = normalised(value, kinds_of(field))
    try:
        _adapter(owner, name).validate_python(taken)
    except ValidationError as error:
        raise UserError(f"{where}: {_complaint(name, field, value, default, error)}") from None
    # The same for a file that writes the default as 0: a run keeps the default's spelling.
    plain = type(default) in (int, float) and type(taken) in (int, float)
    return default if plain and taken == default else taken


def _complaint(name: str, field: FieldInfo, value: Any, default: Any, error: ValidationError) -> str:
    first = error.errors()[0]
    bound = {
        "greater_than_equal": ("at least", "ge"),
        "greater_than": ("above", "gt"),
        "less_than_equal": ("at most", "le"),
        "less_than": ("below", "lt"),
    }.get(first["type"])
    if bound is not None:
        limit = first["ctx"][bound[1]]
        limit = int(limit) if float(limit).is_integer() else limit
        return f"{name} is {bound[0]} {limit}; got {value!r}."
    words = choices_of(field)
    if words and not kinds_of(field):
        return f"{name} is one of {', '.join(words)}; got {value!r}.{did_you_mean(str(value), words)}"
    return f"{name} takes {described(field)} (default {default!r}), got {value!r}."


# ---- settings that no class lists: RecBole's ------------------------------------------------------

_WHOLE_NUMBER = re.compile(
    r"(_size|_num|_step|_steps|_layers|_layer|_heads|_head|_epochs|_length|_LENGTH|^n_.*|^num_.*)$|^(step|k|topk)$"
)


def check_open(name: str, value: Any, default: Any, where: str) -> Any:
    """``value``, checked against the type of a RecBole setting's default.

    Args:
        name: the setting.
        value: the parsed YAML value.
        default: the value of the layer below; if it is null, any value is accepted.
        where: what to blame in the message.

    Raises:
        UserError: the value is of another type.
    """
    kind: type | None = type(default) if type(default) in _TYPE_NAMES else None
    if kind is int and not _WHOLE_NUMBER.search(name):
        kind = float  # RecBole writes some real-valued settings as 1 or 0
    if kind is None or (value is None and kind not in (bool, int, float)):
        return value
    # Where the default is a whole number, a whole number stays one: it may be a size.
    taken = value if kind is not type(default) else normalised(value, (kind,))
    number = isinstance(taken, (int, float)) and not isinstance(taken, bool)
    fits: dict[type, Callable[[], bool]] = {float: lambda: number and math.isfinite(taken)}
    if not fits.get(kind, lambda: type(taken) is kind)():
        raise UserError(f"{where}: {name} takes {_TYPE_NAMES[kind]} (default {default!r}), got {value!r}.")
    return default if kind is float and taken == default else taken
