"""Where datasets are found."""

from __future__ import annotations

import gzip
import hashlib

import pytest

from recbole_llm.data import catalog
from recbole_llm.data.catalog import BUNDLED, DatasetLocation, known_datasets, locate
from recbole_llm.errors import UserError
from recbole_llm.registry import recbole_folder
from recbole_llm.utils.files import file_sha256, whole_file

ROWS = "user_id:token\titem_id:token\nu\ti\n"


def folder_with(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(gzip.compress(ROWS.encode()) if name.endswith(".gz") else ROWS.encode())
    return folder


def test_a_folder_of_the_dataset_folder_is_found_by_name(workspace):
    folder_with(workspace / "dataset" / "mine", "mine.inter")
    found = locate("mine")
    assert (found.name, found.stem) == ("mine", "mine")
    assert found.folder.samefile(workspace / "dataset" / "mine")


def test_gzipped_files_are_found(workspace):
    folder_with(workspace / "dataset" / "mine", "mine.inter.gz")
    assert locate("mine").interactions.name == "mine.inter.gz"


def test_the_plain_file_wins_over_the_gzipped_one(workspace):
    folder_with(workspace / "dataset" / "mine", "mine.inter", "mine.inter.gz")
    assert locate("mine").interactions.name == "mine.inter"


def test_the_only_inter_file_of_a_folder_may_have_another_name(workspace):
    folder_with(workspace / "dataset" / "mine", "amazon.inter", "amazon.item")
    found = locate("mine")
    assert (found.name, found.stem) == ("mine", "amazon")
    assert found.file("item").name == "amazon.item"


def test_several_inter_files_of_other_names_are_not_guessed_at(workspace):
    folder_with(workspace / "dataset" / "mine", "a.inter", "b.inter")
    with pytest.raises(UserError, match="there is no such dataset"):
        locate("mine")


def test_an_alias_knows_the_name_of_its_files(workspace):
    folder_with(workspace / "dataset" / "amazon-beauty", "amazon-beauty.inter")
    found = locate("beauty")
    assert (found.name, found.stem) == ("beauty", "amazon-beauty")
    assert found.about["title"] == "Amazon Beauty 2014, 5-core"


def test_a_path_is_a_dataset(workspace):
    folder_with(workspace / "elsewhere" / "mine", "mine.inter")
    found = locate(str(workspace / "elsewhere" / "mine"))
    assert found.name == "mine"
    assert found.folder == workspace / "elsewhere" / "mine"


@pytest.mark.parametrize("given", [".", ".."], ids=["the folder", "its parent"])
def test_data_path_is_the_folder_or_its_parent(workspace, given):
    folder = folder_with(workspace / "elsewhere" / "mine", "mine.inter")
    found = locate("mine", data_path=str((folder / given).resolve()))
    assert found.folder.samefile(folder)


def test_data_path_wins_over_the_dataset_folder(workspace):
    folder_with(workspace / "dataset" / "mine", "mine.inter")
    folder = folder_with(workspace / "elsewhere" / "mine", "mine.inter")
    assert locate("mine", data_path=str(workspace / "elsewhere")).folder == folder


def test_what_is_derived_lies_in_our_own_folder(workspace):
    folder_with(workspace / "elsewhere" / "mine", "mine.inter")
    found = locate("mine", data_path=str(workspace / "elsewhere"), dataset_dir=workspace / "ours")
    assert found.home == workspace / "ours" / "mine"


def test_an_unknown_name_is_answered_with_the_nearest(workspace):
    folder_with(workspace / "dataset" / "amazon-toys", "amazon-toys.inter")
    with pytest.raises(UserError, match=r"--dataset=amazontoys: .*Did you mean amazon-toys\?.*--data_path=FOLDER"):
        locate("amazontoys")


def test_an_alias_without_files_says_where_they_are_looked_for(workspace):
    with pytest.raises(UserError, match=r"no atomic files in dataset/beauty or dataset/amazon-beauty.*--data_path"):
        locate("beauty")


def test_a_folder_without_interactions_is_refused(workspace):
    folder_with(workspace / "dataset" / "mine", "mine.item")
    with pytest.raises(UserError, match="there is no such dataset"):
        locate("mine")


def test_a_location_without_interactions_says_so(tmp_path):
    location = DatasetLocation("mine", "mine", tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"holds no mine\.inter or mine\.inter\.gz"):
        assert location.interactions


def test_known_datasets_are_aliases_and_folders(workspace):
    folder_with(workspace / "dataset" / "mine", "mine.inter")
    folder_with(workspace / "dataset" / "other", "notes.txt")
    known = known_datasets(workspace / "dataset")
    assert {"mine", "beauty", "ml-100k"} <= set(known)
    assert "other" not in known


def test_ml_100k_comes_out_of_recbole_s_wheel(workspace):
    found = locate(BUNDLED)
    source = recbole_folder() / "dataset_example" / BUNDLED
    for name in ("ml-100k.inter", "ml-100k.item"):
        assert (found.folder / name).read_bytes() == (source / name).read_bytes().replace(b"\r\n", b"\n")


def test_a_copy_of_ml_100k_that_was_interrupted_is_finished_by_the_next_command(workspace, monkeypatch):
    started = []

    def only_one(path):
        if started:
            raise KeyboardInterrupt
        started.append(path)
        return whole_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "whole_file", only_one)
        with pytest.raises(KeyboardInterrupt):
            locate(BUNDLED)
    assert len(list((workspace / "dataset" / BUNDLED).iterdir())) == 1
    assert locate(BUNDLED).file("item") is not None


def test_ml_100k_of_the_user_is_left_alone(workspace):
    folder_with(workspace / "dataset" / BUNDLED, "ml-100k.inter")
    assert locate(BUNDLED).interactions.read_text() == ROWS
    assert not (workspace / "dataset" / BUNDLED / "ml-100k.item").exists()


def test_the_hash_is_that_of_the_file(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "x").write_bytes(content)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()
