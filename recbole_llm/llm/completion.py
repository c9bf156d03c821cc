"""Chat completions: the body of a request, and how to read a response.

OpenAI-compatible endpoints differ in the parameters that they take, in where they put an error's message, in whether
content is text or a list of parts, and in what their token counts include.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypedDict

from recbole_llm.llm.address import blotted, redact
from recbole_llm.llm.chat import MOST_TOKENS, ChatAnswer, ChatRequest, guess_tokens
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.llm.wire import Response
from recbole_llm.utils.text import storable

# ---- requests -----------------------------------------------------------------------------------

LEFT_OUT = "left out"
_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_NEEDED = ("model", "messages")


class Dialect:
    """Parameters that an endpoint turned out not to take, and what is sent instead.

    Attributes:
        changes: for each parameter ``left out``, or the parameter or format that is sent instead.
    """

    def __init__(self) -> None:
        self.changes: dict[str, str] = {}

    def body(self, endpoint: Endpoint, request: ChatRequest) -> dict[str, Any]:
        """The body of a request as the endpoint takes it."""
        body = chat_body(endpoint, request)
        for name, instead in self.changes.items():
            value = body.pop(name, None)
            if value is None or instead == LEFT_OUT:
                continue
            if name in _LIMITS:
                body[instead] = value
            else:
                body[name] = {"type": instead}
        return body

    def change(self, name: str, body: Mapping[str, Any]) -> str:
        """Leave out or replace a parameter of a refused body from now on; returns what is sent instead."""
        instead = LEFT_OUT
        if name in _LIMITS and _LIMITS[name] not in self.changes:
            instead = _LIMITS[name]
        elif name == "response_format" and body[name]["type"] == "json_schema":
            instead = "json_object"
        self.changes[name] = instead
        return instead


def chat_body(endpoint: Endpoint, request: ChatRequest) -> dict[str, Any]:
    """The body of a chat completion as the endpoint's file describes it."""
    body: dict[str, Any] = {"model": request.model, "messages": list(request.messages)}
    if request.temperature is not None:
        body["temperature"] = request.temperature
    body[endpoint.max_tokens_field] = request.max_tokens
    if endpoint.reasoning_effort is not None:
        body["reasoning_effort"] = endpoint.reasoning_effort
    if request.schema is not None and endpoint.response_format == "json_schema":
        schema = {"name": "answer", "schema": request.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.schema is not None and endpoint.response_format == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body | endpoint.extra


# ---- answers ------------------------------------------------------------------------------------


class Tokens(TypedDict):
    """Token counts of an answer, named as in ``ChatAnswer``."""

    tokens_in: int
    tokens_out: int
    cached: int
    written: int
    reasoning: int


_CUT_OFF = ("max_tokens", "model_length", "max_output_tokens")  # other vendors' words for "length"


def read_completion(response: Any, request: ChatRequest) -> ChatAnswer:
    """The answer in the JSON of a response.

    Raises:
        ValueError: the response is no chat completion (proxies answer 200 with all sorts of bodies).
    """
    try:
        choice = response["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        reason = storable(str(choice.get("finish_reason") or ""))[:100]
        reason = "length" if reason.casefold() in _CUT_OFF else reason
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError("the response is no chat completion") from error
    if reason == "error" or choice.get("error"):  # OpenRouter: the provider failed after the server had said 200
        raise ValueError("the answer was broken off by an error")
    text = _text_of(content)
    if not text and isinstance(refusal, str) and refusal:
        text, reason = f"I cannot: {refusal}", "refusal"
    text = storable(text)
    thought = next((message[name] for name in ("reasoning_content", "reasoning") if message.get(name)), "")
    tokens = usage_of(response, request, text, thought if isinstance(thought, str) else "")
    return ChatAnswer(content=text, finish_reason=reason, **tokens)


def spoilt_answer(response: Any, request: ChatRequest) -> ChatAnswer | None:
    """The tokens of a response that is no chat completion, as an empty answer; ``None`` if it was not billed."""
    if not isinstance(response, dict) or not ("usage" in response or "choices" in response):
        return None
    text = json.dumps(response.get("choices"))[: 4 * request.max_tokens]
    return ChatAnswer("", "", **usage_of(response, request, text))


def _text_of(content: Any) -> str:
    """The text of a message; of a list of parts, its text parts joined, without reasoning.

    Raises:
        ValueError: the content is neither text nor such a list.
    """
    if not content:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise ValueError("the response's content is no text")
    texts = [part.get("text") for part in content if part.get("type", "text") in ("text", "output_text")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("the response's content is no text")
    return "".join(map(str, texts))


# The names of counts, by vendor: OpenAI's chat completions and its later API, DeepSeek, Anthropic.
_QUESTION = ("prompt_tokens", "input_tokens")
_CACHED = (
    *("prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens"),
    *("prompt_cache_hit_tokens", "cache_read_input_tokens"),
)
_REASONING = (
    *("completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens"),
    "reasoning_tokens",
)


def usage_of(response: Any, request: ChatRequest, text: str, thought: str = "") -> Tokens:
    """Token counts of an answer, guessed if the server gives none or counts zero.

    Vendors count differently: Gemini includes reasoning only in the total, not in the answer's tokens; Anthropic does
    not include a cached prefix in the question's tokens. The counts here include every token once, as the bill does.
    """
    usage = response.get("usage") if isinstance(response, Mapping) else None
    count = partial(_count, usage if isinstance(usage, Mapping) else {})
    question, answer, total = count(*_QUESTION), count("completion_tokens", "output_tokens"), count("total_tokens")
    cached, written = count(*_CACHED), count("cache_creation_input_tokens", "prompt_tokens_details.cache_write_tokens")
    tokens_in = question or request.estimated_tokens()
    native = not count("prompt_tokens") and not count("input_tokens_details.cached_tokens")  # Anthropic's own format
    added_up = total == question + answer + cached + written
    if (question and native) or cached + written > tokens_in or added_up:
        tokens_in += cached + written
    room = max(0, total - tokens_in - answer) if total and question else None
    tokens_out, reasoning = _tokens_out(answer, room, count(*_REASONING), text, thought)
    return {
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "cached": cached,
        "written": written,
        "reasoning": reasoning,
    }


def _count(usage: Mapping[str, Any], *names: str) -> int:
    """The first of some counts that is a positive integer, 0 if none is; dotted names reach into nested objects."""
    for name in names:
        value: Any = usage
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if type(value) is int and 0 < value < MOST_TOKENS:
            return value
    return 0


def _tokens_out(answer: int, room: int | None, counted: int, text: str, thought: str) -> tuple[int, int]:
    """Tokens of an answer including its reasoning, and tokens of the reasoning alone.

    Args:
        answer: the server's count of the answer, with or without reasoning; 0 if there is none.
        room: tokens in the server's total beyond question and answer; ``None`` if there is no total.
        counted: the server's count of the reasoning; 0 if there is none.
        text, thought: the answer and its reasoning, as far as they are visible.
    """
    reasoning = counted or guess_tokens(thought)
    if not answer:
        found = room or guess_tokens(text) + reasoning
        return found, min(reasoning, found) if text else found
    beside = room or 0
    # If the total has no room for guessed reasoning, the answer's tokens include it.
    if counted > answer + beside or (room is None and reasoning > answer):
        beside = reasoning
    return answer + beside, min(max(reasoning, beside), answer + beside)


# ---- errors -------------------------------------------------------------------------------------

_UNSUPPORTED = re.compile(
    r"unsupported|not (?:\w+ ){0,2}support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|not available|"
    r"extra.?(?:inputs|forbidden)|unavailable|does not (?:accept|take)|deprecated|only the default|no such|"
    r"only \S+ is (?:allowed|supported)|may only be|cannot both|supported values|must be (?:one of|set to|1\b|['\"`])",
    re.I,
)

# Gemini's messages, which call the effort a thinking budget or level and do not name the parameter.
_EFFORT = re.compile(
    r"only works in thinking mode|\bthinking (?:budget|level)\b.{0,60}\b(?:not supported|unsupported|invalid)", re.I
)


def unsupported_parameter(response: Response, body: Mapping[str, Any]) -> str:
    """The parameter of a body that a refusal names as unsupported; empty if it names none."""
    if response.status not in (400, 422):
        return ""
    words = error_words(response)
    if "reasoning_effort" in body and _EFFORT.search(words):
        return "reasoning_effort"
    if not _UNSUPPORTED.search(words):
        return ""
    own = [name for name in body if name not in _NEEDED]
    try:
        stated = [re.split(r"[.\[]", name)[0] for name in _parameters_in(response.json())]
    except (ValueError, RecursionError):
        stated = []
    named = [name for name in own if name in stated] or [
        name for name in own if re.search(rf"\b{re.escape(name)}\b", words)
    ]
    if (
        not named
        and "response_format" in body
        and re.search(r"json_?\s?(schema|object)|structured output", words, re.I)
    ):
        return "response_format"
    return named[0] if named else ""


def _parameters_in(value: Any) -> list[str]:
    """Parameters that an error blames, wherever a vendor puts them: OpenAI's ``param``, FastAPI's ``loc``."""
    if isinstance(value, list):
        return [name for each in value[:5] for name in _parameters_in(each)]
    if not isinstance(value, Mapping):
        return []
    place = value.get("loc")
    found = [str(value["param"])] if value.get("param") else []
    found += [str(part) for part in place if part != "body"][:1] if isinstance(place, list) else []
    return found + [name for key in ("error", "detail") for name in _parameters_in(value.get(key))]


_LOOKED_AT = 4000  # characters of a message, without known secrets, that are searched for strings that look like keys


def error_words(response: Response, secrets: Collection[str] = ()) -> str:
    """The message of a response without an answer, in one line: from its JSON, or else the beginning of its text.

    Args:
        response: the response.
        secrets: strings that the response may repeat and the message must not.
    """
    try:
        found = _message_in(response.json())
    except (ValueError, RecursionError):
        page = blotted(response.body.decode("utf-8", "replace"), secrets)
        found = re.sub(r"<[^>]{0,200}>", " ", page[:_LOOKED_AT])
    return _tidy(found, secrets) or f"HTTP {response.status} without a message"


def with_stated_status(response: Response, believed: Collection[int]) -> Response:
    """A response with the status that an error in its body states, if it came as 200 instead of an answer.

    OpenRouter has said 200 by the time that a provider throttles or fails.

    Args:
        response: the response.
        believed: statuses that are taken from a body.
    """
    if response.status != 200 or b'"error"' not in response.body:
        return response
    try:
        body = response.json()
        code = body["error"]["code"] if "choices" not in body else None
    except (ValueError, KeyError, TypeError):
        return response
    return replace(response, status=code) if type(code) is int and code in believed else response


def words_in(value: Any, secrets: Collection[str]) -> str:
    """The message in the JSON of an error, in one line and without some secrets."""
    return _tidy(_message_in(value), secrets)


def _tidy(text: str, secrets: Collection[str]) -> str:
    """A text in one line, cut if it is long; secrets are removed before, as a cut one would not be recognised."""
    known = redact(blotted(text, secrets)[:_LOOKED_AT])
    printable = "".join(sign if sign.isprintable() else " " for sign in known)
    return " ".join(printable.split())[:300]


def _message_in(value: Any) -> str:
    """The message of an error, wherever a vendor puts it."""
    if isinstance(value, list):  # Gemini: a list of one; FastAPI: a list of fields
        return "; ".join(filter(None, (_message_in(each) for each in value[:5])))
    if not isinstance(value, Mapping):
        return str(value)
    place = value.get("loc")
    before = f"{'.'.join(map(str, place))}: " if isinstance(place, list) else ""
    for name in ("error", "detail", "message", "msg"):
        if value.get(name):
            return before + _message_in(value[name])
    return json.dumps(value, ensure_ascii=False)
