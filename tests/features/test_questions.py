"""One prompt, one validated answer, at most two questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from recbole_llm.features.answers import AnswerError
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.questions import ask
from recbole_llm.llm.chat import ChatAnswer, ChatRequest

PROMPT = load_prompt("llmdmsrec_intent")
DATA = {"session": ["a"], "candidates": ["a", "b"]}


def plain(answer: Any) -> list[str]:
    found: list[str] = answer.intents
    return found


def drive(
    *answers: str | None, parse: Callable[[Any], Any] = plain, finish_reason: str = "stop"
) -> tuple[Any, list[ChatRequest], dict[str, int]]:
    """Send answers to the script; returns its result, its requests and its counts."""
    counts: Counter[str] = Counter()
    script = ask(PROMPT, DATA, parse, counts)
    requests = [next(script)]
    for text in answers:
        try:
            requests.append(script.send(None if text is None else ChatAnswer(text, finish_reason, 1, 1)))
        except StopIteration as end:
            return end.value, requests, dict(counts)
    raise AssertionError("the script wants more answers")


def test_the_request_holds_the_prompts_messages_schema_and_version() -> None:
    _, requests, _ = drive('["a"]')
    assert requests[0].prompt == f"{PROMPT.id}@{PROMPT.version}"
    assert list(requests[0].messages) == PROMPT.messages(DATA)
    assert requests[0].schema == PROMPT.answer_class.model_json_schema()
    assert requests[0].max_tokens == PROMPT.max_tokens


def test_a_valid_answer_needs_one_question() -> None:
    result, requests, counts = drive('{"intents": ["b"]}')
    assert (result, len(requests), counts) == (["b"], 1, {"valid": 1})


def test_a_repaired_answer_is_counted_as_such() -> None:
    assert drive('{"intents": ["b"')[2] == {"repaired": 1}


def test_an_answer_cut_at_the_token_limit_is_counted_and_used_where_it_can_be() -> None:
    result, _, counts = drive('{"intents": ["a", "b', finish_reason="length")
    assert result == ["a", "b"]
    assert counts == {"truncated": 1, "repaired": 1}


def test_an_unusable_answer_is_asked_again_with_the_reason() -> None:
    result, requests, counts = drive("I like trains.", '{"intents": ["a"]}')
    assert result == ["a"]
    assert counts == {"asked_again": 1, "no_json": 1, "valid": 1}
    first, *added = requests[1].messages[len(requests[0].messages) - 1 :]
    assert first == requests[0].messages[-1]
    assert added[0] == {"role": "assistant", "content": "I like trains."}
    assert "the answer held no JSON" in added[1]["content"]


def test_an_answer_that_stays_unusable_gives_nothing() -> None:
    result, requests, counts = drive("no", "no")
    assert (result, len(requests), counts) == (None, 2, {"asked_again": 1, "no_json": 2, "invalid": 1})


def test_the_features_own_check_is_a_reason_too() -> None:
    def parse(answer: Any) -> list[str]:
        raise AnswerError("name a colour")

    _, requests, counts = drive('["a"]', '["a"]', parse=parse)
    assert "name a colour" in requests[1].messages[-1]["content"]
    assert counts["invalid"] == 1


@pytest.mark.parametrize("answers", [(None,), ("no", None)])
def test_no_answer_gives_nothing_and_is_counted(answers: tuple[str | None, ...]) -> None:
    result, _, counts = drive(*answers)
    assert result is None
    assert counts["unanswered"] == 1


def test_a_long_unusable_answer_is_shown_back_in_part() -> None:
    _, requests, _ = drive("x" * 50_000, '["a"]')
    assert len(requests[1].messages[-2]["content"]) == 4000


def test_an_answer_that_was_filtered_is_not_asked_again() -> None:
    result, requests, counts = drive("", finish_reason="content_filter")
    assert (result, len(requests), counts) == (None, 1, {"filtered": 1, "invalid": 1})


def test_a_truncated_answer_that_cannot_be_used_is_asked_again_shorter() -> None:
    _, requests, counts = drive('{"int', '["a"]', finish_reason="length")
    assert "It was cut off: answer again, shorter" in requests[1].messages[-1]["content"]
    assert (counts["truncated"], counts["asked_again"]) == (2, 1)


@pytest.mark.parametrize("error", [AssertionError("no"), RecursionError(), KeyError("a"), ZeroDivisionError()])
def test_whatever_a_reader_raises_is_the_fault_of_the_answer(error: Exception) -> None:
    def parse(answer: Any) -> list[str]:
        if answer.intents == ["bad"]:
            raise error
        return plain(answer)

    result, requests, counts = drive('["bad"]', '["a"]', parse=parse)
    assert result == ["a"]
    assert counts == {"unreadable": 1, "asked_again": 1, "valid": 1}
    assert "it could not be read" in requests[1].messages[-1]["content"]
    assert drive('["bad"]', '["bad"]', parse=parse)[2] == {"unreadable": 2, "asked_again": 1, "invalid": 1}


def test_ctrl_c_in_a_reader_is_not_swallowed() -> None:
    def parse(answer: Any) -> list[str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive('["a"]', parse=parse)


def test_the_second_question_is_another_row_of_the_cache() -> None:
    _, requests, _ = drive("no", '["a"]')
    assert requests[0].key != requests[1].key
    assert [request.again for request in requests] == [False, True]


def test_half_an_emoji_of_an_answer_can_go_into_further_questions() -> None:
    half = drive('{"intents": ["\\ud83d a film"]}')[0]
    assert PROMPT.messages({"session": half})[-1]["content"].endswith('{"session": ["? a film"]}')

    def refused(answer: Any) -> Any:
        raise AnswerError(f"{answer.intents[0]} is no candidate")

    _, requests, _ = drive('{"intents": ["\\ud83d a film"]}', "no", parse=refused)
    assert len({request.key for request in requests}) == 2
