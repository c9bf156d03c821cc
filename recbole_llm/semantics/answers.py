"""What answers must look like, and how they are read when they do not quite.

The rules, in order: the text is cut out of code fences and surrounding prose; it must parse as JSON, with
``json-repair``'s help where a bracket or quotation mark is missing; it must satisfy the answer's class. What
fails is asked once more with the reason; what fails again is counted and left to the feature's fallback.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, TypeVar

import json_repair
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

Answer = TypeVar("Answer", bound=BaseModel)


class AnswerError(Exception):
    """An answer that cannot be used; the message is shown to the model when it is asked again."""


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Phrase = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=400)]


class IntentAnswer(BaseModel):
    """LLM-DMsRec: the candidates (titles, or their numbers) that the user may intend next."""

    model_config = ConfigDict(extra="ignore")

    intents: list[Phrase] = Field(min_length=1, max_length=20, description="titles copied from the candidates")


Paragraph = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=4000)]


class SummaryAnswer(BaseModel):
    """ISRF: who might like or dislike an item, or what a user likes or dislikes, and why."""

    model_config = ConfigDict(extra="ignore")

    summarization: Paragraph = Field(description="the conclusion alone")
    reasoning: str = Field(default="", max_length=8000, description="what it rests on")


class FeatureAnswer(BaseModel):
    """ISRF: the features of an item that its likers and dislikers point to, and why."""

    model_config = ConfigDict(extra="ignore")

    feature: Paragraph = Field(description="the features alone")
    reasoning: str = Field(default="", max_length=8000, description="what they rest on")


_FENCE = re.compile(r"```(?:json)?\s*(.*?)(?:```|$)", flags=re.S | re.I)
_REFUSALS = ("i'm sorry", "i am sorry", "i cannot", "i can't", "as an ai")


def extract_json(text: str) -> tuple[Any, bool]:
    """The JSON value in an answer, and whether it had to be repaired.

    Raises:
        AnswerError: there is none.
    """
    body = text.strip()
    if not body:
        raise AnswerError("the answer was empty")
    fence = _FENCE.search(body)
    if fence and fence.group(1).strip():
        body = fence.group(1).strip()
    try:
        return json.loads(body), False
    except (ValueError, RecursionError):
        pass  # no JSON, or brackets and digits without end, as a model that has lost the thread writes them
    start = min((place for place in (body.find("{"), body.find("[")) if place >= 0), default=-1)
    if start < 0:
        if body.casefold().startswith(_REFUSALS):
            raise AnswerError("the answer was a refusal, not JSON")
        raise AnswerError("the answer held no JSON")
    try:
        return json.JSONDecoder().raw_decode(body[start:])[0], False  # prose after the JSON is ignored
    except (ValueError, RecursionError):
        pass
    try:
        repaired = json_repair.loads(body[start:])
    except (ValueError, RecursionError) as error:
        raise AnswerError("the answer was not valid JSON") from error
    if not isinstance(repaired, (dict, list)) or not repaired:
        raise AnswerError("the answer was not valid JSON")
    return repaired, True


def read_answer(text: str, kind: type[Answer]) -> tuple[Answer, bool]:
    """An answer's text as its class, and whether its JSON was repaired.

    Raises:
        AnswerError: it is not JSON or not of the class; the message says what to correct.
    """
    value, repaired = extract_json(text)
    if isinstance(value, list) and len(kind.model_fields) == 1:
        value = {next(iter(kind.model_fields)): value}  # the list without its wrapper
    try:
        return kind.model_validate(value), repaired
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise AnswerError(f"{place}: {first['msg']}") from error
