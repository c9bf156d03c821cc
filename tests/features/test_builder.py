"""The hook makes missing features once, and refuses files that it did not make."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from recbole_llm.data.atomic import read_table
from recbole_llm.errors import UserError
from recbole_llm.experiments.generate import feature_builders
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.builder import FeatureBuilder
from recbole_llm.features.encoder import Encoder, minilm_folder
from recbole_llm.features.sources import AnswerSource
from recbole_llm.utils.files import one_process_at_a_time
from recbole_llm.utils.progress import Stopwatch
from tests.features.asking import SEMANTICS, contents, file_states, only_folder
from tests.helpers import StopAt, make_run, prepare, runner
from tests.stub_server import PATIENCE

FILES = {"manifest.json", "text.minilm-mean-128.npy", "tiny.candidates", "tiny.intent", "tiny.itemtext", "tiny.text"}


def test_the_first_run_makes_all_files(featured: Path) -> None:
    assert {path.name for path in only_folder("offline").iterdir()} == FILES


def test_the_second_run_makes_nothing(featured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "load", None)  # fails if anything is encoded
    before = file_states(only_folder("offline"))
    shutil.rmtree("saved")  # stage I must not be needed either
    prepare("LLMDMsRec", epochs=1)
    assert file_states(only_folder("offline")) == before
    assert not Path("saved").exists()


def test_the_tables_hold_a_line_for_every_key(featured: Path) -> None:
    prepared = prepare("LLMDMsRec", epochs=1)
    split, folder = prepared.dataset.split, only_folder("offline")
    keys = len(split.train_targets) + len(split.valid) + len(split.test)
    assert len(read_table(folder / "tiny.candidates")) == keys
    assert len(read_table(folder / "tiny.intent")) == keys
    assert len(read_table(folder / "tiny.itemtext")) == prepared.dataset.item_num - 1


def test_users_and_items_are_as_many_as_without_features(featured: Path) -> None:
    with_features = prepare("LLMDMsRec", epochs=1).dataset
    without = prepare("SRGNN", epochs=1).dataset
    assert (with_features.item_num, with_features.user_num) == (without.item_num, without.user_num)


def test_semantics_none_makes_no_files(tiny: Path) -> None:
    assert prepare("LLMDMsRec", epochs=1, semantics="none").dataset.semantics is None
    assert not SEMANTICS.exists()


@pytest.mark.parametrize("semantics", ["shuffled", "random"])
def test_controls_read_the_same_files(featured: Path, monkeypatch: pytest.MonkeyPatch, semantics: str) -> None:
    monkeypatch.setattr(Encoder, "load", None)
    before = file_states(only_folder("offline"))
    prepared = prepare("LLMDMsRec", epochs=1, semantics=semantics)
    assert prepared.dataset.semantics.semantics == semantics
    assert file_states(only_folder("offline")) == before


def test_facts_name_the_source_and_the_coverage(featured: Path) -> None:
    facts = prepare("LLMDMsRec", epochs=1).dataset.semantics.facts()
    assert (facts["llm"], facts["llm_model"], facts["encoder"]) == ("offline", None, "minilm-mean-128")
    assert facts["coverage"] == {"itemtext": 1.0, "candidates": 1.0, "intent": 1.0}
    assert (facts["requests"], facts["price"]) == (0, 0.0)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_removed_file_is_made_again_as_it_was(featured: Path, name: str) -> None:
    folder = only_folder("offline")
    before = contents(folder)
    (folder / name).unlink()
    prepare("LLMDMsRec", epochs=1)
    assert contents(folder) == before
    assert (folder / "manifest.json").is_file()


@pytest.mark.parametrize("name", sorted(FILES - {"manifest.json"}))
def test_a_changed_file_is_refused_and_named(featured: Path, name: str) -> None:
    path = only_folder("offline") / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=rf"{name} is not the file that manifest\.json describes"):
        prepare("LLMDMsRec", epochs=1)


def test_a_folder_of_another_identity_is_refused(featured: Path) -> None:
    path = only_folder("offline") / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["identity"]["inter_sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json belongs to other data, another split or another version"):
        prepare("LLMDMsRec", epochs=1)


@pytest.mark.parametrize("title", ["epoch 1", "candidates", "intents by rule", "encoding texts"])
def test_an_interrupted_run_is_completed_by_the_next(featured: Path, title: str) -> None:
    wanted = contents(only_folder("offline"))
    for place in (SEMANTICS, Path("saved"), Path("results")):
        shutil.rmtree(place)
    with pytest.raises(KeyboardInterrupt):
        Runner(ResultStore(), StopAt(title)).prepare(make_run("LLMDMsRec", epochs=1), Stopwatch())
    prepare("LLMDMsRec", epochs=1)
    assert contents(only_folder("offline")) == wanted


def test_nothing_half_written_is_left_behind(featured: Path) -> None:
    shutil.rmtree(SEMANTICS)
    for title in ("candidates", "intents by rule"):
        with pytest.raises(KeyboardInterrupt):
            Runner(ResultStore(), StopAt(title)).prepare(make_run("LLMDMsRec", epochs=1), Stopwatch())
    assert {path.name for path in only_folder("offline").iterdir()} <= FILES


def test_other_data_have_a_folder_of_their_own(featured: Path) -> None:
    with Path("dataset/tiny/tiny.inter").open("a") as stream:
        stream.write("u0\ti0\t5\t1500000000\n")
    prepare("LLMDMsRec", epochs=1)
    assert len(list(SEMANTICS.iterdir())) == 3  # two folders, and the vectors they share


def test_other_item_text_has_a_folder_of_its_own(featured: Path) -> None:
    run = make_run("LLMDMsRec", epochs=1)
    run.settings.values["text"] = {"title": "{brand}"}
    prepared = runner().prepare(run, Stopwatch())
    titles = read_table(prepared.dataset.semantics.folder.file("text"))["text"]
    assert not titles.str.contains("No.").any()
    assert len(list(SEMANTICS.glob("loo-offline-*"))) == 2


def test_the_offline_rule_has_a_folder_for_each_encoder_it_looks_through(featured: Path) -> None:
    prepare("LLMDMsRec", epochs=1, encoder=str(minilm_folder()))
    assert len(list(SEMANTICS.glob("loo-offline-*"))) == 2


def test_histories_in_another_order_have_features_of_their_own(featured: Path) -> None:
    """Users have the same numbers of training and held-out rows in both, so only the reading differs."""
    ordinary = only_folder("offline")
    assert "reading" not in json.loads((ordinary / "manifest.json").read_text())["identity"]
    prepared = prepare("LLMDMsRec", epochs=1, TIME_FIELD=None)
    folder = prepared.dataset.semantics.folder
    assert folder.path.name != ordinary.name
    assert folder.identity["reading"] == {"time_field": None}
    prepare("LLMDMsRec", epochs=1, TIME_FIELD=None)
    assert len(list(SEMANTICS.glob("loo-offline-*"))) == 2


# ---- two commands in one folder -----------------------------------------------------------------


def builder_of_features() -> FeatureBuilder:
    """The builder of a command that finds a complete folder."""
    run = make_run("LLMDMsRec", epochs=1)
    return next(feature_builders([run], runner(), AnswerSource.of(run.settings)))


def test_vectors_are_listed_beside_what_another_command_made_meanwhile(featured: Path) -> None:
    mine, other = builder_of_features(), builder_of_features()
    (only_folder("offline") / "text.minilm-mean-128.npy").unlink()
    other.folder.texts.add("a text of another feature")
    other.folder.commit("another", {"coverage": 1.0})
    vectors = mine.encode()
    assert len(vectors) == len(other.folder.texts)
    found = builder_of_features().folder
    assert found.manifest["features"].keys() >= {"itemtext", "intent", "another"}
    assert found.texts.texts == other.folder.texts.texts
    found.check()


def test_of_two_commands_that_encode_at_once_the_second_takes_the_vectors_of_the_first(
    featured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = threading.Event()
    monkeypatch.setattr("recbole_llm.utils.files.logger.info", lambda *_: came.set())
    mine = builder_of_features()
    path = only_folder("offline") / "text.minilm-mean-128.npy"
    saved = path.read_bytes()
    path.unlink()
    with ThreadPoolExecutor(1) as pool:
        with one_process_at_a_time(mine.folder.path, "a test"):
            encoded = pool.submit(mine.encode)
            encoded.add_done_callback(lambda _: came.set())
            assert came.wait(PATIENCE)
            assert not path.exists()
            monkeypatch.setattr(Encoder, "load", None)
            path.write_bytes(saved)
        np.testing.assert_array_equal(encoded.result(), np.load(path))


def test_vectors_that_another_process_writes_are_waited_for(featured: Path) -> None:
    mine, other = builder_of_features(), builder_of_features()
    other.folder.texts.add("a text of another feature")
    other.folder.commit("another")
    expected = other.encode()  # the file is now longer than the other builder's manifest says
    np.testing.assert_array_equal(mine.encode(), expected)
