"""Metrics of the shown lists; RecBole's values are compared in test_recbole_evaluator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_llm.evaluation.lists import TopLists

COUNTS = np.array([0, 8, 4, 2, 1, 1, 0])  # of ids 0..6; 6 is cold


def lists_of(scores: list[list[float]], topk: tuple[int, ...] = (2,), **options: float) -> TopLists:
    lists = TopLists(topk, COUNTS, **options)
    lists.add(torch.tensor(scores))
    return lists


def line(*best: int) -> list[float]:
    """Scores that rank some ids first, in this order."""
    values = [-float("inf"), *np.linspace(-1, -2, 6)]
    for place, item in enumerate(best):
        values[item] = 10.0 - place
    return values


def test_counts_are_those_of_the_first_places() -> None:
    lists = lists_of([line(1, 2, 3), line(1, 5, 3)], topk=(1, 2, 3))
    assert lists.counts(1).tolist() == [0, 2, 0, 0, 0, 0, 0]
    assert lists.counts(2).tolist() == [0, 2, 1, 0, 0, 1, 0]
    assert lists.counts(3).tolist() == [0, 2, 1, 2, 0, 1, 0]


def test_blocks_add_up() -> None:
    whole, parts = lists_of([line(1, 2), line(3, 4)]), lists_of([line(1, 2)])
    parts.add(torch.tensor([line(3, 4)]))
    assert parts.counts(2).tolist() == whole.counts(2).tolist()


def test_places_that_nothing_can_fill_stay_empty() -> None:
    nothing = -float("inf")
    lists = lists_of([[nothing, nothing, 1.0, nothing, nothing, nothing, nothing]])
    assert lists.counts(2).tolist() == [0, 0, 1, 0, 0, 0, 0]


def test_candidates_are_counted_by_their_ids() -> None:
    lists = TopLists([1], COUNTS)
    lists.add(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([[3, 4], [5, 1]]))
    assert lists.counts(1).tolist() == [0, 0, 0, 0, 1, 1, 0]


def test_ties_are_not_broken_by_the_id() -> None:
    """A model that scores all alike would show the first ids to everybody."""
    lists = TopLists([3], np.ones(200))
    lists.add(torch.cat([torch.full((5, 1), -torch.inf), torch.zeros(5, 199)], dim=1))
    shown = np.flatnonzero(lists.counts(3))
    assert shown.tolist() != [1, 2, 3]
    assert lists.counts(3).sum() == 15


def test_values_of_a_small_example() -> None:
    found = lists_of([line(1, 2), line(1, 6)], tail_ratio=0.4).summarise(
        ["ItemCoverage", "AveragePopularity", "TailPercentage", "Novelty", "GiniIndex", "ShannonEntropy"]
    )
    assert found["itemcoverage@2"] == pytest.approx(3 / 7)
    assert found["averagepopularity@2"] == pytest.approx((8 + 4 + 8 + 0) / 4)
    assert found["tailpercentage@2"] == 0  # of the five trained items, 4 and 5 are the tail
    assert found["novelty@2"] == pytest.approx((2 * 1 + 2 + 4) / 4)  # shares 1/2, 1/2, 1/4, and 1/16 for the cold one
    assert found["giniindex@2"] == pytest.approx((2 * 5 - 8 + 2 * 6 - 8 + 2 * (2 * 7 - 8)) / 4 / 7)
    share = np.array([0.5, 0.25, 0.25])
    assert found["shannonentropy@2"] == pytest.approx(-(share * np.log(share)).sum() / 3)


def test_lists_without_a_case_are_empty() -> None:
    assert TopLists([2], COUNTS).summarise(["ItemCoverage", "Novelty"]) == {"itemcoverage@2": 0, "novelty@2": 0}
