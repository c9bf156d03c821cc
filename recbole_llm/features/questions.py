"""Ask one prompt and validate its answer: the building block of every feature's script.

A chain of prompts is a script with one ``ask`` after the other::

    def script(item: int, counts: Counter[str]) -> Script:
        plus = yield from ask(load_prompt("isrf_item_plus"), basics(item), read, counts)
        if plus is None:
            return None
        return (yield from ask(load_prompt("isrf_item_fusion"), basics(item) | {"plus": plus}, read, counts))

Chains of different keys advance independently: the second question about one item does not wait for the first
about another. A dry run needs nothing more: it answers each question with the prompt's example.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator
from functools import cache
from typing import Any, TypeVar

from recbole_llm.features.answers import AnswerError, read_answer
from recbole_llm.features.json_text import without_reasoning
from recbole_llm.features.prompts import Prompt
from recbole_llm.llm.chat import ChatAnswer, ChatRequest
from recbole_llm.utils.text import storable

logger = logging.getLogger(__name__)

UNREADABLE, REASONED = "unreadable", "reasoned"
Value = TypeVar("Value")


def ask(
    prompt: Prompt,
    data: Any,
    parse: Callable[[Any], Value],
    counts: Counter[str] | None = None,
) -> Generator[ChatRequest, ChatAnswer | None, Value | None]:
    """Ask, validate, and ask once more if the answer cannot be used.

    Args:
        prompt: what to ask.
        data: JSON-serialisable data for the prompt.
        parse: turns the validated answer into the result; raises ``AnswerError`` for what cannot be used.
        counts: counter of outcomes: ``valid`` or ``repaired``, ``asked_again``, ``invalid`` (given up),
            ``unanswered``; and of reasons: ``truncated`` (``finish_reason`` is ``length``), ``reasoned`` (truncated,
            and nothing but reasoning), ``filtered``, ``unreadable`` (``parse`` raised another error), and the rules
            of ``answers``.

    Returns:
        The result, or ``None`` if there is no usable answer.
    """
    counts = counts if counts is not None else Counter()
    messages = prompt.messages(data)
    for again in (False, True):
        answer = yield ChatRequest(prompt.name, tuple(messages), prompt.schema, prompt.max_tokens, again=again)
        if answer is None:
            counts["unanswered"] += 1
            return None
        if answer.finish_reason == "length":
            counts["truncated"] += 1
        if reasoned_only(answer):
            counts[REASONED] += 1
            _say_reasoned(prompt.id)
            break  # a second answer would end in its reasoning, too
        if answer.finish_reason == "content_filter":
            counts["filtered"] += 1
            break  # the same text would be filtered again
        try:
            value, repaired = read_answer(answer.content, prompt.answer_class, counts)
            result = parse(value)
        except Exception as error:  # any error of a reader counts as a fault of the answer
            problem = error if isinstance(error, AnswerError) else _unreadable(prompt, error)
            counts[problem.rule] += 1
            if again:
                break
            counts["asked_again"] += 1
            messages = [
                *messages,
                {"role": "assistant", "content": answer.content[:4000] or "(no answer)"},
                {"role": "user", "content": storable(f"That answer cannot be used: {problem}. {_advice(answer)}")},
            ]
        else:
            counts["repaired" if repaired else "valid"] += 1
            return result
    counts["invalid"] += 1
    return None


def reasoned_only(answer: ChatAnswer) -> bool:
    """Whether reasoning, hidden or written out, used up the token limit before the answer began."""
    return answer.finish_reason == "length" and not without_reasoning(answer.content).strip()


def _unreadable(prompt: Prompt, error: Exception) -> AnswerError:
    """The error of an answer that broke its reader; logged once per kind of error, as the reader may be at fault."""
    _say_unreadable(prompt.id, type(error).__name__)
    logger.debug("an answer to %s could not be read", prompt.id, exc_info=error)
    return AnswerError("it could not be read", UNREADABLE)


@cache
def _say_reasoned(prompt: str) -> None:
    logger.warning(
        "an answer to %s ended in its reasoning: raise --llm_max_tokens, or lower --llm_reasoning_effort", prompt
    )


@cache
def _say_unreadable(prompt: str, kind: str) -> None:
    logger.warning(
        "an answer to %s could not be read (%s); it is kept, counted as unreadable and asked for again. manifest.json "
        "names the requests of such answers.",
        prompt,
        kind,
    )


def _advice(answer: ChatAnswer) -> str:
    if answer.finish_reason == "length":
        return "It was cut off: answer again, shorter, with the JSON alone."
    return "Answer again, with the JSON alone."
