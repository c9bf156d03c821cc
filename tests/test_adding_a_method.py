"""Extracts the files and commands of docs/howto/add_a_method.md and runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from tests.helpers import write_tiny
from tests.processes import start, start_command
from tests.stub_server import Call, Reply, StubServer

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "howto" / "add_a_method.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(moody/[\w./]+)`\n\n```(?:python|yaml)\n(.*?)^```$", PAGE, flags=re.M | re.S))
COMMANDS = [
    line.split() for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, flags=re.M | re.S) for line in block.splitlines()
]
SHORT = ["--epochs=1", "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=128"]
MODEL = "moody.model:MoodSASRec"
WORDS = ("warm", "dark", "calm")


def written(folder: Path) -> Path:
    """Write the page's package into a folder."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


class Ended(NamedTuple):
    """A command that has ended."""

    returncode: int | None
    stdout: str
    stderr: str


def run(folder: Path, command: list[str], *more: str) -> Ended:
    """Run a command of the page on the small dataset, in its own process, with ``folder`` as working directory."""
    words = [str(ROOT / word) if (ROOT / word).is_file() else word for word in [*command, *more]]
    words = [word.replace("ml-100k", "tiny") for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if words[:3] == ["python", "-m", "pytest"]:
            process = start(pytest.main, words[3:])
        else:
            assert words[:2] == ["python", str(ROOT / "run_benchmark.py")]
            process = start_command(*words[2:])
    stdout, stderr = process.communicate(240)
    return Ended(process.returncode, stdout, stderr)


def command(start: str) -> list[str]:
    """The page's only command that begins with ``start`` after ``python``."""
    (found,) = [words for words in COMMANDS if " ".join(words[1:]).startswith(start)]
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's package and a small dataset."""
    folder = written(tmp_path_factory.mktemp("sixth"))
    write_tiny(folder / "dataset" / "tiny", n_users=30)
    return folder


@pytest.fixture
def server() -> Iterator[StubServer]:
    def reply(call: Call) -> Reply:
        word = WORDS[len(call.data["title"]) % len(WORDS)]
        return Reply(text=json.dumps({"mood": word if call.number else "two words"}))

    with StubServer(reply) as found:
        yield found


def records(folder: Path) -> dict[str, Record]:
    return {record.label: record for record in ResultStore(folder / "results") if not record.tuned}


def test_the_page_shows_every_file_that_it_lists() -> None:
    listed = re.findall(r"^ {6}([\w/]+\.\w+) {2,}", PAGE, flags=re.M)
    assert [f"moody/{name}" for name in listed] == [*FILES]
    assert len(COMMANDS) == 7


def test_it_stands_in_the_table_beside_its_backbone_and_its_controls(place: Path) -> None:
    found = run(place, command("run_benchmark.py --model=SASRec,moody"), *SHORT)
    assert found.returncode == 0, found.stderr
    made = records(place)
    assert {*made} == {"SASRec", f"{MODEL} (offline)", f"{MODEL} (shuffled)", MODEL}
    lines = [line.replace("†", "").split()[:2] for line in found.stdout.splitlines()]
    assert all([MODEL, semantics] in lines for semantics in ("offline", "shuffled", "none"))
    offline, shuffled = (made[f"{MODEL} ({semantics})"] for semantics in ("offline", "shuffled"))
    assert offline.features is not None
    assert offline.features.coverage["mood"] == 1.0
    assert offline.metrics != shuffled.metrics
    assert offline.settings["hidden_dropout_prob"] == 0.2  # of its own file
    assert offline.accelerations == made["SASRec"].accelerations != []


def test_a_mistyped_setting_is_answered_with_the_nearest(place: Path) -> None:
    found = run(place, command(f"run_benchmark.py --model={MODEL}"), "--use_mod=False")
    assert found.returncode == 2
    assert "there is no setting 'use_mod'. Did you mean use_mood" in found.stderr


def test_it_is_tuned_within_its_own_space(place: Path) -> None:
    words = [word for word in command("run_benchmark.py tune") if not word.startswith("--trials")]
    found = run(place, words, "--trials=2", *SHORT)
    assert found.returncode == 0, found.stderr
    assert re.search(r"MoodSASRec-tiny-loo-offline-\w+: 2 trials\n.*hidden_dropout_prob=", found.stdout)


def test_an_llm_is_asked_through_its_prompt_and_its_answers_are_used(place: Path, server: StubServer) -> None:
    address = f"--llm_base_url={server.base_url}"
    planned = run(place, command("run_benchmark.py generate"), address)
    assert planned.returncode == 0, planned.stderr
    assert not server.calls
    assert re.search(r"mood +asks +48 +48 ", planned.stdout), planned.stdout
    found = run(place, command(f"run_benchmark.py --model={MODEL}"), address, *SHORT)
    assert found.returncode == 0, found.stderr
    assert len(server.calls) == 49  # one question was asked again after an unusable answer
    (folder,) = (place / "dataset" / "tiny" / "semantics").glob("loo-vllm-*")
    texts = dict(line.split("\t") for line in (folder / "tiny.text").read_text().splitlines()[1:])
    moods = [texts[line.split("\t")[1]] for line in (folder / "tiny.mood").read_text().splitlines()[1:]]
    assert len(moods) == 48
    assert {*moods} <= {*WORDS}
    entry = json.loads((folder / "manifest.json").read_text())["features"]["mood"]
    assert entry["counts"] == {"valid": 48, "schema": 1, "asked_again": 1}
    assert "in one English word" in entry["prompts"]["moody:mood"]["system"]
    assert any("Qwen" in label for label in records(place))


def test_its_own_test_passes(place: Path) -> None:
    (place / "moody" / "test_moody.py").write_text(FILES["moody/test_moody.py"].replace("ml-100k", "tiny"))
    found = run(place, command("-m pytest moody"), "-p", "no:cacheprovider")
    assert found.returncode == 0, found.stdout


def test_it_keeps_the_contract_of_every_model(place: Path) -> None:
    chosen = "not cuda and (lowers or agree or seed or loaded or padding or alone or switch or semantics or file)"
    found = run(place, command("-m pytest tests"), "-x", "-p", "no:cacheprovider", "-k", chosen)
    assert found.returncode == 0, found.stdout[-3000:]
    assert " failed" not in found.stdout
    assert int(re.search(r"(\d+) passed", found.stdout)[1]) >= 10  # type: ignore[index]
