"""List metrics from counts; test_recbole_evaluator compares them with RecBole's."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_llm.evaluation.lists import ListCounts

COUNTS = np.array([0, 8, 4, 2, 1, 1, 0])  # training counts of ids 0..6; 6 is cold


def test_values_of_a_small_example() -> None:
    """Two lists of two items: 1 and 2, and 1 and 6."""
    found = ListCounts([2], np.array([[0, 2, 1, 0, 0, 0, 1]]), COUNTS, tail_ratio=0.4).summarise(
        ["ItemCoverage", "AveragePopularity", "TailPercentage", "Novelty", "GiniIndex", "ShannonEntropy"]
    )
    assert found["itemcoverage@2"] == pytest.approx(3 / 7)
    assert found["averagepopularity@2"] == pytest.approx((8 + 4 + 8 + 0) / 4)
    assert found["tailpercentage@2"] == 0  # the tail is items 4 and 5 of the five trained items
    assert found["novelty@2"] == pytest.approx((2 * 1 + 2 + 4) / 4)  # shares 1/2, 1/2, 1/4; 1/16 for the cold item
    assert found["giniindex@2"] == pytest.approx((2 * 5 - 8 + 2 * 6 - 8 + 2 * (2 * 7 - 8)) / 4 / 7)
    share = np.array([0.5, 0.25, 0.25])
    assert found["shannonentropy@2"] == pytest.approx(-(share * np.log(share)).sum() / 3)


@pytest.mark.parametrize(("most", "share"), [(2, 0.25), (4, 0.5), (1.5, 0.0)])
def test_a_tail_ratio_above_one_is_the_largest_count_of_a_tail_item(most: float, share: float) -> None:
    """Of four places two hold item 1 (8 interactions), one item 2 (4) and one item 3 (2); the cold item 6 has none."""
    lists = ListCounts([2], np.array([[0, 2, 1, 1, 0, 0, 0]]), COUNTS, tail_ratio=most)
    assert lists.summarise(["TailPercentage"]) == {"tailpercentage@2": share}


def test_a_cold_item_is_in_no_tail() -> None:
    lists = ListCounts([2], np.array([[0, 0, 0, 0, 0, 1, 1]]), COUNTS, tail_ratio=2)
    assert lists.summarise(["TailPercentage"]) == {"tailpercentage@2": 0.5}
