"""Which rows of a file remain after RecBole's filters, and which columns the filters need."""

from __future__ import annotations

import math
import random

import pytest

from recbole_llm.data.inter_file import ReadSpec, parse_interval, read_interactions
from recbole_llm.data.interactions import PAD_TOKEN
from recbole_llm.errors import UserError
from tests.data.build import HEADER, names, table_of, walks, write_rows


def k_core(rows, k, most=math.inf):
    """Brute force: drop users and items with too few or too many rows, both at once as in RecBole, until stable."""
    rows = set(rows)
    while True:
        users, items = ([row[i] for row in rows] for i in (0, 1))
        kept = {row for row in rows if k <= users.count(row[0]) <= most and k <= items.count(row[1]) <= most}
        if kept == rows:
            return sorted(row[:2] for row in rows)
        rows = kept


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_filtered_to_a_fixed_point(tmp_path, seed):
    generator = random.Random(seed)
    rows = list({(f"u{generator.randrange(25)}", f"i{generator.randrange(25)}", 0) for _ in range(110)})
    expected = k_core(rows, 3)
    table = table_of(tmp_path, rows, user_interval="[3,inf)", item_interval="[3,inf)")
    assert sorted(names(table)) == expected
    assert 0 < len(expected) < len(rows)
    assert table.facts["rows_filtered_by_count"] == len(rows) - len(expected)


@pytest.mark.parametrize("seed", range(5))
def test_upper_bounds_ban_users_and_items_at_once(tmp_path, seed):
    generator = random.Random(seed)
    rows = list({(f"u{generator.randrange(25)}", f"i{generator.randrange(25)}", 0) for _ in range(200)})
    table = table_of(tmp_path, rows, user_interval="[3,8]", item_interval="[3,8]")
    assert sorted(names(table)) == k_core(rows, 3, 8)


def test_ids_have_no_gaps_after_filtering(tmp_path):
    rows = [("a", "x", 1), ("b", "x", 1), ("c", "y", 1), ("b", "z", 2), ("c", "x", 2)]
    table = table_of(tmp_path, rows, user_interval="[2,inf)")
    assert table.user_tokens.tolist() == [PAD_TOKEN, "b", "c"]
    assert table.item_tokens.tolist() == [PAD_TOKEN, "x", "y", "z"]
    assert names(table) == [("b", "x"), ("b", "z"), ("c", "y"), ("c", "x")]


@pytest.mark.parametrize(
    ("interval", "kept"),
    [("[2,4]", "bcd"), ("(2,4]", "cd"), ("[2,4)", "bc"), ("(2,4)", "c"), ("(-inf,2]", "ab"), ("[ 3 , inf )", "cde")],
)
def test_values_are_filtered_by_interval(tmp_path, interval, kept):
    rows = [("u", item, t, r) for t, (item, r) in enumerate(zip("abcde", range(1, 6), strict=True))]
    table = table_of(
        tmp_path, rows, HEADER + "\trating:float", extra=("rating",), value_intervals=(("rating", interval),)
    )
    assert "".join(table.item_tokens[table.item]) == kept
    assert table.facts["rows_filtered_by_value_or_duplicate"] == 5 - len(kept)


def test_rows_without_the_value_are_filtered(tmp_path):
    rows = [("u", "a", 1, 3), ("u", "b", 2, "")]
    table = table_of(
        tmp_path, rows, HEADER + "\trating:float", extra=("rating",), value_intervals=(("rating", "[1,inf)"),)
    )
    assert names(table) == [("u", "a")]


def test_tokens_are_filtered_by_list(tmp_path):
    rows = [("u", "a", 1, "buy"), ("u", "b", 2, "view"), ("u", "c", 3, ""), ("u", "d", 4, "cart")]
    intervals = (("action", ["buy", "cart"]),)
    table = table_of(tmp_path, rows, HEADER + "\taction:token", extra=("action",), value_intervals=intervals)
    assert "".join(table.item_tokens[table.item]) == "ad"


@pytest.mark.parametrize(
    ("name", "interval", "kept"),
    [("timestamp", "[2,4)", "bc"), ("user_id", ["u", "x"], "abcd"), ("item_id", ["a", "d"], "ad")],
)
def test_times_users_and_items_are_filtered_too(tmp_path, name, interval, kept):
    rows = [*(("u", item, time) for time, item in enumerate("abcd", start=1)), ("v", "e", 9)]
    table = table_of(tmp_path, rows, value_intervals=((name, interval),))
    assert "".join(table.item_tokens[table.item]) == kept


def test_times_that_only_a_filter_asks_for_are_read(tmp_path):
    values = cell_values(val_interval={"timestamp": "[2,inf)"}, load_col={"inter": ["user_id", "item_id"]})
    spec = ReadSpec.from_settings(values)
    table = read_interactions(write_rows(tmp_path / "x.inter", [("u", "a", 1), ("u", "b", 2)]), spec)
    assert names(table) == [("u", "b")]
    assert table.time.tolist() == [2]


@pytest.mark.parametrize(("which", "times"), [("first", [1, 2]), ("last", [2, 9])])
def test_of_repeated_pairs_one_is_kept(tmp_path, which, times):
    table = table_of(tmp_path, [("u", "a", 9), ("u", "a", 1), ("u", "b", 2), ("u", "a", 5)], duplicates=which)
    assert table.time.tolist() == times
    assert table.facts["rows_filtered_by_value_or_duplicate"] == 2


def test_other_users_pairs_are_no_duplicates(tmp_path):
    assert len(table_of(tmp_path, [("u", "a", 1), ("v", "a", 1)], duplicates="first")) == 2


def test_rows_without_user_or_item_are_left_out_and_counted(tmp_path):
    table = table_of(tmp_path, [("u", "a", 1), ("", "a", 2), ("u", "", 3), ("v", "b", 4)])
    assert names(table) == [("u", "a"), ("v", "b")]
    assert table.facts["rows_without_user_or_item"] == 2
    assert table.facts["rows_read"] == 4


def test_what_stands_only_in_rows_that_are_left_out_is_no_user_and_no_item(tmp_path):
    """As in RecBole. Regression: such an item was ranked, and such a user counted."""
    rows = [("c", "", 5), ("u", "a", 1), ("", "z", 6), ("v", "b", 4), ("u", "b", 2)]
    table = table_of(tmp_path, rows)
    assert table.user_tokens.tolist() == [PAD_TOKEN, "u", "v"]
    assert table.item_tokens.tolist() == [PAD_TOKEN, "a", "b"]
    assert names(table) == [("u", "a"), ("u", "b"), ("v", "b")]


def test_filters_that_leave_nothing_are_a_user_error(tmp_path):
    with pytest.raises(UserError, match="the filters leave no interaction"):
        table_of(tmp_path, walks([2, 2]), user_interval="[3,inf)")


@pytest.mark.parametrize("text", ["5", "[5", "[a,b]", "[1,2,3]", "5,inf", ""])
def test_text_that_is_no_interval_is_a_user_error(text):
    with pytest.raises(UserError, match=r"user_inter_num_interval=.*write an interval such as"):
        parse_interval(text, "user_inter_num_interval")


@pytest.mark.parametrize("interval", ["[0,inf)", "[ 0, inf )", "[1,inf)", None])
def test_intervals_that_keep_everything_are_one_spec(interval):
    values = cell_values(user_inter_num_interval=interval)
    assert ReadSpec.from_settings(values).user_interval is None


def cell_values(**values):
    base = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp"}
    return {**base, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, **values}


def test_columns_of_filters_are_read_too():
    assert ReadSpec.from_settings(cell_values(val_interval={"rating": "[3,inf)"})).extra == ("rating",)


def test_times_are_left_out_where_the_setting_says_so():
    assert ReadSpec.from_settings(cell_values(TIME_FIELD=None)).time_field is None


@pytest.mark.parametrize(
    "load_col", [None, {"item": ["item_id", "title"]}, {"inter": ["user_id", "item_id"]}, {"inter": "*"}], ids=str
)
def test_times_are_read_whether_they_are_named_or_not(load_col):
    spec = ReadSpec.from_settings(cell_values(load_col=load_col))
    assert (spec.time_field, spec.extra) == ("timestamp", ())
