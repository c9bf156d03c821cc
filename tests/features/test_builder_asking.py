"""The hook with an endpoint: every question is paid for only once."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.data.atomic import read_table
from recbole_llm.errors import UserError
from recbole_llm.experiments.generate import feature_builders
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.encoder import minilm_folder
from recbole_llm.features.sources import AnswerSource
from recbole_llm.utils.files import one_process_at_a_time
from recbole_llm.utils.progress import Stopwatch
from recbole_llm.utils.text import share_of
from tests.features.asking import SEMANTICS, answer_of_any_prompt, ask, asking_run, contents, file_states, only_folder
from tests.helpers import StopAt, make_run, prepare, runner
from tests.processes import Started, start_command
from tests.stub_server import PATIENCE, Call, Reply, StubServer, intents_from_candidates

KEY = "sk-test-0123456789abcdef"


def test_every_key_is_asked_about_once_and_never_again(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        facts = ask(server).dataset.semantics.facts()
        before = file_states(only_folder())
        asked = len(server.calls)
        assert set(server.times_asked().values()) == {1}
        assert facts["requests"] == asked
        assert (facts["tokens_in"], facts["tokens_out"]) == (server.tokens_in, server.tokens_out)
        assert facts["coverage"]["intent"] == 1.0
        ask(server)
        assert len(server.calls) == asked
    assert file_states(only_folder()) == before


def test_of_two_commands_at_once_the_second_waits_and_reads_what_the_first_made(
    few_users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = threading.Event()
    monkeypatch.setattr("recbole_llm.utils.files.logger.info", lambda *_: came.set())
    with StubServer(intents_from_candidates) as server, ThreadPoolExecutor(1) as pool:
        runs = [asking_run(server, seed=seed) for seed in (1, 2)]
        first, second = (next(feature_builders([run], runner(), AnswerSource.of(run.settings))) for run in runs)
        with one_process_at_a_time(first.folder.path, "a test"):
            made = pool.submit(second.make)
            made.add_done_callback(lambda _: came.set())
            assert came.wait(PATIENCE)
            assert not server.calls
        made.result()
        before, asked = file_states(only_folder()), len(server.calls)
        assert set(server.times_asked().values()) == {1}
        first.make()
        assert len(server.calls) == asked
    assert file_states(only_folder()) == before


def test_two_folders_with_the_same_questions_ask_each_once(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server, ThreadPoolExecutor(2) as pool:
        runs = [asking_run(server, fill=fill) for fill in ("none", "offline")]
        builders = [next(feature_builders([run], runner(), AnswerSource.of(run.settings))) for run in runs]
        assert builders[0].name != builders[1].name
        for builder in builders:
            builder.asking.limit = 1
            builder.make()  # makes everything that precedes the questions
            builder.asking.limit = None
        list(pool.map(lambda builder: builder.make(), builders))
        assert len(server.calls) > 20
        assert set(server.times_asked().values()) == {1}
    entries = [builder.folder.manifest["features"]["intent"] for builder in builders]
    assert [entry["coverage"] for entry in entries] == [1.0, 1.0]


def test_a_missing_key_is_said_before_the_titles_of_a_question_are_encoded(
    few_users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = make_run("EIMF", epochs=1, llm="openai", max_cost=1.0)
    builder = next(feature_builders([run], runner(), AnswerSource.of(run.settings)))
    builder.location.vectors.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"--llm=openai needs a key.*OPENAI_API_KEY"):
        builder.make()
    assert not builder.location.vectors.exists()


def test_another_encoder_asks_nothing(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        ask(server)
        asked = len(server.calls)
        ask(server, encoder=str(minilm_folder()))
    assert len(server.calls) == asked
    assert len(list(only_folder().glob("text.*.npy"))) == 2


def test_another_encoder_has_exemplars_of_its_own(few_users: Path) -> None:
    with StubServer(answer_of_any_prompt) as server:
        given = {"epochs": 1, "llm": "vllm", "llm_base_url": server.base_url}
        prepare("EIMF", **given)
        prepare("EIMF", **given, encoder_max_length=4)
    assert len(list(SEMANTICS.glob("loo-vllm-*"))) == 2


def test_a_removed_feature_is_made_from_the_cache(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        ask(server)
        asked, before = len(server.calls), contents(only_folder())
        shutil.rmtree(only_folder())
        facts = ask(server).dataset.semantics.facts()
        assert len(server.calls) == asked
    assert contents(only_folder()) == before
    assert facts["requests"] == 0
    assert facts["cached"] == len(read_table(only_folder() / "tiny.candidates"))


def test_unusable_answers_lower_the_coverage_and_are_counted(few_users: Path) -> None:
    def reply(call: Call) -> Reply:
        return Reply(text="no idea") if len(call.data["session"]) == 1 else intents_from_candidates(call)

    with StubServer(reply) as server:
        prepared = ask(server)
    keys = len(read_table(only_folder() / "tiny.candidates"))
    short = sum(len(call.data["session"]) == 1 for call in server.calls) // 2
    manifest = json.loads((only_folder() / "manifest.json").read_text())["features"]["intent"]
    assert 0 < short < keys
    assert manifest["asked"] == keys
    lines = len(read_table(only_folder() / "tiny.intent"))
    assert manifest["coverage"] == share_of(lines, keys) == prepared.dataset.semantics.facts()["coverage"]["intent"]
    assert lines < keys
    assert manifest["counts"]["invalid"] == keys - lines


def test_gaps_are_filled_by_rule_where_it_is_asked_for_and_the_row_says_mixed(few_users: Path) -> None:
    def reply(call: Call) -> Reply:
        return Reply(text="no idea") if len(call.data["session"]) == 1 else intents_from_candidates(call)

    with StubServer(reply) as server:
        record = runner().run(asking_run(server, fill="offline"))
    keys = len(read_table(only_folder() / "tiny.candidates"))
    assert len(read_table(only_folder() / "tiny.intent")) == keys
    assert record.features is not None
    filled = record.features.filled["intent"]
    assert record.features.coverage["intent"] == share_of(keys - filled, keys) < 1
    assert record.source == "Qwen/Qwen2.5-7B-Instruct, mixed"


@pytest.mark.parametrize(
    ("stale", "kept"), [("intent", {"tiny.candidates", "tiny.itemtext"}), ("candidates", {"tiny.itemtext"})]
)
def test_a_new_version_makes_a_feature_stale_and_those_that_need_it(
    few_users: Path, stale: str, kept: set[str]
) -> None:
    tables = {"tiny.candidates", "tiny.intent", "tiny.itemtext"}
    with StubServer(intents_from_candidates) as server:
        ask(server)
        asked, wanted, before = len(server.calls), contents(only_folder()), file_states(only_folder())
        path = only_folder() / "manifest.json"
        manifest = json.loads(path.read_text())
        old = manifest["features"][stale]["stamp"]
        for entry in manifest["features"].values():
            if entry["stamp"] == old or entry["stamp"].endswith(f" < {old}"):
                entry["stamp"] = entry["stamp"].replace(old, "an older version")
        path.write_text(json.dumps(manifest))
        ask(server)
        assert len(server.calls) == asked
    after = file_states(only_folder())
    assert {name for name in tables if after[name] == before[name]} == kept
    assert contents(only_folder()) == wanted


def intent_entry() -> dict[str, Any]:
    """The manifest's entry for the intents in the LLM's feature folder."""
    (path,) = [path for path in SEMANTICS.glob("loo-*/manifest.json") if "offline" not in path.parent.name]
    return dict(json.loads(path.read_text())["features"]["intent"])


def refusing_one() -> Callable[[Call], Reply]:
    """Answer all questions except the fourth, which is refused every time."""
    lost: list[bytes] = []

    def reply(call: Call) -> Reply:
        if call.number == 3:
            lost.append(call.raw)
        return Reply(status=400) if call.raw in lost else intents_from_candidates(call)

    return reply


def test_a_gap_is_asked_again_by_the_next_command(few_users: Path) -> None:
    with StubServer(refusing_one()) as server:
        ask(server)
        assert intent_entry()["counts"]["unanswered"] > 0
        asked = len(server.calls)
        server.reply = intents_from_candidates
        assert ask(server).dataset.semantics.facts()["coverage"]["intent"] == 1.0
        assert [call.raw for call in server.calls[asked:]] == [server.calls[3].raw]
        ask(server)
        assert len(server.calls) == asked + 1


def test_a_training_that_began_with_a_gap_begins_anew_once_it_is_filled(
    few_users: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    with StubServer(refusing_one()) as server:
        run = asking_run(server, epochs=4)
        ask(server, epochs=4)  # trains the candidate model
        with pytest.raises(KeyboardInterrupt):
            Runner(ResultStore("results"), StopAt("epoch 3"), asks_again=False).run(run)
        server.reply = intents_from_candidates
        filled = runner().run(run)
        assert "began with other features than there are now; training begins anew" in caplog.text
        whole = runner("whole").run(asking_run(server, epochs=4, checkpoint_dir="whole"))
    assert [entry["loss"] for entry in filled.curve] == [entry["loss"] for entry in whole.curve]


def test_a_training_goes_on_with_features_that_were_made_again_as_they_were(
    few_users: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    caplog.set_level(logging.INFO, logger="recbole_llm")
    run = make_run("LDMI", epochs=4)
    with pytest.raises(KeyboardInterrupt):
        Runner(ResultStore("results"), StopAt("epoch 3")).run(run)
    folder = runner().make_features(run)
    assert folder is not None
    shutil.rmtree(folder)
    runner().run(run)
    assert "continuing after epoch 2" in caplog.text


def test_a_gap_that_stays_is_asked_about_once_a_command(few_users: Path) -> None:
    with StubServer(refusing_one()) as server:
        ask(server)
        asked, lost = len(server.calls), server.calls[3].raw
        server.reply = lambda call: Reply(status=400)
        command = runner()
        for seed in (1, 2):
            command.prepare(asking_run(server, seed=seed), Stopwatch())
        assert [call.raw for call in server.calls[asked:]] == [lost]
        Runner(ResultStore("results"), asks_again=False).prepare(asking_run(server), Stopwatch())
        assert len(server.calls) == asked + 1


def test_a_gap_that_may_not_be_asked_about_stays_one(few_users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with StubServer(refusing_one()) as server:
        ask(server, llm="openai", max_cost=5.0)
        before, asked = intent_entry(), len(server.calls)
        ask(server, llm="openai", max_cost=0.0)
        ask(server, llm="openai", max_cost=5.0, max_requests=0)
        monkeypatch.delenv("OPENAI_API_KEY")
        ask(server, llm="openai", max_cost=5.0)
        assert (intent_entry(), len(server.calls)) == (before, asked)


def test_gaps_that_a_gone_server_leaves_are_gaps_as_before(few_users: Path) -> None:
    with StubServer(
        lambda call: Reply(status=400) if call.number % 4 == 3 else intents_from_candidates(call)
    ) as server:
        ask(server)
        before = intent_entry()
        server.reply = lambda call: Reply(status=402)
        with pytest.raises(UserError, match="no credit left"):
            ask(server)
        assert {**intent_entry(), "made": "", "usage": {}} == {**before, "made": "", "usage": {}}
        assert ask(server, max_requests=0).dataset.semantics.facts()["coverage"]["intent"] == before["coverage"]


# ---- no answer, no row --------------------------------------------------------------------------


def nothing_is_made() -> bool:
    """Whether there is neither an LLM feature nor a checkpoint of the model that would read it."""
    manifests = [json.loads(path.read_text()) for path in SEMANTICS.glob("loo-vllm-*/manifest.json")]
    return all("intent" not in each["features"] for each in manifests) and not list(
        Path("saved").rglob("LLMDMsRec*/*.pt")
    )


def test_a_row_never_bears_the_name_of_an_llm_that_is_not_there(few_users: Path) -> None:
    with StubServer() as server:
        run = asking_run(server)
    with pytest.raises(UserError, match=r"--llm=vllm \(http://127\.0\.0\.1.*\) cannot be reached"):
        runner().run(run)
    assert nothing_is_made()


@pytest.mark.parametrize("fill", ["none", "offline"])
@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(text="I'm sorry, but I can't help."), r"any of \d+ questions for intent \(asked_again \d+, .*refusal "),
        (Reply(text='{"error": "none"}'), r"for intent \(.*schema \d+\)\. No model is trained"),
        (Reply(text="", finish_reason="content_filter"), r"for intent \(filtered \d+, invalid \d+\)"),
    ],
    ids=["refusals", "no intents", "filtered"],
)
def test_answers_of_which_none_can_be_used_make_no_row(few_users: Path, reply: Reply, words: str, fill: str) -> None:
    with StubServer(lambda call: reply) as server:
        with pytest.raises(UserError, match=words):
            runner().run(asking_run(server, fill=fill))
        asked = len(server.calls)
        with pytest.raises(UserError, match=words):  # from the cache, at no cost
            runner().run(asking_run(server, fill=fill))
        assert len(server.calls) == asked
    assert nothing_is_made()


def test_answers_that_end_in_reasoning_say_what_to_raise(few_users: Path) -> None:
    body = {"choices": [{"message": {"content": "<think>hm"}, "finish_reason": "length"}]}
    with StubServer(lambda call: Reply(body=body) if call.number else Reply(text="no idea")) as server:
        with pytest.raises(UserError, match=r"reasoned \d+, .*Raise --llm_max_tokens"):
            ask(server)
        assert set(server.times_asked().values()) == {1}


def test_what_some_questions_lack_stands_in_the_record(few_users: Path) -> None:
    with StubServer(
        lambda call: Reply(status=400) if call.number % 3 == 2 else intents_from_candidates(call)
    ) as server:
        record = runner().run(asking_run(server))
    assert record.features is not None
    assert 0.5 < record.features.coverage["intent"] < 0.8
    assert record.features.failed > 0


def test_features_that_are_there_but_for_gaps_outlive_their_server(
    few_users: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with StubServer(refusing_one()) as server:
        ask(server)
        before, run = intent_entry(), asking_run(server)
    assert before["counts"]["unanswered"] > 0
    prepared = runner().prepare(run, Stopwatch())
    assert prepared.dataset.semantics.facts()["coverage"]["intent"] == before["coverage"]
    assert intent_entry() == before
    (said,) = [text for text in caplog.messages if "stays incomplete" in text]
    assert "intent stays incomplete: --llm=vllm" in said


def test_what_an_endpoint_does_not_take_stands_in_the_manifest(few_users: Path) -> None:
    def reply(call: Call) -> Reply:
        refused = {"error": {"message": "'temperature' is not supported", "param": "temperature"}}
        return Reply(status=400, body=refused) if "temperature" in call.body else intents_from_candidates(call)

    with StubServer(reply) as server:
        ask(server)
        assert sum("temperature" in call.body for call in server.calls) == 1
    assert intent_entry()["usage"]["parameters"] == {"temperature": "left out"}
    assert intent_entry()["coverage"] == 1.0


# ---- stops --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "words", "remedy"),
    [
        (
            Reply(status=402, body={"error": {"message": "Insufficient Balance"}}),
            "no credit left: Insufficient Balance",
            "top up the account, then run the same command to go on",
        ),
        (
            Reply(status=429, headers={"Retry-After": "86400"}),
            "asks for a pause of 86400 seconds",
            "run the same command to go on",
        ),
    ],
    ids=["no credit", "a pause of a day"],
)
def test_a_stop_speaks_of_answers_and_limits_where_there_are_any(
    few_users: Path, reply: Reply, words: str, remedy: str
) -> None:
    with StubServer(lambda call: reply) as server:
        with pytest.raises(UserError) as caught:
            ask(server, llm_concurrency=1)
        assert str(caught.value).endswith(f"{words}. {remedy.capitalize()}.")
        server.reply = lambda call: intents_from_candidates(call) if call.number < 10 else reply
        with pytest.raises(UserError) as caught:
            ask(server, llm_concurrency=1)
        assert str(caught.value).endswith(f"{words}. The 9 answers so far are kept; {remedy}.")
        server.reply = intents_from_candidates
        with pytest.raises(UserError) as caught:
            ask(server, max_requests=5)
    said = "stopped: --max_requests=5 is reached. The 14 answers so far are kept; run the same command with a higher "
    assert str(caught.value) == f"{said}limit to go on."


# ---- what an answer depends on ------------------------------------------------------------------


def test_another_effort_temperature_or_limit_is_asked_anew_in_a_folder_of_its_own(few_users: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"llm_reasoning_effort": "high"},
        {"llm_temperature": 0.7},
        {"llm_max_tokens": 999},
    ]
    with StubServer(intents_from_candidates) as server:
        for number, change in enumerate(changes, start=1):
            ask(server, **change)
            assert len(list(SEMANTICS.glob("loo-vllm-*"))) == number
        asked = len(server.calls)
        assert set(server.times_asked().values()) == {1}
        for change in changes:
            ask(server, **change)
        assert len(server.calls) == asked
    assert [call.body["max_tokens"] for call in server.calls[-1:]] == [999]


def test_what_is_not_set_leaves_folders_and_records_as_they_were(few_users: Path) -> None:
    plain = make_run("LLMDMsRec", epochs=1, llm="vllm")
    identity = plain.settings.identity()
    assert not {"llm_temperature", "llm_max_tokens", "llm_reasoning_effort", "llm_price_in"} & identity.keys()
    assert make_run("LLMDMsRec", epochs=1, llm="vllm", llm_price_in=1.0).key == plain.key
    assert make_run("LLMDMsRec", epochs=1, llm="vllm", llm_reasoning_effort="high").key != plain.key
    builder = next(feature_builders([plain], runner(), AnswerSource()))
    wanted = {"name": "vllm", "model": "Qwen/Qwen2.5-7B-Instruct", "temperature": 0.0}
    assert builder.folder.identity["llm"] == wanted


def test_max_requests_stops_and_the_next_run_asks_only_the_rest(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        ask(server)
        wanted, all_calls = contents(only_folder()), server.times_asked()
        shutil.rmtree(only_folder())
        Path(SEMANTICS / "responses.sqlite").unlink()
        server.calls.clear()
        with pytest.raises(UserError, match=r"stopped: --max_requests=30 is reached.*answers so far are kept"):
            ask(server, max_requests=30)
        assert len(server.calls) == 30
        ask(server)
        assert server.times_asked() == all_calls
    assert contents(only_folder()) == wanted


def test_tokens_and_price_are_those_of_all_answers_whichever_run_paid(
    few_users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with StubServer(intents_from_candidates) as server:
        with pytest.raises(UserError, match="stopped"):
            ask(server, llm="openai", max_cost=5.0, max_requests=30)
        facts = ask(server, llm="openai", max_cost=5.0).dataset.semantics.facts()
    assert facts["requests"] == len(server.calls) - 30
    assert (facts["tokens_in"], facts["tokens_out"]) == (server.tokens_in, server.tokens_out)
    assert facts["price"] == pytest.approx((0.25 * server.tokens_in + 2.0 * server.tokens_out) / 1e6, abs=1e-6)


def test_a_spoilt_response_that_a_stopped_command_paid_for_stays_in_the_price(
    few_users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = {"choices": [], "usage": {"prompt_tokens": 70_000, "completion_tokens": 10_000}}

    def reply(call: Call) -> Reply:
        return Reply(body=spoilt) if call.number == 1 else intents_from_candidates(call)

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    prices = {"llm": "openai", "llm_price_in": 10.0, "llm_price_out": 20.0, "max_cost": 9.0}
    with StubServer(reply) as server:
        with pytest.raises(UserError, match="max_requests=3"):
            ask(server, **prices, max_requests=3)
        for _ in range(2):
            facts = ask(server, **prices).dataset.semantics.facts()
            assert facts["price"] == pytest.approx(10e-6 * server.tokens_in + 20e-6 * server.tokens_out + 0.9, rel=1e-3)
            (only_folder("openai") / "tiny.intent").unlink()


def test_the_limits_do_not_name_another_folder(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        ask(server, max_requests=10_000)
        before = file_states(only_folder())
        ask(server, max_requests=5, llm_concurrency=2)
    assert file_states(only_folder()) == before


def test_a_paid_source_wants_a_limit_first(few_users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with StubServer(intents_from_candidates) as server:
        with pytest.raises(UserError, match=r"--llm=openai costs money .*--max_cost=.* --max_requests alone"):
            ask(server, llm="openai")
        assert server.calls == []


def test_the_key_is_in_no_file(few_users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with StubServer(intents_from_candidates) as server:
        run = asking_run(server, llm="openai", max_cost=5.0, max_requests=500)
        record = runner().run(run)
    assert server.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert record.features is not None
    assert record.features.llm_model == "gpt-5-mini"
    assert record.features.price > 0
    files = [path for path in few_users.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_an_endpoint_that_fails_for_good_leaves_no_feature_behind(few_users: Path) -> None:
    with (
        StubServer(lambda call: Reply(status=404)) as server,
        pytest.raises(UserError, match="there is no chat API at"),
    ):
        ask(server)
    manifest = json.loads((only_folder() / "manifest.json").read_text())
    assert "intent" not in manifest["features"]
    with StubServer(intents_from_candidates) as server:
        assert ask(server).dataset.semantics.facts()["coverage"]["intent"] == 1.0


def start(server: StubServer) -> Started:
    """Start a command in a process of its own that asks one question at a time."""
    words = ["--model=LLMDMsRec", "--dataset=tiny", "--llm=vllm", f"--llm_base_url={server.base_url}"]
    words += ["--llm_concurrency=1", "--epochs=1", "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=128", "--quiet"]
    return start_command(*words)


def test_a_killed_run_goes_on_and_asks_nothing_twice_but_what_was_under_way(few_users: Path) -> None:
    def reply(call: Call) -> Reply:
        return Reply(how="hang") if call.number == 25 else intents_from_candidates(call)

    with StubServer(reply) as server:
        child = start(server)
        server.wait_until(lambda found: len(found.calls) == 26)
        child.kill()
        assert start(server).wait() == 0
        times = server.times_asked()
    assert {body for body, count in times.items() if count > 1} == {server.calls[25].raw}
    assert times[server.calls[25].raw] == 2
    assert len(read_table(only_folder() / "tiny.intent")) == len(read_table(only_folder() / "tiny.candidates"))
