"""Quirks of OpenAI-compatible endpoints: unsupported parameters, and where they put content and token counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer
from recbole_llm.llm.client import Acquaintance, Client
from tests.llm.chat import asking, endpoint_at, numbered, question
from tests.stub_server import Call, Reply, StubServer

SCHEMA = {"type": "object"}


def refusing(name: str, body: dict[str, Any] | list[Any], status: int = 400) -> Any:
    """Refuse every request that has the parameter ``name``, in a vendor's words; answer the others."""
    return lambda call: Reply(status=status, body=body) if name in call.body else Reply(text="fine")


def openai(param: str, message: str, code: str = "unsupported_parameter") -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


REFUSALS: dict[str, tuple[str, Any, dict[str, str]]] = {
    "OpenAI, temperature": (
        "temperature",
        openai("temperature", "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default "
               "(1) value is supported.", "unsupported_value"),
        {"temperature": "left out"},
    ),
    "OpenAI, max_tokens": (
        "max_tokens",
        openai("max_tokens", "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
               "'max_completion_tokens' instead."),
        {"max_tokens": "max_completion_tokens"},
    ),
    "OpenAI, effort": (
        "reasoning_effort",
        openai("reasoning_effort", "Unsupported value: 'reasoning_effort' does not support 'minimal' with this model.",
               "unsupported_value"),
        {"reasoning_effort": "left out"},
    ),
    "Kimi, temperature": (
        "temperature",
        {"error": {"message": "invalid temperature: only 1 is allowed for this model"}},
        {"temperature": "left out"},
    ),
    "Anthropic, temperature": (
        "temperature",
        {"error": {"message": "`temperature` may only be set to 1 when thinking is enabled."}},
        {"temperature": "left out"},
    ),
    "Groq, effort": (
        "reasoning_effort",
        {"error": {"message": "`reasoning_effort` must be one of `none` or `default`"}},
        {"reasoning_effort": "left out"},
    ),
    "Gemini, no thoughts": (
        "reasoning_effort",
        [{"error": {"code": 400, "message": "Budget 0 is invalid. This model only works in thinking mode."}}],
        {"reasoning_effort": "left out"},
    ),
    "Gemini, level": (
        "reasoning_effort",
        [{"error": {"code": 400, "message": "Thinking level NONE is not supported for this model."}}],
        {"reasoning_effort": "left out"},
    ),
    "OpenAI, value": (
        "reasoning_effort",
        openai("reasoning_effort", "Invalid value: 'minimal'. Supported values are: 'low' and 'high'.", "invalid"),
        {"reasoning_effort": "left out"},
    ),
    "without param": (
        "reasoning_effort",
        {"error": {"message": "Unrecognized request argument supplied: reasoning_effort", "param": None}},
        {"reasoning_effort": "left out"},
    ),
    "Mistral": (
        "top_k",
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}]},
        {"top_k": "left out"},
    ),
    "Gemini": (
        "top_k",
        [{"error": {"code": 400, "message": "Invalid JSON payload. Unknown name \"top_k\": Cannot find field."}}],
        {"top_k": "left out"},
    ),
    "text alone": ("top_k", "unknown field `top_k`", {"top_k": "left out"}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "body", "changes"), REFUSALS.values(), ids=REFUSALS)
def test_a_parameter_that_a_refusal_names_is_left_out_or_renamed(
    cache: ResponseCache, caplog: pytest.LogCaptureFixture, name: str, body: Any, changes: dict[str, str]
) -> None:
    known = Acquaintance()
    status = 422 if name == "top_k" and isinstance(body, dict) else 400
    with StubServer(refusing(name, body, status)) as server:
        endpoint = endpoint_at(server.base_url, reasoning_effort="minimal", extra={"top_k": 1}, concurrency=4)
        first = Client(endpoint, cache, known=known).run(numbered(0, 20))
        second = Client(endpoint, cache, known=known).run(numbered(20, 30))
    assert (first.failed, second.failed, len(cache)) == (0, 0, 30)
    assert len(server.calls) == 31  # 30 questions, one of which was refused once
    assert first.parameters == second.parameters == changes
    assert first.errors == {f"HTTP {status}": 1}
    sent = server.calls[-1].body
    assert name not in sent
    assert {instead for instead in changes.values() if instead != "left out"} <= sent.keys()
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("recbole_llm")]
    assert said.startswith(f"--llm=stub does not take {name}; ")


def test_cached_answers_report_no_dropped_parameters(cache: ResponseCache) -> None:
    known = Acquaintance()
    with StubServer(refusing("top_k", "unknown field `top_k`")) as server:
        endpoint = endpoint_at(server.base_url, extra={"top_k": 1})
        Client(endpoint, cache, known=known).run(numbered(0, 2))
        usage = Client(endpoint, cache, known=known).run(numbered(0, 2))
    assert (usage.cached, usage.parameters) == (2, {})


def test_the_token_limit_is_renamed_either_way_and_left_out_at_last(cache: ResponseCache) -> None:
    def reply(call: Call) -> Reply:
        for name in ("max_completion_tokens", "max_tokens"):
            if name in call.body:
                return Reply(status=400, body=openai(name, f"Unknown parameter: {name}"))
        return Reply()

    with StubServer(reply) as server:
        endpoint = endpoint_at(server.base_url, max_tokens_field="max_completion_tokens")
        usage = Client(endpoint, cache).run([asking("hello")])
    assert usage.parameters == {"max_completion_tokens": "max_tokens", "max_tokens": "left out"}
    assert (usage.failed, len(server.calls)) == (0, 3)


def test_a_schema_becomes_an_object_and_is_left_out_at_last(cache: ResponseCache) -> None:
    def reply(call: Call) -> Reply:
        kind = call.body.get("response_format", {}).get("type")
        return Reply(status=400, body={"error": {"message": f"'{kind}' is not supported"}}) if kind else Reply()

    with StubServer(reply) as server:
        usage = Client(endpoint_at(server.base_url), cache).run([asking("hello", schema=SCHEMA)])
    kinds = [call.body.get("response_format", {}).get("type") for call in server.calls]
    assert kinds == ["json_schema", "json_object", None]
    assert usage.parameters == {"response_format": "left out"}


def test_a_refusal_that_names_no_parameter_as_unsupported_stays_one(cache: ResponseCache) -> None:
    words = "max_tokens is too large: 100000. This model supports at most 16384 completion tokens"
    with StubServer(lambda call: Reply(status=400, body=openai("max_tokens", words))) as server:
        with pytest.raises(UserError, match=r"refuses every request: max_tokens is too large"):
            Client(endpoint_at(server.base_url), cache).run(numbered(0, 9))
        assert all("max_tokens" in call.body for call in server.calls)


@pytest.mark.parametrize(
    "words", ["Budget 0 is invalid.", "`max_tokens` must be greater than the thinking budget", "thinking of a budget"]
)
def test_not_every_budget_is_one_of_thinking(cache: ResponseCache, words: str) -> None:
    with StubServer(lambda call: Reply(status=400, body={"error": {"message": words}})) as server:
        with pytest.raises(UserError, match="refuses every request"):
            Client(endpoint_at(server.base_url, reasoning_effort="none"), cache).run(numbered(0, 9))
        assert all("reasoning_effort" in call.body for call in server.calls)


@pytest.mark.parametrize("name", ["model", "messages", "something_else"])
def test_what_every_request_needs_is_never_left_out(cache: ResponseCache, name: str) -> None:
    with StubServer(lambda call: Reply(status=400, body=openai(name, f"Unknown parameter: {name}"))) as server:
        with pytest.raises(UserError, match="refuses every request"):
            Client(endpoint_at(server.base_url), cache).run(numbered(0, 9))
        assert len({frozenset(call.body) for call in server.calls}) == 1


# ---- what is sent -------------------------------------------------------------------------------


def test_what_the_file_leaves_to_the_server_is_not_sent(cache: ResponseCache) -> None:
    with StubServer() as server:
        endpoint = endpoint_at(server.base_url, temperature=None, max_tokens=999, reasoning_effort="low")
        Client(endpoint, cache).run([asking("hello", max_tokens=7)])
    assert server.calls[0].body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 999,
        "reasoning_effort": "low",
    }


# ---- content ------------------------------------------------------------------------------------


def answered(cache: ResponseCache, message: dict[str, Any], usage: Any = None, reason: str = "stop") -> ChatAnswer:
    """The answer that the client reads from a completion with this message."""
    body = {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": reason}], "usage": usage}
    found: list[ChatAnswer] = []

    def script() -> Any:
        found.append((yield question("hello " * 10)))

    with StubServer(lambda call: Reply(body=body)) as server:
        Client(endpoint_at(server.base_url), cache).run([script()])
    return found[0]


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": '{"a": 1}'}],
        [THOUGHT, {"type": "text", "text": '{"a": 1}'}],
        [{"type": "text", "text": '{"a"'}, {"type": "text", "text": ": 1}"}],
        [{"type": "output_text", "text": '{"a": 1}'}],
        [{"text": '{"a": 1}'}],
    ],
    ids=json.dumps,
)
def test_content_may_be_a_list_of_parts(cache: ResponseCache, content: list[Any]) -> None:
    assert answered(cache, {"content": content}).content == '{"a": 1}'


def test_thoughts_beside_the_content_are_none_of_it(cache: ResponseCache) -> None:
    found = answered(cache, {"content": "fine", "reasoning_content": "hm " * 20})
    assert (found.content, found.reasoning) == ("fine", 15)
    assert found.tokens_out == 16


@pytest.mark.parametrize("word", ["length", "max_tokens", "model_length", "MAX_TOKENS"])
def test_an_answer_that_was_cut_off_is_one_whatever_it_is_called(cache: ResponseCache, word: str) -> None:
    assert answered(cache, {"content": "half of"}, reason=word).finish_reason == "length"


# ---- tokens -------------------------------------------------------------------------------------

USAGES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "OpenAI": (
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 256},
        },
        {"tokens_in": 2006, "tokens_out": 300, "cached": 1920, "reasoning": 256},
    ),
    "Gemini, thoughts beside the answer": (
        {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 540},
        {"tokens_in": 100, "tokens_out": 440, "reasoning": 400},
    ),
    "thoughts beside the answer, counted": (
        {"prompt_tokens": 100, "completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 400}},
        {"tokens_in": 100, "tokens_out": 440, "reasoning": 400},
    ),
    "DeepSeek": (
        {"prompt_tokens": 100, "completion_tokens": 40, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
        {"tokens_in": 100, "tokens_out": 40, "cached": 64},
    ),
    "Anthropic, cache beside the question": (
        {"input_tokens": 10, "output_tokens": 40, "cache_read_input_tokens": 500, "cache_creation_input_tokens": 90},
        {"tokens_in": 600, "tokens_out": 40, "cached": 500, "written": 90},
    ),
    "a gateway, cache within the question": (
        {"prompt_tokens": 600, "completion_tokens": 40, "cache_read_input_tokens": 500},
        {"tokens_in": 600, "tokens_out": 40, "cached": 500},
    ),
    "Gemini, nothing but thoughts": (
        {"prompt_tokens": 100, "completion_tokens": 0, "total_tokens": 1124},
        {"tokens_in": 100, "tokens_out": 1024},
    ),
    "Gemini, without a count of the answer": (
        {"prompt_tokens": 100, "total_tokens": 1124},
        {"tokens_in": 100, "tokens_out": 1024},
    ),
    "nothing but thoughts, counted": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 0,
            "total_tokens": 1124,
            "completion_tokens_details": {"reasoning_tokens": 1000},
        },
        {"tokens_in": 100, "tokens_out": 1024, "reasoning": 1000},
    ),
    "a gateway, cache beside the question": (
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 1120, "cache_read_input_tokens": 1000},
        {"tokens_in": 1100, "tokens_out": 20, "cached": 1000},
    ),
    "a gateway, less cache than question beside it": (
        {"prompt_tokens": 600, "completion_tokens": 20, "total_tokens": 1120, "cache_read_input_tokens": 500},
        {"tokens_in": 1100, "tokens_out": 20, "cached": 500},
    ),
    "Anthropic, with a total": (
        {"input_tokens": 100, "output_tokens": 20, "total_tokens": 1120, "cache_read_input_tokens": 1000},
        {"tokens_in": 1100, "tokens_out": 20, "cached": 1000},
    ),
    "Anthropic, with a total that lacks the cache": (
        {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120, "cache_read_input_tokens": 1000},
        {"tokens_in": 1100, "tokens_out": 20, "cached": 1000},
    ),
    "OpenAI's later API": (
        {
            "input_tokens": 1000,
            "output_tokens": 20,
            "total_tokens": 1020,
            "input_tokens_details": {"cached_tokens": 900},
            "output_tokens_details": {"reasoning_tokens": 15},
        },
        {"tokens_in": 1000, "tokens_out": 20, "cached": 900, "reasoning": 15},
    ),
    "xAI, less thought than answer, beside it": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 40,
            "total_tokens": 150,
            "completion_tokens_details": {"reasoning_tokens": 10},
        },
        {"tokens_in": 100, "tokens_out": 50, "reasoning": 10},
    ),
    "zeros": (
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"tokens_in": 19, "tokens_out": 10},
    ),
    "nothing": ({}, {"tokens_in": 19, "tokens_out": 10}),
    "nonsense": (
        {"prompt_tokens": -3, "completion_tokens": True, "total_tokens": "9", "prompt_tokens_details": [1]},
        {"tokens_in": 19, "tokens_out": 10},
    ),
}


@pytest.mark.parametrize(("usage", "wanted"), USAGES.values(), ids=USAGES)
def test_tokens_are_counted_as_the_bill_has_them(
    cache: ResponseCache, usage: dict[str, Any], wanted: dict[str, int]
) -> None:
    found = answered(cache, {"content": "x" * 40}, usage)
    counted = {name: value for name, value in found.stored().items() if name not in ("content", "finish_reason")}
    assert counted == wanted


def usage_of(total: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": 100, "completion_tokens": answer, **({"total_tokens": total} if total else {})}


@pytest.mark.parametrize(
    ("usage", "tokens_out", "reasoning"),
    [
        (usage_of(total=1100, answer=1000), 1000, 1000),  # the 1,000 include the reasoning
        (usage_of(total=1200, answer=20), 1100, 1100),
        (usage_of(total=0, answer=20), 1120, 1100),
        (usage_of(total=1124, answer=0), 1024, 1024),
    ],
    ids=["total agrees", "total has room", "no total", "answer not counted"],
)
def test_the_length_of_a_thought_is_guessed_at_only_where_the_total_is_silent(
    cache: ResponseCache, usage: dict[str, int], tokens_out: int, reasoning: int
) -> None:
    found = answered(cache, {"content": "x" * 40, "reasoning_content": "hmm " * 1100}, usage)
    assert (found.tokens_in, found.tokens_out, found.reasoning) == (100, tokens_out, reasoning)


def test_thoughts_alone_are_said_with_their_number(cache: ResponseCache) -> None:
    body = {"choices": [{"message": {}, "finish_reason": "length"}], "usage": usage_of(total=1124, answer=0)}
    with StubServer(lambda call: Reply(body=body)) as server:
        endpoint = endpoint_at(server.base_url, price_in=1.0, price_out=1.0)
        client = Client(endpoint, cache)
        with pytest.raises(UserError, match=r"ended in its reasoning.*after 1024 tokens"):
            client.run(numbered(0, 5))
    assert client.usage.price * 1e6 == pytest.approx(1124)
    assert client.usage.reasoning == 1024


def test_an_answer_comes_out_of_the_cache_with_its_counts(cache: ResponseCache) -> None:
    first = answered(cache, {"content": "x"}, USAGES["OpenAI"][0])
    (row,) = cache.rows()
    assert ChatAnswer.parse(row["answer"]) == first == cache.get(row["key"])


def test_a_first_answer_that_ends_in_its_reasoning_stops_and_is_kept(cache: ResponseCache) -> None:
    body = {
        "choices": [{"message": {"content": ""}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 50}},
    }
    with StubServer(lambda call: Reply(body=body)) as server:
        with pytest.raises(UserError, match=r"ended in its reasoning.*50 tokens.*raise --llm_max_tokens"):
            Client(endpoint_at(server.base_url), cache).run(numbered(0, 50))
        assert (len(server.calls), len(cache)) == (1, 1)
