"""JSON found in text, whole or broken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.features.json_text import DEEPEST, mended_values, whole_values, without_reasoning
from tests.features.test_answers import JSON_VALUES

OBJECTS = st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4) | st.lists(JSON_VALUES, max_size=4)
SIGNS = st.lists(st.sampled_from([*"{}[]\"'“”:,\\\n a1-.", "true", "null", "```json", "<think>", "</think>", "\\u00"]))


def whole(text: str) -> list[Any]:
    return [found.value for found in whole_values(text)]


# ---- reasoning ----------------------------------------------------------------------------------

ENDED = {
    "think": "<think>{draft}</think>",
    "thinking": "<thinking>{draft}</thinking>",
    "upper case": "<THINK>{draft}</THINK>",
    "reasoning": "<reasoning>{draft}</reasoning>",
    "a name space": "<seed:think>{draft}</seed:think>",
    "Magistral": "[THINK]{draft}[/THINK]",
    "Kimi": "◁think▷{draft}◁/think▷",
    "open thoughts": "<|begin_of_thought|>{draft}<|end_of_thought|>",
    "with an attribute": '<think budget="1">{draft}</think>',
    "as a process": "<thinking_process>{draft}</thinking_process>",
    "Cohere": "<|START_THINKING|>{draft}<|END_THINKING|>",
    "Gemma": "<|channel>thought\n{draft}<channel|>",
    "a fence of its own": "```thinking\n{draft}\n```",
    "twice": "<think>{draft}</think> so <think>{draft}</think>",
    "begun in the prompt": "{draft}</think>",
    "a thought that speaks of its tags": "<think>I close with </think> and then {draft}</think>",
    "a thought within": "<think>now <think> {draft}</think> {draft}</think>",
    "harmony": "<|channel|>analysis<|message|>{draft}<|end|><|start|>assistant<|channel|>final<|message|>",
    "harmony with a form": "<|channel|>analysis<|message|>{draft}<|end|><|channel|>final <|constrain|>json<|message|>",
    "harmony without its tokens": "analysis{draft}assistantfinal",
    "harmony with a tool": "<|channel|>commentary to=x <|message|>{draft}<|call|><|channel|>final <|message|>",
}
UNENDED = {
    "think": "<think>{draft}",
    "thinking": "<thinking>{draft}",
    "Magistral": "[THINK]{draft}",
    "with an attribute": '<think budget="1">{draft}',
    "as a process": "<thought_process>{draft}",
    "Cohere": "<|START_THINKING|>{draft}",
    "Gemma": "<|channel>thought\n{draft}",
    "a fence of its own": "```thinking\n{draft}",
    "gpt-oss without its signs": "analysisThe user likes {draft}",
    "harmony": "<|channel|>analysis<|message|>{draft}",
}


@pytest.mark.parametrize("form", ENDED.values(), ids=ENDED)
def test_reasoning_goes_and_the_answer_stays(form: str) -> None:
    text = form.replace("{draft}", 'maybe {"a": ["draft"]}') + '{"a": 1}'
    assert without_reasoning(text).strip(" so") == '{"a": 1}'


def test_what_follows_a_harmony_answer_is_none_of_it() -> None:
    assert without_reasoning('<|channel|>final<|message|>{"a": 1}<|return|>') == '{"a": 1}'


@pytest.mark.parametrize("form", UNENDED.values(), ids=UNENDED)
def test_reasoning_that_never_ends_leaves_nothing(form: str) -> None:
    assert without_reasoning(form.replace("{draft}", 'maybe {"a": 1}')) == ""


@pytest.mark.parametrize("text", ['See [think] and [analysis]: {"a": 1}', 'analysis of {"a": 1}', "a < b > think"])
def test_what_only_looks_like_reasoning_stays(text: str) -> None:
    assert without_reasoning(text) == text


# ---- whole values -------------------------------------------------------------------------------


@given(OBJECTS)
def test_a_value_is_found_as_it_is(value: Any) -> None:
    assert whole(json.dumps(value)) == [value]


@given(st.lists(OBJECTS, max_size=4))
def test_values_are_found_between_prose_from_first_to_last(values: list[Any]) -> None:
    text = "see (1): " + " and ".join(json.dumps(value) for value in values) + ". Done."
    assert whole(text) == values


@pytest.mark.parametrize("text", ["[Infinity]", "[ -Infinity, 1]", '[{"a": Infinity}]', "[true, Infinity]"])
def test_what_python_writes_for_an_endless_number_begins_a_list_too(text: str) -> None:
    value = json.loads(text)
    assert whole(f"see {text}.") == [value]
    assert list(mended_values(text)) == [value]


def test_what_is_cut_off_holds_no_value_of_its_own() -> None:
    assert whole('{"a": [1]} {"b": {"a": [2]}, "c": "d') == [{"a": [1]}]


def test_a_bracket_that_is_no_value_is_passed_over() -> None:
    assert whole('Here are [some] {ideas}: {"a": 1}') == [{"a": 1}]


# ---- broken values ------------------------------------------------------------------------------


@given(OBJECTS)
def test_what_is_not_broken_is_read_as_it_is(value: Any) -> None:
    assert list(mended_values(json.dumps(value))) == [value]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": ["b", "c"', {"a": ["b", "c"]}),
        ('{"a": ["b", "c', {"a": ["b", "c"]}),
        ('{"a": ["b", "c"]', {"a": ["b", "c"]}),
        ('{"a": ["b", "c"}', {"a": ["b", "c"]}),
        ('["b", "c"', ["b", "c"]),
        ("{'a': ['b', 'c']}", {"a": ["b", "c"]}),
        ("{'a': 'it's good'}", {"a": "it's good"}),
        (r"{'a': 'it\'s good'}", {"a": "it's good"}),
        ("{“a”: “b”}", {"a": "b"}),
        ('{a: ["b"], c: true}', {"a": ["b"], "c": True}),
        ('{"a": calm, "b": light and warm}', {"a": "calm", "b": "light and warm"}),
        ('{"a": "b" "c": "d"}', {"a": "b", "c": "d"}),
        ('{"a": ["b" "c"]}', {"a": ["b", "c"]}),
        ('{"a": ["b"\n"c",]}', {"a": ["b", "c"]}),
        ('{"a": "The "best" film", "b": 1}', {"a": 'The "best" film', "b": 1}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        (r'{"a": "50\% \u0041\n"}', {"a": "50% A\n"}),
        ('{"a": True, "b": None}', {"a": True, "b": None}),
        ('{"a": 1, "b": -2.5e3,}', {"a": 1, "b": -2500.0}),
        ('{"a": , "b": 1}', {"b": 1}),
        ('{"a": {"b": [1, 2}}', {"a": {"b": [1, 2]}}),
        ('{"a": ["b"], "c', {"a": ["b"]}),
        ('{"a": 1' + "0" * 5000 + "}", {"a": "1" + "0" * 5000}),
    ],
)
def test_what_is_missing_is_put_in(text: str, value: Any) -> None:
    assert list(mended_values(text)) == [value]


def test_every_broken_value_is_read_and_prose_is_not() -> None:
    assert list(mended_values("[some] {'a': 1} or {nothing} and {'a': 2}")) == [{"a": 1}, {"a": 2}]


def test_what_is_nested_too_deeply_is_not_mended() -> None:
    assert list(mended_values("[" * DEEPEST)) != [None]
    assert list(mended_values("[" * (DEEPEST + 1))) == [None]


@given(SIGNS)
def test_whatever_stands_there_is_read_or_passed_over(signs: list[str]) -> None:
    text = "".join(signs)
    without_reasoning(text)
    whole(text)
    list(mended_values(text))


ENDLESS = {
    "open lists": "[",
    "open objects": '{"a":',
    "closed lists": "[]",
    "broken lists": "[1,",
    "nested and broken": '{"a": [',
    "strings that end nowhere": '{"a ',
    "quotation marks": '"',
    "quotation marks within": '["a "b" c',
    "escapes": '["\\',
    "blanks after a quotation mark": '" ',
    "names without a colon": "{a",
    "fences": "```json ",
    "thoughts": "<think>",
    "ends of thoughts": "</think>",
    "channels": "<|channel|>final",
    "digits": "1",
    "signs": "{-",
    "colons": "{a:",
    "the body that stopped a run": '{"```json{```',
}


@pytest.mark.parametrize("part", ENDLESS.values(), ids=ENDLESS)
def test_endless_text_is_read_to_its_end(part: str) -> None:
    """A reader that rescans the text would take hours here."""
    text = part * (200_000 // len(part))
    for begin in ("", "{", '{"a": "'):
        without_reasoning(begin + text)
        whole(begin + text)
        list(mended_values(begin + text))
