"""Bad input through the command line: each case gets a one-line message or follows a documented rule.

``test_atomic`` and ``test_interactions`` test the readers in detail.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from recbole_llm.cli import main
from recbole_llm.data.catalog import locate
from recbole_llm.data.inter_file import ReadSpec, load_interactions
from recbole_llm.errors import UserError
from recbole_llm.features.items import read_item_texts
from tests.data.build import HEADER, names, table_of, walks, write_rows
from tests.helpers import make_run, prepare, runner

ROWS = walks([4] * 30)
UNTIMED = "user_id:token\titem_id:token"
ITEM = "item_id:token\ttitle:token_seq"


@pytest.fixture
def mine(workspace):
    """A valid dataset called ``mine``, for tests to corrupt."""
    folder = workspace / "dataset" / "mine"
    write_rows(folder / "mine.inter", ROWS)
    write_rows(folder / "mine.item", [(item, f"Title of {item}") for _, item, _ in ROWS], ITEM)
    return folder


def complaint(capsys, *words):
    """The one-line error message of ``run``."""
    assert main(["run", "--model=Pop", "--dataset=mine", "--quiet", *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    return lines[0]


def texts(spec=None):
    location = locate("mine")
    table, _ = load_interactions(location, ReadSpec())
    found = read_item_texts(location, table, spec)
    return dict(zip(table.item_tokens.tolist(), found.title, strict=True)), found


SPOILT = {
    "a missing column": ("user_id:token\titem_id:token", [("u", "i")], "mine.inter has no column 'timestamp'"),
    "a type of another name": ("user_id:token\titem_id:tokens\ttimestamp:float", [("u", "i", 1)], "needs a type"),
    "no type at all": ("user_id\titem_id\ttimestamp", [("u", "i", 1)], "'user_id' needs a type"),
    "ids declared as numbers": (
        "user_id:float\titem_id:token\ttimestamp:float",
        [(1, "i", 1)],
        "must be user_id:token",
    ),
    "times declared as text": ("user_id:token\titem_id:token\ttimestamp:token", [("u", "i", 1)], "timestamp:float"),
    "a time that is no number": (HEADER, [("u", "i", "1"), ("u", "j", "May")], "line 3: timestamp is 'May'"),
    "a tab too many": (HEADER, [("u", "i", 1), ("u", "j", 2, "x")], "line 3: more fields than"),
    "a header alone": (HEADER, [], "has a header and no rows"),
    "commas for tabs": (
        "user_id:token,item_id:token,timestamp:float",
        ["u,i,1"],
        "are separated by commas, not by tabs",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_file_that_cannot_be_used_is_answered_in_one_line(mine, capsys, case):
    header, rows, message = SPOILT[case]
    write_rows(mine / "mine.inter", rows, header)
    assert message in complaint(capsys)


def test_an_empty_file(mine, capsys):
    (mine / "mine.inter").write_bytes(b"")
    assert "mine.inter is empty" in complaint(capsys)


def test_bytes_that_are_not_utf8(mine, capsys):
    write_rows(mine / "mine.inter", ROWS)
    (mine / "mine.inter").write_bytes((mine / "mine.inter").read_bytes().replace(b"u3\t", b"u\xe9\t"))
    message = complaint(capsys)
    assert "is not UTF-8" in message
    assert "iconv" in message


def test_a_truncated_gzip_file(mine, capsys):
    packed = gzip.compress((mine / "mine.inter").read_bytes())
    (mine / "mine.inter").unlink()
    (mine / "mine.inter.gz").write_bytes(packed[:-30])
    assert "mine.inter.gz is a damaged or truncated gzip file" in complaint(capsys)


def test_users_that_are_too_short_to_be_tested(mine, capsys):
    write_rows(mine / "mine.inter", walks([1, 2, 1]))
    assert "too small for it" in complaint(capsys)


# ---- rules -------------------------------------------------------------------------------------


def test_a_user_with_one_interaction_only_trains(mine):
    write_rows(mine / "mine.inter", [*ROWS, ("lonely", "i0.0", 5)])
    prepared = prepare("Pop", "mine")
    table, split = prepared.dataset.table, prepared.dataset.split
    lonely = int(np.flatnonzero(table.user_tokens == "lonely")[0])
    assert table.n_users == 31
    assert lonely not in split.test.user
    assert lonely not in split.valid.user
    assert table.offsets[lonely] in split.train_rows


def test_items_that_the_item_file_lacks_are_counted_and_called_by_their_id(mine, caplog):
    write_rows(mine / "mine.item", [("i0.0", "Only one")], ITEM)
    with caplog.at_level("WARNING"):
        found, whole = texts()
    assert "lacks 119 of 120 items" in caplog.text
    assert found["i0.0"] == "Only one"
    assert found["i1.0"] == "item i1.0"
    assert whole.named == pytest.approx(1 / 120)


def test_titles_that_a_line_break_cuts_are_said(mine, caplog):
    rows = [(item, "Title of " + item) for item in dict.fromkeys(item for _, item, _ in ROWS)]
    with caplog.at_level("WARNING"):
        write_rows(mine / "mine.item", rows, ITEM)
        texts()
        assert "fewer fields" not in caplog.text
        write_rows(mine / "mine.item", [(rows[0][0], '"First\nsecond"'), *rows[1:]], ITEM)
        texts()
    assert "mine.item: lines with fewer fields than the header: 1, first line 3" in caplog.text


def test_items_that_nobody_has_do_not_change_the_number_of_items(mine):
    write_rows(mine / "mine.item", [(item, "T") for _, item, _ in ROWS] + [("never", "Bought")], ITEM)
    assert prepare("Pop", "mine").dataset.item_num == 121  # with the padding item


def test_of_repeated_items_the_first_row_counts(mine, caplog):
    write_rows(mine / "mine.item", [("i0.0", "First"), ("i0.0", "Second")], ITEM)
    with caplog.at_level("WARNING"):
        found, _ = texts()
    assert found["i0.0"] == "First"
    assert "rows of items that earlier rows have, not read: 1" in caplog.text


@pytest.mark.parametrize(
    ("cell", "title"),
    [
        ('5" screen', '5" screen'),
        ('"Quoted" title', '"Quoted" title'),
        ('"unclosed', '"unclosed'),
        ('"5"" screen"', '5" screen'),  # quoted as CSV writers do
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("a\u2028b \u202e c", "a b c"),
        ("unknown", "item i0.0"),
        ("", "item i0.0"),
    ],
)
def test_quotation_marks_and_strange_characters_in_titles(mine, cell, title):
    write_rows(mine / "mine.item", [("i0.0", cell), ("i0.1", "Next")], ITEM)
    found, _ = texts()
    assert found["i0.0"] == title
    assert found["i0.1"] == "Next"


def test_a_tab_in_a_title_is_not_taken_for_another_column(mine):
    write_rows(mine / "mine.item", [("i0.0", "Two\tparts")], ITEM)
    with pytest.raises(UserError, match="line 2: more fields than the header's 2"):
        texts()


def test_rows_need_no_order(mine, tmp_path):
    shuffled = [ROWS[place] for place in np.random.default_rng(3).permutation(len(ROWS))]
    of_user = {}
    for user, item in names(table_of(tmp_path, shuffled)):
        of_user.setdefault(user, []).append(item)
    for user, item in names(table_of(tmp_path, ROWS)):
        assert of_user[user].pop(0) == item


def test_repeated_rows_are_left_out_unless_the_setting_says_otherwise(mine):
    write_rows(mine / "mine.inter", [*ROWS, ROWS[0], ROWS[0]])
    assert len(prepare("Pop", "mine", rm_dup_inter="keep").dataset.table) == 122
    assert len(prepare("Pop", "mine").dataset.table) == 120


def test_what_was_left_out_is_counted(mine):
    write_rows(mine / "mine.inter", [*ROWS, ("", "i0.0", 7), ("u0", "", 8), ROWS[0]])
    table = prepare("Pop", "mine", rm_dup_inter="first").dataset.table
    assert table.facts["rows_read"] == 123
    assert table.facts["rows_without_user_or_item"] == 2
    assert table.facts["rows_filtered_by_value_or_duplicate"] == 1
    assert json.dumps(table.facts)


@pytest.mark.parametrize("name", ["u1", "i1"])
@pytest.mark.parametrize("other", ["a\tb", "a\nb", "a\rb"])
def test_candidates_of_ids_that_break_lines_are_not_written(tiny, name, other):
    """Regression: a file of candidates was written that could not be read the next time."""
    path = tiny / "tiny.inter"
    fields = [line.split("\t") for line in path.read_text().splitlines()]
    lines = [",".join(f'"{other}"' if field == name else field for field in row) + "\n" for row in fields]
    path.write_bytes("".join(lines).encode())
    (tiny / "tiny.item").unlink()
    for _ in range(2):
        with pytest.raises(UserError, match=f"{re.escape(repr(other))}, in the column .* holds a tab or a line break"):
            prepare("Pop", candidates=20, field_separator=",")
    assert not list(tiny.glob("candidates/*"))
    assert prepare("Pop", field_separator=",").dataset.inter_num


# ---- the same data in another form is the same run ------------------------------------------------


def cases(**options):
    """Interactions and test cases of a run, by user and item tokens."""
    dataset = prepare("Pop", "mine", **options).dataset
    table, test = dataset.table, dataset.split.test
    return names(table), table.time.tolist(), [names(table)[row] for row in test.target_rows]


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_file_with_another_separator_is_followed(mine, capsys, separator):
    right = cases()
    text = (mine / "mine.inter").read_text().replace("\t", separator)
    (mine / "mine.inter").write_text(text)
    assert f"give --field_separator='{separator}'" in complaint(capsys)
    assert cases(field_separator=separator) == right  # .item is still separated by tabs


@pytest.mark.parametrize("more", [{}, {"load_col.item": ["sku", "title"]}], ids=["alone", "with other columns"])
def test_columns_with_other_names_need_their_names_alone(mine, more):
    right = cases()
    write_rows(mine / "mine.inter", ROWS, "reader:token\tsku:token\tday:float")
    write_rows(mine / "mine.item", [(item, f"Title of {item}") for _, item, _ in ROWS], ITEM.replace("item_id", "sku"))
    assert cases(USER_ID_FIELD="reader", ITEM_ID_FIELD="sku", TIME_FIELD="day", **more) == right


def test_rows_given_twice_do_not_give_the_target_away(mine, caplog):
    right = cases()
    write_rows(mine / "mine.inter", [*ROWS, *ROWS[::2]])
    with caplog.at_level("WARNING"):
        assert cases() == right
    assert "60 rows repeat another one (same user, item and time) and are left out" in caplog.text
    assert cases(rm_dup_inter="first") == right
    assert len(cases(rm_dup_inter="keep")[0]) == 180


def test_one_row_is_spoken_of_in_the_singular(mine, caplog):
    write_rows(mine / "mine.inter", [*ROWS, ROWS[0], ("", *ROWS[0][1:])])
    with caplog.at_level("WARNING"):
        cases()
    assert "1 row lacks a user or an item and was left out" in caplog.text
    assert "1 row repeats another one (same user, item and time) and is left out" in caplog.text


@pytest.mark.parametrize("load_col", [{"inter": ["user_id", "item_id"]}, {"inter": "*"}, None])
def test_times_are_read_whatever_columns_are_named(mine, load_col):
    write_rows(mine / "mine.inter", ROWS[::-1])
    assert cases(load_col=load_col) == cases()


def test_a_column_of_times_that_is_not_there_is_no_leave_to_do_without(mine, capsys):
    message = complaint(capsys, "--TIME_FIELD=time")
    assert "has no column 'time'; it has user_id, item_id, timestamp" in message
    assert "--TIME_FIELD=NAME names another one, and with --TIME_FIELD=~ the order of the file stands" in message


def test_times_are_left_out_only_where_the_setting_says_so(mine, caplog):
    write_rows(mine / "mine.inter", ROWS[::-1])
    table = prepare("SASRec", "mine", TIME_FIELD=None).dataset.table
    assert table.time is None
    assert names(table)[0] == ("u29", "i29.3")
    with caplog.at_level("WARNING"):
        record = runner().run(make_run("Pop", "mine", TIME_FIELD=None))
    assert record.warnings == ["there are no times: the order of the file stands, whatever that is"]
    assert record.warnings[0] in caplog.text


def test_a_file_without_times_is_read_where_the_setting_says_so(mine, capsys):
    write_rows(mine / "mine.inter", [row[:2] for row in ROWS], UNTIMED)
    assert "with --TIME_FIELD=~ the order of the file stands" in complaint(capsys)
    assert main(["run", "--model=Pop", "--dataset=mine", "--quiet", "--TIME_FIELD=~"]) == 0
    assert "there are no times" in capsys.readouterr().out


def test_lines_given_twice_are_said_where_no_times_tell_them_from_items_taken_again(mine, caplog):
    twice = [*ROWS, *ROWS[::2], ("u0", "i0.0", 9)]  # the last line repeats a user and item again
    write_rows(mine / "mine.inter", [(*row[:2], n) for n, row in enumerate(twice)], f"{UNTIMED}\tplace:float")
    with caplog.at_level("WARNING"):
        prepare("Pop", "mine", TIME_FIELD=None)
        write_rows(mine / "mine.inter", [row[:2] for row in twice], UNTIMED)
        prepare("Pop", "mine", TIME_FIELD=None, rm_dup_inter="keep")
        assert "earlier line" not in caplog.text
        assert len(prepare("Pop", "mine", TIME_FIELD=None).dataset.table) == 181
    assert "61 lines repeat an earlier line exactly" in caplog.text
    assert "--rm_dup_inter=first keeps one row of a user and an item" in caplog.text
    assert len(prepare("Pop", "mine", TIME_FIELD=None, rm_dup_inter="first").dataset.table) == 120


def test_milliseconds_cut_the_sessions_that_seconds_cut(tiny, caplog):
    def sessions():
        split = prepare("Pop", protocol="temporal_20", candidates="all").dataset.split
        return len(split.train_rows), split.test.end.tolist()

    right = sessions()
    rows = [line.split("\t") for line in (tiny / "tiny.inter").read_text().splitlines()[1:]]
    write_rows(tiny / "tiny.inter", [(u, i, r, int(t) * 1000) for u, i, r, t in rows], TINY)
    with caplog.at_level("WARNING"):
        assert sessions() == right
    assert "times are in milliseconds and are read as seconds" in caplog.text


TINY = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


@pytest.mark.parametrize("how", ["threshold", "filter_inter_by_user_or_item"])
def test_files_that_recbole_reads_follow_the_same_rules(tiny, how):
    rows = [line.split("\t") for line in (tiny / "tiny.inter").read_text().splitlines()[1:]]
    right = prepare("SASRec").dataset.table
    write_rows(tiny / "tiny.inter", [(u, i, r, int(t) * 1000) for u, i, r, t in rows + rows[:50]], TINY)
    columns = {"inter": ["user_id", "item_id", "rating"], "item": ["item_id", "title"]}
    extra = {"threshold": {"rating": 3}} if how == "threshold" else {how: True}
    table = prepare("SASRec", load_col=columns, **extra).dataset.table
    assert dict(zip(names(table), table.time.tolist(), strict=True)) == dict(
        zip(names(right), right.time.tolist(), strict=True)
    )
    assert len(table) == len(right)
    assert (table.facts["rows_repeated"], table.facts["times_per_second"]) == (50, 1000)
    assert table.facts["rows_tied_in_time"] == right.facts["rows_tied_in_time"]
    write_rows(tiny / "tiny.inter", [(u, i, r, "inf" if n == 7 else t) for n, (u, i, r, t) in enumerate(rows)], TINY)
    with pytest.raises(UserError, match=r"1 row without a timestamp, or with one that is not finite"):
        prepare("SASRec", load_col=columns, **extra)


RATED = {"inter": ["user_id", "item_id", "rating"], "item": ["item_id", "title"]}


def test_a_row_says_that_a_threshold_leaves_nothing_out(tiny):
    """Regression: the same numbers as without it stood in a row of their own, without a word."""
    more = ({}, {"threshold": {"rating": 3}})
    plain, rated = (runner().run(make_run("Pop", load_col=RATED, **given)) for given in more)
    values = [{name: metric.value for name, metric in record.metrics.items()} for record in (plain, rated)]
    assert values[1] == pytest.approx(values[0])
    (text,) = set(rated.warnings) - set(plain.warnings)
    assert "rows with rating below 3 are history and targets" in text
    assert "--val_interval={rating: '[3,inf)'}" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"threshold": {"rating": 3}, "load_col": {"inter": ["user_id", "item_id"]}},
            r"threshold names rating, which load_col leaves out: .*\.inter=\[user_id,item_id,timestamp,rating\]\"",
        ),
        (
            {"threshold": {"rating": 3}, "load_col": RATED, "val_interval": {"brand": ["Brand1"]}},
            r"val_interval names brand, .* give \"--load_col\.item=\[item_id,title,brand\]\"",
        ),
        (
            {"threshold": {"stars": 3}, "load_col": RATED},
            r"threshold: no file .* a column 'stars'; \.inter has user_id",
        ),
        (
            {"threshold": {"title": 3}, "load_col": RATED},
            r"threshold: no file .* a column 'title'; \.inter has user_id",
        ),
        ({"normalize_field": ["stars"], "load_col": RATED}, r"normalize_field: no file .*; \.item has item_id, title"),
        ({"threshold": {"rating": "good"}, "load_col": RATED}, r"threshold=.*: give one column and a number"),
        (
            {"threshold": {"rating": 3, "timestamp": 5}, "load_col": RATED},
            r"threshold=.*: give one column and a number",
        ),
        ({"normalize_all": True, "val_interval": {"user_id": "u1"}}, r"val_interval\.user_id=u1: user_id holds tokens"),
        ({"val_interval": {"user_id": "u1"}}, r"val_interval\.user_id=u1: .*list those that stay, such as \[a,b\]"),
        ({"val_interval": {"user_id": 3}}, r"val_interval\.user_id=3: user_id holds tokens, not numbers"),
    ],
)
def test_settings_must_name_columns_that_are_read(tiny, options, message):
    with pytest.raises(UserError, match=message):
        prepare("BPR", **options)


def test_a_list_of_users_is_the_same_run_the_next_time(tiny):
    run = make_run("Pop", val_interval={"user_id": [f"u{n}" for n in range(40)]})
    assert runner().run(run).created == runner().run(run).created


@pytest.mark.parametrize("spoilt", [", ", '"', "\ufeff", "\t", ".gz"])
def test_files_that_recbole_reads_otherwise_are_refused(tiny, spoilt):
    """Our own reader accepts each of these files."""
    path, separator = tiny / "tiny.inter", "\t" if spoilt == ".gz" else ","
    header, _, rows = path.read_text().partition("\n")
    names = header.split("\t")
    first = {", ": ", ".join(names), '"': ",".join(f'"{name}"' for name in names), "\t": header}
    text = first.get(spoilt, "\ufeff" * (spoilt == "\ufeff") + separator.join(names)) + "\n"
    path.write_text(text + (rows if spoilt == "\t" else rows.replace("\t", separator)), encoding="utf-8")
    if spoilt == ".gz":
        (tiny / "tiny.inter.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    options = {"load_col": RATED | {"item": ["item_id"]}, "field_separator": separator}
    assert prepare("Pop", **options).dataset.inter_num
    with pytest.raises(
        UserError, match=r"with threshold RecBole reads the files itself, and .* (unpack it|Write 'user_id)"
    ):
        prepare("Pop", threshold={"rating": 3}, **options)


@pytest.mark.parametrize("suffix", ["inter", "item"])
def test_a_number_that_recbole_cannot_read_is_named(tiny, suffix):
    """Regression: it was pandas' ValueError, without the file and the line."""
    path = tiny / f"tiny.{suffix}"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header + "\tworth:float", *(f"{row}\t{n}" for n, row in enumerate(rows[1:])), ""]))
    columns = {"inter": RATED["inter"], "item": ["item_id"]}
    columns[suffix] = [*columns[suffix], "worth"]
    assert prepare("Pop", threshold={"rating": 3}, load_col=columns)
    text = path.read_text().replace("\t0\n", "\tNA\n", 1)  # pandas reads a missing value there
    path.write_text(text)
    assert prepare("Pop", threshold={"rating": 3}, load_col=columns)
    path.write_text(text.replace("\t1\n", "\tabc\n", 1))
    with pytest.raises(UserError, match=rf"tiny.{suffix}, line 3: worth is 'abc', not a (finite )?number"):
        prepare("Pop", threshold={"rating": 3}, load_col=columns)


@pytest.mark.parametrize("suffix", ["inter", "item"])
def test_carriage_returns_inside_lines_are_named_whoever_reads_the_file(tiny, suffix):
    """Regression: they cut lines in two, and users or items appeared that nobody had written."""
    path = tiny / f"tiny.{suffix}"
    first, second, rest = path.read_text().split("\n", 2)
    path.write_bytes("\n".join([first, second.replace("\t", "\r\t", 1), rest]).encode())
    message = f"tiny.{suffix}, line 2: a carriage return inside the line"
    with pytest.raises(UserError, match=message):
        prepare("SASRecText")
    with pytest.raises(UserError, match=message):
        prepare("Pop", threshold={"rating": 3}, load_col=RATED | {"item": ["item_id"]})


def test_lines_given_twice_are_said_where_recbole_reads_them(mine, caplog):
    write_rows(mine / "mine.inter", [row[:2] for row in [*ROWS, *ROWS[:3]]], UNTIMED)
    with caplog.at_level("WARNING"):
        prepare("Pop", "mine", TIME_FIELD=None, filter_inter_by_user_or_item=True)
    assert "3 lines repeat an earlier line exactly" in caplog.text


# ---- texts ---------------------------------------------------------------------------------------


def shown(folder, **options):
    """The titles that a text model reads, keyed by item."""
    features = prepare("SASRecText", "mine", **options).dataset
    tokens = features.table.item_tokens[1:].tolist()
    return dict(zip(tokens, features.semantics.shown_texts("title_text")[1:], strict=True))


def test_titles_are_found_by_the_column_that_the_setting_names(mine):
    right = shown(mine)
    write_rows(mine / "mine.inter", ROWS, HEADER.replace("item_id", "movieId"))
    rows = [(f"Title of {item}", item) for _, item, _ in ROWS]
    write_rows(mine / "mine.item", rows, "title:token_seq\tmovieId:token")
    named = {"ITEM_ID_FIELD": "movieId", "load_col": {"inter": ["user_id", "movieId"]}}
    assert shown(mine, **named) == right
    record = runner().run(make_run("Pop", "mine", list_metrics=["ILDVectors"], **named))
    assert record.list_metrics["ildvectors@10"].value > 0


def test_an_item_file_without_the_key_is_refused(mine):
    write_rows(mine / "mine.item", [("Title", "i0.0")], "title:token_seq\tasin:token")
    with pytest.raises(UserError, match=r"the column of item ids, item_id:token, is not there; it has title, asin"):
        shown(mine)


def test_an_item_file_whose_key_is_a_number_is_refused(mine):
    write_rows(mine / "mine.item", [("1", "Title")], "item_id:float\ttitle:token_seq")
    with pytest.raises(UserError, match=r"item_id:token, is declared float"):
        shown(mine)


@pytest.mark.parametrize("name", ["Title", "product_title", "Product Name", "productTitle", "NAME"])
def test_titles_are_found_under_names_like_title(mine, name):
    right = shown(mine)
    write_rows(mine / "mine.item", [(i, f"Title of {i}") for _, i, _ in ROWS], f"item_id:token\t{name}:token_seq")
    assert shown(mine) == right


@pytest.mark.parametrize("given", ["colour", "{colour}"])
def test_titles_under_any_name_are_refused_until_they_are_named(mine, capsys, given):
    right = shown(mine)
    write_rows(mine / "mine.item", [(i, f"Title of {i}") for _, i, _ in ROWS], "item_id:token\tcolour:token_seq")
    assert main(["run", "--model=SASRecText", "--dataset=mine", "--quiet"]) == 2
    assert "no column is known to hold titles; it has item_id, colour. Name it with --text.title" in (
        capsys.readouterr().err
    )
    assert shown(mine, text={"title": given}) == right


def test_titles_of_other_items_are_no_titles(mine):
    write_rows(mine / "mine.item", [("other", "T")], ITEM)
    with pytest.raises(UserError, match=r"not one of the 120 items of \.inter has a title there"):
        shown(mine)


def test_no_item_file_is_no_text(mine):
    (mine / "mine.item").unlink()
    with pytest.raises(UserError, match=r"there is no mine\.item in .* --semantics=none"):
        shown(mine)
    assert prepare("SASRecText", "mine", semantics="none").dataset.semantics is None


@pytest.mark.parametrize(("titles", "share"), [(1, "99.1 %"), (60, "50 %"), (108, "10 %"), (109, None)])
def test_missing_titles_are_a_warning_on_the_row(mine, titles, share):
    write_rows(mine / "mine.item", [(item, "T" if n < titles else "") for n, (_, item, _) in enumerate(ROWS)], ITEM)
    record = runner().run(make_run("SASRecText", "mine", epochs=1))
    text = f"{share} of the items have no title and are called by their ids"
    assert record.warnings == ([text] if share else [])


@pytest.mark.parametrize(("given", "share"), [(1, "99.1 %"), (108, "10 %"), (109, None)])
def test_missing_profiles_are_a_warning_on_the_row(mine, given, share):
    write_rows(mine / "mine.item", [(item, f"T {item}") for _, item, _ in ROWS], ITEM)
    lines = (json.dumps({"item_id": item, "text": f"about {item}"}) for _, item, _ in ROWS[:given])
    Path("p.jsonl").write_text("\n".join(lines))
    settings = {"profiles": "p.jsonl", "profiles_by": "item_id", "text_columns": ["title_text", "profile_text"]}
    record = runner().run(make_run("SASRecText", "mine", epochs=1, **settings))
    assert record.warnings == ([f"{share} of the items have no profile"] if share else [])


@pytest.mark.parametrize(("given", "share"), [(12, "90 %"), (109, None)])
def test_missing_vectors_are_a_warning_on_the_row(mine, given, share):
    np.save("v.npy", np.eye(given, dtype=np.float32))
    Path("v.ids").write_text("\n".join(["item_id", *(item for _, item, _ in ROWS[:given])]))
    record = runner().run(make_run("SASRecText", "mine", epochs=1, vectors=["v.npy"]))
    found = [warning.partition("#")[0] for warning in record.warnings]
    assert found == ([f"{share} of the items have no vector in v"] if share else [])


# ---- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["run", "--model=Pop"], ["list", "datasets", "--stats"], ["doctor", "--leaks"]])
def test_a_data_path_that_is_not_there_is_named(mine, capsys, words):
    more = [] if words[0] == "list" else ["--dataset=mine"]
    assert main([*words, *more, "--data_path=/nope"]) == 2
    assert "--data_path=/nope: there is no such folder" in capsys.readouterr().err


def test_a_data_path_that_is_a_file_is_named(mine, capsys):
    assert "is a file; give the folder that holds it" in complaint(capsys, f"--data_path={mine / 'mine.inter'}")


def test_a_data_path_that_holds_other_things_says_which(workspace, capsys):
    (workspace / "raw").mkdir()
    (workspace / "raw" / "ratings.csv").touch()
    message = complaint(capsys, "--data_path=raw")
    assert "--data_path=raw holds no .inter file (it holds ratings.csv)" in message
    assert "put mine.inter there" in message
    write_rows(workspace / "raw" / "shop" / "shop.inter", ROWS)
    assert "--data_path=raw holds shop/shop.inter" in complaint(capsys, "--data_path=raw")
    assert main(["list", "datasets", "--stats", "--data_path=raw/shop"]) == 0
