"""Reading an LLM's answer: finding, repairing and validating its JSON."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.features.answers import LONGEST, AnswerError, read_answer
from recbole_llm.methods.llmdmsrec.features import IntentAnswer

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_subnormal=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def intents(text: str) -> list[str]:
    answer, _ = read_answer(text, IntentAnswer)
    return answer.intents


# ---- finding the JSON ---------------------------------------------------------------------------


@given(st.text())
def test_arbitrary_text_is_read_or_refused_as_an_answer(text: str) -> None:
    with suppress(AnswerError):
        read_answer(text, IntentAnswer)


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
    text = 'The user seems to want this: {"intents": ["a", "b"]}. Hope that helps [me]!'
    answer, repaired = read_answer(text, IntentAnswer)
    assert (answer.intents, repaired) == (["a", "b"], False)


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
        ('"a"', "no JSON"),
        ("null", "no JSON"),
        ("<think>The user likes", "empty"),
        ("[" * 20_000, "not valid JSON"),
        ('{"a":' * 10_000, "not valid JSON"),
        ('{"intents": ["a"]}' + " " * LONGEST + ".", "longer than 100,000 characters"),
        ('{"intents": ["' + "a" * LONGEST + '"]}', "longer than 100,000 characters"),
    ],
    ids=[
        "empty",
        "blank",
        "refusal",
        "another refusal",
        "prose",
        "empty fence",
        "bracket",
        "text",
        "null",
        "thought alone",
        "brackets",
        "objects",
        "endless prose",
        "endless JSON",
    ],
)
def test_what_holds_no_json_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(AnswerError, match=reason):
        read_answer(text, IntentAnswer)


@pytest.mark.parametrize("blank", ["", "  ", "\n", "\u3000"])
def test_blanks_are_no_phrase(blank: str) -> None:
    with pytest.raises(AnswerError):
        read_answer(json.dumps({"intents": ["a", blank]}), IntentAnswer)


def test_a_number_longer_than_python_reads_is_refused() -> None:
    with pytest.raises(AnswerError, match="no JSON"):
        read_answer("1" * 5000, IntentAnswer)


TITLE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)
TITLES = st.lists(TITLE, min_size=1, max_size=6)
PROSE = st.text(st.characters(codec="utf-8", exclude_characters="{<`"), max_size=60).map(lambda text: text + "\n")
WRAPPINGS = {
    "thought": "<think>{before}</think>\n{json}",
    "thought without its beginning": "{before}</think>{json}",
    "fenced": "{before}```json\n{json}\n```{after}",
    "prose": "{before}{json}{after}",
    "thought, prose and fence": "<think>{before}</think>{after}```\n{json}\n```",
}


@pytest.mark.parametrize("form", WRAPPINGS.values(), ids=WRAPPINGS)
@given(titles=TITLES, before=PROSE, after=PROSE)
def test_an_answer_is_found_whatever_stands_around_it(form: str, titles: list[str], before: str, after: str) -> None:
    whole = json.dumps({"intents": titles})
    text = form.replace("{before}", before).replace("{after}", after).replace("{json}", whole)
    assert intents(text) == titles


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ('{"intents": ["a"]}', {}),
        ('<think>[1] maybe {"intents": ["b"]}</think>{"intents": ["a"]}', {"thought": 1}),
        ('<think>hm</think>\n```json\n{"intents": ["a"]}\n```', {"thought": 1, "fenced": 1}),
        ('Here are [some] ideas: {"intents": ["a"]}', {"prose": 1}),
        ('See [1] and {"reason": "x"}: {"intents": ["a"]} Good luck {friend}!', {"prose": 1}),
        ('The best is ["a"].', {"prose": 1}),
        ('{"intents": ["<think>a</think>"]}', None),
    ],
)
def test_each_rule_that_applies_is_counted(text: str, counted: dict[str, int] | None) -> None:
    counts: Counter[str] = Counter()
    answer, repaired = read_answer(text, IntentAnswer, counts)
    assert not repaired
    if counted is None:
        assert (answer.intents, counts) == (["<think>a</think>"], {})
    else:
        assert (answer.intents, counts) == (["a"], counted)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "empty"),
        ("I'm sorry, but no.", "refusal"),
        ("The user may like shampoo.", "no_json"),
        ("{", "not_json"),
        ('{"titles": ["a"]}', "schema"),
    ],
)
def test_every_failure_has_a_rule(text: str, rule: str) -> None:
    with pytest.raises(AnswerError) as caught:
        read_answer(text, IntentAnswer)
    assert caught.value.rule == rule


# ---- the answer's class -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('First {"intents": ["draft"]}. Better: {"intents": ["final"]}.', "final"),
        ('{"intents": ["draft"]}\n{"intents": ["final"]}', "final"),
        ('First ["draft"], then ["final"]', "final"),
        ('{"intents": ["object"]}, or ["list"]', "object"),
        ('{"intents": ["fits"]} since {"reason": "x"}', "fits"),
        ('{"intents": ["complete"]}, or {"intents": ["cut', "complete"),
    ],
)
def test_of_several_values_the_last_that_fits_is_the_answer(text: str, found: str) -> None:
    assert intents(text) == [found]


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
        (json.dumps({"intents": ["a"] * 21}), "intents"),
        (json.dumps({"intents": ["a" * 401]}), r"intents\.0"),
    ],
)
def test_a_wrong_type_or_size_is_refused_and_the_place_is_named(text: str, place: str) -> None:
    with pytest.raises(AnswerError, match=f"^{place}: "):
        read_answer(text, IntentAnswer)
