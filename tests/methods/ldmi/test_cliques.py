"""Cliques of similar users, and their items."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.methods.ldmi import cliques
from recbole_llm.methods.ldmi.cliques import clique_items, disjoint, nearest_users, user_item_matrix

N_ITEMS = 15
Lists = list[list[int]]


def rows_of(lists: Lists) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([[0], np.cumsum([len(one) for one in lists])]), np.array(
        [n for one in lists for n in one], dtype=np.int64
    )


def random_lists(users: int, seed: int = 0) -> Lists:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, N_ITEMS + 1, generator.integers(1, 9)).tolist() for _ in range(users)]


def nearest(lists: Lists, count: int, weighting: str = "binary") -> np.ndarray:
    matrix = user_item_matrix(*rows_of(lists), N_ITEMS, weighting)
    return nearest_users(matrix, count, lambda items, title: items)


def plain_cosines(lists: Lists, weighting: str) -> np.ndarray:
    dense = np.zeros((len(lists), N_ITEMS + 1))
    for number, items in enumerate(lists):
        dense[number, items] = 1.0
    if weighting == "idf":
        dense *= np.log((1 + len(lists)) / (1 + dense.sum(0))) + 1e-6
    dense /= np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-9)
    return dense @ dense.T


@pytest.mark.parametrize("weighting", ["binary", "idf"])
def test_neighbours_are_those_of_all_pairs(weighting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cliques, "BLOCK", 50)  # many blocks
    lists = random_lists(40)
    cosines = plain_cosines(lists, weighting)
    np.fill_diagonal(cosines, -1.0)
    found = nearest(lists, 4, weighting)
    assert not (found == np.arange(40)[:, None]).any()
    best = -np.sort(-cosines, axis=1)[:, :4]
    np.testing.assert_allclose(np.take_along_axis(cosines, found, axis=1), best, atol=2e-6)


def test_nobody_is_near_who_shares_no_item() -> None:
    found = nearest([[1, 2], [2, 3], [7, 8]], 2)
    assert found.tolist() == [[1, -1], [0, -1], [-1, -1]]


def test_among_equally_near_users_the_one_with_fewer_items_is_first() -> None:
    found = nearest([[1, 2], [1, 2, 3, 4], [1, 5]], 2)  # cosines with user 0: 0.707 and 0.5
    assert found[0].tolist() == [1, 2]
    assert nearest([[1], [1, 2], [1, 3], [1]], 3)[0].tolist() == [3, 1, 2]


def test_a_search_that_is_too_large_leaves_out_the_most_popular_items(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [[1, 2], [1, 2], [1, 3], [1, 3], [1]]
    assert (nearest(lists, 1) >= 0).all()
    monkeypatch.setattr(cliques, "PAIRS", 8)  # item 1 alone takes 25 products
    assert nearest(lists, 2).tolist() == [[1, -1], [0, -1], [3, -1], [2, -1], [-1, -1]]


def test_disjoint_cliques_hold_every_user_once() -> None:
    lists = random_lists(30)
    whole = np.concatenate([np.arange(30)[:, None], nearest(lists, 3)], axis=1)
    found = disjoint(whole)
    members = found[found >= 0]
    assert sorted(members.tolist()) == list(range(30))


def plain_items(members: list[int], lists: Lists, longest: int) -> list[int]:
    holders: Counter[int] = Counter()
    age: dict[int, tuple[int, int]] = {}
    for place, member in enumerate(members):
        if member < 0:
            continue
        holders.update(set(lists[member]))
        for back, item in enumerate(reversed(lists[member])):
            age[item] = min(age.get(item, (99, 99)), (back, place))
    best = sorted(holders, key=lambda item: (-holders[item], age[item]))[:longest]
    return sorted(best, key=lambda item: (-age[item][0], age[item][1]))


@given(st.integers(0, 1000), st.integers(1, 8))
def test_items_are_those_of_most_members_then_the_most_recent(seed: int, longest: int) -> None:
    generator = np.random.default_rng(seed)
    lists = random_lists(12, seed)
    groups = np.stack([generator.permutation(12)[:3] for _ in range(5)])
    groups[1, 2] = groups[3, 1] = -1
    ends, items = clique_items(groups, *rows_of(lists), longest)
    for number, members in enumerate(groups.tolist()):
        assert items[ends[number] : ends[number + 1]].tolist() == plain_items(members, lists, longest)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = random_lists(60)
    groups = np.concatenate([np.arange(60)[:, None], nearest(lists, 4)], axis=1)
    whole = clique_items(groups, *rows_of(lists), 5)
    monkeypatch.setattr(cliques, "BLOCK", 40)
    parts = clique_items(groups, *rows_of(lists), 5)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
