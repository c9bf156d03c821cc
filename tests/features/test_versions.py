"""Feature versions, which mark stored features as stale."""

from __future__ import annotations

from recbole_llm.features.lookup import feature_versions, find_feature
from recbole_llm.features.prompts import load_prompt
from recbole_llm.registry import features, methods


def test_every_feature_of_every_method_has_a_version() -> None:
    for method in methods().values():
        assert set(feature_versions(method.features)) == set(method.features)


def test_features_are_registered_under_their_names() -> None:
    assert all(feature.name == name for name, feature in ((name, find_feature(name)) for name in features()))


def test_a_version_holds_those_of_the_prompts() -> None:
    prompt = load_prompt("llmdmsrec_intent")
    version = feature_versions(["intent"])["intent"]
    assert version == f"{find_feature('intent').version}+llmdmsrec_intent@{prompt.version}:{prompt.sha256[:8]}"


def test_a_feature_without_prompts_is_its_number() -> None:
    assert feature_versions(["candidates"]) == {"candidates": str(find_feature("candidates").version)}
