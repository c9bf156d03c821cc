"""Subgroups of the test cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recbole_llm.evaluation.ranks import Ranks, item_popularity
from recbole_llm.evaluation.subgroups import SUBGROUPS, subgroup, subgroup_means, user_gap

RANKS = Ranks(
    user=np.array([1, 2, 3]),
    offsets=np.array([0, 1, 3, 4]),  # the second case has two targets
    item=np.array([1, 2, 3, 4], dtype=np.int32),
    higher=np.array([0, 2, 5, 9], dtype=np.int32),
    tied=np.zeros(4, dtype=np.int32),
    history=np.array([2, 5, 9], dtype=np.int32),
    train_count=np.array([50, 50, 3, 0], dtype=np.int32),
    head=np.array([True, True, False, False]),
    cold_user=np.array([False, True, False]),
)


@pytest.mark.parametrize(
    ("name", "users", "items"),
    [
        ("head items", [1, 2], [1, 2]),
        ("tail items", [2, 3], [3, 4]),
        ("cold items", [3], [4]),
        ("short histories", [1, 2], [1, 2, 3]),
        ("long histories", [3], [4]),
        ("cold users", [2], [2, 3]),
        ("warm users and items", [1], [1]),
    ],
)
def test_a_subgroup_holds_its_targets(name: str, users: list[int], items: list[int]) -> None:
    part = subgroup(RANKS, name)
    assert part.user.tolist() == users
    assert part.item.tolist() == items


def test_ranks_of_older_files_have_no_cold_users() -> None:
    older = replace(RANKS, cold_user=np.zeros(0, dtype=bool))
    assert [len(subgroup(older, name)) for name in ("cold users", "warm users and items")] == [0, 0]


def test_where_no_user_is_cold_nothing_is_called_warm() -> None:
    known = replace(RANKS, cold_user=np.zeros(3, dtype=bool))
    assert [len(subgroup(known, name)) for name in ("cold users", "warm users and items")] == [0, 0]


def test_means_are_over_the_cases_of_the_subgroup() -> None:
    means = subgroup_means([RANKS], "hit@3")
    assert set(means) == set(SUBGROUPS)
    assert means["head items"] == (2, 1.0)
    assert means["tail items"] == (2, 0.0)
    assert means["short histories"] == (2, 1.0)


def test_means_are_over_all_runs() -> None:
    perfect = replace(RANKS, higher=np.zeros(4, dtype=np.int32))
    means = subgroup_means([RANKS, perfect], "hit@3")
    assert means["tail items"] == (2, 0.5)
    assert means["long histories"] == (1, 0.5)


@pytest.mark.parametrize("history", [[2, 5, 9], [9, 5, 2]])
def test_the_gap_between_users_has_no_sign(history: list[int]) -> None:
    """Histories up to the median of 5 are short. The cases' reciprocal ranks are 1, 1/3 and 1/10."""
    long, short = (1 / 10, 2 / 3) if history[0] == 2 else (1.0, (1 / 3 + 1 / 10) / 2)
    ranks = replace(RANKS, history=np.array(history, dtype=np.int32))
    assert user_gap(ranks, "mrr@10") == pytest.approx(abs(long - short))


def test_a_subgroup_without_cases_has_no_mean() -> None:
    count, mean = subgroup_means([RANKS.select(np.array([0]))], "hit@3")["cold items"]
    assert count == 0
    assert np.isnan(mean)


def test_the_head_is_the_fifth_with_most_interactions() -> None:
    counts, head = item_popularity(np.repeat(np.arange(1, 11), np.arange(10, 0, -1)), 11)
    assert counts.tolist() == [0, *range(10, 0, -1)]
    assert np.flatnonzero(head).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([9, 2, 2, 2, 2, 2, 2, 2, 2, 2], [1]),
        ([9, 2, 2, 1, 1, 1, 1, 1, 1, 1], [1, 2, 3]),  # one item more than a fifth is still a head
        ([9, 2, 2, 2, 1, 1, 1, 1, 1, 1], [1]),
        ([1, 1, 1, 7], [4]),  # of fewer than five items it is the first
    ],
)
def test_equal_items_at_the_edge_are_all_in_or_all_out(counts: list[int], expected: list[int]) -> None:
    _, head = item_popularity(np.repeat(np.arange(1, len(counts) + 1), counts), len(counts) + 1)
    assert np.flatnonzero(head).tolist() == expected
