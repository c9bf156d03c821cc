"""Bad input as a user meets it: through the command line, a message or a stated rule for each.

What the readers do in detail is tested in ``test_atomic`` and ``test_interactions``.
"""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from recbole_llm.cli import main
from recbole_llm.data.catalog import locate
from recbole_llm.data.interactions import ReadSpec, load_interactions
from recbole_llm.errors import UserError
from recbole_llm.features.items import read_item_texts
from tests.data.build import HEADER, names, table_of, walks, write_rows
from tests.helpers import prepare

ROWS = walks([4] * 30)
ITEM = "item_id:token\ttitle:token_seq"


@pytest.fixture
def mine(workspace):
    """A sound dataset called ``mine``; a test spoils it."""
    folder = workspace / "dataset" / "mine"
    write_rows(folder / "mine.inter", ROWS)
    write_rows(folder / "mine.item", [(item, f"Title of {item}") for _, item, _ in ROWS], ITEM)
    return folder


def complaint(capsys, *words):
    """The one line that ``run`` complains with."""
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
    "commas for tabs": ("user_id:token,item_id:token,timestamp:float", ["u,i,1"], "needs a type"),
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


def test_items_that_nobody_has_do_not_change_the_number_of_items(mine):
    write_rows(mine / "mine.item", [(item, "T") for _, item, _ in ROWS] + [("never", "Bought")], ITEM)
    assert prepare("Pop", "mine").dataset.item_num == 121  # with the padding item


def test_of_repeated_items_the_first_row_counts(mine, caplog):
    write_rows(mine / "mine.item", [("i0.0", "First"), ("i0.0", "Second")], ITEM)
    with caplog.at_level("WARNING"):
        found, _ = texts()
    assert found["i0.0"] == "First"
    assert "1 rows repeat an item" in caplog.text


@pytest.mark.parametrize(
    ("cell", "title"),
    [
        ('5" screen', '5" screen'),
        ('"Quoted" title', '"Quoted" title'),
        ('"unclosed', '"unclosed'),
        ('"5"" screen"', '5" screen'),  # as CSV writers put it
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


def test_repeated_rows_are_interactions_unless_the_setting_says_otherwise(mine):
    write_rows(mine / "mine.inter", [*ROWS, ROWS[0], ROWS[0]])
    assert len(prepare("Pop", "mine").dataset.table) == 122
    assert len(prepare("Pop", "mine", rm_dup_inter="first").dataset.table) == 120


def test_what_was_left_out_is_counted(mine):
    write_rows(mine / "mine.inter", [*ROWS, ("", "i0.0", 7), ("u0", "", 8), ROWS[0]])
    table = prepare("Pop", "mine", rm_dup_inter="first").dataset.table
    assert table.facts["rows_read"] == 123
    assert table.facts["rows_without_user_or_item"] == 2
    assert table.facts["rows_filtered_by_value_or_duplicate"] == 1
    assert json.dumps(table.facts)
