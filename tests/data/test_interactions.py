"""Interactions as flat arrays: ids, order, cache. Filters: test_filters.py."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest

from recbole_llm.data.catalog import locate
from recbole_llm.data.inter_file import ReadSpec, load_interactions, read_interactions
from recbole_llm.data.interactions import PAD_TOKEN, canonical_order, token_hashes
from recbole_llm.errors import UserError
from recbole_llm.utils.files import file_sha256
from tests.data.build import HEADER, names, table_of, walks, write_rows
from tests.helpers import make_run


def recbole_dataset(**overrides):
    """RecBole's own ``Dataset`` on the same file, its own reader and filters."""
    from recbole.data.dataset import Dataset

    from recbole_llm.compat.config import BenchConfig

    run = make_run("BPR", **overrides)
    return Dataset(BenchConfig(run.settings, run.settings.method.load(), run.location.folder, run.location.stem))


def ours(**overrides):
    run = make_run("BPR", **overrides)
    return read_interactions(run.location.interactions, ReadSpec.from_settings(run.settings.values))


# ---- ids -----------------------------------------------------------------------------------------


def test_ids_are_given_by_first_appearance(tmp_path):
    table = table_of(tmp_path, [("b", "y", 2), ("a", "y", 1), ("b", "x", 1)])
    assert table.user_tokens.tolist() == [PAD_TOKEN, "b", "a"]
    assert table.item_tokens.tolist() == [PAD_TOKEN, "y", "x"]


def test_ids_are_recbole_s(tiny):
    theirs, table = recbole_dataset(), ours()
    assert table.user_tokens.tolist() == theirs.field2id_token["user_id"].tolist()
    assert table.item_tokens.tolist() == theirs.field2id_token["item_id"].tolist()


def test_ids_are_recbole_s_where_rows_lack_a_user_or_an_item(tiny):
    file = tiny / "tiny.inter"
    header, *lines = file.read_text(encoding="utf-8").splitlines()
    place = [column.partition(":")[0] for column in header.split("\t")].index
    nameless, empty = (lines[0].split("\t") for _ in range(2))
    nameless[place("user_id")], nameless[place("item_id")] = "", "ranked"
    empty[place("user_id")], empty[place("item_id")] = "counted", ""
    file.write_text("\n".join([header, "\t".join(empty), *lines, "\t".join(nameless)]) + "\n", encoding="utf-8")
    theirs, table = recbole_dataset(), ours()
    assert table.user_tokens.tolist() == theirs.field2id_token["user_id"].tolist()
    assert table.item_tokens.tolist() == theirs.field2id_token["item_id"].tolist()


LOAD = {"inter": ["user_id", "item_id", "rating", "timestamp"]}


def test_ids_are_recbole_s_after_filtering(tiny):
    overrides = {"val_interval": {"rating": "[2,inf)"}, "user_inter_num_interval": "[4,inf)"}
    overrides |= {"item_inter_num_interval": "[9,inf)"}
    theirs, table = recbole_dataset(load_col=LOAD, **overrides), ours(load_col=LOAD, **overrides)
    assert 0 < len(table) < 702
    assert table.user_tokens.tolist() == theirs.field2id_token["user_id"].tolist()
    assert table.item_tokens.tolist() == theirs.field2id_token["item_id"].tolist()


@pytest.mark.parametrize("interval", ["(1,4]", "[1,2);[4,5]", [2, 4]])
def test_the_rows_are_recbole_s_after_filtering(tiny, interval):
    overrides = {"load_col": LOAD, "val_interval": {"rating": interval}, "user_inter_num_interval": "[3,9]"}
    theirs, table = recbole_dataset(**overrides), ours(**overrides)
    frame = theirs.inter_feat
    users, items = (
        theirs.field2id_token["user_id"][frame["user_id"]],
        theirs.field2id_token["item_id"][frame["item_id"]],
    )
    assert 0 < len(table) < 702
    assert sorted(names(table)) == sorted(zip(users.tolist(), items.tolist(), strict=True))


def test_ids_of_digits_are_text(tmp_path):
    table = table_of(tmp_path, [("007", "1.50", 1), ("7", "1.5", 2), ("07", "true", 3)])
    assert table.user_tokens.tolist() == [PAD_TOKEN, "007", "7", "07"]
    assert table.item_tokens.tolist() == [PAD_TOKEN, "1.50", "1.5", "true"]


def test_ids_are_contiguous_over_chunks(tmp_path, monkeypatch):
    rows = [(f"u{i % 7}", f"i{i % 11}", i) for i in range(100)]
    whole = table_of(tmp_path, rows)
    monkeypatch.setattr("recbole_llm.data.atomic.read_chunks.__defaults__", (None, 8))
    pieces = table_of(tmp_path, rows)
    assert names(pieces) == names(whole)
    assert pieces.item_tokens.tolist() == whole.item_tokens.tolist()


def test_offsets_cut_the_rows_by_user(tmp_path):
    table = table_of(tmp_path, walks([2, 3, 1]))
    assert table.offsets.tolist() == [0, 0, 2, 5, 6]
    assert all((table.user[table.offsets[u] : table.offsets[u + 1]] == u).all() for u in range(4))


def test_statistics_are_counts(tmp_path):
    statistics = table_of(tmp_path, [("a", "x", 1), ("a", "y", 2), ("a", "x", 3), ("b", "x", 1)]).statistics()
    assert statistics == {
        "users": 2,
        "items": 2,
        "interactions": 4,
        "mean_length": 2.0,
        "median_length": 2.0,
        "max_length": 3,
        "density": 1.0,
    }


# ---- order ---------------------------------------------------------------------------------------


def test_rows_stand_by_user_then_time(tmp_path):
    table = table_of(tmp_path, [("b", "1", 5), ("a", "2", 9), ("b", "3", 1), ("a", "4", 3), ("b", "5", 3)])
    assert names(table) == [("b", "3"), ("b", "5"), ("b", "1"), ("a", "4"), ("a", "2")]


def histories(table):
    """Item tokens by user token."""
    found = {}
    for user, item in names(table):
        found.setdefault(user, []).append(item)
    return found


def test_the_order_does_not_depend_on_the_order_of_the_file(tmp_path):
    rows = [(f"u{i % 5}", f"i{i}", i // 20) for i in range(200)]  # many share user and time
    first = histories(table_of(tmp_path, rows))
    random.Random(3).shuffle(rows)
    assert histories(table_of(tmp_path, rows)) == first


@pytest.mark.parametrize("times", [[1, 2, 3, 4], [1.5, 2.5, 3.5, 4.5], [-(2**62), 0, 1, 2**62]], ids=str)
def test_the_order_is_by_user_then_time_whatever_the_times_are(times):
    user, time = np.array([2, 1, 2, 1], dtype=np.int32), np.array([times[n] for n in (3, 2, 1, 0)])
    names = np.array([PAD_TOKEN, "a", "b", "c", "d"])
    order, tied = canonical_order(user, np.array([1, 2, 3, 4]), time, names[:3], names)
    assert (order.tolist(), tied) == ([3, 1, 2, 0], 0)


def test_equal_times_are_not_ordered_by_item_name_or_by_file(tmp_path):
    rows = [("u", f"i{i:03d}", 7) for i in range(100)]
    order = histories(table_of(tmp_path, rows))["u"]
    assert order not in (sorted(order), sorted(order, reverse=True))
    rank = np.argsort(np.argsort(order))
    assert abs(np.corrcoef(rank, np.arange(100))[0, 1]) < 0.3


def test_users_order_the_same_items_at_the_same_time_differently(tmp_path):
    rows = [(f"u{u}", f"i{i}", 7) for u in range(5) for i in range(30)]
    assert len(set(map(tuple, histories(table_of(tmp_path, rows)).values()))) == 5


def test_the_order_of_ties_stays_what_it_was_published_as(tmp_path):
    rows = [("u1", item, 7) for item in ("a", "b", "c", "d", "e")]
    assert histories(table_of(tmp_path, rows))["u1"] == ["d", "e", "a", "c", "b"]


def test_hashes_of_tokens_are_the_same_everywhere():
    digests = [hashlib.blake2b(token.encode(), digest_size=8).digest() for token in ("i1", "é")]
    assert token_hashes(np.array(["i1", "é"])).tolist() == [int.from_bytes(digest, "little") for digest in digests]


def test_repeated_rows_are_left_out_and_counted(tmp_path):
    table = table_of(
        tmp_path, [("u", "i", 7), ("u", "j", 7), ("u", "i", 7), ("v", "i", 7), ("u", "i", 8), ("u", "i", 7)]
    )
    assert sorted(names(table)) == [("u", "i"), ("u", "i"), ("u", "j"), ("v", "i")]
    assert (table.facts["rows_read"], table.facts["rows_repeated"]) == (6, 2)


def test_of_repeated_rows_the_first_of_the_file_stays(tmp_path):
    rows = [("u", f"i{k % 9}", 7, k) for k in range(90)]
    table = table_of(tmp_path, rows, HEADER + "\tprice:float", extra=("price",))
    assert sorted(table.extra["price"].tolist()) == list(range(9))


def test_repeated_rows_are_kept_where_the_setting_says_so(tmp_path):
    table = table_of(tmp_path, [("u", "i", 7)] * 3, duplicates="keep")
    assert len(table) == 3
    assert "rows_repeated" not in table.facts


def test_without_times_no_row_repeats_another(tmp_path):
    assert len(table_of(tmp_path, [("u", "i")] * 3, "user_id:token\titem_id:token", time_field=None)) == 3


def test_rows_that_share_user_and_time_are_counted(tmp_path):
    table = table_of(
        tmp_path, [("a", "1", 5), ("a", "2", 5), ("a", "3", 6), ("b", "4", 5), ("b", "1", 5), ("b", "2", 5)]
    )
    assert table.facts["rows_tied_in_time"] == 5


def test_times_that_float32_would_merge_keep_their_order(tmp_path):
    base = 1_400_000_000
    assert np.float32(base) == np.float32(base + 3)
    table = table_of(tmp_path, [("u", f"i{k}", base + k) for k in (3, 1, 2, 0)])
    assert table.time.dtype == np.int64
    assert table.time.tolist() == [base, base + 1, base + 2, base + 3]
    assert histories(table)["u"] == ["i0", "i1", "i2", "i3"]


def test_fractional_times_are_kept(tmp_path):
    table = table_of(tmp_path, [("u", "b", 1.75), ("u", "a", 1.5)])
    assert table.time.tolist() == [1.5, 1.75]


def test_without_times_the_order_of_the_file_stands(tmp_path):
    rows = [("u", "c"), ("v", "z"), ("u", "a"), ("u", "b")]
    table = table_of(tmp_path, rows, "user_id:token\titem_id:token", time_field=None)
    assert histories(table) == {"u": ["c", "a", "b"], "v": ["z"]}
    assert table.time is None


# ---- further columns -----------------------------------------------------------------------------


def test_further_columns_follow_the_rows(tmp_path):
    rows = [("u", "a", 2, "x", 0.5), ("u", "b", 1, "y", 1.5)]
    table = table_of(tmp_path, rows, HEADER + "\tplace:token\tprice:float", extra=("place", "price"))
    assert table.extra["price"].tolist() == [1.5, 0.5]
    assert table.extra_tokens["place"][table.extra["place"]].tolist() == ["y", "x"]


def test_a_missing_token_is_the_padding_id(tmp_path):
    rows = [("u", "a", 1, "x"), ("u", "b", 2, ""), ("u", "c", 3, "y")]
    table = table_of(tmp_path, rows, HEADER + "\tplace:token", extra=("place",))
    assert table.extra["place"].tolist() == [1, 0, 2]


def test_a_missing_number_is_the_mean(tmp_path):
    rows = [("u", "a", 1, 1.0), ("u", "b", 2, ""), ("u", "c", 3, 2.0)]
    table = table_of(tmp_path, rows, HEADER + "\tprice:float", extra=("price",))
    assert table.extra["price"].tolist() == [1.0, 1.5, 2.0]


# ---- mistakes in files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user_id:float\titem_id:token\ttimestamp:float", "user_id is declared float; it must be user_id:token"),
        ("user_id:token\titem_id:token_seq\ttimestamp:float", "item_id is declared token_seq"),
        ("user_id:token\titem_id:token\ttimestamp:token", "timestamp is declared token; it must be timestamp:float"),
        ("user:token\titem_id:token\ttimestamp:float", "has no column 'user_id'; it has user, item_id, timestamp"),
    ],
)
def test_a_wrong_header_is_a_user_error(tmp_path, header, message):
    with pytest.raises(UserError, match=message):
        table_of(tmp_path, [("1", "2", "3")], header)


def test_a_sequence_column_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"sequence columns of \.inter cannot be loaded .*tags:token_seq"):
        table_of(tmp_path, [("u", "i", 1, "a b")], HEADER + "\ttags:token_seq", extra=("tags",))


def test_rows_without_a_time_are_refused(tmp_path):
    with pytest.raises(UserError, match="1 row without a timestamp"):
        table_of(tmp_path, [("u", "i", 1), ("u", "j", "")])


def test_a_file_without_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="has a header and no rows"):
        table_of(tmp_path, [])


def test_a_file_of_rows_without_ids_is_refused(tmp_path):
    with pytest.raises(UserError, match="leave no interaction"):
        table_of(tmp_path, [("", "i", 1), ("u", "", 2)])


# ---- cache ---------------------------------------------------------------------------------------


@pytest.fixture
def location(workspace):
    write_rows(workspace / "dataset" / "x" / "x.inter", [*walks([3, 4]), ("u9", "i0.0", 7)])
    return locate("x")


def assert_equal(one, other):
    for name in ("user", "item", "time", "offsets", "user_tokens", "item_tokens"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype, name
        assert np.array_equal(first, second), name
    assert one.facts == other.facts
    assert list(one.extra) == list(other.extra)
    assert all(np.array_equal(one.extra[name], other.extra[name]) for name in one.extra)


def cache_folders(location):
    return sorted(path.name for path in (location.home / "cache").iterdir())


def test_a_second_start_gets_the_same_arrays_from_the_cache(location):
    first, sha = load_interactions(location, ReadSpec())
    second, again = load_interactions(location, ReadSpec())
    assert isinstance(second.user, np.memmap)
    assert sha == again == file_sha256(location.interactions)
    assert_equal(first, second)


def test_further_columns_are_cached(workspace):
    write_rows(
        workspace / "dataset" / "y" / "y.inter", [("u", "i", 1, "a", 2.5)], HEADER + "\tplace:token\tprice:float"
    )
    spec = ReadSpec(extra=("place", "price"))
    first, _ = load_interactions(locate("y"), spec)
    second, _ = load_interactions(locate("y"), spec)
    assert_equal(first, second)
    assert second.extra_tokens["place"].tolist() == [PAD_TOKEN, "a"]


def test_the_cache_is_used_and_the_text_is_not_read_again(location):
    load_interactions(location, ReadSpec())
    (folder,) = (location.home / "cache").iterdir()
    np.save(folder / "item.npy", np.arange(8, dtype=np.int32))
    assert load_interactions(location, ReadSpec())[0].item.tolist() == list(range(8))


@pytest.mark.parametrize("victim", ["user.npy", "item_tokens.npy", "facts.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "garbage"])
def test_a_damaged_cache_is_made_anew(location, victim, damage):
    first, _ = load_interactions(location, ReadSpec())
    (folder,) = (location.home / "cache").iterdir()
    content = (folder / victim).read_bytes()
    if damage == "gone":
        (folder / victim).unlink()
    else:
        (folder / victim).write_bytes(content[: len(content) // 2] if damage == "cut" else b"\x00garbage")
    assert_equal(load_interactions(location, ReadSpec())[0], first)
    again, _ = load_interactions(location, ReadSpec())
    assert isinstance(again.user, np.memmap)


def test_another_file_has_another_cache(location):
    load_interactions(location, ReadSpec())
    write_rows(location.interactions, walks([5, 5]))
    table, _ = load_interactions(location, ReadSpec())
    assert len(table) == 10
    assert len(cache_folders(location)) == 2


@pytest.mark.parametrize(
    "change",
    [{"user_interval": "[4,inf)"}, {"duplicates": "first"}, {"time_field": None}, {"item_interval": "[1,9]"}],
)
def test_another_spec_has_another_cache(location, change):
    load_interactions(location, ReadSpec())
    load_interactions(location, replace(ReadSpec(), **change))
    assert len(cache_folders(location)) == 2


def test_no_half_written_cache_is_left(location):
    load_interactions(location, ReadSpec())
    assert all(not name.startswith(".") for name in cache_folders(location))


def test_a_dataset_is_read_where_no_cache_can_be_written(location):
    (location.home / "cache").write_text("a file where the folder should be")
    table, _ = load_interactions(location, ReadSpec())
    assert len(table) == 8
