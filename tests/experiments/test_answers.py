"""Published answers: pushed to a store, pulled from a folder or over HTTP, verified, refused if changed."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.answers import verify
from recbole_llm.experiments.published import open_store
from recbole_llm.experiments.store import ResultStore
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.store import INDEX, AnswerStore, publish_table
from recbole_llm.utils.files import file_sha256, one_process_at_a_time
from tests.features.asking import SEMANTICS
from tests.file_server import FileServer
from tests.helpers import Cli
from tests.methods.ldmi.test_interests import by_genre
from tests.stub_server import StubServer, intents_from_candidates

SHORT = ["--epochs=1", "--MAX_ITEM_LIST_LENGTH=10", "--train_batch_size=128", "--seed=1", "--quiet"]
Said = Callable[..., str]


@pytest.fixture
def store(few_users: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> tuple[Path, list[str]]:
    """A store of LDMI's answers about the small dataset, with the local cache emptied, and the command's arguments."""
    with StubServer(by_genre) as server:
        words = ["--model=LDMI", "--dataset=tiny", "--llm=vllm", f"--llm_base_url={server.base_url}", *SHORT]
        assert cli("generate", *words) == 0
        assert cli("answers", "push", *words, "--store=store", "--licence=CC0-1.0") == 0
    for path in SEMANTICS.glob("responses.sqlite*"):
        path.unlink()
    for path in SEMANTICS.glob("loo-vllm-*/manifest.json"):
        path.unlink()
    capsys.readouterr()
    return few_users / "store", words


def test_advise_buys_nothing_that_a_store_has(store: tuple[Path, list[str]], cli: Cli) -> None:
    folder, words = store
    # The endpoint is no longer running.
    assert cli("advise", *words[:-2], "--shares=0.5,1", f"--answers={folder}") == 0


@pytest.mark.parametrize("address", ["https://me:sesame@example.org/store", "https://example.org/store?token=sesame"])
def test_an_address_with_a_secret_is_refused_before_anything_is_recorded(
    few_users: Path, cli: Cli, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    assert cli("--model=LDMI", "--dataset=tiny", "--llm=vllm", f"--answers={address}", *SHORT) == 2
    assert cli("answers", "verify", f"--store={address}") == 2
    said = capsys.readouterr().err
    assert said.count("without a name, a password or a query") == 2
    assert "sesame" not in said
    assert not list(Path().glob("results/**/LDMI*.json"))


def served(folder: Path) -> FileServer:
    return FileServer({f"/store/{path.name}": path.read_bytes() for path in folder.iterdir()})


@pytest.fixture
def about_candidates(few_users: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """LLM-DMsRec answers pushed to ``store``, exported to ``mine.jsonl.gz`` and deleted; returns the arguments."""
    with StubServer(intents_from_candidates) as server:
        words = ["--model=LLMDMsRec", "--dataset=tiny", "--llm=vllm", f"--llm_base_url={server.base_url}", *SHORT]
        assert cli("generate", *words) == 0
        assert cli("answers", "push", *words, "--store=store") == 0
        assert "and 1 table of candidates" in capsys.readouterr().out
        assert cli("generate", *words, "--export=mine.jsonl.gz") == 0
        assert "; their candidates: mine." in capsys.readouterr().out
    for name in ("dataset/tiny/semantics", "results", "saved"):
        shutil.rmtree(name, ignore_errors=True)
    return words


def stands_on_the_table(said: str, words: list[str], cli: Cli) -> None:
    """Check that a run with the table that ``said`` names asks nothing, trains no stage I, and records the table."""
    (given,) = [word for word in said.split() if word.startswith("--candidate_table=")]
    assert cli("run", *words, given) == 0  # the endpoint is no longer running
    (record,) = ResultStore("results")
    assert record.features is not None
    assert record.features.coverage["intent"] == 1.0
    assert record.stage_one == f"table-{file_sha256(Path(given.partition('=')[2]))[:16]}"


def test_candidates_travel_in_a_store(
    about_candidates: list[str], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("answers", "verify", "--store=store") == 0
    assert ", 1 table, all as" in capsys.readouterr().out
    assert cli("answers", "pull", *about_candidates, "--store=store") == 0
    said = capsys.readouterr().out
    assert "; nothing is missing; --candidate_table=" in said
    assert not Path("saved").exists()  # no candidate model was trained: the table's candidates are used
    stands_on_the_table(said, about_candidates, cli)


def test_candidates_travel_with_an_export(
    about_candidates: list[str], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("generate", *about_candidates, "--import=mine.jsonl.gz") == 0
    said = capsys.readouterr().out
    stands_on_the_table(said, about_candidates, cli)
    (given,) = [word for word in said.split() if word.startswith("--candidate_table=")]
    assert cli("generate", *about_candidates, given, "--export=again.jsonl") == 0  # exports the given table too
    mine, again = (next(Path().glob(f"{name}.*.candidates.gz")) for name in ("mine", "again"))
    assert again.read_bytes() == mine.read_bytes()


def test_a_table_beside_an_export_that_was_changed_is_refused(
    about_candidates: list[str], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    (table,) = Path().glob("mine.*.candidates.gz")
    table.write_bytes(gzip.compress(gzip.decompress(table.read_bytes()).replace(b"1", b"2")))
    assert cli("generate", *about_candidates, "--import=mine.jsonl.gz") == 2
    assert f"{table} is not the table that was exported" in capsys.readouterr().err
    assert answers_here() == 0


def test_two_commands_change_a_store_one_after_the_other(about_candidates: list[str]) -> None:
    """Each reads the index and writes it again; at once, one of the two changes would be lost."""
    store = Path("store")
    before = [table.name for table in AnswerStore.in_folder(store).index.tables]
    other = threading.Thread(target=publish_table, args=(gzip.compress(b"other"), store, "tiny"))
    with one_process_at_a_time(store):
        other.start()
        other.join(0.2)
        assert [table.name for table in AnswerStore.in_folder(store).index.tables] == before
    other.join()
    assert len(AnswerStore.in_folder(store).index.tables) == len(before) + 1


def test_of_several_tables_one_is_named(
    about_candidates: list[str], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    (table,) = Path().glob("mine.*.candidates.gz")
    other = gzip.compress(gzip.decompress(table.read_bytes()) + b"\n")
    publish_table(other, Path("store"), "tiny")
    assert cli("answers", "pull", *about_candidates, "--store=store") == 2
    assert "the store has 2 tables of candidates for tiny" in capsys.readouterr().err
    assert cli("answers", "pull", *about_candidates, "--store=store", f"--candidate_table={table}") == 0


def changed_table(data: bytes, name: str) -> None:
    """Replace the table in the index of ``store`` by another with another name."""
    index = json.loads(Path("store", INDEX).read_text())
    Path("store", name).write_bytes(data)
    index["tables"][0] |= {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    Path("store", INDEX).write_text(json.dumps(index))


def test_a_table_never_takes_the_place_of_a_file_that_is_there(
    about_candidates: list[str], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    (table,) = Path().glob("mine.*.candidates.gz")
    paid = Path("dataset/tiny/semantics/responses.sqlite")
    own = Path("dataset/tiny/semantics/own.candidates.gz")
    paid.parent.mkdir()
    for path in (paid, own):
        path.write_bytes(b"bought")
    changed_table(table.read_bytes(), "responses.sqlite")
    assert cli("answers", "pull", *about_candidates, "--store=store") == 2
    assert "is not the index of a store (tables.0.name" in capsys.readouterr().err
    assert paid.read_bytes() == b"bought"
    paid.unlink()
    changed_table(table.read_bytes(), own.name)
    assert cli("answers", "pull", *about_candidates, "--store=store") == 0
    assert own.read_bytes() == b"bought"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.replace(b"position", b"place"), "position"),
        (lambda table: table.replace(b"\t2\t", b"\tx\t", 1), "has the position 'x', which is no whole number"),
        (lambda table: table + table.splitlines(keepends=True)[-1], " twice"),
    ],
)
def test_what_is_no_table_of_candidates_is_not_kept(
    about_candidates: list[str],
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[bytes], bytes],
    message: str,
) -> None:
    (table,) = Path().glob("mine.*.candidates.gz")
    changed_table(gzip.compress(change(gzip.decompress(table.read_bytes()))), "other.candidates.gz")
    assert cli("answers", "pull", *about_candidates, "--store=store") == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("dataset/tiny/semantics/*.candidates.gz"))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of answers."""
    return [json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines()]


def answers_here() -> int:
    with ResponseCache(SEMANTICS / "responses.sqlite") as cache:
        return len(cache)


def test_what_is_pushed_is_verified_and_states_all_of_an_answer(
    store: tuple[Path, list[str]], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = store
    assert cli("answers", "verify", "--store=store") == 0
    assert "all as index.json says" in capsys.readouterr().out
    (entry,) = json.loads((folder / INDEX).read_text())["files"]
    assert (entry["prompt"], entry["licence"], entry["price"]) == ("ldmi_interests@2", "CC0-1.0", 0.0)
    assert entry["sha256"].startswith(entry["name"].split(".")[-3])
    lines = rows_of(folder / entry["name"])
    assert len(lines) == entry["answers"] > 0
    assert {*lines[0]} == {"key", "request", "answer", "created", "price", "licence"}


def test_the_same_answers_are_the_same_store_and_others_of_it_stay(
    store: tuple[Path, list[str]], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = store
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert cli("answers", "pull", *words, "--store=store") == 0
    assert cli("answers", "push", *words, "--store=store", "--licence=CC0-1.0") == 0
    address = next(word.partition("=")[2] for word in words if word.startswith("--llm_base_url="))
    said = capsys.readouterr().out
    assert f"bytes; they name the server that answered: {address}\n" in said
    (entry,) = json.loads((folder / INDEX).read_text())["files"]
    assert f"(all of {entry['model']} to ldmi_interests@2) in 1 file" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert cli("answers", "push", *words, "--store=store", "--licence=mine") == 0
    assert len(list(folder.iterdir())) == 2  # the file of the same prompt and model was replaced
    assert cli("answers", "push", *words, "--llm_model=other", "--store=store") == 2
    assert "there are no such answers to publish" in capsys.readouterr().err


@pytest.mark.parametrize("remote", [False, True])
def test_pull_takes_what_a_run_needs_and_the_run_asks_nothing(
    store: tuple[Path, list[str]], cli: Cli, capsys: pytest.CaptureFixture[str], remote: bool
) -> None:
    folder, words = store
    with served(folder) as server:
        address = server.url("/store") if remote else "store"
        assert cli("answers", "pull", *words, f"--store={address}") == 0
        out = capsys.readouterr().out
        assert "answers taken in; nothing is missing" in out
        assert answers_here() > 0
        assert len(server.seen) == 2 * remote
    assert cli("run", *words) == 0  # the endpoint is gone


def test_answers_here_that_differ_from_the_published_ones_stay_and_are_counted(
    store: tuple[Path, list[str]], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = store
    assert cli("answers", "pull", *words, "--store=store", "--contrast=none") == 0
    assert "from the published" not in capsys.readouterr().err
    repack(folder, lambda rows: [row["answer"].update(content="{}") for row in rows])
    count = answers_here()
    assert cli("answers", "pull", *words, "--store=store") == 0
    said = f"{count} answers kept here differ from the published ones; what is kept here is used"
    assert said in capsys.readouterr().err


def test_pull_leaves_what_no_run_needs(store: tuple[Path, list[str]], cli: Cli) -> None:
    _, words = store
    assert cli("answers", "pull", *words, "--store=store", "--contrast=none") == 0
    some = answers_here()
    assert cli("answers", "pull", *words, "--store=store") == 0
    assert 0 < some < answers_here()


def test_a_run_takes_answers_from_a_store_by_itself(
    store: tuple[Path, list[str]], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = store
    with served(folder) as server:
        assert cli("generate", *words, f"--answers={server.url('/store')}", "--dry-run") == 0
        assert "total: 0 requests" in capsys.readouterr().out
        assert answers_here() == 0
        assert cli("run", *words, f"--answers={server.url('/store')}") == 0
    assert answers_here() > 0


def test_what_a_store_lacks_is_said(
    store: tuple[Path, list[str]], cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    _, words = store
    assert cli("answers", "pull", *words, "--store=store", "--llm_model=other") == 0
    assert "0 answers taken in; " in (out := capsys.readouterr().out)
    assert "questions have no answer there" in out


def spoil_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["files"][0] |= changes
    (folder / INDEX).write_text(json.dumps(index))


def repack(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the answers of a store, and its index so that sizes and hashes are right."""
    index = json.loads((folder / INDEX).read_text())
    path = folder / index["files"][0]["name"]
    rows = rows_of(path)
    change(rows)
    path.write_bytes(lzma.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    data = path.read_bytes()
    spoil_index(folder, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def list_twice(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["files"] *= 2
    (folder / INDEX).write_text(json.dumps(index))


def answers_file(folder: Path) -> Path:
    (path,) = folder.glob("*.xz")
    return path


def change_an_answer(folder: Path) -> None:
    """Change the text of one answer; the index keeps the old hash of its file."""
    path = answers_file(folder)
    rows = rows_of(path)
    rows[1]["answer"] = rows[0]["answer"]
    path.write_bytes(lzma.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    spoil_index(folder, bytes=path.stat().st_size)


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no index": (lambda folder: (folder / INDEX).unlink(), "is no store of answers|answers 404"),
    "half an index": (lambda folder: (folder / INDEX).write_text('{"format": 1, "fil'), "is not the index of a store"),
    "another format": (lambda folder: (folder / INDEX).write_text('{"format": 2}'), "is not the index of a store"),
    "a path for a name": (lambda folder: spoil_index(folder, name="../../secret"), "is not the index of a store"),
    "a file that is gone": (lambda folder: answers_file(folder).unlink(), "is gone|answers 404"),
    "a file cut off": (
        lambda folder: answers_file(folder).write_bytes(answers_file(folder).read_bytes()[:-9]),
        "SHA-256|sha256",
    ),
    "a byte more": (
        lambda folder: answers_file(folder).write_bytes(answers_file(folder).read_bytes() + b"x"),
        "SHA-256|sha256|more than the",
    ),
    "another question": (
        lambda folder: repack(folder, lambda rows: rows[1]["request"]["messages"][-1].update(content="new")),
        "line 2: the key is not that of the request",
    ),
    "another answer": (change_an_answer, "SHA-256|sha256"),
    "another model": (lambda folder: spoil_index(folder, model="other"), "of another prompt or model than stated"),
    "no answer": (lambda folder: repack(folder, lambda rows: rows[0].pop("answer")), "line 1: not an answer"),
    "no time": (lambda folder: repack(folder, lambda rows: rows[0].update(created="soon")), "line 1: no time"),
    "an answer less": (lambda folder: repack(folder, lambda rows: rows.pop()), "answers, not"),
    "two answers to a question": (
        lambda folder: repack(folder, lambda rows: rows[1].update({**rows[0], "answer": rows[1]["answer"]})),
        "line 2: its question has an answer in an earlier line",
    ),
    "two files of a prompt": (list_twice, "2 files have answers of"),
    "an answer more": (lambda folder: spoil_index(folder, answers=1), "line 2: more answers than stated"),
}


@pytest.mark.parametrize("remote", [False, True])
def test_a_store_that_was_changed_is_refused_in_one_line(
    store: tuple[Path, list[str]], cli: Cli, capsys: pytest.CaptureFixture[str], remote: bool
) -> None:
    whole, words = store
    for number, (fault, (spoil, message)) in enumerate(SPOILT.items()):
        folder = Path(shutil.copytree(whole, f"spoilt-{number}"))
        spoil(folder)
        with served(folder) as server:
            address = server.url("/store") if remote else str(folder)
            for command in (["verify"], ["pull", *words]):
                if command[0] == "pull" and fault == "another model":
                    continue  # that model's answers are not wanted
                assert cli("answers", *command, "--quiet", f"--store={address}") == 2, fault
                (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
                assert line.startswith("error: ")
                assert any(part in line for part in message.split("|")), line
    assert answers_here() == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pull"], "name the store with --store=FOLDER or an address."),
        (["push"], "name the store with --store=FOLDER."),
        (["pul", "--store=x"], "Did you mean pull?"),
        (["verify", "--store=nowhere"], "nowhere is no store of answers"),
        (["verify", "--store=ftp://x/y"], "a store is a folder, an http, https or file address, or hf:OWNER/NAME"),
        (["verify", "--store=hf:name"], "name a dataset of the hub as hf:OWNER/NAME"),
        (["verify", "--store=hf:../name"], "name a dataset of the hub as hf:OWNER/NAME"),
        (["verify", "--store=http://127.0.0.1:1/x"], "cannot be reached"),
        (["pull", "--model=LDMI", "--dataset=tiny", "--store=x"], "name it with --llm"),
    ],
)
def test_mistakes_are_named(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli("answers", *words) == 2
    assert message in capsys.readouterr().err


def test_a_file_address_is_a_folder(store: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, _ = store
    assert open_store(folder.resolve().as_uri(), tmp_path).verify() > 0


@pytest.mark.parametrize(("address", "revision"), [("hf:me/answers", "main"), ("hf:me/answers@v1.0", "v1.0")])
def test_a_dataset_of_the_hub_is_a_store(
    store: tuple[Path, list[str]],
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    revision: str,
) -> None:
    folder, words = store
    place = f"/hub/datasets/me/answers/resolve/{revision}"
    files = {f"{place}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    with FileServer(files) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url("/hub/"))
        assert cli("answers", "verify", f"--store={address}") == 0
        assert cli("answers", "pull", *words, f"--store={address}") == 0
        assert "nothing is missing" in capsys.readouterr().out
        shutil.rmtree(SEMANTICS)
        assert cli("run", *words, f"--answers={address}") == 0
        assert cli("answers", "verify", "--store=hf:me/other") == 2
        assert "/hub/datasets/me/other/resolve/main/index.json: the server answers 404" in capsys.readouterr().err
    monkeypatch.setenv("HF_ENDPOINT", "file:///tmp")
    assert cli("answers", "verify", f"--store={address}") == 2
    assert "HF_ENDPOINT=file:///tmp: give an http or https address" in capsys.readouterr().err


QUESTION = {"custom_id": "ab" * 32, "body": {"model": "m"}}


@pytest.mark.parametrize(
    ("lines", "changes", "message"),
    [
        ([QUESTION], {}, ""),
        ([QUESTION], {"sha256": "0" * 64}, "is not the file that index.json describes"),
        ([QUESTION, QUESTION], {"questions": 2}, "holds 1 questions, not 2"),
        ([{**QUESTION, "custom_id": "x"}], {}, "line 1: not a question to m"),
        ([QUESTION], {"model": "n"}, "line 1: not a question to n"),
        ([[1]], {}, "line 1: not a question"),
        ([QUESTION], {"table": "pending/tiny.candidates.gz"}, "which index.json does not list"),
        ([QUESTION], {"name": "pending/../q.jsonl"}, "is not the index of a store"),
        ([QUESTION], {"name": "a/b/q.jsonl"}, "is not the index of a store"),
    ],
)
def test_open_questions_of_a_store_are_verified(
    tmp_path: Path, lines: list[Any], changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "store"
    (folder / "pending").mkdir(parents=True)
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (folder / "pending/q.jsonl").write_bytes(data)
    facts = {"name": "pending/q.jsonl", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    entry = {**facts, "prompt": "p@1", "model": "m", "questions": 1, **changes}
    (folder / INDEX).write_text(json.dumps({"pending": [entry]}))
    if not message:
        assert verify(str(folder)).endswith("store: 0 answers in 0 files, 1 open question, all as index.json says")
        return
    with pytest.raises(UserError, match=message):
        verify(str(folder))


@pytest.mark.parametrize("more", ["--protocol=loo", "--max_cost=0", "--max_requests=0", "--protocol=gts"])
def test_answers_about_another_table_of_candidates_say_what_to_give(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], more: str
) -> None:
    """A store may hold a table for each protocol and length of histories, and answers about one serve no other."""
    users = sorted({line.split("\t")[0] for line in (tiny / "tiny.inter").read_text("utf-8").splitlines()[1:]})
    rows = (f"{user}\t{position}\ti1 i2 i3" for user in users for position in range(14))
    lines = ["user_id:token\tposition:token\titems:token_seq", *rows]
    table = tiny.parent / "other.candidates"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = tiny.parent / "store"
    folder.mkdir()
    (folder / INDEX).write_text("{}", encoding="utf-8")
    words = ["--model=LLMDMsRec", "--dataset=tiny", "--llm=claude-2026-11", "--semantics=llm", "--n_candidates=3"]
    assert cli(*words, f"--answers={folder}", f"--candidate_table={table}", *SHORT, more) == 2
    said = capsys.readouterr().err
    protocol = more if "protocol" in more else "--protocol=loo"
    assert f"--candidate_table={table} with --dataset=tiny, {protocol} and --MAX_ITEM_LIST_LENGTH=10" in said
    assert "give the table of these, or the settings of this table" in said
    assert "higher limit" not in said
    publish_table(gzip.compress(table.read_bytes()), folder, "tiny")
    assert cli(*words, f"--answers={folder}", *SHORT) == 2
    assert re.search(
        r"about the candidates of tiny\.\w+\.candidates\.gz there, each for one protocol", capsys.readouterr().err
    )
    assert [record.status for record in ResultStore(Path("results"))] in ([], ["failed"])
