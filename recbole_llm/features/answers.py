"""Parse and validate answers, also those that are not clean JSON.

The rules in order. Each rule that applies is counted under its name in brackets; the counts go into the manifest:

- An answer that is JSON and nothing else is taken as it is.
- Reasoning is removed (``thought``): ``<think>``, ``<thinking>``, ``[THINK]``, gpt-oss channels and the like. If the
  reasoning never ends, only the text before it is left.
- Code fences are opened (``fenced``), and prose around the value is skipped (``prose``). Of several values, the last
  complete object that satisfies the answer class is taken, otherwise the last such list: drafts precede the answer.
- Missing brackets, commas and quotation marks are added (``repaired``).
- An :class:`AnswerError` is raised for no content (``empty``), a refusal (``refusal``), no JSON (``no_json``), JSON
  beyond repair (``not_json``), more than ``LONGEST`` characters (``too_long``) and a value that its class rejects
  (``schema``). Any other exception counts as ``unreadable``.

A question whose answer fails is asked once more, with the reason. If it fails again, that is counted and the feature's
fallback applies.
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
        rule: name under which it is counted: ``empty``, ``refusal``, ``no_json``, ``not_json``, ``too_long``,
            ``schema``, ``unreadable``, or ``content`` for valid JSON that the feature cannot use.
    """

    def __init__(self, message: str, rule: str = "content") -> None:
        super().__init__(message)
        self.rule = rule


def _as_text(value: Any) -> Any:
    """A number as text, and a string of blanks as an empty one."""
    if isinstance(value, str):
        return value if value.strip() else ""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Phrase = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=400)]


def at_most(count: int) -> dict[str, Any]:
    """A limit for the endpoint's schema, not for validation: small models repeat themselves until stopped."""
    return {"maxItems": count}


Paragraph = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=4000)]


_BRACKETS = ("{", "[")
LONGEST = 100_000  # characters of an answer without its reasoning; longer ones are refused
MOST_WHOLE, MOST_MENDED = 1000, 200  # values to search for; an answer with more has degenerated
MOST_VALUES = 64  # of these, how many are validated against the answer class
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
    """Candidate values of an answer, likeliest first, each with the rule that found it.

    Raises:
        AnswerError: no candidate is left; its rule says what the answer was instead.
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
    """The value of a text that is JSON as a whole; nothing for any other text."""
    if text[:1] in _BRACKETS and len(text) <= LONGEST and (value := parsed(text)) is not None:
        yield value, ""


def _last_first(found: list[tuple[Any, str]]) -> list[tuple[Any, str]]:
    """The last ``MOST_VALUES`` non-empty values, last first, but objects before lists."""
    held = [pair for pair in found if pair[0]][: -MOST_VALUES - 1 : -1]
    return sorted(held, key=lambda pair: not isinstance(pair[0], dict))


def read_answer(text: str, kind: type[Answer], counts: Counter[str] | None = None) -> tuple[Answer, bool]:
    """Parse an answer into its class; also returns whether its JSON was repaired.

    Args:
        text: as the model wrote it.
        kind: class of the answer.
        counts: counter of the rules that applied.

    Raises:
        AnswerError: it is not JSON or not of the class; the message says what to correct.
    """
    counts = counts if counts is not None else Counter()
    problem: ValidationError | None = None
    try:
        for value, rule in _readings(text, counts):
            if isinstance(value, list) and len(kind.model_fields) == 1:
                value = {next(iter(kind.model_fields)): value}  # a list that came without its wrapper object
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
