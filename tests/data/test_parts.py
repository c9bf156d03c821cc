"""Ready-made training, validation and test files: reading, joining and checking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_llm.data.catalog import known_datasets, locate
from recbole_llm.data.parts import PARTS
from recbole_llm.data.statistics import dataset_statistics
from recbole_llm.errors import UserError
from recbole_llm.experiments.grid import expand
from recbole_llm.experiments.leak_report import examine_leaks
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.feature import visible_ends
from recbole_llm.utils.files import file_sha256
from tests.data.build import names, write_rows
from tests.helpers import make_run, prepare, runner

Cli = Callable[..., int]
ITEM = "item_id:token\ttitle:token_seq"
UNTIMED = "user_id:token\titem_id:token"
TRAIN = [("a", "x", 1), ("b", "y", 2), ("a", "y", 3), ("b", "z", 4), ("c", "x", 5), ("only", "w", 6)]
VALID = [("a", "z", 7), ("b", "x", 8), ("new", "x", 8)]
TEST = [("b", "w", 9), ("a", "w", 10), ("a", "v", 11), ("c", "y", 12)]


@pytest.fixture
def parts(workspace: Path) -> Path:
    """A folder ``mine`` that holds only the three parts."""
    folder = workspace / "dataset" / "mine"
    for name, rows in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        write_rows(folder / f"mine.{name}.inter", rows)
    return folder


def dataset(**options: Any) -> Any:
    return prepare("Pop", "mine", **{"protocol": "parts", **options}).dataset


def told(found: Any, phase: str) -> list[tuple[str, list[str], list[str]]]:
    """User, history and targets of each case."""
    table, cases = found.table, getattr(found.split, phase)
    item = table.item_tokens[table.item]
    return [
        (
            str(table.user_tokens[cases.user[c]]),
            item[cases.start[c] : cases.end[c]].tolist(),
            item[cases.target_rows[cases.target_offsets[c] : cases.target_offsets[c + 1]]].tolist(),
        )
        for c in range(len(cases))
    ]


def test_each_part_is_what_its_name_says(parts: Path) -> None:
    found = dataset()
    rows = names(found.table)
    assert sorted(rows[n] for n in found.split.train_rows) == sorted(row[:2] for row in TRAIN)
    assert told(found, "valid") == [("a", ["x", "y"], ["z"]), ("b", ["y", "z"], ["x"])]
    assert told(found, "test") == [
        ("a", ["x", "y", "z"], ["w", "v"]), ("b", ["y", "z", "x"], ["w"]), ("c", ["x"], ["y"])
    ]  # fmt: skip
    assert found.split.without_history == {"valid": 1, "test": 0}


def test_targets_of_users_without_a_history_are_counted(parts: Path) -> None:
    write_rows(parts / "mine.test.inter", [*TEST, ("late", "x", 13), ("late", "y", 14)])
    assert dataset().split.without_history == {"valid": 1, "test": 2}


def test_what_stands_only_in_rows_that_are_left_out_is_no_user_and_no_item(parts: Path) -> None:
    write_rows(parts / "mine.train.inter", [("", "unread", 0), *TRAIN[:2], ("nobody", "", 0), *TRAIN[2:]])
    table = dataset().table
    assert table.user_tokens.tolist()[1:] == ["a", "b", "c", "only", "new"]
    assert table.item_tokens.tolist()[1:] == ["x", "y", "z", "w", "v"]
    assert table.facts["rows_without_user_or_item"] == 2


@pytest.mark.parametrize("counted", ["users", "items"])
def test_a_record_that_counted_what_stands_in_no_whole_row_is_made_again(parts: Path, counted: str) -> None:
    write_rows(parts / "mine.train.inter", [("", "unread", 0), *TRAIN, ("nobody", "", 0)])
    run = make_run("Pop", "mine", protocol="parts")
    record = runner().run(run)
    assert runner().finished(run) is not None
    assert record.data is not None
    record.data.statistics[counted] += 1
    ResultStore("results").put(record)
    assert runner().finished(run) is None


def test_lines_given_twice_without_times_are_said(parts: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, rows in (("train", [*TRAIN, TRAIN[0]]), ("valid", VALID), ("test", [*TEST, TEST[1]])):
        write_rows(parts / f"mine.{name}.inter", [row[:2] for row in rows], UNTIMED)
    with caplog.at_level("WARNING"):
        dataset(TIME_FIELD=None)
    assert "2 lines repeat an earlier line exactly" in caplog.text
    assert "If lines were given twice, take them out of the files" in caplog.text


def test_ids_are_joined(parts: Path) -> None:
    table = dataset().table
    assert table.user_tokens[1:].tolist() == ["a", "b", "c", "only", "new"]
    assert table.item_tokens[1:].tolist() == ["x", "y", "z", "w", "v"]


def test_prompts_show_training_alone(parts: Path) -> None:
    found = dataset()
    visible = np.arange(len(found.table)) < visible_ends(found.table, found.split)[found.table.user]
    assert np.flatnonzero(visible).tolist() == found.split.train_rows.tolist()


def test_a_folder_of_parts_needs_no_protocol(parts: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = expand("Pop", "mine")
    assert run.settings["protocol"] == "parts"
    assert cli("run", "--model=Pop", "--dataset=mine", "--quiet") == 0
    assert "mine, parts: 3 test cases" in capsys.readouterr().out


def test_files_anywhere_need_no_dataset(workspace: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (("one", TRAIN), ("two", VALID), ("three", TEST)):
        write_rows(workspace / "files" / f"{name}.tsv", rows)
    words = ["--train=files/one.tsv", "--valid=files/two.tsv", "--test=files/three.tsv"]
    assert cli("run", "--model=Pop,SASRec", "--dataset=mine", "--epochs=1", "--quiet", *words) == 0
    assert "mine, parts: 3 test cases" in capsys.readouterr().out
    record = next(iter(ResultStore("results")))
    assert record.data is not None
    assert record.data.files == {
        part: file_sha256(workspace / "files" / f"{name}.tsv")
        for part, name in (("train", "one"), ("valid", "two"), ("test", "three"))
    }
    assert not {"train", "valid", "test"} & {*record.settings}


def test_parts_of_other_names_are_named(parts: Path) -> None:
    for part, number in (("train", 1), ("valid", 2), ("test", 3)):
        (parts / f"mine.{part}.inter").rename(parts / f"mine.part{number}.inter")
    (run,) = expand("Pop", "mine", overrides={"benchmark_filename": ["part1", "part2", "part3"]})
    assert run.settings["protocol"] == "parts"
    assert len(dataset(benchmark_filename=["part1", "part2", "part3"]).split.test) == 3
    with pytest.raises(UserError, match=r"holds no mine\.train\.inter\. Name the parts with benchmark_filename"):
        dataset()


def test_gzipped_parts_and_other_separators_are_read(parts: Path) -> None:
    right = told(dataset(), "test")
    for part in ("train", "valid", "test"):
        path = parts / f"mine.{part}.inter"
        path.write_text(path.read_text().replace("\t", ","))
    assert told(dataset(field_separator=","), "test") == right


def test_another_file_is_another_run(parts: Path) -> None:
    first = make_run("Pop", "mine", protocol="parts")
    assert make_run("Pop", "mine", protocol="parts").key == first.key
    write_rows(parts / "mine.valid.inter", VALID[::-1])
    assert make_run("Pop", "mine", protocol="parts").key != first.key


def test_parts_are_cached_as_one(parts: Path) -> None:
    before = told(dataset(), "test")
    assert len(list((parts / "cache").iterdir())) == 1
    assert told(dataset(), "test") == before
    assert len(list((parts / "cache").iterdir())) == 1


# ---- what is said ---------------------------------------------------------------------------------


def test_rows_that_stand_in_two_parts_are_said(parts: Path) -> None:
    write_rows(parts / "mine.test.inter", [*TEST, ("a", "x", 13), ("b", "z", 14)])
    record = runner().run(make_run("Pop", "mine", protocol="parts"))
    assert "2 of 9 held-out rows stand in an earlier part too (same user and item)" in record.warnings


def test_targets_that_are_earlier_than_their_users_training_are_said(parts: Path) -> None:
    write_rows(parts / "mine.test.inter", [("a", "w", 2), ("c", "y", 12), ("b", "w", 9)])
    record = runner().run(make_run("Pop", "mine", protocol="parts"))
    assert "1 of 6 held-out rows are earlier than what their user has in training" in record.warnings


def test_the_share_of_later_training_is_said(parts: Path) -> None:
    write_rows(parts / "mine.train.inter", [*TRAIN, *((f"u{n}", "x", 100 + 7 * n) for n in range(6))])
    record = runner().run(make_run("Pop", "mine", protocol="parts"))
    assert "50% of the training is later than a test target, on average" in record.warnings


def test_parts_in_order_have_nothing_to_say(parts: Path) -> None:
    cold = "0 of 3 cases are of users without a training interaction; 1 of 4 targets are items without one"
    assert runner().run(make_run("Pop", "mine", protocol="parts")).warnings == [cold]


def test_rows_given_twice_within_a_part_are_left_out(parts: Path) -> None:
    write_rows(parts / "mine.train.inter", [*TRAIN, *TRAIN[:2]])
    found = dataset()
    assert found.table.facts["rows_repeated"] == 2
    assert len(found.split.train_rows) == len(TRAIN)


def test_what_is_found_in_one_part_is_said_of_all_three(parts: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_rows(parts / "mine.test.inter", [*TEST, *TEST[:2]])
    files = {part: f"dataset/mine/mine.{part}.inter" for part in PARTS}
    with caplog.at_level("WARNING"):
        dataset(**files)
    assert f"{', '.join(files.values())}: 2 rows repeat another one" in caplog.text
    days = 86_400
    for name, rows, unit in (("train", TRAIN, 1), ("valid", VALID, 1), ("test", TEST, 1000)):
        times = [(user, item, unit * (1_400_000_000 + day * days)) for user, item, day in rows]
        write_rows(parts / f"mine.{name}.inter", times)
    with pytest.raises(UserError, match=f"{', '.join(files.values())}, timestamp: the times are of several units"):
        dataset(**files)


def test_the_order_of_the_parts_wins_over_that_of_times(parts: Path) -> None:
    write_rows(parts / "mine.valid.inter", [("a", "z", 0), ("b", "x", 8)])
    assert told(dataset(), "valid")[0] == ("a", ["x", "y"], ["z"])


def test_parts_without_times_keep_the_order_of_the_files(parts: Path) -> None:
    for part, rows in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        write_rows(parts / f"mine.{part}.inter", [row[:2] for row in rows], UNTIMED)
    with pytest.raises(UserError, match=r"with --TIME_FIELD=~ the order of the file stands"):
        dataset()
    assert told(dataset(TIME_FIELD=None), "test")[0] == ("a", ["x", "y", "z"], ["w", "v"])


# ---- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "dataset/mine/mine.train.inter"}, r"give --valid=FILE and --test=FILE too"),
        ({"train": "nope", "valid": "nope", "test": "nope"}, r"--train=nope: there is no such file"),
        (
            {"train": "dataset", "valid": "nope", "test": "nope"},
            r"--train=dataset is a folder; give the name of a file",
        ),
        ({"benchmark_filename": ["train", "test"]}, r"give three names, of training, validation and test"),
        ({"user_inter_num_interval": "[5,inf)"}, r"user_inter_num_interval: own parts are taken as they are"),
        ({"rm_dup_inter": "first"}, r"rm_dup_inter: own parts are taken as they are"),
        ({"sessions": {"by": "day"}}, r"sessions: own parts are taken as they are"),
        ({"normalize_all": True}, r"with normalize_all RecBole reads one \.inter file itself, and no own parts"),
    ],
)
def test_what_does_not_go_with_parts_is_refused(parts: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataset(**options)


@pytest.mark.parametrize("key", ["train", "valid", "test", "benchmark_filename"])
def test_parts_do_not_go_with_another_protocol(parts: Path, key: str) -> None:
    value: Any = ["train", "valid", "test"] if key == "benchmark_filename" else "x.inter"
    with pytest.raises(UserError, match=rf"{key}=.*--protocol=loo does not read it; it is for split: parts"):
        expand("Pop", "mine", "loo", overrides={key: value})


def test_parts_are_named_in_one_way(parts: Path) -> None:
    files = {part: f"dataset/mine/mine.{part}.inter" for part in ("train", "valid", "test")}
    assert len(expand("Pop", "mine", overrides=files)) == 1
    with pytest.raises(UserError, match=r"names the files of the parts, and so does --train: leave one of the two out"):
        expand("Pop", "mine", overrides={**files, "benchmark_filename": ["one", "two", "three"]})


def test_parts_of_users_are_told_from_parts_of_interactions(parts: Path) -> None:
    write_rows(parts / "mine.test.inter", [("p", "x", 1), ("p", "y", 2), ("q", "x", 3)])
    with pytest.raises(UserError, match=r"no user of the test part has an interaction in an earlier part"):
        dataset()


def test_histories_in_one_cell_are_refused(parts: Path) -> None:
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp:float"
    write_rows(parts / "mine.train.inter", [("a", "x y", "z", 1)], header)
    with pytest.raises(UserError, match=r"holds whole histories \(item_id_list\)"):
        dataset()


def test_a_column_of_another_type_in_one_part_is_refused(parts: Path) -> None:
    for name, rows, kind in (("train", TRAIN, "float"), ("valid", VALID, "float"), ("test", TEST, "token")):
        header = f"user_id:token\titem_id:token\ttimestamp:float\trating:{kind}"
        write_rows(parts / f"mine.{name}.inter", [(*row, 3) for row in rows], header)
    assert dataset().table.extra == {}  # a column that is not read may differ
    with pytest.raises(UserError, match=r"test\.inter: rating:token is declared rating:float in .*mine\.train\.inter"):
        dataset(load_col={"inter": ["user_id", "item_id", "timestamp", "rating"]})


def test_a_dataset_of_parts_is_asked_for_them(parts: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds no mine\.inter .*It holds parts \(mine\.test\.inter, .*--protocol=parts"
    ):
        make_run("Pop", "mine", protocol="loo")


# ---- beside the rest ------------------------------------------------------------------------------


def test_a_folder_of_parts_is_a_dataset(parts: Path) -> None:
    assert "mine" in known_datasets(Path("dataset"))
    assert locate("mine").stem == "mine"
    (found,) = (one for one in dataset_statistics(None, "dataset") if one.name == "mine")
    assert (found.error, found.counts["interactions"]) == ("", 13)


@pytest.mark.parametrize("model", ["SASRec", "SASRecText", "LLMDMsRec", "EIMF", "BPR"])
def test_models_run_on_parts(workspace: Path, model: str) -> None:
    folder = workspace / "dataset" / "mine"
    generator = np.random.default_rng(3)
    rows = [
        (f"u{u}", f"i{(u + 3 * k) % 20}", 1000 * k + u) for u in range(30) for k in range(int(generator.integers(5, 9)))
    ]
    for name, low, high in (("train", 0, 4000), ("valid", 4000, 5000), ("test", 5000, 9000)):
        write_rows(folder / f"mine.{name}.inter", [row for row in rows if low <= row[2] < high])
    write_rows(folder / "mine.item", [(f"i{n}", f"Thing {n}") for n in range(20)], ITEM)
    record = runner().run(make_run(model, "mine", protocol="parts", epochs=1))
    assert record.status == "ok"
    if model == "LLMDMsRec":
        assert [finding.text for finding in examine_leaks("mine", None, "dataset") if not finding.good] == []
