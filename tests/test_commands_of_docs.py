"""Every command of the tutorials, how-to pages and explanations runs on toy data, in the order of its page.

A page shows commands in ``sh`` blocks or indented. A ``text`` block holds commands that need a server, a cluster, the
reader's own files or hours; for these, only the verbs and options are checked. ``tests/test_tables_of_docs.py`` checks
tables against the commands that print them.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import recbole_llm
from recbole_llm import cli
from recbole_llm.data.catalog import locate
from recbole_llm.registry import methods
from recbole_llm.settings.core import CoreSettings
from recbole_llm.settings.definitions import settings_class
from tests.experiments.test_probe import kind_of
from tests.features.asking import answer_of_any_prompt
from tests.helpers import Cli, write_tiny
from tests.stub_server import Call, Reply, StubServer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("tutorials", "howto", "explanation")  # the folders whose commands are run
ELSEWHERE = ("add_a_method", "board")  # pages whose own tests run their commands
CONTRACTS = ("methods",)  # trains every method; the contract tests do: options alone are checked
COMMAND = re.compile(r"^ *(?:recbole-llm|python run_benchmark\.py|\.venv/bin/recbole-llm) ([^#\n]+)", flags=re.M)
TABLE = "table --results_dir=results/"  # tests/test_tables_of_docs.py runs these, on the kept records
PLAIN = re.compile(r"^( *)```text\n.*?^\1```$", flags=re.M | re.S)
PYTHON = re.compile(r"^( *)```python\n(.*?)^\1```$", flags=re.M | re.S)

# Options of large runs on the pages, with the values that the test uses instead; None drops the option.
SMALLER = {"seeds": "1", "trials": "2", "trial_epochs": "1", "shares": "0.5,1", "questions": "5", "device": "cpu",
           "workers": None, "nproc": None, "storage": "results/studies.sqlite3", "epochs": "1"}  # fmt: skip
TOY = {"MAX_ITEM_LIST_LENGTH": "5", "train_batch_size": "512", "epochs": "1", "encoder_max_length": "8"}
TRAINS = ("run", "tune", "generate", "advise", "answers", "estimate", "recommend")
PUBLISHED = "--llm=claude-2026-11"  # has no server, so the toy data's answers come from the stub server
OF_RECBOLE = ("SASRec", "S3Rec", "eSASRec", "ComiRecDR")  # no class of ours defines their settings
ASKED = ("llamacpp", "openai", "vllm", "gpt-4o-mini")


def name_of(page: Path) -> str:
    """Name of a page in test ids."""
    return page.relative_to(ROOT).with_suffix("").as_posix()


def commands(text: str) -> list[str]:
    """The commands in a text, without the leading ``recbole-llm``."""
    found = [line.strip() for line in COMMAND.findall(text)]
    return [line for line in found if not line.startswith(TABLE)]


def run_here(page: Path) -> list[str]:
    """The commands of a page that this file runs."""
    if page.parent.name not in RUN or page.stem in (*ELSEWHERE, *CONTRACTS):
        return []
    return commands(PLAIN.sub("", page.read_text(encoding="utf-8")))


def run_python(page: Path) -> int:
    """Run the Python blocks of a page and return their number."""
    blocks = [textwrap.dedent(block) for _, block in PYTHON.findall(page.read_text(encoding="utf-8"))]
    for block in blocks:
        exec(compile(block, page.name, "exec"), {})
    return len(blocks)


def small(line: str, address: str) -> list[str]:
    """Arguments of a command, with small values and with the stub server in place of an LLM."""
    words = cli._with_verb(shlex.split(line.replace(PUBLISHED, "--llm=llamacpp")))
    verb, given = words[0], [word.partition("=") for word in words[1:]]
    kept = [
        f"{key}={SMALLER[key[2:]]}" if equal and key[2:] in SMALLER else key + equal + value
        for key, equal, value in given
        if SMALLER.get(key[2:], "") is not None
    ]
    if verb in TRAINS:
        names = {key[2:] for key, _, _ in given}
        kept += [f"--{key}={value}" for key, value in TOY.items() if key not in names]
    if any(f"--llm={name}" in words for name in ASKED):
        kept.append(f"--llm_base_url={address}")
    return [verb, *kept]


def answer(call: Call) -> Reply:
    """Answer any question of a method or a probe."""
    if isinstance(call.data, dict) and {"begins", "user", "next_id", "rows"} & {*call.data}:
        fields = {"title": {"title": "a film"}, "next": {"titles": ["a", "b"]}, "item": {"title": "a film"},
                  "row": {"row": ["1", "2", "3", "4"]}}  # fmt: skip
        return Reply(text=json.dumps(fields[kind_of(call)]))
    return answer_of_any_prompt(call)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small part of ml-100k."""
    files = locate("ml-100k", None, tmp_path_factory.mktemp("toy"))
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
    return files.folder


def put(toy: Path, folder: str = "dataset") -> None:
    """Copy the small part of ml-100k to the test's folder."""
    shutil.copytree(toy, Path(folder) / "ml-100k", dirs_exist_ok=True)


def shop() -> None:
    """Write ``data/shop`` with titles, its three parts, and vectors for ml-100k's items."""
    inter = write_tiny(Path("data/shop")) / "shop.inter"
    header, *rows = inter.read_text(encoding="utf-8").splitlines()
    for number, part in enumerate(("train", "valid", "test")):
        Path(f"{part}.tsv").write_text("\n".join([header, *rows[number::3]]) + "\n", encoding="utf-8")
    np.save("items.npy", np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32))
    Path("items.ids").write_text("\n".join(["item_id", *map(str, range(1, 61))]) + "\n", encoding="utf-8")


def store(server: StubServer, toy: Path) -> None:
    """Make ``dataset/ml-100k/answers``: answers about the toy data, in place of the published store for ml-100k."""
    put(toy, "made")
    words = [*small("generate --model=EIMF --dataset=ml-100k --llm=llamacpp", server.base_url), "--dataset_dir=made"]
    assert cli.main([*words, "--quiet"]) == 0
    assert cli.main(["answers", "push", *words[1:], "--store=dataset/ml-100k/answers", "--quiet"]) == 0


@pytest.fixture
def server() -> Iterator[StubServer]:
    """The stub server that stands in for every LLM on the pages."""
    with StubServer(answer) as found:
        yield found


@pytest.mark.parametrize("page", [page for page in PAGES if run_here(page)], ids=name_of)
def test_the_commands_run(
    page: Path, workspace: Path, toy: Path, server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    lines = run_here(page)
    if any("shop" in line or ".npy" in line for line in lines) and run_python(page) == 0:
        shop()
    if any("ml-100k" in line for line in lines):
        put(toy)
    if any("dataset/ml-100k/answers" in line for line in lines):
        store(server, toy)
    asked = len(server.calls)
    for line in lines:
        if "--executor=ray" not in line:  # a cluster takes its time to start; tests/execution/test_ray.py starts one
            assert cli.main([*small(line, server.base_url), "--quiet"]) == 0, line
    if all(PUBLISHED in line for line in lines if "--llm=" in line):
        assert len(server.calls) == asked, "a page of published answers asked an LLM"


def test_the_python_of_the_pages_runs(workspace: Path, toy: Path, cli: Cli) -> None:
    put(toy)
    assert cli(*small("run --model=Pop,BPR --dataset=ml-100k", ""), "--quiet") == 0
    for page in ("howto/tables", "reference/results"):
        assert run_python(ROOT / f"docs/{page}.md") > 0


@cache
def options(verb: str) -> set[str]:
    """Every option and setting that a verb accepts."""
    own = {cli.SPELT.get(each.name, each.name) for each in cli._parameters(verb, cli.VERBS[verb])}
    if verb == "suite":  # hands them on to its stages
        own |= options("run") | options("tune")
    if verb not in cli.SETTINGS:
        return own
    classes = [CoreSettings, *filter(None, map(settings_class, methods().values()))]
    listed = (each.name for name in OF_RECBOLE for each in recbole_llm.list("settings", model=name).settings)
    return own.union(*(each.model_fields for each in classes), listed)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if COMMAND.search(page.read_text(encoding="utf-8"))], ids=name_of
)
def test_every_option_exists(page: Path) -> None:
    for line in COMMAND.findall(page.read_text(encoding="utf-8")):
        verb, *words = cli._with_verb(shlex.split(line))
        given = {word[2:].partition("=")[0].partition(".")[0].replace("-", "_") for word in words if word[:2] == "--"}
        assert given - {each.replace("-", "_") for each in options(verb)} == set(), line


def test_what_the_pages_name_beside_commands_exists() -> None:
    """Make targets, pip extras and measurements."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    targets = set(re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    assert set(re.findall(r"(?:^ *|`)make ([a-z-]+)", text, flags=re.M)) <= targets
    extras = set(re.findall(r'^ *"(\w+)": ', (ROOT / "setup.py").read_text(encoding="utf-8"), flags=re.M))
    assert set(re.findall(r"recbole-llm\[(\w+)\]", text)) <= extras
    for module in set(re.findall(r"python -m (benchmarks\.\w+)", text)):
        assert importlib.util.find_spec(module), module
