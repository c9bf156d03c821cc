"""The results folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from recbole_llm.api import run
from recbole_llm.errors import NoRoomError, UserError
from recbole_llm.experiments.record import SCHEMA, SemanticFacts
from recbole_llm.experiments.store import ResultStore
from tests.processes import start
from tests.reporting.records import record_of


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def test_a_record_is_found_by_its_key(store: ResultStore) -> None:
    record = record_of()
    store.put(record)
    assert store.find(record.key) == record
    assert list(store) == [record]


def test_an_unknown_key_is_not_found(store: ResultStore) -> None:
    store.put(record_of())
    assert store.find("fedcba9876543210") is None


def test_an_empty_or_missing_folder_holds_nothing(store: ResultStore) -> None:
    assert list(store) == []
    assert store.find("0123456789abcdef") is None
    assert not store.folder.exists()


def test_a_record_lies_under_its_dataset_and_protocol(store: ResultStore) -> None:
    path = store.put(record_of(seed=7))
    assert path == store.folder / "tiny" / "loo" / "SASRec-s7-0123456789abcdef.json"
    assert store.ranks_path(record_of(seed=7)).name == "SASRec-s7-0123456789abcdef.ranks.npz"


def test_names_of_any_kind_make_plain_file_names(store: ResultStore) -> None:
    features = SemanticFacts(llm="openai", llm_model="org/gpt 4:latest")
    path = store.put(record_of(model="my.models:Fancy", semantics="llm", features=features))
    assert path.parent == store.folder / "tiny" / "loo"
    assert path.name == "my.models-Fancy-org-gpt-4-latest-s1-0123456789abcdef.json"
    assert store.find("0123456789abcdef") is not None


def test_a_record_replaces_the_one_of_its_key_under_any_name(store: ResultStore) -> None:
    store.put(record_of(semantics="llm", status="failed", error="no luck"))
    store.put(record_of(semantics="llm", features=SemanticFacts(llm="openai", llm_model="gpt")))
    (found,) = store
    assert found.status == "ok"


def test_ranks_of_a_name_that_a_record_no_longer_has_are_removed(store: ResultStore) -> None:
    first = record_of(semantics="llm", features=SemanticFacts(llm="openai", llm_model="gpt"))
    again = record_of(semantics="llm", features=SemanticFacts(llm="openai", llm_model="gpt-later"))
    other = record_of(key="fedcba9876543210")
    for record in (first, other, again):
        store.ranks_path(record).parent.mkdir(parents=True, exist_ok=True)
        store.ranks_path(record).write_bytes(b"ranks")
        store.put(record)
    kept = {store.ranks_path(record) for record in (again, other)}
    assert set(store.folder.glob("*/*/*.npz")) == kept


def test_a_record_from_elsewhere_replaces_the_one_of_its_key_under_any_name(store: ResultStore, tmp_path: Path) -> None:
    failed = record_of(semantics="llm", status="failed", error="no luck")
    store.put(failed)
    other = ResultStore(tmp_path / "elsewhere")
    done = record_of(semantics="llm", features=SemanticFacts(llm="openai", llm_model="gpt"))
    other.put(done)
    other.ranks_path(done).write_bytes(b"ranks")
    assert store.unpack(other.pack(done)) == done
    assert store.find(done.key) == done
    assert list(store) == [done]
    assert store.ranks_path(done).read_bytes() == b"ranks"


def test_what_a_killed_process_left_unfinished_is_not_packed(store: ResultStore) -> None:
    path = store.put(record_of())
    path.with_name(f".{path.name}.7-abcdef").write_text("{")
    assert list(store.pack(record_of())) == [str(path.relative_to(store.folder))]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"key": "0123456789abcdef"}', "\x00\x01", '{"schema_version": [1]}']
)
def test_a_broken_file_is_skipped_with_a_warning(
    store: ResultStore, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    store.put(record_of(key="ffff"))
    path = store.path(record_of())
    path.write_text(text)
    assert [record.key for record in store] == ["ffff"]
    assert store.find("0123456789abcdef") is None
    assert f"{path} is not a readable record and is skipped" in caplog.text


def test_a_file_that_is_not_utf8_is_skipped_with_a_warning(
    store: ResultStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(record_of(key="ffff"))
    store.path(record_of()).write_bytes(b'{"key": "\xff"}')
    assert [record.key for record in store] == ["ffff"]
    assert "is not a readable record" in caplog.text


def test_a_record_of_a_later_schema_is_skipped_with_a_warning(
    store: ResultStore, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.put(record_of())
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": SCHEMA + 1}))
    assert list(store) == []
    assert f"{path} was written by a later version (schema {SCHEMA + 1})" in caplog.text


def test_a_record_of_a_later_schema_is_not_replaced(tiny: Path) -> None:
    store = ResultStore("results")
    (record,) = run("Pop", "tiny", epochs=1)
    path = store.path(record)
    text = json.dumps({**json.loads(path.read_text()), "schema_version": SCHEMA + 1})
    path.write_text(text)
    with pytest.raises(UserError, match=r"was written by a later version.*another --results_dir"):
        run("Pop", "tiny", epochs=1)
    assert path.read_text() == text


def test_other_files_in_the_folder_are_left_alone(store: ResultStore, caplog: pytest.LogCaptureFixture) -> None:
    store.put(record_of())
    (store.folder / "README.md").write_text("mine")
    (store.folder / "tiny" / "loo" / "table.txt").write_text("mine")
    assert len(list(store)) == 1
    assert caplog.text == ""


def test_a_write_that_fails_leaves_the_old_record(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.put(record_of())
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(NoRoomError, match="No space left"):
        store.put(record_of(notes=["new"]))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


WRITES = 100


def put_many(folder: str, name: str) -> None:
    """Repeatedly write to a record shared with other processes, and to new records of this process."""
    store = ResultStore(folder)
    for number in range(WRITES):
        store.put(record_of(notes=[name * 5000]))
        store.put(record_of(key=f"{name}{number:04}"))


def test_processes_write_at_once_and_every_record_is_whole(
    store: ResultStore, caplog: pytest.LogCaptureFixture
) -> None:
    writers = [start(put_many, str(store.folder), name) for name in "xyz"]
    seen = set()
    while any(writer.returncode is None for writer in writers):
        found = store.find("0123456789abcdef")
        if found is not None:
            seen.add(found.notes[0])
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert seen <= {name * 5000 for name in "xyz"}
    assert len(list(store)) == 3 * WRITES + 1
    assert "not a readable record" not in caplog.text
    assert not [path for path in store.folder.rglob(".*") if path.is_file()]


def test_a_stored_record_holds_no_path_of_the_machine(
    store: ResultStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = record_of(status="failed", settings={"encoder": "/home/someone/minilm", "topk": [10]})
    record.features = SemanticFacts(llm="offline", folder=str(tmp_path / "dataset" / "x"))
    record.error = f"UserError: {tmp_path}/dataset/x.inter is gone"
    text = store.put(record).read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "someone" not in text
    (found,) = store
    assert found.features is not None
    assert found.features.folder == "dataset/x"
    assert found.error == "UserError: dataset/x.inter is gone"
    assert found.settings["topk"] == [10]


def test_paths_in_records_of_earlier_versions_are_not_shown(store: ResultStore) -> None:
    path = store.put(record_of(features=SemanticFacts(llm="offline", folder="dataset/x")))
    values = json.loads(path.read_text(encoding="utf-8"))
    values["features"]["folder"] = "/home/someone/dataset/x"
    path.write_text(json.dumps(values), encoding="utf-8")
    (found,) = store
    assert "someone" not in found.model_dump_json()
