"""Lists made elsewhere: their rules, and that a list from one of our models reproduces that model's row."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recbole_llm
from recbole_llm.data.atomic import cell
from recbole_llm.errors import UserError
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.jobs import pack
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.methods.baselines.lists import read_lists
from recbole_llm.reporting.grouping import group, kind_of
from recbole_llm.reporting.results_table import build
from tests.helpers import Cli, make_run, prepare, runner

SMALL: dict[str, Any] = {"MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 128, "epochs": 1, "seed": 1}


def ranks_of(record: Record) -> Ranks:
    return Ranks.load(ResultStore("results").ranks_of(record))


@pytest.mark.parametrize(
    ("protocol", "mask"), [("loo", True), ("loo", False), ("user_split", True), ("direct_100", True)]
)
def test_a_list_of_one_of_our_models_gives_that_model_s_row_to_the_digit(
    tiny: Path, cli: Cli, protocol: str, mask: bool
) -> None:
    case = ["--dataset=tiny", f"--protocol={protocol}", f"--mask_history={mask}"]
    case += ["--candidates=9"] if protocol == "direct_100" else []
    given = [*case, *(f"--{key}={value}" for key, value in SMALL.items())]
    assert cli("run", "--model=SASRec", *given) == 0
    words = ["--users=all", "--history=test", "--topk=60", "--output=lists.tsv"]
    assert cli("recommend", "--model=SASRec", *given, *words) == 0
    assert cli("run", "--lists=lists.tsv", *case) == 0
    model, lists = sorted(ResultStore("results"), key=lambda record: record.model == "Lists")
    assert lists.metrics == model.metrics
    assert lists.list_metrics == model.list_metrics
    for one, other in zip(vars(ranks_of(model)).values(), vars(ranks_of(lists)).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    (table,) = build([model, lists], ResultStore("results"))
    assert len(table.comparisons) == 1
    assert table.comparisons[0].difference == 0


def test_short_lists_have_the_metrics_up_to_their_length(tiny: Path) -> None:
    record = runner().run(make_run("GRU4Rec"))
    found = recbole_llm.recommend("GRU4Rec", "tiny", "all", topk=10, history="test", **{**SMALL, "epochs": 2})
    lines = (f"{one.user},{item},{rank}\n" for one in found for rank, item in enumerate(one.items, start=1))
    Path("short.csv").write_text("user_id,item_id,rank\n" + "".join(lines))
    lists = runner().run(make_run("Lists", lists="short.csv", epochs=0))
    for name in ("hit@5", "ndcg@10", "mrr@10"):
        assert lists.metrics[name] == record.metrics[name]
    assert lists.lists is not None
    assert lists.lists["shortest"] == 10


def written(name: str = "mine.tsv", head: str = "user_id\titem_id\tscore", users: int = 80, **more: str) -> str:
    """Write lists in which every user has i0 to i4 with rising scores; returns the file name."""
    lines = [f"u{user}\ti{item}\t{item / 2}\n" for user in range(users) for item in range(5)]
    text = head + "\n" + "".join(lines) + more.get("tail", "")
    Path(name).write_text(text)
    return name


def test_scores_are_the_higher_the_better_and_the_rest_ties_below(tiny: Path) -> None:
    written()
    prepared = prepare("Lists", lists="mine.tsv")
    batch = next(iter(prepared.eval_loader("test")))[1]
    scores = prepared.model.full_sort_predict(batch)
    tokens = prepared.dataset.table.item_tokens.tolist()
    listed = [tokens.index(f"i{item}") for item in range(5)]
    assert scores[3, listed].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    others = [number for number in range(len(tokens)) if number not in listed]
    assert set(scores[3, others].tolist()) == {-1.0}


def test_what_is_not_listed_is_below_however_large_the_scores_are(tiny: Path) -> None:
    Path("large.tsv").write_text("user_id\titem_id\tscore\n" + "".join(f"u{user}\ti1\t-1e17\n" for user in range(80)))
    prepared = prepare("Lists", lists="large.tsv")
    scores = prepared.model.full_sort_predict(next(iter(prepared.eval_loader("test")))[1])
    assert (scores[3] == scores[3].max()).nonzero().tolist() == [
        [prepared.dataset.table.item_tokens.tolist().index("i1")]
    ]


def test_what_belongs_to_nobody_is_counted_and_said(tiny: Path) -> None:
    written(users=70, tail="u3\tnothing\t9\nu4\tnothing\t9\nu4\tnone\t8\nstranger\ti1\t1\n")
    record = runner().run(make_run("Lists", lists="mine.tsv", epochs=0))
    table = prepare("SASRec").dataset
    without = sum(int(table.table.user_tokens[user][1:]) >= 70 for user in table.split.test.user)
    assert record.lists is not None
    counted = ("rows", "cases", "cases_without_list", "unknown_users", "unknown_items", "rows_of_unknown_items")
    assert [record.lists[name] for name in counted] == [354, len(table.split.test), without, 1, 2, 3]
    assert without > 3
    (table,) = build([record], ResultStore("results"))
    assert any(
        f"{without} of {len(table.rows[0].ranks[0])} cases have no list; 2 items and 1 user of its file" in n
        for n in table.notes
    )


def items_of_history(masked: bool) -> Record:
    """A run of lists with two items that the user already has and a new one; u0 lacks the new one, u1 has no list."""
    dataset = prepare("SASRec").dataset
    table, test = dataset.table, dataset.split.test
    lines = []
    for user, start, end in zip(test.user, test.start, test.end, strict=True):
        name, seen = table.user_tokens[user], table.item_tokens[table.item[start : start + 2]].tolist()
        other = next(item for item in table.item_tokens[1:] if item not in table.item_tokens[table.item[start:end]])
        listed = {"u0": seen, "u1": []}.get(name, [*seen, other])
        lines += [f"{name}\t{item}\t{rank}\n" for rank, item in enumerate(listed)]
    Path("mine.tsv").write_text("user_id\titem_id\trank\n" + "".join(lines))
    return runner().run(make_run("Lists", lists="mine.tsv", epochs=0, mask_history=masked))


def test_listed_items_that_the_user_already_has_are_counted_and_said(tiny: Path) -> None:
    record = items_of_history(masked=True)
    assert record.lists is not None
    cases = record.lists["cases"]
    assert [record.lists[name] for name in ("seen_rows", "seen_users")] == [2 * (cases - 1), cases - 1]
    (table,) = build([record], ResultStore("results"))
    text = f"{2 * (cases - 1)} of its rows, of {cases - 1} users, name items that the user already has"
    assert any(text in note for note in table.notes)


def test_the_shortest_list_and_the_cases_without_one_are_those_that_are_ranked(tiny: Path) -> None:
    names = ("cases_without_list", "cases_without_ranked", "shortest", "shortest_ranked")
    masked, whole = items_of_history(masked=True).lists, items_of_history(masked=False).lists
    assert masked is not None
    assert whole is not None
    cases = prepare("SASRec").dataset.split.test
    assert len(cases) == masked["cases"]
    assert [masked[name] for name in names] == [1, 2, 2, 1]
    assert [whole[name] for name in names] == [1, 1, 2, 2]


def test_under_candidates_only_listed_candidates_are_ranked(tiny: Path) -> None:
    written()
    lists = prepare("Lists", lists="mine.tsv", protocol="direct_100", candidates=9)
    cases, tokens = lists.dataset.split.test, lists.dataset.table.item_tokens
    assert cases.candidates is not None
    ranked = np.isin(tokens[cases.candidates], [f"i{item}" for item in range(5)]).sum(axis=1)
    assert lists.model.lists_facts["cases_without_ranked"] == (ranked == 0).sum() > 0
    assert lists.model.lists_facts["shortest_ranked"] == ranked[ranked > 0].min()


def test_lists_of_nothing_but_what_the_users_have_are_refused(tiny: Path) -> None:
    dataset = prepare("SASRec").dataset
    table, test = dataset.table, dataset.split.test
    pairs = zip(table.user_tokens[test.user], table.item_tokens[table.item[test.start]], strict=True)
    lines = (f"{user},{item},1\n" for user, item in pairs)
    Path("mine.csv").write_text("user_id,item_id,rank\n" + "".join(lines))
    with pytest.raises(UserError, match=f"an item that is ranked; {len(test)} name items that the user's history"):
        prepare("Lists", lists="mine.csv")
    assert prepare("Lists", lists="mine.csv", mask_history=False).model.lists_facts["shortest_ranked"] == 1


def test_a_record_of_before_ranked_items_were_counted_is_shown(tiny: Path) -> None:
    record = runner().run(make_run("Lists", lists=written(), epochs=0))
    assert record.lists is not None
    new = ("cases_without_ranked", "shortest_ranked", "seen_rows", "seen_users")
    record.lists = {name: value for name, value in record.lists.items() if name not in new}
    (table,) = build([record], ResultStore("results"))
    assert any(note.endswith("its shortest list has 5 items") for note in table.notes)


def test_a_row_is_marked_as_foreign_and_named_by_its_file(tiny: Path) -> None:
    records = []
    for name, users in (("p5.tsv", 80), ("tiger.tsv", 79)):
        records.append(runner().run(make_run("Lists", lists=written(name, users=users), epochs=0)))
    records.append(runner().run(make_run("Lists", lists="p5.tsv", list_name="P5", epochs=0)))
    (rows,) = group(records).values()
    assert len(rows) == 3
    assert all(name.label.endswith(", foreign)") for name in rows)
    assert [name.label.partition("#")[0] for name in rows] == ["Lists (p5", "Lists (tiger", "Lists (P5"]
    assert {kind_of(record) for record in records} == {"method"}  # no baseline that others are measured against
    assert "lists" not in records[0].settings


def test_another_file_is_another_run(tiny: Path) -> None:
    keys = {make_run("Lists", lists=written(users=users), epochs=0).key for users in (80, 79, 80)}
    assert len(keys) == 2


def test_places_tell_the_cases_of_a_user_apart(tiny: Path) -> None:
    written()
    with pytest.raises(UserError, match="session has several cases a user; give the place"):
        prepare("Lists", lists="mine.tsv", protocol="session")
    dataset = prepare("SASRec", protocol="session").dataset
    table, cases = dataset.table, dataset.split.test
    lines = [
        f"{table.user_tokens[user]}\t{row - table.offsets[user]}\t{table.item_tokens[table.item[row]]}\t1\n"
        for user, row in zip(cases.user, cases.target_rows, strict=True)
    ]
    Path("mine.tsv").write_text("user_id\tposition\titem_id\trank\n" + "".join(lines))
    record = runner().run(make_run("Lists", lists="mine.tsv", protocol="session", epochs=0))
    assert record.metrics["hit@5"].value == 1.0  # every target was listed for its own case


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id\titem_id\nu1\ti1\n", "the columns user_id, item_id, and rank or score are wanted"),
        ("user,item,rank\nu1,i1,1\n", "the columns user_id, item_id, and rank or score are wanted"),
        ("user_id,item_id,rank\n", "has 0 rows"),
        ("user_id,item_id,rank\nu1,i1,first\n", "line 2: rank is no number: 'first'"),
        ("user_id,item_id,score\nu1,i1,1\nu1,i2,nan\n", "line 3: score is no number"),
        ("user_id,position,item_id,rank\nu1,3.0,i1,1\nu1,3.5,i1,2\n", "line 3: position is no whole number: '3.5'"),
        ("user_id\titem_id\trank\nu1\t5\t1\t\nu1\t6\t2\t\n", "its rows have more columns than its header"),
        ("item_id,user_id,score\n1,2,3,4.5\n", "its rows have more columns than its header"),
        ("user_id,item_id,score\nu1,i1,1\nu1,i1,2\n", "the item 'i1' stands twice in a list of 'u1'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "l.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_lists(tmp_path / "l.tsv")


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ('user_id\titem_id\trank\nu1\t"q\t1\nu1\tz\t2\n', '"q'),
        ('"user_id"\t"item_id"\t"rank"\n"u1"\t"q"\t1\n"u1"\t"z"\t2\n', "q"),
        ('user_id,item_id,rank\nu1,"c,""d",1\nu1,z,2\n', 'c,"d'),
    ],
)
def test_quotation_marks_quote_as_in_atomic_files(tmp_path: Path, text: str, item: str) -> None:
    (tmp_path / "l.tsv").write_text(text)
    found = read_lists(tmp_path / "l.tsv")
    assert (found["user_id"].tolist(), found["item_id"].tolist()) == (["u1", "u1"], [item, "z"])


def test_ids_in_quotation_marks_are_read_back_from_a_recommendation(tiny: Path, cli: Cli) -> None:
    """Regression: ``"q"`` was written as it is, and read back as another item, ``q``."""
    path = tiny / "tiny.inter"
    names = {"u1": '"u1"', "i1": '"q"', "i2": "q", "i3": '"', "i4": '""', "i6": 'a"b'}
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    lines = ["\t".join(cell(names.get(field, field)) for field in row) + "\n" for row in rows]
    path.write_text("".join(lines))
    (tiny / "tiny.item").unlink()
    case = ["--model=Pop", "--dataset=tiny", "--quiet"]
    assert cli("run", *case) == 0
    assert cli("recommend", *case, "--users=all", "--history=test", "--topk=48", "--output=lists.tsv") == 0
    pairs = [
        (one.user, item) for one in recbole_llm.recommend("Pop", "tiny", "all", topk=48, history="test")
        for item in one.items
    ]  # fmt: skip
    assert {item for _, item in pairs} >= {*names.values()} - {'"u1"'}
    frame = read_lists(Path("lists.tsv"))
    assert [*zip(frame["user_id"], frame["item_id"], strict=True)] == pairs
    facts = prepare("Lists", lists="lists.tsv").model.lists_facts
    assert (facts["unknown_users"], facts["unknown_items"], facts["cases_without_list"]) == (0, 0, 0)


@pytest.mark.parametrize("name", ["a\tb", "a\nb"])
def test_a_recommendation_does_not_write_an_id_that_breaks_its_lines(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tiny / "tiny.inter"
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    with path.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([[name if f == "i1" else f for f in row] for row in lines])
    (tiny / "tiny.item").unlink()
    case = ["--model=Pop", "--dataset=tiny", "--field_separator=,", "--quiet"]
    assert cli("run", *case) == 0
    capsys.readouterr()
    for words in (["--output=lists.tsv"], []):
        assert cli("recommend", *case, "--users=all", "--history=test", "--topk=48", *words) == 2
        there = capsys.readouterr()
        assert not there.out
        assert f"the id {name!r} holds a tab or a line break" in there.err
    assert not Path("lists.tsv").exists()


def test_a_gzipped_file_with_typed_columns_is_read(tmp_path: Path) -> None:
    (tmp_path / "l.tsv.gz").write_bytes(gzip.compress(b"user_id:token\titem_id:token\trank:float\nu1\t007\t2\n"))
    frame = read_lists(tmp_path / "l.tsv.gz")
    assert frame.to_dict("records") == [{"user_id": "u1", "item_id": "007", "value": -2.0}]


def test_a_file_that_is_not_there_or_belongs_to_other_data_is_refused(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"--lists=none\.tsv: there is no such file"):
        make_run("Lists", lists="none.tsv")
    with pytest.raises(UserError, match=r"--lists=dataset is a folder; give the name of a file"):
        make_run("Lists", lists="dataset")
    with pytest.raises(UserError, match="give --lists=FILE"):
        prepare("Lists")
    Path("mine.tsv").write_text("user_id\titem_id\trank\nx\ty\t1\n")
    with pytest.raises(UserError, match="none of its 1 rows is of a test case and an item of this dataset"):
        prepare("Lists", lists="mine.tsv")


def test_lists_travel_with_a_job(tiny: Path) -> None:
    run = make_run("Lists", lists=written(), epochs=0)
    with pack(run, None).unpacked(run) as (moved, _):
        assert Path(moved.settings["lists"]).read_text() == Path("mine.tsv").read_text()
        assert moved.key == run.key
