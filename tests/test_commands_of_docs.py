"""Every command of the tutorials, how-to pages and explanations runs, in the order of its page, on toy data."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from recbole_llm import cli
from recbole_llm.data.catalog import locate
from tests.experiments.test_probe import kind_of
from tests.features.asking import answer_of_any_prompt
from tests.stub_server import Call, Reply, StubServer

ROOT = Path(__file__).parents[1]
FOLDERS = ("tutorials", "howto", "explanation")
PAGES = [page for folder in FOLDERS for page in sorted((ROOT / "docs" / folder).glob("*.md"))]
ELSEWHERE = {"add_a_method.md", "board.md"}  # pages whose own tests run their commands
TABLE = "table --results_dir=results/"  # tests/test_tables_of_docs.py runs these, on the kept records
COMMAND = re.compile(r"^ *(?:recbole-llm|python run_benchmark\.py) ([^#\n]+)", flags=re.M)
PLAIN = re.compile(r"^( *)```text\n.*?^\1```$", flags=re.M | re.S)  # what only a server, a cluster or a GPU can run
OTHER = re.compile(r"^ *(make|pip install|python -m) (.+)$", flags=re.M)

# What a page writes for a large run, and what the test runs instead. Where a value is None, the setting is added.
SMALLER = {"seeds": "2", "trials": "2", "trial_epochs": "1", "trial_minutes": None, "shares": "0.2,1", "questions": "5",
           "device": "cpu", "workers": None, "nproc": None, "storage": "results/studies.sqlite3",
           "epochs": "1", "budget": "toy"}  # fmt: skip
TOY = {"MAX_ITEM_LIST_LENGTH": "5", "train_batch_size": "512", "epochs": "1", "encoder_max_length": "8"}
TRAINS = ("run", "tune", "generate", "advise", "answers", "estimate", "recommend")
PUBLISHED = "--llm=claude-2026-11"  # has no server; the toy's answers come from the stub server
ASKED = ("llamacpp", "openai", "vllm", "gpt-4o-mini")


def commands(page: Path) -> list[str]:
    """The commands of a page, without ``recbole-llm``."""
    found = [line.strip() for line in COMMAND.findall(PLAIN.sub("", page.read_text(encoding="utf-8")))]
    return [line for line in found if not line.startswith(TABLE)]


def small(line: str, address: str) -> list[str]:
    """The words of a command, with small values and the stub server in place of an LLM."""
    words = cli._with_verb(shlex.split(line.replace(PUBLISHED, "--llm=llamacpp")))
    verb, given = words[0], [word.partition("=") for word in words[1:]]
    kept = [f"{key}={SMALLER[key[2:]]}" if key[2:] in SMALLER and SMALLER[key[2:]] is not None and equal
            else key + equal + value for key, equal, value in given
            if not (key[2:] in SMALLER and SMALLER[key[2:]] is None)]  # fmt: skip
    names = {key[2:] for key, _, _ in given}
    if verb in TRAINS:
        kept += [f"--{key}={value}" for key, value in TOY.items() if key not in names]
    if any(f"--llm={name}" in words for name in ASKED):
        kept.append(f"--llm_base_url={address}")
    return [verb, *kept]


def answer(call: Call) -> Reply:
    """An answer to any question of a method or a probe."""
    if isinstance(call.data, dict) and {"begins", "user", "next_id", "rows"} & {*call.data}:
        fields = {"title": {"title": "a film"}, "next": {"titles": ["a", "b"]}, "item": {"title": "a film"},
                  "row": {"row": ["1", "2", "3", "4"]}}  # fmt: skip
        return Reply(text=json.dumps(fields[kind_of(call)]))
    return answer_of_any_prompt(call)


def toy_ml_100k(folder: str = "dataset") -> None:
    """``dataset/ml-100k`` with some of its users and items, in the folder of the test."""
    files = locate("ml-100k", None, folder)
    inter, item = files.file("inter"), files.file("item")
    assert inter is not None
    assert item is not None
    header, *rows = inter.read_text(encoding="utf-8").splitlines()
    chosen = [row for row in rows if int(row.split("\t")[0]) <= 60 and int(row.split("\t")[1]) <= 60]
    counts = Counter(row.split("\t")[0] for row in chosen)
    kept = [row for row in chosen if counts[row.split("\t")[0]] >= 5]
    inter.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    header, *rows = item.read_text(encoding="utf-8").splitlines()
    item.write_text("\n".join([header, *rows[:60]]) + "\n", encoding="utf-8")


def shop(page: Path) -> None:
    """``data/shop``, with the header that a page of the tutorials shows."""
    header = next((line.strip() for line in page.read_text(encoding="utf-8").splitlines() if "user_id:token" in line), "")
    if not header or "\t" not in header:
        return
    file = Path("data/shop/shop.inter")
    file.parent.mkdir(parents=True)
    rows = [f"u{user}\ti{(user * 3 + place * 5) % 23}\t{1000 + place}" for user in range(30) for place in range(6)]
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def store(server: StubServer) -> None:
    """``dataset/ml-100k/answers``: a store of answers about the toy, as the published one is of all of ml-100k."""
    toy_ml_100k("made")
    words = [*small("generate --model=EIMF --dataset=ml-100k --llm=llamacpp", server.base_url), "--dataset_dir=made"]
    assert cli.main([*words, "--quiet"]) == 0
    assert cli.main(["answers", "push", *words[1:], "--store=dataset/ml-100k/answers", "--quiet"]) == 0


@pytest.fixture
def server() -> Iterator[StubServer]:
    """The stub server that stands for every LLM of the pages."""
    with StubServer(answer) as found:
        yield found


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page) and page.name not in ELSEWHERE],
                         ids=lambda page: f"{page.parent.name}/{page.stem}")  # fmt: skip
def test_the_commands_run(page: Path, workspace: Path, server: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    lines = commands(page)
    shop(page)
    if any("ml-100k" in line for line in lines):
        toy_ml_100k()
    if any("dataset/ml-100k/answers" in line for line in lines):
        store(server)
    asked = len(server.calls)
    for line in lines:
        if "--executor=ray" in line:
            continue  # a cluster takes its time to start: test_the_commands_for_ray_run
        assert cli.main([*small(line, server.base_url), "--quiet"]) == 0, line
    if all(PUBLISHED in line for line in lines if "--llm=" in line):
        assert len(server.calls) == asked, "a page of published answers asked an LLM"
