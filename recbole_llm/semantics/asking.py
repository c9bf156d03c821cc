"""One prompt, one validated answer: what every feature's script is built from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from pydantic import BaseModel

from recbole_llm.semantics.answers import AnswerError, read_answer
from recbole_llm.semantics.llm.cache import ChatAnswer, ChatRequest
from recbole_llm.semantics.prompts import Prompt

Value = TypeVar("Value")


def ask(
    prompt: Prompt, data: Any, parse: Callable[[BaseModel], Value], counts: Counter[str] | None = None
) -> Generator[ChatRequest, ChatAnswer | None, Value | None]:
    """Ask, validate, and ask once more where the answer cannot be used.

    Args:
        prompt: what to ask.
        data: JSON-serialisable data for the prompt.
        parse: turns the validated answer into the result; raises ``AnswerError`` for what cannot be used.
        counts: where outcomes are counted: ``valid``, ``repaired``, ``asked_again``, ``length``, ``invalid``,
            ``unanswered``.

    Returns:
        The result, or ``None`` where there is no usable answer.
    """
    counts = counts if counts is not None else Counter()
    messages = prompt.messages(data)
    schema = prompt.answer_class.model_json_schema()
    for again in (False, True):
        request = ChatRequest(f"{prompt.id}@{prompt.version}", tuple(messages), schema, prompt.max_tokens)
        answer = yield request
        if answer is None:
            counts["unanswered"] += 1
            return None
        if answer.finish_reason == "length":
            counts["length"] += 1
        try:
            value, repaired = read_answer(answer.content, prompt.answer_class)
            result = parse(value)
        except AnswerError as error:
            if again:
                break
            counts["asked_again"] += 1
            messages = [
                *messages,
                {"role": "assistant", "content": answer.content[:4000]},
                {"role": "user", "content": f"That answer cannot be used: {error}. Answer again, with the JSON alone."},
            ]
        else:
            counts["repaired" if repaired else "valid"] += 1
            return result
    counts["invalid"] += 1
    return None
