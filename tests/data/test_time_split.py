"""The global time split: what trains, what is predicted when, and what prompts may show."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.data.candidates import sampled
from recbole_llm.data.interactions import Interactions
from recbole_llm.data.split import Cases, Split, ends_before, global_time_split, split_interactions
from recbole_llm.data.split_facts import cold_counts, cut_days, later_training, split_warnings, targets_after
from recbole_llm.errors import UserError
from recbole_llm.features.feature import visible_ends
from tests.data.build import table_of

DAY = 86_400
START = 1_400_025_600  # 2014-05-14, midnight
OPTIONS: dict[str, Any] = {"protocol": "gts", "split": "gts", "valid_from": 0.5, "test_from": 0.75, "targets": "last"}
# Rows by day: train 0-3, validation 4-5, test 6-9. `late` first appears in the test period, `lone` has a single row.
HISTORIES = {
    "warm": [(0, "a"), (2, "b"), (4, "c"), (5, "d"), (6, "e"), (8, "f")],
    "quiet": [(1, "a"), (1, "c"), (3, "b"), (3, "d"), (3, "e")],
    "late": [(6, "b"), (7, "new"), (9, "c")],
    "lone": [(7, "a")],
    "middle": [(4, "a"), (5, "b"), (9, "new")],
}
DATES = {"valid_from": "2014-05-18", "test_from": "2014-05-20"}


@pytest.fixture
def shop(tmp_path) -> Interactions:
    rows = [(user, item, START + DAY * day) for user, own in HISTORIES.items() for day, item in own]
    return table_of(tmp_path, rows)


def cut(table: Interactions, **options: Any) -> Split:
    return global_time_split(table, OPTIONS | DATES | options)


def told(table: Interactions, cases: Cases) -> list[tuple[str, str, int, int]]:
    """User, target, history length, and how much of the history may be shown, for each case."""
    parts = zip(cases.user, cases.target_rows, cases.end - cases.start, cases.shown - cases.start, strict=True)
    return [
        (str(table.user_tokens[u]), str(table.item_tokens[table.item[row]]), int(n), int(shown))
        for u, row, n, shown in parts
    ]


def test_what_is_before_the_first_cut_trains(shop):
    split = cut(shop)
    assert (shop.time[split.train_rows] < START + 4 * DAY).all()
    assert len(split.train_rows) == 7
    assert len(split.train_targets) == 5


def test_the_last_item_of_each_period_is_the_target(shop):
    split = cut(shop)
    assert told(shop, split.valid) == [("warm", "d", 3, 2), ("middle", "b", 1, 0)]
    assert told(shop, split.test) == [("warm", "f", 5, 4), ("late", "c", 2, 0), ("middle", "new", 2, 2)]


def test_the_first_item_of_each_period(shop):
    split = cut(shop, targets="first")
    assert told(shop, split.valid) == [("warm", "c", 2, 2)]
    assert told(shop, split.test) == [("warm", "e", 4, 4), ("middle", "new", 2, 2)]
    assert split.without_history == {"valid": 1, "test": 2}


def test_each_item_of_a_period_is_a_case_of_its_own(shop):
    split = cut(shop, targets="all")
    assert told(shop, split.valid) == [("warm", "c", 2, 2), ("warm", "d", 3, 2), ("middle", "b", 1, 0)]
    assert told(shop, split.test) == [
        ("warm", "e", 4, 4), ("warm", "f", 5, 4), ("late", "new", 1, 0), ("late", "c", 2, 0), ("middle", "new", 2, 2),
    ]  # fmt: skip
    assert split.without_history == {"valid": 1, "test": 2}
    assert split.test.single_target


def test_one_item_of_a_period_at_random_is_always_the_same(tmp_path):
    rows = [(f"u{u}", f"i{k}", START + 1000 * k + u) for u in range(60) for k in range(20)]
    first = cut(table_of(tmp_path, rows), valid_from=0.3, test_from=0.6, targets="random")
    again = cut(table_of(tmp_path, rows[::-1]), valid_from=0.3, test_from=0.6, targets="random")
    tables = [table_of(tmp_path, rows), table_of(tmp_path, rows[::-1])]
    names = [{row[0]: row[1] for row in told(t, c.test)} for t, c in zip(tables, (first, again), strict=True)]
    assert names[0] == names[1]
    assert len(set(names[0].values())) == 8  # every position of the period is drawn for some user
    dates = {"valid_from": "2014-05-14T01:40:00", "test_from": "2014-05-14T03:20:00"}
    fewer = table_of(tmp_path, [row for row in rows if row[0] != "u7"])
    whole, rest = (
        {row[0]: row[1] for row in told(table, cut(table, **dates, targets="random").test)}
        for table in (tables[0], fewer)
    )
    assert rest == {user: item for user, item in whole.items() if user != "u7"}


def test_a_row_at_a_cut_is_behind_it(shop):
    split = cut(shop, test_from="2014-05-19")
    assert "d" in [target for _, target, _, _ in told(shop, cut(shop, test_from="2014-05-19", targets="all").test)]
    assert split.cuts.test == START + 5 * DAY


def test_shares_are_of_the_interactions(tmp_path):
    rows = [(f"u{k % 10}", f"i{k % 7}", START + 60 * k * k) for k in range(100)]
    split = global_time_split(table_of(tmp_path, rows), OPTIONS | {"valid_from": 0.8, "test_from": 0.9})
    assert len(split.train_rows) == 80
    assert split.cuts.test == START + 60 * 90 * 90


def test_ties_at_a_cut_are_not_divided(tmp_path):
    rows = [(f"u{k % 10}", f"i{k % 7}", START + DAY * (k // 30)) for k in range(120)]
    split = global_time_split(table_of(tmp_path, rows), OPTIONS | {"valid_from": 0.55, "test_from": 0.8})
    assert len(split.train_rows) == 60  # the share alone would give 66
    assert split.cuts.valid == START + 2 * DAY


@pytest.mark.parametrize("given", ["2014-05-18", "2014-05-18T00:00:00", "2014-05-18T02:00:00+02:00"])
def test_a_date_is_a_cut(shop, given):
    assert cut(shop, valid_from=given).cuts.valid == START + 4 * DAY


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid_from": 1.0}, r"valid_from=1\.0: give a share of the interactions between 0 and 1, or a date"),
        ({"test_from": None}, r"test_from=None: give a share"),
        ({"valid_from": "soon"}, r"valid_from=soon: give a date such as 2014-03-01"),
        (
            {"valid_from": "2014-05-20"},
            r"is 2014-05-20 here and test_from=2014-05-20 2014-05-20: validation must begin",
        ),
    ],
)
def test_cuts_that_are_none_are_refused(shop, options, message):
    with pytest.raises(UserError, match=message):
        cut(shop, **options)


def test_a_date_needs_a_clock(tmp_path):
    rows = [(f"u{u}", f"i{k}", 7 * u + 3 * k) for u in range(9) for k in range(4)]
    with pytest.raises(UserError, match=r"no seconds since 1970; give a share such as 0\.9"):
        cut(table_of(tmp_path, rows))


def test_a_date_names_the_larger_unit_that_times_are_in(tmp_path):
    rows = [(user, item, (START + DAY * day) // 3600) for user, own in HISTORIES.items() for day, item in own]
    table = table_of(tmp_path, rows)
    with pytest.raises(UserError, match=r"\(they look like hours since 1970; multiply them by 3,600\); give a share"):
        cut(table)
    assert len(cut(table, valid_from=0.4, test_from=0.6).test)


def test_times_that_do_not_compare_are_refused(tmp_path):
    table = table_of(tmp_path, [(f"u{u}", f"i{k}", k) for u in range(20) for k in range(6)])
    with pytest.raises(UserError, match=r"--protocol=gts orders users by time, but the times .* only count"):
        cut(table)


def test_a_cut_that_leaves_nothing_is_refused(shop):
    with pytest.raises(UserError, match=r"leaves 0 training examples"):
        split_interactions(shop, OPTIONS | {"valid_from": "2014-05-01", "test_from": "2014-05-20"})


# ---- what is said ---------------------------------------------------------------------------------


def test_cold_users_and_items_are_counted(shop):
    split = cut(shop)
    assert cold_counts(shop, split) == {"user_cases": 2, "item_targets": 2, "targets_without_history": 1}
    first, second = split_warnings(shop, split)
    assert "trained before 2014-05-18, tested from 2014-05-20 on; 2 of 3 cases" in first
    assert second == "not counted as cases: 1 target with no earlier interaction"


def test_the_cuts_are_dates(shop):
    assert cut_days(cut(shop)) == {"valid": "2014-05-18", "test": "2014-05-20"}


def test_nothing_that_trains_is_later_than_a_target(shop):
    assert later_training(shop, cut(shop)) == 0.0


def test_later_training_is_the_mean_share_over_the_targets(tmp_path):
    rows = [("early", "a", START), ("early", "b", START + 5), ("early", "c", START + 6)]
    rows += [("later", item, START + 100 * k) for k, item in enumerate("abcdef")]
    table = table_of(tmp_path, rows)
    split = split_interactions(table, {"split": "loo", "protocol": "loo"})
    # Training rows: early's a at 0, later's a-d at 0, 100, 200, 300. Later than early's target c (at 6) are 3 of 5,
    # later than later's target f none.
    assert later_training(table, split) == pytest.approx(0.3)


def test_training_at_the_time_of_a_target_is_not_later(tmp_path):
    """The target of `early` is at 6, and so is the training row of `other`."""
    rows = [("early", item, START + time) for item, time in (("d", 0), ("a", 2), ("b", 5), ("c", 6))]
    rows += [("other", item, START + time) for item, time in (("a", 6), ("b", 400), ("c", 900))]
    table = table_of(tmp_path, rows)
    assert later_training(table, split_interactions(table, {"split": "loo", "protocol": "loo"})) == 0.0


def test_later_training_is_unknown_where_times_do_not_compare(tmp_path):
    table = table_of(tmp_path, [(f"u{u}", f"i{k}", k) for u in range(20) for k in range(6)])
    assert later_training(table, split_interactions(table, {"split": "loo", "protocol": "loo"})) is None


# ---- candidates -----------------------------------------------------------------------------------


def test_candidates_do_not_know_what_a_user_takes_later(tmp_path):
    def lines(moved: bool) -> list[list[str]]:
        later = ["x", "y", "z"][:: -1 if moved else 1]
        rows = [(f"u{u}", f"i{(u + k) % 9}", START + 10 * k + u) for u in range(12) for k in range(5)]
        rows += [("first", item, START) for item in "xyz"]  # fixes the ids, which follow first appearance
        rows += [(f"u{u}", later[(u + k) % 3], START + DAY + 10 * k + u) for u in range(12) for k in range(2)]
        table = table_of(tmp_path, rows)
        split = cut(table, valid_from=0.5, test_from="2014-05-15")
        path = tmp_path / f"{moved}.candidates"
        found = sampled(table, split.test, 4, 7, path)
        return [table.item_tokens[line].tolist() for line in found.candidates]

    for first, second in zip(lines(False), lines(True), strict=True):
        assert len(first) == len(set(first)) == 5
        # A drawn item that is the other case's target is replaced by the next draw.
        assert len({*first[1:]} - {*second[1:]}) <= 1


# ---- any table ------------------------------------------------------------------------------------

TABLES = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 12), st.integers(0, 40)), min_size=12, max_size=80, unique=True
)


@settings(max_examples=150, deadline=None)
@given(rows=TABLES, targets=st.sampled_from(["last", "first", "random", "all"]), share=st.sampled_from([0.3, 0.6]))
def test_nothing_behind_a_cut_trains_or_is_shown(tmp_path_factory, rows, targets, share):
    folder = tmp_path_factory.mktemp("any")
    table = table_of(folder, [(f"u{u}", f"i{i}", START + DAY * t + u) for u, i, t in rows])
    try:
        split = global_time_split(table, OPTIONS | {"valid_from": share, "test_from": 0.85, "targets": targets})
    except UserError:
        return  # both cuts fall on the same time
    time, offsets = np.asarray(table.time), np.asarray(table.offsets)
    assert (time[split.train_rows] < split.cuts.valid).all()
    assert len(split.train_rows) == (time < split.cuts.valid).sum()
    visible = np.arange(len(table)) < visible_ends(table, split)[table.user]
    assert (np.flatnonzero(visible) == split.train_rows).all()
    for cases, begin, end in (
        (split.valid, split.cuts.valid, split.cuts.test), (split.test, split.cuts.test, np.inf)
    ):  # fmt: skip
        assert ((time[cases.target_rows] >= begin) & (time[cases.target_rows] < end)).all()
        assert (cases.start == offsets[cases.user]).all()
        assert (cases.start < cases.end).all()
        assert (cases.shown <= cases.end).all()
        assert (cases.shown == np.minimum(ends_before(table, begin)[cases.user], cases.end)).all()
        for shown, row in zip(cases.shown, cases.end, strict=True):
            assert split.shown_until(int(row)) == shown
        if targets != "all":
            assert len(set(cases.user.tolist())) == len(cases)
    assert split.shown_until(int(split.train_rows[0])) == split.train_rows[0]


@pytest.mark.parametrize(("day", "share"), [(21, 1.0), (22, 0.6667), (23, 0.0)])
def test_targets_later_than_a_day_are_counted(shop, day, share):
    assert targets_after(shop, cut(shop), date(2014, 5, day)) == share


def test_without_times_of_a_clock_no_target_is_later_than_a_day(tmp_path):
    counts = table_of(tmp_path, [(f"u{u}", f"i{n}", n + 1) for u in range(12) for n in range(4)])
    split = split_interactions(counts, {"protocol": "loo", "split": "loo"})
    assert targets_after(counts, split, date(2014, 5, 21)) is None
