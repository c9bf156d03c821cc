"""The rules that tidy raw interactions, against plain Python."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.raw.source import Collector, RawTable, in_order, k_core, without_repeats

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 4)), max_size=60)


def table_of(rows) -> RawTable:
    collector = Collector()
    for user, item, time in rows:
        collector.add(f"u{user}", f"i{item}", time, float(time))
    return collector.table()


def triples(table):
    users, items = np.array(table.users, dtype=object), np.array(table.items, dtype=object)
    return list(zip(users[table.user], items[table.item], table.time.tolist(), strict=True))


def core_by_hand(pairs, k):
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        kept = [(u, i) for u, i in pairs if users[u] >= k and items[i] >= k]
        if kept == pairs:
            return pairs
        pairs = kept


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 4))
def test_the_k_core_is_the_fixed_point(rows, k):
    table = table_of(rows)
    assert [t[:2] for t in triples(k_core(table, k))] == core_by_hand([t[:2] for t in triples(table)], k)


def test_the_filter_goes_on_after_the_first_pass():
    chain = [(0, 0, 1), (0, 1, 2), (1, 1, 3), (1, 2, 4), (2, 2, 5)]  # each pass exposes a new end to the next
    assert len(k_core(table_of(chain), 2)) == 0


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_of_repeats_the_first_in_time_is_kept(rows):
    first = {}
    for user, item, time in rows:
        pair = (f"u{user}", f"i{item}")
        first[pair] = min(time, first.get(pair, time))
    kept = triples(without_repeats(in_order(table_of(rows))))
    assert sorted(kept) == sorted((*pair, time) for pair, time in first.items())


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_within_a_user_does_not_depend_on_the_file(rows, random):
    def by_user(given):
        found = {}
        for user, item, time in triples(without_repeats(in_order(table_of(given)))):
            found.setdefault(user, []).append((item, time))
        return found

    shuffled = list(rows)
    random.shuffle(shuffled)
    assert by_user(rows) == by_user(shuffled)


def test_equal_times_are_not_ordered_by_item():
    table = in_order(table_of([(user, item, 1) for user in range(7) for item in range(7)]))
    orders = {tuple(i for u, i, _ in triples(table) if u == f"u{user}") for user in range(7)}
    assert len(orders) > 1


@pytest.mark.parametrize(
    ("user", "time"), [("", 1), ("a\tb", 1), ("a\nb", 1), ("\ud800", 1), ("x" * 101, 1), ("u", 2**60)]
)
def test_names_and_times_that_would_break_the_file_are_refused(user, time):
    collector = Collector()
    with pytest.raises(ValueError, match="is no"):
        collector.add(user, "i", time)
    assert len(collector) == 0
    assert collector.table().users == []


def test_a_row_takes_twenty_bytes():
    table = table_of([(1, 2, 3)])
    assert sum(column.itemsize for column in (table.user, table.item, table.time, table.rating)) == 20
