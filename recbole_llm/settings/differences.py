"""Labels that tell variants of one model apart by their settings: ``[train_targets=all]``."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_llm.settings.definitions import Definitions
from recbole_llm.settings.identity import before, tells_apart

_UNDERNEATH = ("backbone",)  # names the model that a method is built on, whose own settings come with it
_SHOWN_DIFFERENCES = 3
_VALUE_LENGTH = 24
_SAID = "\0"  # in place of a value that the preset's name stands for

Variant = Mapping[str, Any]  # the settings of one variant, by name


def row_settings(settings: Mapping[str, Any], definitions: Definitions) -> dict[str, Any]:
    """The settings that tell two rows of one model apart."""
    return {k: v for k, v in settings.items() if tells_apart(k, v, definitions) and k not in ("seed", "model")}


def with_files(identities: Sequence[Variant], reads: Sequence[Mapping[str, str]]) -> list[Variant]:
    """Settings of variants, and the files in which they differ: ``profiles#`` and six digits of the hash.

    A file that only some variants read is not named if their settings already tell them apart.

    Args:
        identities: the settings of each variant.
        reads: the hash of each file that the variant reads, by name, and an address under the name ``server``.
    """
    found: dict[str, set[str | None]] = defaultdict(set)
    of_equals: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    for name in dict.fromkeys(name for files in reads for name in files):
        for files, identity in zip(reads, identities, strict=True):
            digest = files.get(name)
            of_equals[name, json.dumps(identity, sort_keys=True, default=str)].add(digest)
            found[name].add(digest)
    telling = {name for (name, _), digests in of_equals.items() if len(digests) > 1 or len(found[name] - {None}) > 1}
    return [
        {**identity, **dict(_shown(*item) for item in files.items() if item[0] in telling)}
        for files, identity in zip(reads, identities, strict=True)
    ]


def by_preset(identities: Sequence[Variant], chosen: Sequence[tuple[str | None, Mapping[str, str]]]) -> list[Variant]:
    """Settings of variants; if their presets differ, the preset's name replaces all settings that came from it.

    If one preset's name stands for different settings, the settings are kept, since they say more than the name.

    Args:
        identities: the settings of each variant.
        chosen: the preset of each variant, and where each of its settings came from.
    """
    made = [
        {key for key, source in origin.items() if name and source.startswith("properties/preset/") and key in identity}
        for identity, (name, origin) in zip(identities, chosen, strict=True)
    ]
    meant: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for identity, (name, _), keys in zip(identities, chosen, made, strict=True):
        for key in keys:
            meant[name, key].add(str(identity[key]))
    if len({name for name, _ in chosen}) == 1 or any(len(values) > 1 for values in meant.values()):
        return list(identities)
    return [
        {"preset": name, **identity, **dict.fromkeys(keys, _SAID)}
        for identity, (name, _), keys in zip(identities, chosen, made, strict=True)
    ]


def _shown(name: str, value: str) -> tuple[str, str]:
    """What a run read, as a setting of a label: a server by its address, a file by its hash."""
    return (name, value) if name == "server" else (f"{name}#", value[:6])


def differences(identities: Sequence[Variant], definitions: Definitions) -> list[str]:
    """For each variant of a model the settings that differ, as `` [a=1, b=2]``.

    A value that more than half of the variants have is not named, so that ablations name what they change. A preset is
    always named, since its name stands for its settings. Of many differences, three are named and the others counted.
    If that leaves two variants alike, the settings that tell them apart come first, as many as are needed.
    """
    if len(identities) == 1:
        return [""]
    values = [
        {key: _text(each, key, definitions) for key in dict.fromkeys(k for one in identities for k in one)}
        for each in identities
    ]
    values = _without_what_comes_along(values, identities, definitions)
    usual = {key: _of_most([each[key] for each in values if each[key] != _SAID]) for key in values[0]}
    usual |= {key: "unset" for key in usual if key == "preset"}  # a preset's name stands for its settings
    short = {key: _shortened([each[key] for each in values]) for key in values[0]}
    changed = [[key for key, value in each.items() if value not in (usual[key], _SAID)] for each in values]
    shown = [min(len(keys), _SHOWN_DIFFERENCES) for keys in changed]
    while True:
        named = [
            _bracket([_setting(key, short[key][each[key]]) for key in keys[:count]], len(keys) - count)
            for each, keys, count in zip(values, changed, shown, strict=True)
        ]
        alike = [n for n, text in enumerate(named) if named.count(text) > 1 and shown[n] < len(changed[n])]
        if not alike:
            return named
        for number in alike:
            same = [each for each, text in zip(values, named, strict=True) if text == named[number]]
            apart = {key for key in values[0] if len({each[key] for each in same}) > 1}
            first = sorted(changed[number], key=lambda key: key not in apart)
            shown[number] += first == changed[number]
            changed[number] = first


def _setting(key: str, value: str) -> str:
    return f"{key}{value}" if key.endswith("#") else f"{key}={value}"


def _bracket(named: Sequence[str], more: int) -> str:
    ending = f", +{more}" if more else ""
    return f" [{', '.join(named)}{ending}]" if named else ""


def _without_what_comes_along(
    values: Sequence[dict[str, str]], identities: Sequence[Variant], definitions: Definitions
) -> list[dict[str, str]]:
    """The variants' values, the backbone first; settings that only some backbones have follow from its name and go.

    They stay if variants with the same backbone differ in them.
    """
    first = [key for key in _UNDERNEATH if len({each.get(key) for each in values}) > 1]
    if not first:
        return list(values)
    kinds: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for each in values:
        kinds[tuple(each[key] for key in first)].append(each)
    along = {
        key
        for key in values[0]
        if before(key, definitions) is ...
        and any(key not in one for one in identities)
        and all(len({each[key] for each in alike}) == 1 for alike in kinds.values())
    }
    kept = [*first, *(key for key in values[0] if key not in first and key not in along)]
    return [{key: each[key] for key in kept} for each in values]


def _of_most(values: Sequence[str]) -> str | None:
    """The value that more than half have, ``None`` if there is none."""
    value, count = next(iter(Counter(values).most_common(1)), (None, 0))
    return value if 2 * count > len(values) else None


def _text(identity: Variant, key: str, definitions: Definitions) -> str:
    value = identity.get(key, before(key, definitions))
    return text_of(None if value is ... else value)


def text_of(value: Any) -> str:
    """A setting's value as labels show it, before long ones are cut."""
    if value is None:
        return "unset"
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return ",".join(value)  # as a command line takes it, without Python's quotation marks
    return str(value)


def _shortened(values: Sequence[str]) -> dict[str, str]:
    """Each value as a label shows it: long ones are cut, but never so short that two look alike."""
    distinct = list(dict.fromkeys(values))
    for length in range(_VALUE_LENGTH, max(map(len, distinct)) + 1):
        found = {value: value if len(value) <= length else value[: length - 1] + "…" for value in distinct}
        if len(set(found.values())) == len(distinct):
            return found
    return {value: value for value in distinct}
