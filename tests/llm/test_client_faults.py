"""Faults of an endpoint: what is retried, what is counted, what stops the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.llm.budget import Budget
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.client import DEAD_AFTER, HOPELESS_AFTER, THROTTLED_TIMES, Client
from tests.llm.chat import AT_ONCE, KEY, asking, endpoint_at, first_only, met, numbered, question
from tests.stub_server import Call, Reply, StubServer

SPOILT_BODIES: dict[str, Any] = {
    "a web page": "<html>busy</html>",
    "half of a JSON text": '{"choices": [{"mess',
    "a list": [],
    "choices as text": {"choices": "none"},
    "a choice that is null": {"choices": [None]},
    "a message that is text": {"choices": [{"message": "hello"}]},
    "content that is a list": {"choices": [{"message": {"content": ["a"]}}]},
    "half an answer and an error": {"choices": [{"message": {"content": "{"}, "finish_reason": "error"}]},
    "no answer but an error": {"choices": [{"message": {"content": ""}, "error": {"code": 502, "message": "busy"}}]},
}
FAULTS = {
    **{f"HTTP {status}": Reply(status=status, headers=AT_ONCE) for status in (408, 409, 429, 500, 502, 503, 529)},
    "time-out": Reply(how="hang"),
    "closed connection": Reply(how="close"),
    "body cut off": Reply(how="cut"),
    "no completion": Reply(body={"choices": []}),
}


def echo_of_the_key(status: int) -> Any:
    """Refuse the key and repeat it in the message, as real servers do."""
    return lambda call: Reply(
        status=status,
        headers=AT_ONCE,
        body={"error": {"message": f"Incorrect API key provided: {call.headers['authorization']}"}},
    )


def test_a_key_in_the_query_of_an_address_is_not_shown_where_a_server_repeats_it(cache: ResponseCache) -> None:
    def reply(call: Call) -> Reply:
        return Reply(status=401, body={"error": {"message": f"{call.path.partition('?')[2]} is not valid"}})

    with StubServer(reply) as server, pytest.raises(UserError) as caught:
        endpoint = endpoint_at(f"{server.base_url}?api-version=2026-11-01&code=abcdef0123456789")
        Client(endpoint, cache).run([asking("hello")])
    assert str(caught.value).endswith("api-version=2026-11-01&code=*** is not valid")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_retried_and_ends_answered(cache: ResponseCache, fault: Reply) -> None:
    answers: dict[str, Any] = {}
    with StubServer(first_only(fault)) as server:
        timeout = 0.4 if fault.how == "hang" else 20.0
        usage = Client(endpoint_at(server.base_url, timeout=timeout), cache).run([asking("hello", answers)])
    assert answers == {"hello": "fine"}
    assert (usage.requests, usage.attempts, usage.failed) == (1, 2, 0)
    assert sum(usage.errors.values()) == 1


def test_faults_that_stay_end_counted_as_failed_and_the_rest_is_answered(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    faults = FAULTS | {name: Reply(body=body) for name, body in SPOILT_BODIES.items()}
    with StubServer(lambda call: faults.get(call.question, Reply(text="fine"))) as server:
        endpoint = endpoint_at(server.base_url, timeout=2.0, attempts=2, concurrency=100)
        usage = Client(endpoint, cache, known=met()).run(asking(text, answers) for text in [*faults, "hello"])
    assert answers == {**dict.fromkeys(faults), "hello": "fine"}
    assert usage.failed == len(faults)
    throttled = 2 * THROTTLED_TIMES  # 429s are tolerated more often than other faults
    assert usage.attempts == len(server.calls) == 2 * (len(faults) - 1) + throttled + 1
    assert sum(usage.errors.values()) == usage.attempts - 1
    assert len(cache) == 1


def stating(code: int) -> Reply:
    """An error that a server states in the body of a response with status 200."""
    return Reply(headers=AT_ONCE, body={"error": {"code": code, "message": "the provider's words"}})


def test_a_status_in_the_body_of_a_200_counts_as_if_it_were_its_status(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    with StubServer(lambda call: Reply(text="fine") if call.number == 6 else stating(429 if call.number else 502)) as s:
        usage = Client(endpoint_at(s.base_url, attempts=3), cache).run([asking("hello", answers)])
    assert answers == {"hello": "fine"}  # throttling is no failure
    assert usage.errors == {"HTTP 429": 5, "HTTP 502": 1}
    with StubServer(lambda call: stating(402)) as s:
        usage = Client(endpoint_at(s.base_url), cache).run(numbered(0, 9))
        assert len(s.calls) == 1
    assert usage.stopped == "--llm=stub has no credit left: the provider's words"


def test_a_question_that_moderation_flags_is_lost_alone(cache: ResponseCache) -> None:
    flagged = Reply(status=403, body={"error": {"message": "flagged"}})
    with StubServer(lambda call: flagged if call.question == "question 3" else Reply(text="fine")) as server:
        usage = Client(endpoint_at(server.base_url), cache).run(numbered(0, 9))
    assert (usage.failed, usage.errors, len(cache)) == (1, {"HTTP 403": 1}, 8)


def test_a_server_that_is_not_there_ends_counted_as_failed(cache: ResponseCache) -> None:
    with StubServer() as server:
        gone = server.base_url
    usage = Client(endpoint_at(gone, attempts=2), cache, known=met()).run([asking("hello")])
    assert usage.failed == 1
    assert usage.errors == {"no connection": 2}


def test_what_failed_is_asked_again_by_the_next_run(cache: ResponseCache) -> None:
    with StubServer(first_only(Reply(status=500))) as server:
        endpoint = endpoint_at(server.base_url, attempts=1)
        first = Client(endpoint, cache).run([asking("hello")])
        second = Client(endpoint, cache).run([asking("hello")])
    assert (first.failed, second.failed) == (1, 0)
    assert len(server.calls) == 2


MIXED = [
    Reply(status=429, headers=AT_ONCE),
    Reply(status=500, headers=AT_ONCE),
    Reply(how="close"),
    Reply(how="cut"),
    Reply(body='{"choices": [{"mess'),
    Reply(text='{"intents": ["a', finish_reason="length"),
]


def test_with_three_faults_in_ten_every_request_ends_and_none_is_asked_after_its_success(cache: ResponseCache) -> None:
    """Uses all kinds of faults in turn, and two requests that hang until they time out."""
    turns = iter(range(10_000))
    hung: set[str] = set()

    def reply(call: Call) -> Reply:
        if call.question in ("question 7", "question 70") and call.question not in hung:
            hung.add(call.question)
            return Reply(how="hang")
        turn = next(turns)
        return MIXED[turn // 10 % len(MIXED)] if turn % 10 in (1, 4, 7) else Reply(text="word " * (turn % 9))

    with StubServer(reply) as server:
        endpoint = endpoint_at(server.base_url, timeout=6.0, attempts=8, concurrency=16, price_in=1.0)
        usage = Client(endpoint, cache).run(numbered(0, 200))
    succeeded: set[str] = set()
    for call in server.calls:
        assert call.question not in succeeded
        if call.tokens_in:  # the stub gave a completion
            succeeded.add(call.question)
    assert len(succeeded) + usage.failed == 200
    assert len(cache) == len(succeeded)
    assert (usage.tokens_in, usage.tokens_out) == (server.tokens_in, server.tokens_out)
    assert usage.attempts == len(server.calls)
    assert sum(usage.errors.values()) == len(server.calls) - len(succeeded)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_other_refusals_are_not_retried_and_the_rest_goes_on(cache: ResponseCache, status: int) -> None:
    answers: dict[str, Any] = {}
    with StubServer(first_only(Reply(status=status))) as server:
        endpoint = endpoint_at(server.base_url, concurrency=1)
        usage = Client(endpoint, cache).run(asking(text, answers) for text in "abc")
    assert answers == {"a": None, "b": "fine", "c": "fine"}
    assert (usage.attempts, usage.failed) == (3, 1)


def test_a_server_that_refuses_every_request_stops_the_run(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(status=400)) as server:
        client = Client(endpoint_at(server.base_url, concurrency=1), cache)
        with pytest.raises(UserError, match=r"refuses every request.*stub says 400"):
            client.run(numbered(0, 100))
    assert len(server.calls) == HOPELESS_AFTER


def test_refusals_between_answers_do_not_stop_the_run(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply() if call.number % 4 == 3 else Reply(status=400)) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=1), cache).run(numbered(0, 40))
    assert (usage.requests, usage.failed) == (40, 30)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_the_run_and_names_the_variable(
    cache: ResponseCache, with_key: dict[str, Any], status: int
) -> None:
    with StubServer(echo_of_the_key(status)) as server:
        client = Client(endpoint_at(server.base_url, concurrency=2, **with_key), cache)
        with pytest.raises(UserError, match=r"--llm=stub refuses the key in STUB_KEY") as caught:
            client.run(numbered(0, 50))
    assert KEY not in str(caught.value)
    assert len(server.calls) <= 2


@pytest.mark.parametrize(("count", "kept"), [(1, "1 answer before that is"), (3, "3 answers before that are")])
def test_a_refusal_after_some_answers_says_how_many_are_kept(cache: ResponseCache, count: int, kept: str) -> None:
    refused = Reply(status=401, body={"error": {"message": "The key has expired."}})
    with (
        StubServer(lambda call: refused if call.number >= count else Reply()) as server,
        pytest.raises(UserError, match=rf"The key has expired\. {kept} kept\.$"),
    ):
        Client(endpoint_at(server.base_url, concurrency=1), cache).run(numbered(0, 50))
    assert len(cache) == count


def test_an_unknown_model_stops_the_run_and_is_named(cache: ResponseCache) -> None:
    unknown = Reply(status=404, body={"error": {"message": "The model `gpt-99` does not exist", "param": None}})
    with StubServer(lambda call: unknown) as server:
        client = Client(endpoint_at(server.base_url, model="gpt-99", concurrency=2), cache)
        with pytest.raises(UserError, match=r"knows no model 'gpt-99'.*`gpt-99` does not exist"):
            client.run(numbered(0, 50))
    assert len(server.calls) <= 2


def test_a_missing_key_is_an_error_before_anything_is_asked(
    cache: ResponseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STUB_KEY", raising=False)
    with StubServer() as server, pytest.raises(UserError, match=r"--llm=stub needs a key.*STUB_KEY"):
        Client(endpoint_at(server.base_url, key_env="STUB_KEY"), cache).run(numbered(0, 5))
    assert server.calls == []


def test_answers_of_the_cache_need_no_key(cache: ResponseCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUB_KEY", raising=False)
    with StubServer() as server:
        Client(endpoint_at(server.base_url), cache).run(numbered(0, 5))
        usage = Client(endpoint_at(server.base_url, key_env="STUB_KEY"), cache).run(numbered(0, 5))
    assert (usage.cached, len(server.calls)) == (5, 5)


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_the_key_is_in_no_log_error_or_cache(
    tmp_path: Path, with_key: dict[str, Any], caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "responses.sqlite"
    message = ""
    with StubServer(lambda call: Reply() if call.number == 0 else echo_of_the_key(status)(call)) as server:
        endpoint = endpoint_at(server.base_url, concurrency=1, attempts=2, **with_key)
        with ResponseCache(path) as cache:
            client = Client(endpoint, cache)
            try:
                client.run(numbered(0, 3))
            except UserError as error:
                message = str(error)
    assert len(server.calls) >= 2
    assert KEY not in caplog.text
    assert KEY not in message
    assert KEY not in repr(client.usage)
    assert all(KEY.encode() not in file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize("before", [258, 270, 290, 3980])
@pytest.mark.parametrize("page", [False, True])
def test_a_key_where_the_words_are_cut_is_not_shown_in_part(
    cache: ResponseCache, monkeypatch: pytest.MonkeyPatch, before: int, page: bool
) -> None:
    key = "AIzaSyD3xampleKEYexampleKEYexampleKEY012"  # recognisable only because it is the client's own key
    monkeypatch.setenv("STUB_KEY", key)
    words = ("<p>" * (before // 3) if page else "y" * before) + f" key {key} is not valid"
    reply = Reply(status=401, body=words if page else {"error": {"message": words}})
    with StubServer(lambda call: reply) as server, pytest.raises(UserError, match="refuses the key") as caught:
        Client(endpoint_at(server.base_url, key_env="STUB_KEY"), cache).run([asking("hello")])
    assert "AIza" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_password_in_the_address_is_in_no_message(cache: ResponseCache) -> None:
    def reply(call: Call) -> Reply:
        said = f"{call.headers['authorization']} (me, s@cret-word) of http://me:s%40cret-word@host"
        return Reply(status=401, body={"error": {"message": said}})

    with StubServer(reply) as server:
        address = server.base_url.replace("://", "://me:s%40cret-word@")
        with pytest.raises(UserError, match="--llm=stub refuses the name and the password in its address: ") as caught:
            Client(endpoint_at(address), cache).run([asking("hello")])
    assert "cret-word" not in str(caught.value)
    assert "bWU6" not in str(caught.value)  # base64 of the name


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=429, body={"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}),
        Reply(status=402, body={"error": {"message": "Insufficient Balance"}}),
        Reply(status=400, body={"error": {"message": "Your credit balance is too low to access the API."}}),
    ],
    ids=["OpenAI", "DeepSeek", "Anthropic"],
)
def test_an_empty_account_stops_the_run_at_once(cache: ResponseCache, reply: Reply) -> None:
    with StubServer(lambda call: reply if call.number >= 3 else Reply()) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=1), cache).run(numbered(0, 50))
    assert usage.stopped.startswith("--llm=stub has no credit left")
    assert (len(server.calls), len(cache)) == (4, 3)


def test_a_server_that_is_gone_stops_the_run(cache: ResponseCache) -> None:
    with StubServer() as server:
        gone = server.base_url
    usage = Client(endpoint_at(gone, attempts=2, concurrency=16), cache, known=met()).run(numbered(0, 10_000))
    assert "times in a row (no connection)" in usage.stopped
    assert usage.attempts < 2 * DEAD_AFTER + 16


def test_faults_between_answers_do_not_stop_the_run(cache: ResponseCache) -> None:
    def reply(call: Call) -> Reply:
        return Reply() if call.number % 20 == 0 else Reply(status=500, headers=AT_ONCE)

    with StubServer(reply) as server:
        endpoint = endpoint_at(server.base_url, attempts=40, concurrency=1, patience=0.0)
        usage = Client(endpoint, cache).run(numbered(0, 20))
    assert (usage.stopped, usage.failed, len(cache)) == ("", 0, 20)


def test_a_server_that_wants_a_longer_pause_than_anyone_waits_stops_the_run(cache: ResponseCache) -> None:
    with StubServer(lambda call: Reply(status=429, headers={"Retry-After": "86400"})) as server:
        usage = Client(endpoint_at(server.base_url, concurrency=1), cache).run(numbered(0, 50))
    assert "asks for a pause of 86400 seconds" in usage.stopped
    assert len(server.calls) == 1


def test_a_response_that_cannot_be_used_is_paid_for_all_the_same(cache: ResponseCache) -> None:
    spoilt = Reply(body={"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 7}})
    with StubServer(first_only(spoilt)) as server:
        endpoint = endpoint_at(server.base_url, price_in=1.0, price_out=1.0)
        usage = Client(endpoint, cache).run([asking("hello")])
    assert usage.tokens_in == 50 + server.tokens_in
    assert usage.tokens_out == 7 + server.tokens_out
    assert (usage.spoilt, usage.spoilt_price) == (1, pytest.approx(57 / 1e6))


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_a_completion_that_cannot_be_read_and_counts_nothing_is_guessed_at(cache: ResponseCache, usage: Any) -> None:
    spoilt = {"choices": [{"message": {"content": {"odd": "x" * 100}}}], "usage": usage}
    with StubServer(first_only(Reply(body=spoilt))) as server:
        budget = Budget()
        Client(endpoint_at(server.base_url, price_in=1.0, price_out=1.0), cache, budget).run([asking("hello")])
    answered = server.tokens_in + server.tokens_out
    assert budget.spent * 1e6 - answered == pytest.approx(question("hello").estimated_tokens() + 38, abs=3)


def test_an_html_page_counts_no_tokens(cache: ResponseCache) -> None:
    with StubServer(first_only(Reply(body="<html>" + "busy " * 100))) as server:
        usage = Client(endpoint_at(server.base_url, price_in=1.0), cache).run([asking("hello")])
    assert (usage.spoilt, usage.tokens_in) == (0, server.tokens_in)


@pytest.mark.parametrize("count", [10**400, -1, True, 1.5, "7", None])
def test_tokens_that_are_no_count_are_estimated(cache: ResponseCache, count: Any) -> None:
    choice = {"message": {"content": "fine"}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": {"prompt_tokens": count, "completion_tokens": 3}}
    with StubServer(lambda call: Reply(body=body)) as server:
        usage = Client(endpoint_at(server.base_url, price_in=1.0), cache).run([asking("hello")])
    assert (usage.tokens_in, usage.tokens_out) == (question("hello").estimated_tokens(), 3)


def test_a_refusal_without_content_is_kept_as_one(cache: ResponseCache) -> None:
    answers: dict[str, Any] = {}
    message = {"role": "assistant", "content": None, "refusal": "Not this."}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    with StubServer(lambda call: Reply(body=body)) as server:
        Client(endpoint_at(server.base_url), cache).run([asking("hello", answers)])
    assert answers == {"hello": "I cannot: Not this."}
