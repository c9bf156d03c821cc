"""How the numbers of a time column are interpreted: unit, order between users, ties."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from recbole_llm.data.interactions import Interactions
from recbole_llm.data.sessions import cut_sessions
from recbole_llm.data.split import session, temporal
from recbole_llm.data.times import comparison_facts, day_of, in_seconds, larger_unit, notices, warnings
from recbole_llm.errors import UserError
from tests.data.build import HEADER, names, table_of

START = 1_400_000_000
OPTIONS = {"protocol": "session"}


def clock(users: int = 20, length: int = 6) -> list[tuple[str, str, int]]:
    """Users who start at random times and continue at random intervals."""
    generator = np.random.default_rng(5)
    rows = []
    for user in range(users):
        times = START + generator.integers(0, 40_000_000) + np.cumsum(generator.integers(1, 90_000, size=length))
        rows += [(f"u{user}", f"i{user % 3 + step}", int(now)) for step, now in enumerate(times)]
    return rows


def with_times(rows: list[tuple[str, str, int]], change: Any) -> list[tuple[str, str, Any]]:
    return [(user, item, change(now)) for user, item, now in rows]


# ---- unit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per_second", "word"), [(1_000, "milliseconds"), (1_000_000, "microseconds"), (1_000_000_000, "nanoseconds")]
)
def test_smaller_units_are_read_as_seconds_and_it_is_said(tmp_path, per_second, word):
    plain = table_of(tmp_path, clock())
    table = table_of(tmp_path, with_times(clock(), lambda now: now * per_second))
    assert names(table) == names(plain)
    np.testing.assert_allclose(table.time, plain.time, rtol=0, atol=1e-3)
    assert any(word in text for text in notices(table.facts))
    assert notices(plain.facts) == []
    cut = [cut_sessions(each, {"by": "day"}) for each in (table, plain)]
    assert cut[0].offsets.tolist() == cut[1].offsets.tolist()


def test_parts_of_a_second_are_kept(tmp_path):
    table = table_of(tmp_path, [("u", "a", START * 1000 + 250), ("u", "b", START * 1000 + 750)])
    assert table.time.tolist() == [START + 0.25, START + 0.75]


@pytest.mark.parametrize(("form", "digits"), [("%Y%m%d", 8), ("%Y%m%d%H%M%S", 14)])
def test_dates_are_read_as_seconds(tmp_path, form, digits):
    rows = with_times(clock(), lambda now: datetime.fromtimestamp(now, UTC).strftime(form))
    table = table_of(tmp_path, rows)
    assert table.facts["times_as_dates"] == digits
    day = table_of(tmp_path, clock()).time
    assert sorted(table.time // 86_400) == sorted(day // 86_400)
    assert (table.time.max() - table.time.min()) > 86_400 * 100


def test_numbers_that_only_look_like_dates_stay_what_they_are():
    time = np.array([20140131, 20140132])  # the second is not a date
    found, facts = in_seconds(time, "x")
    assert (found.tolist(), facts) == (time.tolist(), {})


@pytest.mark.parametrize("time", [[1, 2, 3], [16_000, 16_001], [0, 86_400], [-5, 5], [1.5, 2.5]])
def test_numbers_of_no_clock_stay_what_they_are(time):
    found, facts = in_seconds(np.array(time), "x")
    assert (found.tolist(), facts) == (time, {})


def test_times_of_two_units_are_refused(tmp_path):
    rows = clock()
    rows[3] = (*rows[3][:2], rows[3][2] * 1000)
    with pytest.raises(UserError, match=r"timestamp: .* several units \(119 rows of seconds, 1 row of milliseconds\)"):
        table_of(tmp_path, rows)


def test_rows_far_from_the_others_are_counted_and_said(tmp_path):
    rows = clock()
    rows[3] = (*rows[3][:2], 0)
    table = table_of(tmp_path, rows)
    assert table.facts["times_off"] == 1
    assert any("1 row with times before 1985" in text for text in notices(table.facts))


@pytest.mark.parametrize(
    ("form", "named"),
    [("%Y%m%d", "YYYYMMDD"), ("%Y%m%d%H", "YYYYMMDDHH"), ("%Y%m%d%H%M", "YYYYMMDDHHMM"),
     ("%Y%m%d%H%M%S", "YYYYMMDDHHMMSS")],
)  # fmt: skip
def test_dates_of_each_form_are_told_though_some_are_none(tmp_path, form, named):
    rows = with_times(clock(), lambda now: int(datetime.fromtimestamp(now, UTC).strftime(form)))
    days = {str(row[2])[:8] for n, row in enumerate(rows) if n not in (3, 5)}
    rows[3] = (*rows[3][:2], 0)
    rows[5] = (*rows[5][:2], int("20140231" + str(rows[5][2])[8:]))
    table = table_of(tmp_path, rows)
    assert (table.facts["times_as_dates"], table.facts["times_off"]) == (len(named), 2)
    assert any(f"times are dates ({named})" in text for text in notices(table.facts))
    times = sorted(table.time)
    assert times[:2] == [0, 0]
    assert {datetime.fromtimestamp(time, UTC).strftime("%Y%m%d") for time in times[2:]} == days


def test_a_unit_is_told_though_a_seventh_of_the_times_are_missing(tmp_path):
    rows = [(user, item, 0 if n % 7 == 0 else time * 1000) for n, (user, item, time) in enumerate(clock())]
    table = table_of(tmp_path, rows)
    assert (table.facts["times_per_second"], table.facts["times_off"]) == (1000, 18)


def test_seconds_beside_dates_are_refused(tmp_path):
    rows = [(user, item, 20140131 if n % 2 else time) for n, (user, item, time) in enumerate(clock())]
    with pytest.raises(UserError, match=r"several units \(60 rows of seconds, 60 rows of dates \(YYYYMMDD\)\)"):
        table_of(tmp_path, rows)


@pytest.mark.parametrize("value", ["inf", "-inf", "Infinity", "1e400"])
@pytest.mark.parametrize("quoted", ["", '"'])  # a quotation mark selects the slower reader
def test_a_time_without_end_is_named_by_its_line(tmp_path, value, quoted):
    rows = [("u", "a", 1), (f"{quoted}v{quoted}", "b", value), ("u", "c", 3)]
    with pytest.raises(UserError, match=rf"x\.inter, line 3: timestamp is '{value}', not a finite number"):
        table_of(tmp_path, rows)


def test_any_number_without_end_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"line 2: price is '1e999', not a finite number"):
        table_of(tmp_path, [("u", "a", 1, "1e999")], HEADER + "\tprice:float", extra=("price",))


@pytest.mark.parametrize("value", ["2014-05-01", "01/05/2014", "2014.05.01 10:00"])
def test_a_written_date_says_what_to_write(tmp_path, value):
    with pytest.raises(UserError, match=r"seconds since 1970, or as 20140131"):
        table_of(tmp_path, [("u", "a", value)])


def test_a_day_is_shown_as_a_date():
    assert day_of(1_400_025_600) == "2014-05-14"
    assert day_of(1_400_025_601) == "2014-05-14T00:00:01Z"
    assert day_of(17) == "17"


LARGER = {"minutes": 60, "hours": 3_600, "days": 86_400}


@pytest.mark.parametrize("unit", LARGER)
@pytest.mark.parametrize("rule", [{"by": "day"}, {"gap": 1800}])
def test_larger_units_cut_no_sessions(tmp_path, unit, rule):
    rows = with_times(clock(), lambda now: now // LARGER[unit])
    rows[3] = (*rows[3][:2], 0)  # one time is missing
    table = table_of(tmp_path, rows)
    factor = f"{LARGER[unit]:,}"
    with pytest.raises(UserError, match=rf"they look like {unit} since 1970; multiply them by {factor}, or take"):
        cut_sessions(table, rule)
    assert len(cut_sessions(table, {"window": 3}).user_tokens) > len(table.user_tokens)


@pytest.mark.parametrize("longest", [10_000, 30_000, 600_000, 40_000_000])
def test_times_since_a_beginning_are_seconds(longest):
    assert larger_unit(np.linspace(0, longest, 2000)) == ""


# ---- between users -------------------------------------------------------------------------------


def counted(first: int = 1, step: int = 1, users: int = 30) -> list[tuple[str, str, int]]:
    return [(f"u{u}", f"i{(u * k) % 7}", first + step * k) for u in range(users) for k in range(4 + u % 5)]


GAPS = [row for n, row in enumerate(counted(users=60)) if n % 7 != 3]
INCOMPARABLE = {
    "from one behind a date": counted(1_400_000_001),
    "from one": counted(),
    "from zero": counted(0),
    "in tens": counted(10, 10),
    "one gap": [row for n, row in enumerate(counted()) if n != 2],
    "many gaps": GAPS,
    "backwards to nothing": [(u, i, -t) for u, i, t in counted(0)],
    "one for all": [(u, i, 5) for u, i, _ in counted()],
    "one of a clock for all": [(u, i, START) for u, i, _ in counted()],
    "since the first": [(f"u{u}", f"i{k}", (u + 3) * k * k) for u in range(30) for k in range(5)],
    "until the last": [(f"u{u}", f"i{k}", -(u + 3) * k * k) for u in range(30) for k in range(5)],
    "shares of a history": [(f"u{u}", f"i{k}", k / (3 + u % 5)) for u in range(30) for k in range(4 + u % 5)],
    "twice each": [row for row in counted() for _ in range(2)],
}


@pytest.mark.parametrize("case", INCOMPARABLE)
def test_times_that_do_not_compare_between_users_order_none(tmp_path, case):
    table = table_of(tmp_path, INCOMPARABLE[case])
    for split in (session, temporal):
        with pytest.raises(UserError, match=r"orders users by time, but .* Use --protocol=loo, or real times"):
            split(table, {"protocol": "session"})


COMPARABLE = {
    "a clock": clock(),
    "a count over the whole file": [(f"u{u}", f"i{k}", 1 + 5 * u + k) for u in range(30) for k in range(5)],
    "days of a week": [(f"u{u}", f"i{k}", 1 + (u + k) % 7) for u in range(40) for k in range(3)],
    "regular steps": [(f"u{u}", f"i{k}", START + 977 * u + 60 * k) for u in range(30) for k in range(4)],
    "daily users of a month": [
        (f"u{u}", f"i{k % 9}", START + 86_400 * day)
        for u in range(40) for k, day in enumerate([*range(u % 3, 30 - u % 4)] * 2)
    ],
    "one user": [("u", f"i{k}", k) for k in range(30)],
}  # fmt: skip


@pytest.mark.parametrize("case", COMPARABLE)
def test_times_of_one_clock_are_no_count(tmp_path, case):
    table = table_of(tmp_path, COMPARABLE[case])
    assert not {"times_count_within_users", "one_time_for_all", "times_begin_alike", "times_end_alike"} & {*table.facts}


def test_a_dataset_without_times_says_how_to_name_them(tmp_path):
    table = table_of(tmp_path, [("u", "i"), ("v", "i")], "user_id:token\titem_id:token", time_field=None)
    with pytest.raises(UserError, match=r"read without times: name their column with --TIME_FIELD"):
        session(table, OPTIONS)


def test_no_rows_have_no_facts():
    assert comparison_facts(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)) == {}


# ---- ties ----------------------------------------------------------------------------------------


def warned(tmp_path, rows: list[tuple[str, str, int]]) -> list[str]:
    table: Interactions = table_of(tmp_path, rows)
    return warnings(table.facts)


def test_users_whose_order_is_a_tie_throughout_are_warned_of(tmp_path):
    rows = [(f"u{u}", f"i{k}", START + 1000 * u) for u in range(10) for k in range(3)]
    (text,) = warned(tmp_path, [*rows, ("alone", "i0", START)])
    assert "for 10 of 10 users (30 interactions share user and time" in text


def test_ties_of_few_users_are_no_warning(tmp_path):
    rows = [(f"u{u}", f"i{k}", START + 1000 * u + (k if u > 3 else 0)) for u in range(10) for k in range(3)]
    assert warned(tmp_path, rows) == []


def test_an_order_without_times_is_warned_of(tmp_path):
    table = table_of(tmp_path, [("u", "i")], "user_id:token\titem_id:token", time_field=None)
    assert warnings(table.facts) == ["there are no times: the order of the file stands, whatever that is"]
