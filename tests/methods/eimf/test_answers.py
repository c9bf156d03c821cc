"""Reading interests from answers, and rejecting what only looks like interests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recbole_llm.features.answers import AnswerError, read_answer
from recbole_llm.methods.eimf.features import OpenInterests

GOOD = '{"interests": ["a", "b"]}'
DRAFT = '{"interests": ["draft"]}'

BODIES = {
    "thinking": f"<thinking>maybe {DRAFT}</thinking>{GOOD}",
    "thinking, unindented JSON": f"<thinking>\n- {DRAFT}\n- no\n</thinking>\n\n```json\n{GOOD}\n```",
    "THINK": f"[THINK]{DRAFT}[/THINK]{GOOD}",
    "harmony": f"<|channel|>analysis<|message|>{DRAFT}<|end|><|channel|>final<|message|>{GOOD}<|return|>",
    "harmony without its tokens": f"analysisWe need JSON: {DRAFT}.assistantfinal{GOOD}",
    "a draft": f"Draft: {DRAFT}\nThat is too little. Final answer: {GOOD}",
    "a draft in a fence": f"Draft:\n```json\n{DRAFT}\n```\nFinal answer:\n{GOOD}",
    "two fences": f"```json\n{DRAFT}\n```\nOn reflection:\n```json\n{GOOD}\n```",
    "a draft as a list": f'First ["draft"], then {GOOD}. I left out ["c"].',
    "broken drafts": f"{{'interests': ['draft']}} and then {GOOD}",
    "broken both": "Draft {'interests': ['draft']} Final {'interests': ['a', 'b']}",
    "a final answer that ends too soon": f'Plan {{"steps": ["draft"]}}. Final: {GOOD[:-2]}',
    "numbers": '{"1": "a", "2": "b"}',
    "numbers within": '{"interests": {"1": "a", "2": "b"}}',
    "numbered names": '{"interest_1": "a", "Interest 2": "b"}',
    "a reason beside them": '{"reasoning": "because", "interests": ["a", "b"]}',
    "an error before them": '{"error": null} {"interests": ["a", "b"]}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_last_whole_answer_counts(body: str) -> None:
    answer, _ = read_answer(body, OpenInterests)
    assert answer.interests == ["a", "b"]


@pytest.mark.parametrize(
    "value",
    [
        {"error": "I do not have enough information"},
        {"error": {"message": "overloaded", "type": "server"}},
        {"message": "none"},
        {"reasoning": "They like films.", "confidence": "high"},
        {"interest": "films"},
        {"interests": {"error": "none"}},
        {"interests": {}},
        {"1": "a", "error": "incomplete"},
        {"interests": "films"},
        {"type": "object", "properties": {"interests": {"type": "array"}}},
        {},
    ],
    ids=json.dumps,
)
def test_what_is_not_interests_is_none(value: dict[str, Any]) -> None:
    with pytest.raises(AnswerError) as caught:
        read_answer(json.dumps(value), OpenInterests)
    assert caught.value.rule in ("schema", "not_json")


def test_the_schema_that_endpoints_are_shown_is_part_of_every_key() -> None:
    """The schema is hashed into cache keys, so any change in it would make paid answers be bought again."""
    assert OpenInterests.model_json_schema() == {
        "title": "OpenInterests",
        "description": "EIMF: interests in the model's own words; "
        '``{"1": "...", "2": "..."}``, the released form, is read too.',
        "type": "object",
        "properties": {
            "interests": {
                "title": "Interests",
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": 400},
                "minItems": 1,
                "maxItems": 20,
            }
        },
        "required": ["interests"],
    }
