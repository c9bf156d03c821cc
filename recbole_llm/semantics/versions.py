"""Versions of features: what makes stored files stale."""

from __future__ import annotations

from collections.abc import Iterable

from recbole_llm.semantics.prompts import load_prompt
from recbole_llm.semantics.registry import FEATURES


def feature_versions(names: Iterable[str]) -> dict[str, str]:
    """For each feature its version and those of its prompts."""
    found = {}
    for name in names:
        feature = FEATURES[name]
        prompts = [load_prompt(prompt) for prompt in feature.prompts]
        found[name] = "+".join([str(feature.version), *(f"{p.id}@{p.version}:{p.sha256[:8]}" for p in prompts)])
    return found


def feature_stamps(names: Iterable[str]) -> dict[str, str]:
    """For each feature what its files are checked against: its version, and those of the features it needs."""
    own = feature_versions(names)
    found: dict[str, str] = {}
    for name, version in own.items():
        needs = getattr(FEATURES[name], "needs", ())
        found[name] = " < ".join([version, *(found[need] for need in needs if need in found)])
    return found
