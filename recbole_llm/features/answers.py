"""What answers must look like, and how they are read when they do not quite.

The rules, in order; each that applies is counted (``counts``) and ends in the manifest:

- JSON and nothing else is taken as it is.
- ``<think>`` blocks go (``thought``); a block that never ends leaves an empty answer.
- Code fences are opened (``fenced``), prose before and behind is passed over (``prose``): every place where
  an object or a list may begin is tried, objects first, and the first value that satisfies the answer's class
  is taken, so that ``Here are [some] ideas: {...}`` is read as it is meant.
- Where brackets or quotation marks are missing, ``json-repair`` mends (``repaired``).
- No content (``empty``), a refusal (``refusal``), no JSON at all (``no_json``), JSON beyond repair
  (``not_json``), or a value that is not of the class (``schema``) is an :class:`AnswerError`.

What fails is asked once more with the reason; what fails again is counted and left to the feature's fallback.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

import json_repair
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

Answer = TypeVar("Answer", bound=BaseModel)


class AnswerError(Exception):
    """An answer that cannot be used; the message is shown to the model when it is asked again.

    Args:
        message: what was wrong.
        rule: under which it is counted: ``empty``, ``refusal``, ``no_json``, ``not_json``, ``schema``, or
            ``content`` where a feature cannot use what the answer says.
    """

    def __init__(self, message: str, rule: str = "content") -> None:
        super().__init__(message)
        self.rule = rule


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Phrase = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=400)]


def at_most(count: int) -> dict[str, Any]:
    """A limit that the endpoint is told and readers are not: a small model repeats itself until something stops it."""
    return {"maxItems": count}


Paragraph = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=4000)]


_THOUGHT = re.compile(r"<think>.*?(?:</think>|$)|^.*?</think>", flags=re.S | re.I)
_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n?(.*?)(?:```|$)", flags=re.S)
_REFUSALS = (
    "i'm sorry",
    "i am sorry",
    "sorry",
    "i cannot",
    "i can't",
    "i can’t",
    "as an ai",
    "i'm unable",
    "i am unable",
)
STARTS = 24  # places that are tried; a model that has lost the thread writes brackets without end


def _parsed(text: str) -> Any:
    """The JSON value of a text, ``None`` where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _values_in(text: str) -> list[Any]:
    """Objects and lists that stand in a text, objects first; what lies inside one is not looked at."""
    decoder, found, place = json.JSONDecoder(), [], 0
    for _ in range(STARTS):
        starts = [n for n in (text.find("{", place), text.find("[", place)) if n >= 0]
        if not starts:
            break
        place = min(starts)
        try:
            value, place = decoder.raw_decode(text, place)
            found.append(value)
        except json.JSONDecodeError as error:
            if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
                break  # cut off: what stands inside is part of it, not the answer
            place += 1
        except (ValueError, RecursionError):
            place += 1
    return sorted((value for value in found if value), key=lambda value: not isinstance(value, dict))


def _repaired(text: str) -> Any:
    """What ``json-repair`` makes of a text from its first object on, or from its first list where it has none."""
    start = text.find("{") if "{" in text else text.find("[")
    if start < 0:
        return None
    try:
        value = json_repair.loads(text[start:])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict if text[start] == "{" else list) and value else None


def _readings(text: str, counts: Counter[str]) -> Iterator[tuple[Any, str]]:
    """Every value that an answer may mean, the likeliest first, with the rule that found it.

    Raises:
        AnswerError: there is no JSON in it.
    """
    body = text.strip()
    whole = _parsed(body) if body[:1] in ("{", "[") else None
    if whole is not None:
        yield whole, ""
    if "</think>" in body.casefold() or body[:7].casefold() == "<think>":
        counts["thought"] += 1
        body = _THOUGHT.sub("", body).strip()
        whole = _parsed(body) if body[:1] in ("{", "[") else None
        if whole is not None:
            yield whole, ""
    if not body:
        raise AnswerError("the answer was empty", "empty")
    fences = [part for part in (found.strip() for found in _FENCE.findall(body)) if part]
    for part in fences:
        value = _parsed(part)
        if isinstance(value, (dict, list)):
            yield value, "fenced"
    for value in _values_in(body):
        yield value, "prose"
    for part in [*fences, body]:
        value = _repaired(part)
        if value is not None:
            yield value, "repaired"
    if "{" not in body and "[" not in body:
        if body.casefold().startswith(_REFUSALS):
            raise AnswerError("the answer was a refusal, not JSON", "refusal")
        raise AnswerError("the answer held no JSON", "no_json")
    raise AnswerError("the answer was not valid JSON", "not_json")


def extract_json(text: str) -> tuple[Any, bool]:
    """The JSON value that an answer most likely means, and whether it had to be repaired.

    Raises:
        AnswerError: there is none.
    """
    value, rule = next(_readings(text, Counter()))
    return value, rule == "repaired"


def read_answer(text: str, kind: type[Answer], counts: Counter[str] | None = None) -> tuple[Answer, bool]:
    """An answer's text as its class, and whether its JSON was repaired.

    Args:
        text: as the model wrote it.
        kind: class of the answer.
        counts: where the rules that applied are counted.

    Raises:
        AnswerError: it is not JSON or not of the class; the message says what to correct.
    """
    counts = counts if counts is not None else Counter()
    problem: ValidationError | None = None
    readings = _readings(text, counts)
    while True:
        try:
            value, rule = next(readings)
        except AnswerError:
            if problem is None:
                raise
            break
        if isinstance(value, list) and len(kind.model_fields) == 1:
            value = {next(iter(kind.model_fields)): value}  # the list without its wrapper
        try:
            answer = kind.model_validate(value)
        except ValidationError as error:
            problem = problem or error
            continue
        if rule in ("fenced", "prose"):
            counts[rule] += 1
        return answer, rule == "repaired"
    first = problem.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the answer"
    raise AnswerError(f"{place}: {first['msg']}", "schema") from problem
