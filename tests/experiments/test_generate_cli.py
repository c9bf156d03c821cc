"""The generate verb and ``doctor --leaks`` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_llm.experiments.store import ResultStore
from tests.helpers import Cli
from tests.stub_server import Reply, StubServer, intents_from_candidates

SHORT = ["--epochs=1", "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=128", "--seed=1", "--quiet"]


def test_plan_try_make_publish_and_check(
    few_users: Path,
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    with StubServer(intents_from_candidates) as server:
        base = ["generate", "--model=LLMDMsRec", "--dataset=tiny", "--llm=openai", f"--llm_base_url={server.base_url}"]

        def said(*words: str) -> str:
            assert cli(*base, *SHORT, *words) == 0
            return capsys.readouterr().out

        assert "US$ with --batch" in said("--dry-run")
        assert cli(*base, *SHORT) == 2
        assert "give --max_cost=5.00" in capsys.readouterr().err
        assert "--limit=5 of" in said("--max-cost=2", "--limit=5")
        assert len(server.calls) == 5
        assert "100.0%" in said("--max-cost=2")
        asked = len(server.calls)
        assert f"{asked} answers" in said("--export=answers.jsonl.gz")
        assert f"0 answers imported, {asked} known before" in said("--import=answers.jsonl.gz")
        assert cli(*base, *SHORT, "--batch-file=requests.jsonl") == 2
        assert "all answers are there" in capsys.readouterr().err
        assert len(server.calls) == asked
    assert cli("doctor", "--leaks", "--dataset=tiny") == 0
    assert "prompts" in capsys.readouterr().out


@pytest.mark.parametrize("stop", ["--max-requests=3", "--max-cost=0", "a server without credit"])
def test_a_trial_that_something_else_stops_is_an_error_too(
    few_users: Path,
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    stop: str,
) -> None:
    words = [stop] if stop.startswith("--") else []
    with StubServer(intents_from_candidates if words else lambda call: Reply(status=402)) as server:
        base = ["generate", "--model=LLMDMsRec", "--dataset=tiny", "--llm=vllm", f"--llm_base_url={server.base_url}"]
        assert cli(*base, *SHORT, "--limit=5", "--llm_concurrency=1", *words) == 2
        assert len(server.calls) == {"--max-requests=3": 3, "--max-cost=0": 0}.get(stop, 1)
    assert "error: stopped: " in capsys.readouterr().err


def test_an_llm_that_is_not_there_is_an_error_and_no_row(
    few_users: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    with StubServer() as server:
        gone = server.base_url
    assert cli("--model=LLMDMsRec", "--dataset=tiny", "--llm=vllm", f"--llm_base_url={gone}", *SHORT) == 2
    shown = capsys.readouterr()
    assert "cannot be reached" in shown.err
    assert "Qwen" not in shown.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--llm=vllm", "--llm_base_url=localhost:8000/v1"], "Give --llm_base_url=http://localhost:8000/v1"),
        (["--llm=vllm", "--llm_temperature=hot"], "llm_temperature takes a number"),
        (["--llm=vllm", "--llm_max_tokens=0"], "llm_max_tokens is at least 1"),
        (["--llm=anthropic", "--llm_reasoning_effort=low", "--max_cost=1"], "takes no reasoning effort"),
        (["--limit=0"], "--limit=0: give 1 or more"),
        (["--dry-run", "--batch"], "generate does one thing"),
        (["--profiles=none.jsonl"], "--profiles=none.jsonl: there is no such file"),
        (["--profiles=dataset"], "--profiles=dataset is a folder; give the name of a file"),
        (["--import=none.jsonl"], "none.jsonl cannot be read"),
        (["--llm=opena"], r"Did you mean openai"),
    ],
)
def test_mistakes_are_named(
    few_users: Path,
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert cli("generate", "--model=LLMDMsRec", "--dataset=tiny", *SHORT, *words) == 2
    assert message in capsys.readouterr().err


def test_a_source_may_be_a_file_of_ones_own(few_users: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    with StubServer(intents_from_candidates) as server:
        Path("lab.yaml").write_text(f"base_url: {server.base_url}\nmodel: lab-7b\n")
        run = ["--model=LLMDMsRec", "--dataset=tiny", "--llm=lab.yaml", *SHORT]
        assert cli(*run) == 0
        assert "lab-7b" in capsys.readouterr().out
        asked = len(server.calls)
        assert asked
        Path("lab.yaml").write_text(f"base_url: {server.base_url}\nmodel: lab-13b\n")
        assert cli(*run) == 0  # another model is another run
        assert "lab-13b" in capsys.readouterr().out
        assert len(server.calls) == 2 * asked
    read = [(record.settings["llm"], record.features.server) for record in ResultStore() if record.features]
    assert read == 2 * [("lab.yaml", server.base_url)]
    assert cli("submit", "results", "--output=handed") == 0  # the key holds both
    capsys.readouterr()
    assert cli(*run[:2], "--llm=nowhere.yaml", *SHORT) == 2
    assert "--llm=nowhere.yaml: there is no such file" in capsys.readouterr().err
