"""A folder of semantic files: its texts, manifest, commits and vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recbole_llm.data.atomic import Column, read_table
from recbole_llm.errors import UserError
from recbole_llm.features.folder import TEXT_COLUMNS, SemanticFolder, TextTable

COLUMNS = (Column("item_id", "token"), Column("title_text", "token"))
IDENTITY = {"dataset": "d", "inter_sha256": "abc"}


def folder_at(path: Path, identity: dict[str, str] | None = None) -> SemanticFolder:
    return SemanticFolder(path / "f", "d", identity or IDENTITY)


def made(path: Path, *texts: str) -> SemanticFolder:
    """A folder with one committed feature that refers to some texts."""
    folder = folder_at(path)
    ids = [folder.texts.add(text) for text in texts]
    folder.write("itemtext", COLUMNS, [(f"i{n}", n) for n in ids])
    folder.commit("itemtext", {"coverage": 1.0})
    return folder


# ---- texts --------------------------------------------------------------------------------------


def test_every_text_has_one_id() -> None:
    table = TextTable()
    assert [table.add(text) for text in ("a", "b", "a", "c")] == [0, 1, 0, 2]
    assert table.texts == ["a", "b", "c"]


def test_texts_are_one_field_of_an_atomic_file() -> None:
    table = TextTable()
    assert table.add("a\tb\nc") == table.add("a b c")


@given(st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from('"\\#'), max_size=30), max_size=20))
@example(['"all in quotation marks"', '"', '""', 'a "b" c', '"a" and "b"', "", "nan", "#", "1.0", "a"])
def test_any_texts_come_back_from_the_file_with_their_ids(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("texts")
    folder = made(path, *texts)
    again = folder_at(path)
    assert again.texts.texts == folder.texts.texts
    assert [again.texts.add(text) for text in texts] == [folder.texts.add(text) for text in texts]


# ---- files and manifest -------------------------------------------------------------------------


def test_a_file_counts_once_it_is_committed(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    folder.write("itemtext", COLUMNS, [("i0", 0)])
    assert not folder_at(tmp_path).has("itemtext")
    folder.commit("itemtext")
    assert folder_at(tmp_path).has("itemtext")


def test_the_manifest_lists_rows_bytes_and_hash(tmp_path: Path) -> None:
    made(tmp_path, "a", "b")
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    entry = manifest["files"]["itemtext"]
    assert entry["name"] == "d.itemtext"
    assert entry["rows"] == 2
    assert entry["bytes"] == (tmp_path / "f" / "d.itemtext").stat().st_size
    assert len(entry["sha256"]) == 64
    assert manifest["identity"] == IDENTITY
    assert manifest["features"]["itemtext"]["coverage"] == 1.0


def test_a_folder_of_another_identity_is_refused(tmp_path: Path) -> None:
    made(tmp_path, "a")
    with pytest.raises(UserError, match=r"manifest\.json belongs to other data.*remove the folder"):
        folder_at(tmp_path, {"dataset": "other"})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str) -> None:
    made(tmp_path, "a")
    (tmp_path / "f" / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json .*(remove|move)"):
        folder_at(tmp_path)


@pytest.mark.parametrize("name", ["d.itemtext", "d.text"])
def test_a_changed_file_is_refused_and_named(tmp_path: Path, name: str) -> None:
    made(tmp_path, "a title", "another")
    path = tmp_path / "f" / name
    path.write_bytes(path.read_bytes()[:-2] + b"x\n")
    with pytest.raises(UserError, match=rf"{name} is not the file that manifest\.json describes; remove it"):
        folder_at(tmp_path).has("itemtext")


def test_a_removed_file_has_to_be_made_again(tmp_path: Path) -> None:
    made(tmp_path, "a")
    (tmp_path / "f" / "d.itemtext").unlink()
    assert not folder_at(tmp_path).has("itemtext")


def test_without_the_text_table_all_files_have_to_be_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path, "a")
    (tmp_path / "f" / "d.text").unlink()
    again = folder_at(tmp_path)
    assert not again.has("itemtext")
    assert again.manifest["features"] == {}
    assert "d.text is gone" in caplog.text


def test_a_commit_interrupted_before_the_manifest_is_undone(tmp_path: Path) -> None:
    folder = made(tmp_path, "a", "b")
    folder.texts.add("c")
    folder.write("text", TEXT_COLUMNS, enumerate(folder.texts.texts))
    again = folder_at(tmp_path)
    assert again.texts.texts == ["a", "b"]
    assert again.has("text")
    assert again.has("itemtext")


def test_a_reader_leaves_a_commit_under_way_alone(tmp_path: Path) -> None:
    folder = made(tmp_path, "a", "b")
    folder.texts.add("c")
    folder.write("text", TEXT_COLUMNS, enumerate(folder.texts.texts))
    assert folder_at(tmp_path).texts.texts == ["a", "b"]
    folder.save_manifest()
    again = folder_at(tmp_path)
    assert again.has("text")
    assert again.texts.texts == ["a", "b", "c"]


# ---- vectors ------------------------------------------------------------------------------------


def test_vectors_come_back_memory_mapped_and_equal(tmp_path: Path) -> None:
    folder = made(tmp_path, "a", "b")
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    folder.write_vectors("e-mean-128", matrix)
    folder.save_manifest()
    found = folder_at(tmp_path).vectors("e-mean-128")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, matrix)


def test_vectors_of_another_encoder_are_not_there(tmp_path: Path) -> None:
    folder = made(tmp_path, "a")
    folder.write_vectors("e", np.zeros((1, 3), dtype=np.float32))
    assert folder.vectors("other") is None


def test_vectors_older_than_the_texts_have_to_be_made_again(tmp_path: Path) -> None:
    folder = made(tmp_path, "a")
    folder.write_vectors("e", np.zeros((1, 3), dtype=np.float32))
    folder.texts.add("b")
    assert folder.vectors("e") is None


def test_tables_are_atomic_files_that_anyone_can_read(tmp_path: Path) -> None:
    folder = made(tmp_path, 'Salt & Pepper; 5" size')
    assert read_table(folder.file("text"))["text"].tolist() == ['Salt & Pepper; 5" size']
    assert folder.file("itemtext").read_text().splitlines() == ["item_id:token\ttitle_text:token", "i0\t0"]
