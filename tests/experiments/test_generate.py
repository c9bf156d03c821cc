"""The generate verb: plans, limits, batches, answers in and out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.data.atomic import read_table
from recbole_llm.errors import UserError
from recbole_llm.experiments import generate
from recbole_llm.experiments.estimate import estimate_work, work_of_grid
from recbole_llm.experiments.run import Run
from recbole_llm.features.sources import AnswerSource, FeaturePlan
from recbole_llm.llm.budget import Budget
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.endpoint import Endpoint, load_endpoint
from recbole_llm.utils.text import price_text
from tests.features.asking import SEMANTICS, answer_of_any_prompt, asking_run, contents, only_folder
from tests.helpers import make_run, runner, write_tiny
from tests.llm.batch_stub import BatchStub, output_line, three_candidates
from tests.stub_server import Call, Reply, StubServer, intents_from_candidates

KEY = "sk-test-0123456789abcdef"


def made(run: Run, limit: int | None = None, budget: Budget | None = None) -> None:
    generate.make([run], runner(), AnswerSource(budget, limit))


def paid(server: StubServer, **overrides: object) -> Run:
    return asking_run(server, **{"llm": "openai", "max_cost": 5.0} | overrides)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


# ---- dry runs -----------------------------------------------------------------------------------


def test_a_dry_run_counts_what_a_run_then_asks(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        run = paid(server)
        (_, (_, planned)) = generate.plan([run], runner())
        assert server.calls == []
        made(run)
        assert (planned.requests, planned.cached) == (len(server.calls), 0)
        assert planned.tokens_in == pytest.approx(
            server.tokens_in, rel=0.35
        )  # the stub counts three characters a token
        assert 0 < planned.price < 5
        assert not planned.estimated


@pytest.mark.parametrize("model", ["LDMI", "ISRF"])
def test_a_dry_run_counts_questions_that_several_folders_ask_once(few_users: Path, model: str) -> None:
    with StubServer(answer_of_any_prompt) as server:
        options = {"llm": "openai", "llm_base_url": server.base_url, "max_cost": 5.0, "candidates": 5}
        runs = [make_run(model, protocol=name, **options) for name in ("loo", "direct_100")]
        rows = [row for _, row in generate.plan(runs, runner())]
        alone = [row for _, row in generate.plan(runs[:1], runner())]
        estimated = estimate_work(work_of_grid(runs, runner()), runner())
        generate.make(runs, runner(), AnswerSource())
        assert sum(row.requests for row in rows) == len(server.calls)
    first, second = rows[: len(alone)], rows[len(alone) :]
    assert first == alone
    assert [(row.requests, row.cached, row.price) for row in second] == [(0, row.requests, 0) for row in alone]
    assert estimated.requests == len(server.calls)
    assert estimated.dollars == pytest.approx(sum(row.price for row in alone))


def test_a_dry_run_counts_questions_about_candidates_of_two_models_twice(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        runs = [paid(server), paid(server, stage_one_seed=7)]
        first, second = (row.requests for _, row in generate.plan(runs, runner()) if row.requests)
    assert first == second


def test_a_dry_run_writes_nothing_and_wants_neither_key_nor_limit(
    few_users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    before = sorted(path for path in few_users.rglob("*") if "responses" not in path.name)
    with StubServer() as server:
        rows = generate.plan([paid(server, max_cost=None)], runner())
    assert sorted(path for path in few_users.rglob("*") if "responses" not in path.name) == before
    assert "--batch" in generate.render_plan(rows)


def test_a_dry_run_trains_nothing_and_says_that_it_estimates(few_users: Path) -> None:
    shutil.rmtree("saved")
    with StubServer() as server:
        rows = generate.plan([paid(server)], runner())
    assert not Path("saved").exists()
    assert rows[1][1].estimated
    assert "~ estimate" in generate.render_plan(rows)


def test_a_dry_run_counts_the_trainings_before_the_first_question(few_users: Path) -> None:
    with StubServer() as server:
        run = paid(server, candidate_folds=3)
        rows = generate.plan([run], runner())
        assert "before the first question: 3 trainings of SRGNN (stage I)." in generate.render_plan(rows)
        assert rows[1][1].estimated
        shutil.rmtree("saved")
        assert ": 4 trainings of SRGNN" in generate.render_plan(generate.plan([run], runner()))
        assert ": 1 training of SRGNN" in generate.render_plan(generate.plan([paid(server)], runner()))
        assert not Path("saved").exists()
    assert server.calls == []


def test_a_dry_run_sees_what_is_there_already(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        run = paid(server)
        made(run, limit=20)
        asked = len(server.calls)
        planned = generate.plan([run], runner())[1][1]
        assert planned.cached == asked
        made(run)
        assert planned.requests == len(server.calls) - asked
        assert [row.state for _, row in generate.plan([run], runner())] == ["made", "made"]


def test_a_dry_run_counts_each_question_at_the_price_of_its_endpoint(few_users: Path) -> None:
    """Regression: what another endpoint takes was shown at the discount, or without the price, of the first one."""
    Path("unpriced.yaml").write_text("base_url: http://127.0.0.1:9/v1\nmodel: m\nprice_in: ~\nprice_out: ~\n")
    sources = ("openai", "anthropic", "unpriced.yaml")
    openai, anthropic, unpriced = (make_run("EIMF", llm=llm, max_cost=5.0) for llm in sources)
    halved, full = (sum(row.price for _, row in generate.plan([run], runner())) for run in (openai, anthropic))
    for runs in ([openai, anthropic], [anthropic, openai]):
        text = generate.render_plan(generate.plan(runs, runner()))
        assert f" {price_text(halved + full)} US$ ({price_text(halved / 2 + full)} US$ with --batch)" in text
        assert "--llm=openai caches prefixes" in text and "--llm=anthropic states no price for it" in text
    for runs in ([openai, unpriced], [unpriced, openai]):
        text = generate.render_plan(generate.plan(runs, runner()))
        assert f" {price_text(halved)} US$ and those of --llm=unpriced, which states no price" in text
        cells = [line.split()[-1] for line in text.splitlines() if " asks " in line]
        assert cells.count("?") == len(cells) / 2


def test_the_offline_rule_has_nothing_to_plan(few_users: Path) -> None:
    rows = generate.plan([make_run("LLMDMsRec", epochs=1, encoder_max_length=64)], runner())
    assert [row.state for _, row in rows] == ["by rule", "by rule"]
    assert "nothing costs" in generate.render_plan(rows)


def test_models_without_features_have_nothing_to_generate(few_users: Path) -> None:
    with pytest.raises(UserError, match="none of these models reads semantic features"):
        generate.plan([make_run("SRGNN")], runner())


LONG = 1024  # tokens from which gpt-5-mini caches a prefix


def test_a_dry_run_says_what_caching_prefixes_may_save(few_users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> tuple[str, FeaturePlan]:
        with StubServer() as server:
            rows = generate.plan([paid(server)], runner())
        (line,) = [line for line in generate.render_plan(rows).splitlines() if "prefix caching" in line]
        return line, rows[1][1]

    line, plan = said()
    assert 0 < plan.shared < LONG
    assert line == (
        "prefix caching saves nothing: --llm=openai caches prefixes from 1,024 tokens on; questions begin with at most "
        f"{plan.shared} equal ones."
    )

    def early(name: str, changes: dict[str, object]) -> Endpoint:
        return replace(load_endpoint(name, changes), cache_from=100)

    monkeypatch.setattr("recbole_llm.features.sources.load_endpoint", early)
    line, plan = said()
    saved = (plan.requests - 1) * plan.shared * (0.25 - 0.025) / 1e6
    assert plan.saved == pytest.approx(saved, rel=0.1)  # some questions share a slightly longer prefix
    assert line.startswith(
        f"prefix caching may save {plan.saved:.2f} US$ of it: --llm=openai caches prefixes from 100 "
    )


def test_a_dry_run_without_a_price_says_so_and_asking_wants_one(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        run = asking_run(server, llm="groq", max_cost=5.0)
        text = generate.render_plan(generate.plan([run], runner()))
        assert "requests; price not stated: give --llm_price_in and --llm_price_out" in text
        assert " ? " in text or text.splitlines()[3].endswith("?")
        with pytest.raises(UserError, match=r"states no price for openai/gpt-oss-20b\. Give --llm_price_in"):
            made(run)
        assert server.calls == []


def test_another_file_of_the_same_service_states_no_price_of_prefixes(few_users: Path) -> None:
    with StubServer() as server:
        rows = generate.plan([asking_run(server, llm="anthropic", max_cost=5.0)], runner())
    assert "the file of --llm=anthropic states no price for it" in generate.render_plan(rows)


# ---- limits -------------------------------------------------------------------------------------


def test_one_budget_holds_for_all_cells_of_a_command(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        runs = [asking_run(server, intent_stride=stride) for stride in (4, 1)]
        with pytest.raises(UserError, match="--max_requests=40 is reached"):
            generate.make(runs, runner(), AnswerSource(Budget(max_requests=40)))
        assert len(server.calls) == 40
        first = len(json.loads(only_manifest("loo-vllm-*", 4).read_text())["features"])
    assert first == 3  # itemtext, candidates and intents of the first run are complete


def only_manifest(pattern: str, stride: int) -> Path:
    (found,) = [
        path / "manifest.json"
        for path in SEMANTICS.glob(pattern)
        if json.loads((path / "manifest.json").read_text())["identity"]["settings"]["intent_stride"] == stride
    ]
    return found


def test_a_limited_command_leaves_the_rest_to_the_next(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        run = asking_run(server)
        made(run, limit=7)
        assert len(server.calls) == 7
        entry = json.loads((only_folder() / "manifest.json").read_text())["features"]["intent"]
        assert entry["stopped"].startswith("--limit=7 of ")
        assert 0 < entry["coverage"] < 0.5
        made(run)
        assert max(server.times_asked().values()) == 1
    assert json.loads((only_folder() / "manifest.json").read_text())["features"]["intent"]["coverage"] == 1.0


# ---- answers in and out -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.jsonl.gz"])
def test_published_answers_rebuild_the_features_without_a_key(
    few_users: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with StubServer(intents_from_candidates) as server:
        run = paid(server)
        made(run)
        count = generate.export([run], Path(name))
        asked, wanted = len(server.calls), contents(only_folder("openai"))
        assert count == asked
        shutil.rmtree(only_folder("openai"))
        (SEMANTICS / "responses.sqlite").unlink()
        monkeypatch.delenv("OPENAI_API_KEY")
        assert generate.take_in([run], Path(name)).new == count
        made(paid(server, max_cost=0.0))
        assert len(server.calls) == asked
    assert contents(only_folder("openai")) == wanted


def test_publishing_nothing_is_an_error_and_leaves_an_older_file(few_users: Path) -> None:
    Path("answers.jsonl").write_text("of another run")
    with StubServer() as server, pytest.raises(UserError, match="no such answers to export"):
        generate.export([paid(server)], Path("answers.jsonl"))
    assert Path("answers.jsonl").read_text() == "of another run"


def test_a_batch_file_and_its_output_take_the_place_of_asking(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        run = paid(server)
        count = generate.batch_file([run], runner(), Path("batch.jsonl"))
        lines = [json.loads(line) for line in Path("batch.jsonl").read_text().splitlines()]
        assert len(lines) == count
        assert {line["url"] for line in lines} == {"/v1/chat/completions"}
        assert lines[0]["body"]["response_format"]["type"] == "json_schema"
        output = [json.dumps(output_line(line, three_candidates(line["body"]))) for line in lines]
        Path("output.jsonl").write_text("\n".join(output))
        assert generate.take_in([run], Path("output.jsonl")).new == count
        made(run)
        assert server.calls == []
    entry = json.loads((only_folder("openai") / "manifest.json").read_text())["features"]["intent"]
    assert entry["coverage"] == 1.0
    assert entry["usage"]["price"] == pytest.approx(count * 0.5 * (100 * 0.25 + 10 * 2.0) / 1e6)


def test_nothing_pending_is_no_batch(few_users: Path) -> None:
    with StubServer(intents_from_candidates) as server:
        made(asking_run(server))
        with pytest.raises(UserError, match="all answers are there"):
            generate.batch_file([asking_run(server)], runner(), Path("batch.jsonl"))


def test_batches_are_submitted_awaited_and_taken_in(few_users: Path) -> None:
    stub = BatchStub(three_candidates)
    with StubServer(stub) as server:
        generate.run_batches([paid(server)], runner(), pause=0.0)
    assert len(stub.submitted) == len(set(stub.submitted))
    assert json.loads((only_folder("openai") / "manifest.json").read_text())["features"]["intent"]["coverage"] == 1.0


def test_a_batch_asks_one_endpoint(few_users: Path) -> None:
    """Regression: the first endpoint was asked, and paid, for what another one was to answer."""
    stub = BatchStub(three_candidates)
    with StubServer(stub) as server:
        runs = [paid(server), paid(server, llm="gpt-4o-mini")]
        with pytest.raises(UserError, match="--batch takes one --llm for a dataset"):
            generate.run_batches(runs, runner(), pause=0.0)
    assert not stub.submitted


def test_unusable_answers_of_a_batch_are_asked_again_in_the_next(few_users: Path) -> None:
    def answer(body: dict[str, object]) -> str:
        return "no idea" if len(body["messages"]) == 4 else three_candidates_of_the_first(body)  # type: ignore[arg-type]

    def three_candidates_of_the_first(body: dict[str, list[dict[str, str]]]) -> str:
        return three_candidates({"messages": body["messages"][:4]})

    stub = BatchStub(answer)
    with StubServer(stub) as server:
        generate.run_batches([paid(server)], runner(), pause=0.0)
    assert len(stub.batches) == 2
    assert json.loads((only_folder("openai") / "manifest.json").read_text())["features"]["intent"]["coverage"] == 1.0


def test_a_stopped_run_goes_on_with_the_batch_that_it_paid_for(few_users: Path) -> None:
    stub = BatchStub(three_candidates)
    with StubServer(stub) as server:
        with pytest.raises(UserError, match="--max_requests=10 is reached"):
            generate.run_batches([paid(server, max_requests=10)], runner(), pause=0.0)
        generate.run_batches([paid(server)], runner(), pause=0.0)
    assert len(stub.submitted) == len(set(stub.submitted))


def test_a_run_that_ends_before_the_batch_is_named_finds_it_again(
    few_users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = BatchStub(three_candidates)
    put = ResponseCache.put_batch

    def ended(self: ResponseCache, batch: str, *rest: Any) -> None:
        if batch.startswith("batch-"):
            raise KeyboardInterrupt
        put(self, batch, *rest)

    with StubServer(stub) as server:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(ResponseCache, "put_batch", ended)
            generate.run_batches([paid(server)], runner(), pause=0.0)
        generate.run_batches([paid(server)], runner(), pause=0.0)
    assert len(stub.batches) == 1


def test_a_batch_that_brings_nothing_stops_the_run(few_users: Path) -> None:
    stub = BatchStub(three_candidates, status="failed")
    with StubServer(stub) as server, pytest.raises(UserError, match=r"brought no answer.*batch failed"):
        generate.run_batches([paid(server)], runner(), pause=0.0)
    assert len(stub.batches) == 1


def test_what_is_wrong_for_all_is_said_before_a_batch_is_made(few_users: Path) -> None:
    stub = BatchStub(three_candidates)

    def reply(call: Call) -> Reply:
        refused = Reply(status=401, body={"error": {"message": "No such key"}})
        return refused if call.path.endswith("/chat/completions") else stub(call)

    with StubServer(reply) as server:
        with pytest.raises(UserError, match="refuses the key in OPENAI_API_KEY: No such key"):
            generate.run_batches([paid(server)], runner(), pause=0.0)
        assert len(server.calls) == 1


def test_what_an_endpoint_does_not_take_is_left_out_of_its_batches(few_users: Path) -> None:
    stub = BatchStub(three_candidates)

    def reply(call: Call) -> Reply:
        live = call.path.endswith("/chat/completions")
        words = {"error": {"message": "Unknown parameter: temperature"}}
        return Reply(status=400, body=words) if live and "temperature" in call.body else stub(call)

    with StubServer(reply) as server:
        generate.run_batches([paid(server, llm_temperature=0.5)], runner(), pause=0.0)
    assert len(stub.live) == 1
    assert all("temperature" not in line["body"] for lines in stub.files.values() for line in lines)
    assert intent_entry()["usage"]["parameters"] == {"temperature": "left out"}
    assert intent_entry()["coverage"] == 1.0


def intent_entry(dataset: str = "tiny") -> dict[str, Any]:
    """The manifest's entry for a dataset's intents."""
    (folder,) = Path("dataset", dataset, "semantics").glob("loo-openai-*")
    return dict(json.loads((folder / "manifest.json").read_text())["features"]["intent"])


def test_each_dataset_has_batches_and_answers_of_its_own(few_users: Path) -> None:
    write_tiny(Path("dataset/other"), n_users=14, seed=8)
    stub = BatchStub(three_candidates)
    with StubServer(stub) as server:
        options = {"llm": "openai", "llm_base_url": server.base_url, "max_cost": 5.0, "epochs": 1}
        runs = [make_run("LLMDMsRec", name, **options) for name in ("tiny", "other")]
        shops = generate.run_batches(runs, runner(), pause=0.0)
    assert [builder.settings["dataset"] for builder in shops] == ["tiny", "other"]
    keys = [set(read_table(builder.folder.file("intent.asked"))["request_key"]) for builder in shops]
    sent = [{line["custom_id"] for line in lines} for lines in stub.files.values()]
    assert all(own > batch for own, batch in zip(keys, sent, strict=True))
    assert [len(own - batch) for own, batch in zip(keys, sent, strict=True)] == [1, 1]  # asked before the batch
    for name, own in zip(("tiny", "other"), keys, strict=True):
        with ResponseCache(Path("dataset", name, "semantics", "responses.sqlite")) as cache:
            assert {row["key"] for row in cache.rows()} == own
        assert intent_entry(name)["coverage"] == 1.0


def test_folders_with_the_same_questions_wait_for_the_same_answers(few_users: Path) -> None:
    stub = BatchStub(three_candidates)
    with StubServer(stub) as server:
        shops = generate.run_batches([paid(server), paid(server, fill="offline")], runner(), pause=0.0)
    assert len(stub.submitted) == len(set(stub.submitted))
    assert [builder.folder.manifest["features"]["intent"]["coverage"] for builder in shops] == [1.0, 1.0]


def test_a_batch_without_a_usable_line_is_over(few_users: Path) -> None:
    stub = BatchStub(lambda body: None)

    def reply(call: Call) -> Reply:
        return Reply(text=three_candidates(call.body)) if call.path.endswith("/chat/completions") else stub(call)

    with StubServer(reply) as server:
        for count in (1, 2):  # the failed batch is not waited for again
            with pytest.raises(UserError, match=r"brought no answer.*refused \(the request failed\)"):
                generate.run_batches([paid(server)], runner(), pause=0.0)
            assert len(stub.batches) == count
        stub.answer = three_candidates
        generate.run_batches([paid(server)], runner(), pause=0.0)
    assert intent_entry()["coverage"] == 1.0


def test_a_request_that_fails_in_two_batches_is_a_gap_until_the_next_command(few_users: Path) -> None:
    refused: list[str] = []

    def all_but_one(body: dict[str, Any]) -> str | None:
        question = str(body["messages"])
        refused.extend([question] * (not refused))
        return None if question in refused else three_candidates(body)

    stub = BatchStub(all_but_one)
    with StubServer(stub) as server:
        generate.run_batches([paid(server)], runner(), pause=0.0)
        assert 0 < intent_entry()["counts"]["unanswered"] < 5  # feature keys that share the refused question
        assert len(stub.batches) == 2
        generate.run_batches([paid(server)], runner(), pause=0.0)
        assert len(stub.submitted) - len(set(stub.submitted)) == 3
        stub.answer = three_candidates
        generate.run_batches([paid(server)], runner(), pause=0.0)
    assert intent_entry()["coverage"] == 1.0
