"""Ready-made folders of atomic files: aliases, statistics, sessions as sequences, titles from several columns."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from recbole_llm.cli import main
from recbole_llm.data.catalog import DatasetLocation, locate
from recbole_llm.data.inter_file import ReadSpec, load_interactions, read_interactions
from recbole_llm.data.statistics import dataset_statistics, render_statistics
from recbole_llm.errors import UserError
from recbole_llm.experiments.run import Run
from recbole_llm.features.items import read_item_texts
from recbole_llm.registry import find_method
from recbole_llm.settings.layers import layer_settings
from recbole_llm.utils.progress import Stopwatch
from tests.data.build import write_rows
from tests.helpers import runner

STEMS = {
    "beauty": "amazon-beauty",
    "toys": "amazon-toys",
    "sports": "amazon-sports",
    "bundle": "amazon-bundle",
    "office": "amazon18-office-late",
}
ROWS = [(f"u{u}", f"i{(u + k) % 9}", 10 + k) for u in range(12) for k in range(4)]
BUNDLE = "user_id:token\tsession_id:token\titem_id:token\ttimestamp:float\tunix_time:float"


def pack(path):
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


@pytest.fixture
def shelf(workspace):
    """A folder of datasets as they are distributed: gzipped, under their sources' names."""
    for alias, stem in STEMS.items():
        path = workspace / "shelf" / stem / f"{stem}.inter"
        if alias == "bundle":
            rows = [
                (f"c{n // 2}", f"c{100 + n}", f"i{(n + k) % 30}", 5 * n + k, 86_400)
                for n in range(30)
                for k in range(4)
            ]
            write_rows(path, rows, BUNDLE)
        else:
            write_rows(path, ROWS)
        pack(path)
    return workspace / "shelf"


def item_file(folder, header, *lines):
    path = folder / "x.item"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def texts_of(folder, spec, header, *lines):
    item_file(folder, header, *lines)
    table = read_interactions(write_rows(folder / "x.inter", [("u", "1", 1), ("u", "2", 2)]), ReadSpec())
    return read_item_texts(DatasetLocation("x", "x", folder, folder), table, spec)


@pytest.mark.parametrize("alias", STEMS)
def test_aliases_find_gzipped_files_of_other_names(shelf, alias):
    found = locate(alias, str(shelf))
    assert found.stem == STEMS[alias]
    assert found.interactions.name == f"{STEMS[alias]}.inter.gz"
    assert found.home.name == alias


def test_a_dataset_that_prepare_can_make_says_so(workspace):
    with pytest.raises(UserError, match="or make them: recbole-llm prepare grocery"):
        locate("grocery")


# ---- statistics --------------------------------------------------------------------------------


def test_statistics_of_all_that_is_on_disk(shelf, workspace):
    write_rows(workspace / "dataset" / "mine" / "mine.inter", ROWS)
    write_rows(shelf / "other" / "other.inter", ROWS[:8])
    found = {one.name: one for one in dataset_statistics(str(shelf))}
    assert set(found) == {*STEMS, "mine", "other"}
    assert found["mine"].counts["interactions"] == 48
    assert found["other"].counts["users"] == 2
    assert found["bundle"].sequence == "session_id"
    assert found["bundle"].counts["users"] == 30
    assert found["beauty"].agrees is False
    assert found["mine"].agrees is None


def test_one_folder_is_not_every_dataset(shelf):
    found = [one.name for one in dataset_statistics(str(shelf / "amazon-toys"))]
    assert found == ["toys"]


def test_counts_that_are_the_published_ones_are_marked(shelf):
    one = next(one for one in dataset_statistics(str(shelf)) if one.name == "bundle")
    one.published.update(sessions=30, items=30, interactions=120)
    assert one.agrees
    assert "equal" in render_statistics([one])


def test_a_dataset_that_cannot_be_read_does_not_hide_the_others(shelf, workspace, capsys):
    write_rows(workspace / "dataset" / "broken" / "broken.inter", [("u", "i")], "user_id:token\titem_id:token")
    assert main(["list", "datasets", "--stats", f"--data_path={shelf}"]) == 0
    out = capsys.readouterr().out
    assert "broken: " in out
    assert "no column 'timestamp'" in out
    assert [line.split()[0] for line in out.splitlines()[2:7]] == sorted(STEMS)


def test_statistics_are_of_datasets_only(workspace, capsys):
    assert main(["list", "models", "--stats"]) == 2
    assert "--stats is for datasets" in capsys.readouterr().err


# ---- sessions ----------------------------------------------------------------------------------


def test_in_bundle_a_session_is_a_sequence(shelf):
    values = layer_settings(find_method("SRGNN"), "bundle").values
    table, _ = load_interactions(locate("bundle", str(shelf)), ReadSpec.from_settings(values))
    assert table.n_users == 30
    assert set(np.diff(table.offsets)[1:]) == {4}


@pytest.mark.parametrize("protocol", ["loo", "session", "temporal_20"])
def test_protocols_split_sessions_of_bundle(shelf, protocol):
    settings = layer_settings(find_method("SRGNN"), "bundle", protocol, overrides={"data_path": str(shelf)})
    prepared = runner().prepare(Run.of(settings), Stopwatch())
    assert prepared.dataset.uid_field == "session_id"
    names = prepared.dataset.table.user_tokens[np.asarray(prepared.dataset.split.test.user)]
    assert all(str(name).startswith("c1") for name in names)
    if protocol != "loo":
        assert set(names) <= {f"c{100 + n}{suffix}" for n in range(27, 30) for suffix in ("", "#1")}


# ---- titles ------------------------------------------------------------------------------------

KEYWORDS = ["{title}", {"template": "{idgen_text}", "source": "model"}]


def test_the_first_template_whose_columns_exist_is_taken(tmp_path):
    header = "item_id:token\ttitle:token_seq\tidgen_text:token_seq"
    found = texts_of(tmp_path, {"title": KEYWORDS}, header, "1\tReal title\tkey words", "2\t\tmore words")
    assert found.title[1:] == ["Real title", "item 2"]
    assert found.source == "metadata"


def test_keywords_that_a_model_wrote_are_labelled_so(tmp_path):
    found = texts_of(tmp_path, {"title": KEYWORDS}, "item_id:token\tidgen_text:token_seq", "1\tkey words", "2\tmore")
    assert found.title[1:] == ["key words", "more"]
    assert found.source == "model"


def test_a_list_without_any_fitting_template_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="has no column 'idgen_text'"):
        texts_of(tmp_path, {"title": KEYWORDS}, "item_id:token\tname:token_seq", "1\tA", "2\tB")


@pytest.mark.parametrize("alias", ["toys", "sports"])
def test_toys_and_sports_have_titles_in_either_form(tmp_path, alias):
    spec = layer_settings(find_method("LLMDMsRec"), alias).get("text")
    assert texts_of(tmp_path, spec, "item_id:token\tidgen_text:token_seq", "1\ta", "2\tb").source == "model"
    assert texts_of(tmp_path, spec, "item_id:token\ttitle:token_seq", "1\ta", "2\tb").source == "metadata"


def test_raw_files_do_not_tell_runs_apart(workspace):
    settings = layer_settings(find_method("Pop"), "beauty")
    before = settings.key()
    settings.values["raw"] = {"family": "another"}
    assert settings.key() == before
