"""A question and its answer, and scripts that ask several.

A *script* is a generator that yields a ``ChatRequest`` and is sent its ``ChatAnswer``, or ``None`` if there is none.
A chain of prompts is a script that yields several times. :func:`follow` runs a script, whether its answers come from
an endpoint, from the cache, from a batch or from a dry run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import ConfigDict, Field, Strict, TypeAdapter

LONGEST_CONTENT = 8 << 20  # characters of an answer that is read from a file; a real one has thousands
MOST_TOKENS = 2**40  # token counts from here on are not believed

Text = Annotated[str, Strict()]
Count = Annotated[int, Strict(), Field(ge=0, lt=MOST_TOKENS)]


def guess_tokens(text: str) -> int:
    """A guess at the tokens of a text: four bytes of UTF-8 each, so that Chinese counts more than English."""
    return math.ceil(len(text.encode("utf-8", "replace")) / 4)


@dataclass(frozen=True)
class ChatRequest:
    """One question.

    A script says what is asked; ``Endpoint.addressed`` adds which model is asked, and how.

    Attributes:
        prompt: ``id@version`` of the prompt.
        messages: the chat, each with ``role`` and ``content``.
        schema: JSON schema of the answer, or ``None``.
        max_tokens: token limit of the answer.
        model: the model that is asked; empty until an endpoint is chosen.
        temperature: sampling temperature; ``None`` to leave it to the server.
        settings: what else the answer depends on: reasoning effort, further fields of the body, another server.
        again: whether an answer to the same question could not be used, and this request says why.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    prompt: Text
    messages: tuple[dict[Text, Text], ...]
    schema: dict[str, Any] | None
    max_tokens: Count
    model: Text = ""
    temperature: Annotated[float, Strict()] | Annotated[int, Strict()] | None = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    again: bool = field(default=False, compare=False)

    @classmethod
    def parse(cls, body: Any) -> ChatRequest:
        """The request with a :meth:`body` from an untrusted file.

        Raises:
            ValueError: it is not a request's body.
        """
        found = _REQUEST.validate_python(body)
        if found.body() != body or any({*message} != {"role", "content"} for message in found.messages):
            raise ValueError("not a request")
        return found

    def body(self) -> dict[str, Any]:
        """Everything that the answer depends on; empty ``settings`` are left out, so older requests keep their keys."""
        found = {
            "model": self.model,
            "messages": list(self.messages),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "schema": self.schema,
            "prompt": self.prompt,
        }
        return found | ({"settings": self.settings} if self.settings else {})

    @cached_property
    def key(self) -> str:
        """Hash of :meth:`body`: the row's key in the cache and the ``custom_id`` in a batch."""
        text = json.dumps(self.body(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def estimated_tokens(self) -> int:
        """A guess at the tokens of the question, with a few for each message."""
        return guess_tokens("".join(message["content"] for message in self.messages)) + 4 * len(self.messages)


@dataclass(frozen=True)
class ChatAnswer:
    """One answer.

    Attributes:
        content: the text; empty for a refusal without text.
        finish_reason: ``stop``, ``length``, ``content_filter``, ...
        tokens_in, tokens_out: as the server counted them, hidden reasoning included.
        via: how it came, if that changes its price: ``batch``.
        cached, written: tokens among ``tokens_in`` that the server read from, or wrote to, its cache of prefixes.
        reasoning: tokens among ``tokens_out`` that are hidden reasoning.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    content: Annotated[str, Strict(), Field(max_length=LONGEST_CONTENT)]
    finish_reason: Annotated[str, Strict(), Field(max_length=100)]
    tokens_in: Count
    tokens_out: Count
    via: Annotated[str, Strict(), Field(max_length=100)] = ""
    cached: Count = 0
    written: Count = 0
    reasoning: Count = 0

    @property
    def lost_in_thought(self) -> bool:
        """Whether hidden reasoning used up the token limit before the answer began."""
        return self.finish_reason == "length" and not self.content.strip()

    @classmethod
    def parse(cls, values: Any) -> ChatAnswer:
        """The answer with the values of :meth:`stored`, from an untrusted file.

        Raises:
            ValueError: these are not an answer's values.
        """
        return _ANSWER.validate_python(values)

    def stored(self) -> dict[str, Any]:
        """The values that are stored; empty and zero ones are left out, except those of the four oldest fields."""
        always = ("content", "finish_reason", "tokens_in", "tokens_out")
        return {name: value for name, value in vars(self).items() if value or name in always}


_REQUEST, _ANSWER = TypeAdapter(ChatRequest), TypeAdapter(ChatAnswer)

Script = Generator[ChatRequest, ChatAnswer | None, Any]


class Answers(Protocol):
    """Where a script's answers come from."""

    async def answer(self, request: ChatRequest) -> ChatAnswer | None:
        """The answer to a request, ``None`` if there will be none."""


async def follow(script: Script, answers: Answers) -> Any:
    """Run a script with the answers to its questions; returns its result."""
    try:
        request = next(script)
        while True:
            request = script.send(await answers.answer(request))
    except StopIteration as end:
        return end.value
    finally:
        script.close()


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing, run without an event loop, which cached answers do not need."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    work.close()
    raise RuntimeError("an answer was waited for where none can come")
