"""The four sources of answers: the same script gives the same result with each of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.features.answers import AnswerError
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.questions import ask
from recbole_llm.features.sources import AnswerSource, AnswersPending, BatchCollector, DryRun, Ledger
from recbole_llm.llm.budget import Budget
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer, Script
from recbole_llm.llm.exchange import import_answers, write_batch_file
from tests.llm.batch_stub import output_line
from tests.llm.chat import endpoint_at
from tests.stub_server import Call, Reply, StubServer

PROMPT = load_prompt("isrf_item_positive")


def chain(key: str, counts: Counter[str]) -> Script:
    """Two questions, the second about the first answer."""
    first = yield from ask(PROMPT, [key], lambda answer: answer.summarization, counts)
    if first is None:
        return None
    return (yield from ask(PROMPT, [key, first], lambda answer: answer.summarization, counts))


def naming(call: Call) -> Reply:
    """Answer with the titles that were asked about."""
    return Reply(text=about(call.data))


def about(titles: list[str]) -> str:
    return json.dumps({"summarization": f"of {', '.join(titles)}"})


WANTED = {key: f"of {key}, of {key}" for key in ("a", "b", "c")}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ResponseCache]:
    with ResponseCache(tmp_path / "responses.sqlite") as opened:
        yield opened


def ledger_at(base_url: str, cache: ResponseCache) -> Ledger:
    return Ledger(endpoint_at(base_url, price_in=1.0, price_out=1.0), cache, lambda items, title: items)


def results(source: AnswerSource, ledger: Ledger, keys: str = "abc") -> dict[str, Any]:
    """The results that a feature's builder receives."""
    source.begin("mine")
    return dict(source.results(ledger, list(keys), chain, "asking"))


def test_live_answers_are_asked_for_and_kept(cache: ResponseCache) -> None:
    with StubServer(naming) as server:
        ledger = ledger_at(server.base_url, cache)
        assert results(AnswerSource(), ledger) == WANTED
    assert len(server.calls) == len(cache) == ledger.usage.requests == len(ledger.used) == 6
    assert ledger.counts == {"valid": 6}
    assert (ledger.usage.tokens_in, ledger.usage.tokens_out) == (server.tokens_in, server.tokens_out)


@pytest.mark.parametrize("text", ["", "<think>let me see, perhaps {", "[THINK]hm"])
def test_a_first_answer_that_is_cut_off_in_its_reasoning_stops_all(cache: ResponseCache, text: str) -> None:
    with StubServer(lambda call: Reply(text=text, finish_reason="length")) as server:
        ledger = ledger_at(server.base_url, cache)
        with pytest.raises(UserError, match=r"ended in its reasoning.*raise --llm_max_tokens"):
            results(AnswerSource(), ledger)
        assert len(server.calls) == 1


def test_cached_answers_give_the_same_without_an_endpoint(cache: ResponseCache) -> None:
    with StubServer(naming) as server:
        first = ledger_at(server.base_url, cache)
        results(AnswerSource(), first)
        second = ledger_at(server.base_url, cache)
        assert results(AnswerSource(Budget(max_cost=0.0)), second) == WANTED
    assert len(server.calls) == 6
    assert (second.used, second.counts, second.usage.price) == (first.used, first.counts, first.usage.price)


def test_a_batch_gathers_the_questions_step_by_step_and_gives_the_same(cache: ResponseCache, tmp_path: Path) -> None:
    source, ledger = BatchCollector(), ledger_at("http://127.0.0.1:1/v1", cache)
    for _ in range(2):
        source.pending.clear()
        with pytest.raises(AnswersPending):
            results(source, ledger)
        assert len(source.pending) == 3
        write_batch_file(cache, ledger.endpoint, source.pending.values(), tmp_path / "in")
        lines = [json.loads(line) for line in (tmp_path / "in").read_text().splitlines()]
        titles = [json.loads(line["body"]["messages"][-1]["content"].rsplit("\n", 1)[-1]) for line in lines]
        output = [json.dumps(output_line(line, about(each))) for line, each in zip(lines, titles, strict=True)]
        (tmp_path / "out").write_text("\n".join(output))
        import_answers(cache, tmp_path / "out")
    assert results(source, ledger) == WANTED


def test_a_question_that_a_batch_gave_up_is_a_gap(cache: ResponseCache) -> None:
    source, ledger = BatchCollector(), ledger_at("http://127.0.0.1:1/v1", cache)
    with pytest.raises(AnswersPending):
        results(source, ledger)
    source.lost.update(source.pending)
    assert results(source, ledger) == dict.fromkeys("abc")
    assert ledger.counts == {"unanswered": 3}


def test_a_dry_run_asks_nothing_and_counts_the_whole_chain(cache: ResponseCache) -> None:
    with StubServer(naming) as server:
        ledger = ledger_at(server.base_url, cache)
        source = DryRun()
        assert all(results(source, ledger).values())
        assert (server.calls, len(cache), ledger.counts) == ([], 0, {})
        (plan,) = source.plans
        assert (plan.keys, plan.requests, plan.cached, plan.estimated) == (3, 6, 0, True)
        results(AnswerSource(limit=1), ledger)
        again = DryRun()
        results(again, ledger)
        assert (again.plans[0].requests, again.plans[0].cached) == (4, 2)
        assert len(server.calls) == 2


def test_an_example_that_cannot_be_used_is_not_asked_about_again_in_a_dry_run(cache: ResponseCache) -> None:
    def unusable(answer: Any) -> None:
        raise AnswerError("not this")

    def picky(key: str, counts: Counter[str]) -> Script:
        return (yield from ask(PROMPT, [key], unusable, counts))

    source = DryRun()
    source.begin("mine")
    ledger = ledger_at("http://127.0.0.1:1/v1", cache)
    assert dict(source.results(ledger, ["a", "b"], picky, "asking")) == {"a": None, "b": None}
    assert (source.plans[0].requests, ledger.counts) == (2, {})


def stumbling(key: str, counts: Counter[str]) -> Script:
    """A script whose reader fails on the answer ``bad``."""

    def parse(answer: Any) -> str:
        assert answer.summarization != "bad"
        return str(answer.summarization)

    return (yield from ask(PROMPT, [key], parse, counts))


def test_an_answer_that_breaks_its_reader_is_kept_named_and_asked_for_again(cache: ResponseCache) -> None:
    texts = ('{"summarization": "bad"}', '{"summarization": "good"}')
    with StubServer(lambda call: Reply(text=texts[call.number])) as server:
        ledger = ledger_at(server.base_url, cache)
        assert dict(AnswerSource().results(ledger, ["a"], stumbling, "asking")) == {"a": "good"}
    assert ledger.counts == {"unreadable": 1, "asked_again": 1, "valid": 1}
    assert ledger.unreadable == ledger.used
    kept = {row["key"]: row["answer"]["content"] for row in cache.rows()}
    assert tuple(kept[key] for key in ledger.unreadable) == texts


@pytest.mark.parametrize("body", ['{"```json{```', '{"a":' * 3000, '{"summarization": "bad"}'])
def test_a_bad_answer_that_is_cached_already_is_overcome(cache: ResponseCache, body: str) -> None:
    first = ledger_at("http://127.0.0.1:1/v1", cache).endpoint.addressed(next(stumbling("a", Counter())))
    cache.put(first, ChatAnswer(body, "stop", 1, 1))
    with StubServer(lambda call: Reply(text='{"summarization": "good"}')) as server:
        ledger = ledger_at(server.base_url, cache)
        assert dict(AnswerSource().results(ledger, ["a"], stumbling, "asking")) == {"a": "good"}
        assert len(server.calls) == 1
    assert (ledger.counts["asked_again"], ledger.usage.requests, ledger.usage.cached) == (1, 1, 1)


@pytest.mark.parametrize("source", [AnswerSource, BatchCollector])
def test_a_limit_asks_about_a_few_keys_and_reads_all_that_is_there(
    cache: ResponseCache, source: type[AnswerSource]
) -> None:
    with StubServer(naming) as server:
        results(AnswerSource(), ledger_at(server.base_url, cache), "c")
        ledger = ledger_at(server.base_url, cache)
        if source is AnswerSource:
            assert results(source(limit=1), ledger) == {"a": WANTED["a"], "b": None, "c": WANTED["c"]}
            assert ledger.limited == "--limit=1 of 3 is reached"
        else:
            with pytest.raises(AnswersPending):
                results(source(limit=1), ledger)
