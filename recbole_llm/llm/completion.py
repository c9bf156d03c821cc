"""Chat completions: the body of a request, and what a response says."""

from __future__ import annotations

import json
import re
from typing import Any

from recbole_llm.llm.chat import MOST_TOKENS, ChatAnswer, ChatRequest, guess_tokens
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.llm.wire import Response


def chat_body(endpoint: Endpoint, request: ChatRequest) -> dict[str, Any]:
    """The body of a chat completion, without the endpoint's ``extra`` fields."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": list(request.messages),
        "temperature": request.temperature,
        endpoint.max_tokens_field: request.max_tokens,
    }
    if request.schema is not None and endpoint.response_format == "json_schema":
        schema = {"name": "answer", "schema": request.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.schema is not None and endpoint.response_format == "json_object":
        body["response_format"] = {"type": "json_object"}
    return body


def usage_of(response: Any) -> list[int | None]:
    """Tokens in and out as the server counted them, ``None`` where it did not."""
    usage = response.get("usage") if isinstance(response, dict) else None
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    return [count if type(count) is int and 0 <= count < MOST_TOKENS else None for count in counts]


def read_completion(response: Any, request: ChatRequest) -> ChatAnswer:
    """The answer in the JSON of a response; servers that do not count tokens have them estimated.

    Raises:
        ValueError: the response is no chat completion (proxies answer 200 with all sorts of bodies).
    """
    try:
        choice = response["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
        reason = str(choice.get("finish_reason") or "")[:100]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError("the response is no chat completion") from error
    if not text and isinstance(refusal, str) and refusal:
        text, reason = f"I cannot: {refusal}", "refusal"
    text = text or ""
    if not isinstance(text, str):
        raise ValueError("the response's content is no text")
    text = text.encode("utf-8", "replace").decode("utf-8")  # half an emoji cannot be stored
    tokens_in, tokens_out = usage_of(response)
    return ChatAnswer(
        content=text,
        finish_reason=reason,
        tokens_in=request.estimated_tokens() if tokens_in is None else tokens_in,
        tokens_out=guess_tokens(text) if tokens_out is None else tokens_out,
    )


def error_words(response: Response) -> str:
    """What a response that is no answer says, in one line: the message of its JSON, or the beginning of its text."""
    try:
        found = _message_in(response.json())
    except ValueError:
        found = re.sub(r"<[^>]{0,200}>", " ", response.body[:4000].decode("utf-8", "replace"))
    printable = "".join(sign if sign.isprintable() else " " for sign in found)
    return " ".join(printable.split())[:300] or f"HTTP {response.status} without a word"


def _message_in(value: Any) -> str:
    """The message of an error, wherever a vendor puts it."""
    if isinstance(value, list):  # Gemini: a list of one; FastAPI: a list of fields
        return "; ".join(filter(None, (_message_in(each) for each in value[:5])))
    if not isinstance(value, dict):
        return str(value)[:300]
    place = value.get("loc")
    before = f"{'.'.join(map(str, place))}: " if isinstance(place, list) else ""
    for name in ("error", "detail", "message", "msg"):
        if value.get(name):
            return before + _message_in(value[name])
    return json.dumps(value, ensure_ascii=False)[:300]
