"""Versions of features: what makes stored files stale."""

from __future__ import annotations

from collections.abc import Iterable

from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.registry import find_feature


def feature_versions(names: Iterable[str]) -> dict[str, str]:
    """For each feature, by its own name, its version and those of its prompts."""
    found = {}
    for feature in map(find_feature, names):
        prompts = [load_prompt(prompt) for prompt in feature.prompts]
        found[feature.name] = "+".join([str(feature.version), *(f"{p.id}@{p.version}:{p.sha256[:8]}" for p in prompts)])
    return found


def feature_stamps(names: Iterable[str]) -> dict[str, str]:
    """For each feature what its files are checked against: its version, and those of the features it needs."""
    names = list(names)
    own = feature_versions(names)
    found: dict[str, str] = {}
    for feature in map(find_feature, names):
        needs = getattr(feature, "needs", ())
        found[feature.name] = " < ".join([own[feature.name], *(found[need] for need in needs if need in found)])
    return found
