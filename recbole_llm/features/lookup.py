"""Features by name, and the version stamps that tell whether stored files are stale."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.features.feature import ITEMS_ALONE, VISIBLE, Feature
from recbole_llm.features.prompts import load_prompt
from recbole_llm.registry import features
from recbole_llm.utils.plugins import load_class

_STATED = ("name", "version", "prompts", "settings_keys", "files", "build")
_LISTS = ("prompts", "settings_keys", "files", "needs")


def find_feature(name: str) -> Feature:
    """The feature that a registry row names; ``module:Class`` names one from outside the package.

    Raises:
        UserError: there is no such feature.
    """
    target = features().get(name, name)
    if ":" not in target:
        hint = did_you_mean(name, features())
        raise UserError(f"there is no semantic feature {name!r}.{hint} package.module:Class names one of your own.")
    return _made(load_class(target, f"the feature {target}"), target)


@cache  # by the class: one that was defined again in a session is another one
def _made(feature_class: type, target: str) -> Feature:
    found: Feature = feature_class()
    missing = [attribute for attribute in _STATED if not hasattr(found, attribute)]
    if missing:
        raise UserError(f"the feature {target} does not say its {', '.join(missing)}.")
    for attribute in _LISTS:
        if isinstance(value := getattr(found, attribute, ()), str):
            raise UserError(f"the feature {target}: {attribute} is a list, such as ({value!r},).")
    sees = str(getattr(found, "visible", ITEMS_ALONE))
    if sees not in VISIBLE:
        hint = did_you_mean(sees, VISIBLE)
        raise UserError(f"the feature {target}: visible is one of {', '.join(VISIBLE)}, not {sees!r}.{hint}")
    if features().get(found.name, target) != target:
        raise UserError(f"the feature {target}: the name {found.name!r} is taken; choose another.")
    return found


def feature_versions(names: Iterable[str]) -> dict[str, str]:
    """For each feature, by its own name, its version and its prompts' versions."""
    found = {}
    for feature in map(find_feature, names):
        prompts = [load_prompt(prompt) for prompt in feature.prompts]
        found[feature.name] = "+".join([str(feature.version), *(f"{p.name}:{p.sha256[:8]}" for p in prompts)])
    return found


def feature_stamps(names: Iterable[str]) -> dict[str, str]:
    """For each feature the stamp that its files must carry: its version and those of the features it needs."""
    names = list(names)
    own = feature_versions(names)
    found: dict[str, str] = {}
    for feature in map(find_feature, names):
        needs = getattr(feature, "needs", ())
        found[feature.name] = " < ".join([own[feature.name], *(found[need] for need in needs if need in found)])
    return found
