"""``advise``: growing samples of answers, the validation gain after each, and when it stops buying."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import recbole_llm
from recbole_llm.errors import UserError
from recbole_llm.experiments.advise import GAIN, LOSS, NONE, OPEN, Advice, _verdict, render_advice
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.sources import sampled
from recbole_llm.settings.core import CoreSettings
from tests.features.asking import answer_of_any_prompt
from tests.helpers import Cli, make_run, runner
from tests.processes import start_command
from tests.stub_server import Call, Reply, StubServer

SHORT = {"epochs": 1, "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 128}


def advised(server: StubServer, model: str = "LDMI", **given: Any) -> Advice:
    asked = {"llm": "vllm", "llm_base_url": server.base_url, "shares": "0.2,0.6,1", "seeds": 2}
    return recbole_llm.advise(model, "tiny", **{**SHORT, **asked, **given})


def test_looks_grow_until_all_answers_are_there(few_users: Path) -> None:
    with StubServer(answer_of_any_prompt) as server:
        found = advised(server, "LDMI,EIMF", shares="0.3,1")
        assert set(server.times_asked().values()) == {1}  # each sample contains the smaller ones
    by_model = {name: [step for step in found.steps if step.model == name] for name in ("LDMI", "EIMF")}
    for steps in by_model.values():
        if all(step.verdict == OPEN for step in steps):
            assert [step.share for step in steps] == [0.3, 1.0]
        asked = [step.requests for step in steps]
        assert asked == sorted(asked)
        assert all(step.low <= step.gain <= step.high for step in steps)
        assert all(step.gain == pytest.approx(step.value - step.backbone) for step in steps)
    assert {end.model for end in found.ends} == {"LDMI", "EIMF"}
    assert found.level == pytest.approx(1 - 0.05 / 4)
    ldmi = by_model["LDMI"]
    assert ldmi[0].requests < ldmi[-1].requests


def test_a_gain_within_the_margin_ends_it_and_the_rest_is_priced(few_users: Path) -> None:
    with StubServer(answer_of_any_prompt) as server:
        given = {"llm_price_in": 1000.0, "llm_price_out": 1000.0, "max_cost": 1000.0, "seeds": 1}
        found = advised(server, margin=0.999, **given)
        asked = len(server.calls)
        (step,), (end,) = found.steps, found.ends
        assert (step.share, step.verdict) == (0.2, NONE)
        assert step.price == pytest.approx((server.tokens_in + server.tokens_out) / 1000)
        run = make_run("LDMI", llm="vllm", llm_base_url=server.base_url, **SHORT)
        runner().make_features(run)
        assert end.requests == len(server.calls) - asked > 0
    assert end.price is not None
    assert end.price > 0
    assert "within ±0.999; the rest: " in render_advice(found)


def test_no_test_case_is_ranked_and_no_result_is_written(few_users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Prepared.eval_loader

    def valid_alone(self: Prepared, phase: str) -> Any:
        assert phase == "valid"
        return loader(self, phase)

    before = [record.key for record in ResultStore("results")]
    monkeypatch.setattr(Prepared, "eval_loader", valid_alone)
    with StubServer(answer_of_any_prompt) as server:
        assert advised(server, seeds=1, shares="0.5").steps
    assert [record.key for record in ResultStore("results")] == before


def test_a_second_command_asks_and_trains_nothing(few_users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_training(*_: object) -> None:
        raise AssertionError("a training was there")

    with StubServer(answer_of_any_prompt) as server:
        first, asked = advised(server, seeds=1, shares="0.2,1"), len(server.calls)
        monkeypatch.setattr(Runner, "_train", no_training)
        second = advised(server, seeds=1, shares="0.2,1")
        assert len(server.calls) == asked
    assert (second.steps, second.ends) == (first.steps, first.ends)


def test_a_killed_command_goes_on_with_what_is_there(few_users: Path) -> None:
    def reply(call: Call) -> Reply:
        return Reply(how="hang") if call.number == 12 else answer_of_any_prompt(call)

    with StubServer(reply) as server:
        words = ["advise", "--model=LDMI", "--dataset=tiny", "--llm=vllm", f"--llm_base_url={server.base_url}"]
        words += ["--llm_concurrency=1", "--shares=0.2,1", "--seeds=1", *(f"--{k}={v}" for k, v in SHORT.items())]
        child = start_command(*words, "--quiet")
        server.wait_until(lambda found: len(found.calls) == 13)
        trained = {path: path.stat().st_mtime_ns for path in Path("saved/advice").rglob("*.json")}
        child.kill()
        assert len(trained) == 2  # one training with the first share's answers, one without answers
        again = start_command(*words, "--quiet")
        assert again.wait() == 0
        times = server.times_asked()
    assert [count for count in times.values() if count > 1] == [2]  # the question that was in flight
    assert {path: path.stat().st_mtime_ns for path in trained} == trained


def test_money_that_is_not_there_ends_it_before_it_is_spent(few_users: Path, cli: Cli, capsys: Any) -> None:
    prices = {"llm_price_in": 1000.0, "llm_price_out": 1000.0}
    with StubServer(answer_of_any_prompt) as server:
        advised(server, seeds=1, shares="0.2", max_cost=500.0, **prices)
        asked = len(server.calls)
        found = advised(server, seeds=1, shares="0.2,1", max_cost=0.01, **prices)
        (end,) = found.ends
        assert "US$ more, and 0.0100 are left" in end.why
        assert (end.share, len(found.steps)) == (0.2, 1)  # cached answers cost nothing
        assert end.requests > 0
        assert len(server.calls) == asked
        words = [f"--{k}={v}" for k, v in (SHORT | prices).items()]
        words += ["--model=LDMI", "--dataset=tiny", "--llm=vllm", f"--llm_base_url={server.base_url}", "--shares=0.2"]
        assert cli("advise", *words, "--max_requests=3", "--max_cost=500", "--seeds=1", "--titles=pseudonym") == 0
    out = capsys.readouterr().out
    assert "LDMI on tiny: ends at 0 % of the answers: stopped: --max_requests=3 is reached" in out


def test_a_single_user_is_refused_before_answers_are_bought(few_users: Path) -> None:
    """Regression: the interval of one user is infinite, so all answers were bought and decided nothing."""
    with StubServer(answer_of_any_prompt) as server:
        with pytest.raises(UserError, match="tiny has validation cases of fewer than two: take a larger --valid_users"):
            advised(server, valid_users=1)
        assert not server.calls


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model=LDMI"], "give --llm=NAME"),
        (["--model=SASRec", "--llm=vllm"], "give --llm=NAME"),
        (["--model=LDMI", "--llm=openai"], "give --max_cost"),
        (["--model=LDMI", "--llm=vllm", "--shares=1,0.5"], "give growing shares"),
        (["--model=LDMI", "--llm=vllm", "--shares=0,1"], "give growing shares"),
        (["--model=LDMI", "--llm=vllm", "--margin=-1"], "above 0"),
        (["--model=LDMI", "--llm=vllm", "--answer_share=0.5"], "sets answer_share itself"),
    ],
)
def test_what_cannot_be_advised_is_refused(tiny: Path, cli: Cli, capsys: Any, words: list[str], said: str) -> None:
    assert cli("advise", "--dataset=tiny", *words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("low", "high", "margin", "verdict"),
    [
        (0.01, 0.02, None, GAIN),
        (-0.02, -0.01, None, LOSS),
        (-0.01, 0.01, None, OPEN),
        (-0.01, 0.01, 0.02, NONE),
        (-0.01, 0.03, 0.02, OPEN),
        (0.001, 0.01, 0.02, NONE),  # a gain that is too small to pay for
        (0.001, 0.03, 0.02, GAIN),
    ],
)
def test_an_interval_decides(low: float, high: float, margin: float | None, verdict: str) -> None:
    assert _verdict(low, high, margin) == verdict


@given(st.integers(1, 60), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_larger_sample_holds_all_of_a_smaller_one(size: int, one: float, other: float) -> None:
    keys = [(n, n + 1) for n in range(size)]
    small, large = (set(sampled(keys, share)) for share in sorted((one, other)))
    assert small
    assert small <= large
    assert sampled(keys, 1.0) == list(range(size))


def test_a_sample_is_about_as_large_as_its_share() -> None:
    assert len(sampled(list(range(10_000)), 0.3)) == pytest.approx(3000, rel=0.05)


def test_a_share_of_the_answers_is_another_run_and_the_row_says_so(few_users: Path) -> None:
    with StubServer(answer_of_any_prompt) as server:
        asked = {"llm": "vllm", "llm_base_url": server.base_url, **SHORT}
        part, whole = make_run("LDMI", answer_share=0.3, **asked), make_run("LDMI", **asked)
        assert part.key != whole.key
        assert make_run("LDMI", answer_share=1.0, **asked).key == whole.key
        record = runner().run(part)
    assert record.features is not None
    assert 0 < record.features.coverage["interest"] < 0.7
    assert CoreSettings.model_fields["answer_share"].description
    assert "answered" in recbole_llm.table(model="LDMI")
