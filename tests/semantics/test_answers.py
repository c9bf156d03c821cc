"""Reading what a model wrote."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.semantics.answers import AnswerError, IntentAnswer, extract_json, read_answer

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def intents(text: str) -> list[str]:
    answer, _ = read_answer(text, IntentAnswer)
    return answer.intents


# ---- finding the JSON ---------------------------------------------------------------------------


@given(st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4))
def test_plain_json_is_read_as_it_is(value: dict[str, Any]) -> None:
    assert extract_json(json.dumps(value)) == (value, False)


@given(st.text())
def test_arbitrary_text_is_read_or_refused_as_an_answer(text: str) -> None:
    with suppress(AnswerError):
        extract_json(text)


@given(st.lists(st.sampled_from(["{", "}", "[", "]", '"', ":", ",", "a", "1", " ", "\\", "```", "json", "\n", "'"])))
def test_scrambled_json_is_read_or_refused_as_an_answer(parts: list[str]) -> None:
    with suppress(AnswerError):
        read_answer("".join(parts), IntentAnswer)


@given(JSON_VALUES, st.integers(min_value=0, max_value=200))
def test_json_cut_anywhere_is_repaired_or_refused_as_an_answer(value: Any, length: int) -> None:
    with suppress(AnswerError):
        read_answer(json.dumps({"intents": value})[:length], IntentAnswer)


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"intents": ["a"]}\n```',
        '```\n{"intents": ["a"]}\n```',
        'Here you are:\n```JSON\n{"intents": ["a"]}\n```\nAnything else?',
        '```json\n{"intents": ["a"]}',
    ],
)
def test_fences_are_taken_off(text: str) -> None:
    assert intents(text) == ["a"]


def test_prose_around_the_json_is_ignored() -> None:
    value, repaired = extract_json('The user seems to want this: {"intents": ["a", "b"]}. Hope that helps [me]!')
    assert (value, repaired) == ({"intents": ["a", "b"]}, False)


@pytest.mark.parametrize(
    "text", ['{"intents": ["a", "b"', '{"intents": ["a", "b', '{"intents": ["a", "b"]', '["a", "b"']
)
def test_truncated_json_is_repaired(text: str) -> None:
    answer, repaired = read_answer(text, IntentAnswer)
    assert (answer.intents, repaired) == (["a", "b"], True)


def test_single_quotes_are_repaired() -> None:
    assert intents("{'intents': ['a', 'b']}") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("As an AI language model I have no wishes.", "refusal"),
        ("The user may like shampoo.", "no JSON"),
        ("```json\n```", "no JSON"),
        ("{", "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        ('{"a":' * 50_000, "not valid JSON"),
    ],
    ids=["empty", "blank", "refusal", "another refusal", "prose", "empty fence", "bracket", "brackets", "objects"],
)
def test_what_holds_no_json_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(AnswerError, match=reason):
        extract_json(text)


def test_a_number_longer_than_python_reads_is_refused() -> None:
    with pytest.raises(AnswerError, match="no JSON"):
        extract_json("1" * 5000)


# ---- the answer's class -------------------------------------------------------------------------


def test_a_list_without_its_wrapper_is_wrapped() -> None:
    assert intents('["a", "b"]') == ["a", "b"]


def test_numbers_are_taken_as_text() -> None:
    assert intents('{"intents": [3, "b"]}') == ["3", "b"]


def test_further_fields_are_ignored() -> None:
    assert intents('{"reason": "because", "intents": ["a"]}') == ["a"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"intents": "a"}', "intents"),
        ('{"intents": null}', "intents"),
        ('{"intents": []}', "intents"),
        ('{"intents": {"a": 1}}', "intents"),
        ('{"intents": [["a"]]}', r"intents\.0"),
        ('{"intents": ["a", true]}', r"intents\.1"),
        ('{"intents": ["a", ""]}', r"intents\.1"),
        ('{"titles": ["a"]}', "intents"),
        ("[]", "intents"),
        ('"a"', "the answer"),
        ("null", "the answer"),
        (json.dumps({"intents": ["a"] * 21}), "intents"),
        (json.dumps({"intents": ["a" * 401]}), r"intents\.0"),
    ],
)
def test_a_wrong_type_or_size_is_refused_and_the_place_is_named(text: str, place: str) -> None:
    with pytest.raises(AnswerError, match=f"^{place}: "):
        read_answer(text, IntentAnswer)
