"""What answers must look like, and how they are read when they do not quite.

The rules, in order; each that applies is counted (``counts``) and ends in the manifest:

- JSON and nothing else is taken as it is.
- Reasoning goes (``thought``): ``<think>``, ``<thinking>``, ``[THINK]``, channels of gpt-oss and their like. Reasoning
  that never ends leaves an empty answer.
- Code fences are opened (``fenced``), prose before and behind is passed over (``prose``). Of several values the last
  whole object that satisfies the answer's class is taken, or else the last list: a draft comes before the answer.
- Where brackets, commas or quotation marks are missing, they are put in (``repaired``).
- No content (``empty``), a refusal (``refusal``), no JSON at all (``no_json``), JSON beyond repair (``not_json``),
  more than ``LONGEST`` characters (``too_long``), or a value that is not of the class (``schema``) is an
  :class:`AnswerError`. Whatever else a reader raises is counted as ``unreadable``.

What fails is asked once more with the reason; what fails again is counted and left to the feature's fallback.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from recbole_llm.features.json_text import mended_values, parsed, whole_values, without_reasoning
from recbole_llm.utils.text import complaint

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
    """A number as text; blanks alone as no text at all."""
    if isinstance(value, str):
        return value if value.strip() else ""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Phrase = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=400)]


def at_most(count: int) -> dict[str, Any]:
    """A limit that the endpoint is told and readers are not: a small model repeats itself until something stops it."""
    return {"maxItems": count}


Paragraph = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=4000)]


_BRACKETS = ("{", "[")
LONGEST = 100_000  # characters of an answer that are read, its reasoning left out
MOST_WHOLE, MOST_MENDED = 1000, 200  # values that are looked for; an answer with more has lost the thread
MOST_VALUES = 64  # of these that are held against the answer's class
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


def _readings(text: str, counts: Counter[str]) -> Iterator[tuple[Any, str]]:
    """Every value that an answer may mean, the likeliest first, with the rule that found it.

    Raises:
        AnswerError: there is no JSON in it.
    """
    body = text.strip()
    yield from _whole(body)
    said = without_reasoning(body).strip()
    if said != body:
        counts["thought"] += 1
        yield from _whole(said)
    if not said:
        raise AnswerError("the answer was empty", "empty")
    if len(said) > LONGEST:
        raise AnswerError(f"the answer was longer than {LONGEST:,} characters", "too_long")
    whole = islice(whole_values(said), MOST_WHOLE)
    yield from _last_first([(each.value, "fenced" if each.fenced else "prose") for each in whole])
    mended = islice(mended_values(said), MOST_MENDED)
    yield from _last_first([(value, "repaired") for value in mended])
    if "{" in said or "[" in said:
        raise AnswerError("the answer was not valid JSON", "not_json")
    if said.casefold().startswith(_REFUSALS):
        raise AnswerError("the answer was a refusal, not JSON", "refusal")
    raise AnswerError("the answer held no JSON", "no_json")


def _whole(text: str) -> Iterator[tuple[Any, str]]:
    """The value that is the whole text."""
    if text[:1] in _BRACKETS and len(text) <= LONGEST and (value := parsed(text)) is not None:
        yield value, ""


def _last_first(found: list[tuple[Any, str]]) -> list[tuple[Any, str]]:
    """The last values that hold anything, objects before lists."""
    held = [pair for pair in found if pair[0]][: -MOST_VALUES - 1 : -1]
    return sorted(held, key=lambda pair: not isinstance(pair[0], dict))


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
    try:
        for value, rule in _readings(text, counts):
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
    except AnswerError:
        if problem is None:
            raise
    assert problem is not None
    raise AnswerError(complaint(problem, "the answer"), "schema") from problem
