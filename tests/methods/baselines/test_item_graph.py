"""The graph that links items near each other in sessions."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.methods.baselines.gcegnn import nearby_items

SESSIONS = st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=9), max_size=6)


def flat(sessions):
    owner = np.repeat(np.arange(len(sessions)), [len(session) for session in sessions])
    return owner, np.array([item for session in sessions for item in session], dtype=np.int64), np.arange(len(owner))


def by_hand(sessions, epsilon):
    """Weights of all item pairs, by loops over positions."""
    counts = Counter()
    for session in sessions:
        for i, one in enumerate(session):
            for j, other in enumerate(session):
                if i != j and abs(i - j) <= epsilon:
                    counts[one, other] += 1
    return counts


@settings(max_examples=60)
@given(SESSIONS, st.integers(1, 4))
def test_weights_are_those_of_a_loop_over_pairs_of_places(sessions, epsilon):
    neighbours, weights = nearby_items(*flat(sessions), 8, epsilon, 8)
    found = {
        (item, int(other)): int(weight)
        for item in range(8)
        for other, weight in zip(neighbours[item], weights[item], strict=True)
        if weight
    }
    assert found == by_hand(sessions, epsilon)


@settings(max_examples=60)
@given(SESSIONS, st.integers(1, 4), st.integers(1, 3))
def test_the_heaviest_are_kept_heaviest_first(sessions, epsilon, kept):
    neighbours, weights = nearby_items(*flat(sessions), 8, epsilon, kept)
    assert neighbours.shape == weights.shape == (8, kept)
    counts = by_hand(sessions, epsilon)
    for item in range(8):
        wanted = sorted((weight for (one, _), weight in counts.items() if one == item), reverse=True)[:kept]
        assert weights[item].tolist() == [*wanted, *[0] * (kept - len(wanted))]
        assert np.all((weights[item] > 0) == (neighbours[item] > 0))


def test_neighbours_do_not_reach_into_the_next_session():
    neighbours, _ = nearby_items(*flat([[1, 2], [3, 4]]), 5, 3, 2)
    assert neighbours.tolist() == [[0, 0], [2, 0], [1, 0], [4, 0], [3, 0]]


def test_among_equal_weights_it_is_not_the_id_that_decides():
    items = [9, 1, 9, 2, 9, 3, 9, 4, 9, 5, 9, 6, 9, 7, 9, 8, 9]
    neighbours, weights = nearby_items(*flat([items]), 10, 1, 3)
    assert weights[9].tolist() == [2, 2, 2]
    assert sorted(neighbours[9].tolist()) != [1, 2, 3]
    assert sorted(neighbours[9].tolist()) != [6, 7, 8]
