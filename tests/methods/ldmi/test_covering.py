"""Maximum coverage by lazy greedy selection."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.methods.ldmi.cliques import max_coverage

Sets = list[list[int]]
N_ELEMENTS = 12
sets_of_elements = st.lists(st.lists(st.integers(0, N_ELEMENTS - 1), unique=True, max_size=6), min_size=1, max_size=9)
weights_of_elements = st.lists(st.integers(0, 9), min_size=N_ELEMENTS, max_size=N_ELEMENTS)


def rows_of(sets: Sets) -> tuple[np.ndarray, np.ndarray]:
    lengths = [len(one) for one in sets]
    return np.concatenate([[0], np.cumsum(lengths)]), np.array([n for one in sets for n in one], dtype=np.int64)


def choose(sets: Sets, weights: list[int], budget: int, share: float = 1.0) -> list[int]:
    return max_coverage(*rows_of(sets), np.array(weights, dtype=np.float64), budget, share)


def covered(sets: Sets, chosen: list[int], weights: list[int]) -> int:
    return sum(weights[element] for element in {e for number in chosen for e in sets[number]})


def plain_greedy(sets: Sets, weights: list[int], budget: int) -> list[int]:
    """Greedy selection that evaluates every gain in every round."""
    chosen: list[int] = []
    while len(chosen) < budget:
        before = covered(sets, chosen, weights)
        best = min(
            (before - covered(sets, [*chosen, number], weights), len(one), number) for number, one in enumerate(sets)
        )
        if best[0] == 0:
            break
        chosen.append(best[2])
    return chosen


@given(sets_of_elements, weights_of_elements, st.integers(1, 9))
def test_looking_lazily_chooses_what_looking_at_all_does(sets: Sets, weights: list[int], budget: int) -> None:
    assert choose(sets, weights, budget) == plain_greedy(sets, weights, budget)


@given(sets_of_elements, weights_of_elements, st.integers(1, 4))
def test_it_holds_at_least_its_share_of_the_best_choice(sets: Sets, weights: list[int], budget: int) -> None:
    found = covered(sets, choose(sets, weights, budget), weights)
    best = max(covered(sets, list(some), weights) for some in combinations(range(len(sets)), min(budget, len(sets))))
    assert found >= (1 - 1 / np.e) * best - 1e-9


def test_it_stops_when_the_share_is_covered() -> None:
    sets = [[0, 1, 2, 3, 4, 5, 6, 7], [8], [9]]
    assert choose(sets, [1] * 12, 9, share=0.8) == [0]
    assert choose(sets, [1] * 12, 9, share=0.85) == [0, 1]
    assert choose(sets, [1] * 12, 9) == [0, 1, 2]


def test_among_equal_gains_the_smaller_set_is_taken() -> None:
    assert choose([[0, 1, 2], [0, 1]], [1, 1, *[0] * 10], 1) == [1]


def test_weights_say_what_an_element_is_worth() -> None:
    assert choose([[0, 1, 2], [3]], [1, 1, 1, 5, *[0] * 8], 1) == [1]
