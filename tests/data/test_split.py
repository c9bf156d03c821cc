"""Which rows train, validate and test: leave-one-out, and what holds for every split."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from recbole_llm.data.candidates import rarity, sampled
from recbole_llm.data.sessions import cut_sessions
from recbole_llm.data.split import (
    Cases,
    leave_one_out,
    read_user_ranks,
    session,
    split_interactions,
    temporal,
    user_split,
    whole_histories,
)
from recbole_llm.data.split_facts import targets_in_history
from recbole_llm.errors import UserError
from tests.data.build import WINDOWS, table_of, walks, windows


@pytest.fixture
def cut(tmp_path):
    """Makes a table of users with the given numbers of interactions, and its leave-one-out split."""

    def make(*lengths):
        table = table_of(tmp_path, walks(lengths))
        return table, leave_one_out(table, {})

    return make


def items(table, rows):
    return table.item_tokens[table.item[rows]].tolist()


def told(table, cases):
    """The user, the history and the targets of each case."""
    bounds = pairwise(cases.target_offsets)
    return [
        (str(table.user_tokens[user]), items(table, np.arange(start, end)), items(table, cases.target_rows[a:b]))
        for user, start, end, (a, b) in zip(cases.user, cases.start, cases.end, bounds, strict=True)
    ]


def test_the_last_item_tests_and_the_one_before_validates(cut):
    table, split = cut(4)
    assert items(table, split.train_rows) == ["i0.0", "i0.1"]
    assert items(table, split.valid.target_rows) == ["i0.2"]
    assert items(table, split.test.target_rows) == ["i0.3"]


@pytest.mark.parametrize("length", [1, 2])
def test_users_with_fewer_than_three_interactions_only_train(cut, length):
    table, split = cut(length, 5)
    assert items(table, split.train_rows)[:length] == [f"i0.{step}" for step in range(length)]
    assert split.valid.user.tolist() == split.test.user.tolist() == [2]


def test_a_user_with_three_interactions_trains_on_one(cut):
    table, split = cut(3)
    assert items(table, split.train_rows) == ["i0.0"]
    assert (items(table, split.valid.target_rows), items(table, split.test.target_rows)) == (["i0.1"], ["i0.2"])


def test_the_first_item_of_a_user_is_no_training_target(cut):
    table, split = cut(1, 2, 3, 5)
    assert items(table, split.train_targets) == ["i1.1", "i3.1", "i3.2"]


def test_the_visible_history_is_everything_before_the_target(cut):
    table, split = cut(2, 4)
    for cases, expected in ((split.valid, ["i1.0", "i1.1"]), (split.test, ["i1.0", "i1.1", "i1.2"])):
        assert items(table, np.arange(cases.start[0], cases.end[0])) == expected


def test_a_target_never_trains_and_every_other_row_does(cut):
    table, split = cut(1, 2, 3, 4, 9, 1, 7)
    held_out = np.concatenate([split.valid.target_rows, split.test.target_rows])
    assert sorted([*split.train_rows, *held_out]) == list(range(len(table)))


def test_a_history_holds_no_row_of_another_user(cut):
    table, split = cut(3, 5, 4)
    for cases in (split.valid, split.test):
        for user, start, end in zip(cases.user, cases.start, cases.end, strict=True):
            assert set(table.user[start:end]) == {user}


def test_each_case_has_one_target(cut):
    _, split = cut(3, 5)
    assert split.valid.single_target
    assert split.test.single_target
    assert split.test.candidates is None


def test_cases_can_be_chosen(cut):
    _, split = cut(3, 4, 5)
    chosen = split.test.select(np.array([2, 0]))
    assert chosen.user.tolist() == [3, 1]
    assert chosen.target_rows.tolist() == split.test.target_rows[[2, 0]].tolist()
    assert chosen.target_offsets.tolist() == [0, 1, 2]


def test_cases_of_several_targets_can_be_chosen(tmp_path):
    rows = [(f"u{u}", f"i{u}-{k}", k) for u in range(30) for k in range(u % 7 + 4)]
    cases = user_split(table_of(tmp_path, rows), {}).test
    chosen = cases.select(np.array([2, 0]))
    parts = [cases.target_rows[cases.target_offsets[c] : cases.target_offsets[c + 1]].tolist() for c in (2, 0)]
    assert chosen.target_rows.tolist() == parts[0] + parts[1]
    assert chosen.target_offsets.tolist() == [0, len(parts[0]), len(parts[0]) + len(parts[1])]


def test_a_sample_of_users_is_the_same_whatever_else_is_there(cut):
    table, split = cut(*[5] * 40)
    tokens = np.asarray(table.user_tokens)
    some = split.valid.of_sample(tokens, 10)
    assert len(some) == 10
    assert set(some.user.tolist()) < set(split.valid.user.tolist())
    fewer = split.valid.select(np.flatnonzero(np.isin(split.valid.user, some.user[:6])))
    assert fewer.of_sample(tokens, 6).user.tolist() == fewer.user.tolist()
    assert set(split.valid.of_sample(tokens, 4).user.tolist()) < set(some.user.tolist())
    assert split.valid.of_sample(tokens, 0) is split.valid.of_sample(tokens, 400) is split.valid


def test_equal_times_do_not_follow_the_file_into_the_split(tmp_path):
    rows = [("u", f"i{k}", 7) for k in range(9)]
    one = table_of(tmp_path, rows)
    first = items(one, leave_one_out(one, {}).test.target_rows)
    other = table_of(tmp_path, rows[::-1])
    assert items(other, leave_one_out(other, {}).test.target_rows) == first


def test_an_item_that_a_user_has_twice_is_one_target_of_a_held_out_user(tmp_path):
    rows = [(f"u{user}", item, step) for user in range(10) for step, item in enumerate("abcdefghijklmnopxyxz")]
    table = table_of(tmp_path, rows)
    test = user_split(table, {}).test
    assert [items(table, test.target_rows[a:b]) for a, b in pairwise(test.target_offsets)] == [["x", "y", "z"]]


@pytest.mark.parametrize(
    ("sessions", "spec"),
    [
        (None, {}),
        (None, {"item_interval": "[2,inf)"}),
        (None, {"duplicates": "first"}),
        (WINDOWS, {}),
    ],
)
def test_times_that_count_within_users_order_no_users_whatever_is_left_out(tmp_path, sessions, spec):
    lonely = [("u0", "alone", 1), *((f"u{user}", "again", 1) for user in range(1, 20))]
    rows = lonely + [(f"u{user}", f"i{(user * step * step) % 7}", step) for user in range(20) for step in range(2, 9)]
    table = table_of(tmp_path, rows, **spec)
    table = cut_sessions(table, sessions) if sessions else table
    with pytest.raises(UserError, match=r"the times of this dataset only count within each user"):
        temporal(table, {"protocol": "temporal_20"})


def test_times_that_count_over_the_whole_file_order_users(tmp_path):
    rows = [(f"u{user}", f"i{step}", 1 + 5 * user + step) for user in range(20) for step in range(5)]
    split = temporal(table_of(tmp_path, rows), {"protocol": "temporal_20"})
    assert (len(split.valid), len(split.test)) == (2, 2)


# ---- sessions by time, and whole users -------------------------------------------------------------


def sessions(lengths):
    """Sessions ``s0, s1, ...`` with the given lengths: each ends after the one before, begins before it, and stands
    before it in the file."""
    rows = []
    for number, length in enumerate(lengths):
        begin, end = 1_400_000_000 - 70_000 * number, 1_401_000_000 + 50_000 * number
        times = [*(begin + 1000 * step for step in range(length - 1)), end]
        rows = [*((f"s{number}", f"s{number}.{step}", time) for step, time in enumerate(times)), *rows]
    return rows


def test_sessions_are_split_by_their_ends_and_every_prefix_is_a_case(tmp_path):
    """Of the 17 pairs in the first nine sessions the last one validates: the only pair of s8."""
    table = table_of(tmp_path, sessions([3] * 8 + [2, 3]))
    split = session(table, {"protocol": "session"})
    assert sorted(items(table, split.train_rows)) == [f"s{k}.{step}" for k in range(8) for step in range(3)]
    assert sorted(items(table, split.train_targets)) == [f"s{k}.{step}" for k in range(8) for step in (1, 2)]
    assert told(table, split.valid) == [("s8", ["s8.0"], ["s8.1"])]
    assert told(table, split.test) == [("s9", ["s9.0"], ["s9.1"]), ("s9", ["s9.0", "s9.1"], ["s9.2"])]
    assert split.unseen_users


def test_of_a_session_that_validates_in_part_the_rest_trains(tmp_path):
    """Of the 29 pairs in the first nine sessions the last two validate; s8 has four."""
    table = table_of(tmp_path, sessions([4] * 7 + [5, 5, 2]))
    split = session(table, {"protocol": "session"})
    assert told(table, split.valid) == [
        ("s8", ["s8.0", "s8.1", "s8.2"], ["s8.3"]),
        ("s8", ["s8.0", "s8.1", "s8.2", "s8.3"], ["s8.4"]),
    ]
    trained = [row for row in items(table, split.train_rows) if row.startswith("s8")]
    assert trained == ["s8.0", "s8.1", "s8.2"]


def test_the_last_items_of_the_last_sessions_are_the_cases_of_a_temporal_split(tmp_path):
    """Ten sessions count: the eleventh has one item, so it is no case, though it ends last."""
    table = table_of(tmp_path, sessions([3] * 10 + [1]))
    split = temporal(table, {"protocol": "temporal_20"})
    assert sorted(items(table, split.train_rows)) == [f"s{k}.{step}" for k in range(8) for step in range(3)]
    assert sorted(items(table, split.train_targets)) == [f"s{k}.{step}" for k in range(8) for step in (1, 2)]
    assert told(table, split.valid) == [("s8", ["s8.0", "s8.1"], ["s8.2"])]
    assert told(table, split.test) == [("s9", ["s9.0", "s9.1"], ["s9.2"])]


def test_a_given_order_of_users_replaces_that_of_times(tmp_path):
    table = table_of(tmp_path, sessions([3] * 10))
    given = {f"s{k}": 9.0 - k for k in range(10)}
    split = temporal(table, {"protocol": "temporal_20", "user_rank": given})
    assert table.user_tokens[[*split.valid.user, *split.test.user]].tolist() == ["s1", "s0"]
    del given["s4"], given["s5"]
    with pytest.raises(UserError, match=r"the file of user orders lacks 2 users of this dataset"):
        temporal(table, {"protocol": "temporal_20", "user_rank": given})


def test_users_are_split_whole_and_four_fifths_of_a_held_out_history_are_visible(tmp_path):
    """Of eleven users in the order of the file eight train and one validates. u10 has too little for a history."""
    table = table_of(tmp_path, walks([4] * 8 + [5, 12, 1]))
    split = user_split(table, {"user_order": "file", "min_history": 2})
    assert items(table, split.train_rows) == [f"i{u}.{step}" for u in range(8) for step in range(4)]
    assert items(table, split.train_targets) == [f"i{u}.{step}" for u in range(8) for step in (2, 3)]
    assert told(table, split.valid) == [("u8", [f"i8.{step}" for step in range(4)], ["i8.4"])]
    history, targets = [f"i9.{step}" for step in range(9)], ["i9.9", "i9.10", "i9.11"]
    assert told(table, split.test) == [("u9", history, targets)]
    assert split.unseen_users
    every = user_split(table, {"user_order": "file"}).train_targets
    assert items(table, every) == [f"i{u}.{step}" for u in range(8) for step in (1, 2, 3)]


def test_users_are_shuffled_by_the_hashes_of_their_names(tmp_path):
    table = table_of(tmp_path, walks([5] * 10))
    split = user_split(table, {})
    names = sorted(
        (f"u{user}" for user in range(10)),
        key=lambda name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"),
    )
    assert set(table.user_tokens[table.user[split.train_rows]]) == {*names[:8]}
    assert table.user_tokens[[*split.valid.user, *split.test.user]].tolist() == names[8:]


@pytest.mark.parametrize("lengths", [(30,), (9, 14, 11), (4, 25, 4, 17, 6)])
def test_no_target_of_a_held_out_window_trains_in_a_later_one(tmp_path, lengths):
    table = windows(tmp_path, lengths)
    split = temporal(table, {"protocol": "temporal_20"})
    trained = set(items(table, split.train_rows))
    assert not trained & set(items(table, split.valid.target_rows))
    assert not trained & set(items(table, split.test.target_rows))
    order = [*np.unique(table.user[split.train_rows]), *split.valid.user, *split.test.user]
    assert sorted(order) == list(range(1, table.n_users + 1))


@pytest.mark.parametrize("lengths", [(30,), (9, 14, 11), (4, 25, 4, 17, 6), (3, 3, 2, 5)])
def test_windows_train_each_interaction_once_or_their_last_item_alone(tmp_path, lengths):
    """With ``window_targets`` all, an item inside a session trains four times here, twenty times in the protocol."""
    table = windows(tmp_path, lengths)
    splits = {kind: temporal(table, {"protocol": "mine", "window_targets": kind}) for kind in ("all", "once", "last")}
    assert temporal(table, {"protocol": "mine"}).train_targets.tolist() == splits["all"].train_targets.tolist()
    every = set(items(table, splits["all"].train_rows))
    for kind in ("once", "last"):
        assert sorted(items(table, splits[kind].train_rows)) == sorted(every)
    trained = np.unique(table.user[splits["all"].train_rows])
    firsts = [user for user in trained if table.user_tokens[user].endswith("#1")]
    begins = set(items(table, table.offsets[firsts]))
    assert sorted(items(table, splits["once"].train_targets)) == sorted(every - begins)
    assert splits["last"].train_targets.tolist() == (table.offsets[trained + 1] - 1).tolist()
    for kind in ("once", "last"):
        assert splits[kind].valid.target_rows.tolist() == splits["all"].valid.target_rows.tolist()


def test_whole_histories_of_windows_end_with_their_last_training_row(tmp_path):
    table = windows(tmp_path, (9, 14, 11))
    splits = [temporal(table, {"protocol": "mine", "window_targets": kind}) for kind in ("all", "once", "last")]
    for split in splits:
        assert whole_histories(table, split.train_rows).tolist() == splits[0].train_rows.tolist()
    assert len(splits[1].train_rows) < len(splits[0].train_rows)


def test_sessions_that_do_not_overlap_are_no_windows_of_one(tmp_path):
    """Each day repeats the day before, shifted by one item, as a sliding window would."""
    rows = [("u1", f"i{step}", day * 86_400 + step) for day in range(12) for step in range(day, day + 4)]
    table = cut_sessions(table_of(tmp_path, rows), WINDOWS)
    assert table.n_users == 12
    splits = [temporal(table, {"protocol": "mine", "window_targets": kind}) for kind in ("all", "once")]
    assert splits[0].train_targets.tolist() == splits[1].train_targets.tolist()


@pytest.mark.parametrize("split", ["loo", "session", "user_split"])
def test_windows_are_refused_where_more_than_their_last_item_is_held_out(tmp_path, split):
    table = windows(tmp_path, (9, 14, 11))
    options = {"split": split, "protocol": "mine", "sessions": WINDOWS}
    with pytest.raises(UserError, match=rf"--protocol=mine: sliding windows .* under split: {split} "):
        split_interactions(table, options)


def test_what_rarity_says_of_targets_is_counted(tmp_path):
    table = table_of(
        tmp_path, [("u1", "a", 1), ("u1", "b", 2), ("u1", "new", 3), ("u2", "b", 1), ("u2", "c", 2), ("u2", "a", 3)]
    )
    number = {str(token): place for place, token in enumerate(table.item_tokens)}
    rows = np.arange(len(table))
    last = table.offsets[2:] - 1
    cases = Cases(np.array([1, 2]), table.offsets[1:3], last, np.arange(3), last)
    assert rarity(table, rows, cases) == {}
    lists = [["new", "b", "c"], ["b", "a", "new"]]  # training counts: b 2, a and c 1, new 0
    cases = cases.with_candidates(np.array([[number[item] for item in line] for line in lists]))
    found = rarity(table, np.setdiff1d(rows, last), cases)
    # The target new is rarer than both b and c; the target a is rarer than b but not than new.
    assert found == {"untrained_targets": 0.5, "untrained_others": 0.25, "rarer_target": 0.75}


def test_cases_of_several_targets_are_not_ranked_among_candidates(tmp_path):
    table = table_of(tmp_path, walks([10] * 20))
    path = tmp_path / "cases.candidates"
    with pytest.raises(UserError, match=r"--candidates=5: cases of this protocol have several targets"):
        sampled(table, user_split(table, {}).test, 5, 1, path)
    assert not path.exists()


def test_candidates_are_drawn_for_users_who_take_few_items_again_and_again(tmp_path):
    """A listener has more plays than there are artists, and still knows few of these."""
    plays = [("u1", f"i{step % 3}", step) for step in range(40)]
    table = table_of(tmp_path, [*plays, *(("u2", f"i{step}", step) for step in range(3, 12))])
    lines = sampled(table, leave_one_out(table, {}).test, 3, 1, tmp_path / "cases.candidates").candidates
    assert not {"i0", "i1", "i2"} & {*table.item_tokens[lines[0, 1:]].tolist()}
    with pytest.raises(UserError, match=r"--candidates=4: .* for user u2, who has 9 of the 12 items"):
        sampled(table, leave_one_out(table, {}).test, 4, 1, tmp_path / "more.candidates")


def test_no_candidate_of_a_validation_case_is_an_item_that_its_user_takes_later(tmp_path):
    """Otherwise a model would be taught to rank the test item last. u0 has five of eight items, so three are left."""
    table = table_of(tmp_path, walks([5, 3]))
    lines = sampled(table, leave_one_out(table, {}).valid, 3, 1, tmp_path / "cases.candidates").candidates
    (target, *others), (other_target, *rest) = table.item_tokens[lines].tolist()
    assert (target, sorted(others)) == ("i0.3", ["i1.0", "i1.1", "i1.2"])
    assert other_target == "i1.1"
    assert len({*rest} & {f"i0.{step}" for step in range(5)}) == 3


def crowd(extra=()):
    """Two hundred users of three out of 300 items; ``zero`` has all items, and so fixes their numbers."""
    rows = [("zero", f"i{item}", item) for item in range(300)]
    rows += [(user, f"i{step}", 5 + step) for user in extra for step in range(3)]
    return rows + [(f"u{u}", f"i{(7 * u + 50 * step) % 300}", 1000 + step) for u in range(200) for step in range(3)]


def test_candidates_out_of_many_items_are_distinct_and_each_item_is_drawn(tmp_path):
    table = table_of(tmp_path, crowd())
    cases = leave_one_out(table, {}).test
    cases = cases.select(np.flatnonzero(table.user_tokens[cases.user] != "zero"))
    lines = sampled(table, cases, 20, 1, tmp_path / "cases.candidates").candidates
    assert lines.shape == (200, 21)
    for user, line in zip(cases.user, lines, strict=True):
        own = table.item[table.offsets[user] : table.offsets[user + 1]]
        assert len({*line.tolist()}) == 21
        assert not {*line[1:].tolist()} & {*own.tolist()}
    assert set(lines[:, 1:].ravel().tolist()) == set(range(1, 301))


def test_candidates_depend_on_the_seed_and_on_no_other_user(tmp_path):
    def drawn(seed, extra=()):
        table = table_of(tmp_path / f"{seed}{len(extra)}", crowd(extra))
        cases = leave_one_out(table, {}).test
        cases = cases.select(np.flatnonzero(np.char.startswith(table.user_tokens[cases.user], "u")))
        lines = sampled(table, cases, 5, seed, tmp_path / f"{seed}{len(extra)}.candidates").candidates
        return dict(zip(table.user_tokens[cases.user].tolist(), table.item_tokens[lines].tolist(), strict=True))

    first = drawn(1)
    assert drawn(1, extra=["a", "b"]) == first
    other = drawn(2)
    assert [line[0] for line in other.values()] == [line[0] for line in first.values()]
    assert not any(other[user] == line for user, line in first.items())


def test_a_file_of_candidates_for_other_targets_is_refused(tmp_path):
    """Such a file would have a case rank another item in the place of its target."""
    table = table_of(tmp_path, walks([4, 4]))
    cases = leave_one_out(table, {}).test
    path = tmp_path / "cases.candidates"
    lines = sampled(table, cases, 2, 1, path).candidates
    assert sampled(table, cases, 2, 99, path).candidates.tolist() == lines.tolist()  # the file's, whatever the seed
    content = path.read_text(encoding="utf-8")
    path.write_text(content.replace("i0.3", "i0.1"), encoding="utf-8")
    with pytest.raises(UserError, match=r"cases\.candidates holds candidates of other data or another split"):
        sampled(table, cases, 2, 1, path)


@pytest.mark.parametrize("lengths", [(1, 2, 2), (1,), (3, 3)])
def test_a_dataset_that_is_too_small_is_a_user_error(tmp_path, lengths):
    table = table_of(tmp_path, walks(lengths))
    with pytest.raises(UserError, match=r"--protocol=loo leaves .* it is too small for it"):
        split_interactions(table, {"split": "loo", "protocol": "loo"})


def test_the_order_of_users_is_read_by_their_names(tmp_path):
    path = tmp_path / "x.user_last_order.tsv"
    path.write_text("user\torder\n007\t2\nNA\t1\n", encoding="utf-8")
    assert read_user_ranks(path) == {"007": 2, "NA": 1}


@pytest.mark.parametrize(
    "content", [b"", b"user\torder\nu1\tlate\n", b"user\torder\nu1\t\n", b"user\nu1\n", b"user\torder\n\xff\t1\n"]
)
def test_an_order_of_users_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "x.user_last_order.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.user_last_order\.tsv: each line has a user and a number"):
        read_user_ranks(path)


def test_targets_that_a_history_holds_are_counted_and_said(tmp_path: Path) -> None:
    histories = {"u": "abcab", "v": "abcd", "w": "aabb"}
    rows = [(user, item, 10 * n) for user, items in histories.items() for n, item in enumerate(items)]
    table = table_of(tmp_path, rows)
    assert targets_in_history(table, split_interactions(table, {"split": "loo", "protocol": "loo"})) == 2
