"""Concatenated ranges of different lengths."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_llm.utils.arrays import joined_ranges


@pytest.mark.parametrize(
    ("begins", "counts"),
    [([5, 0, 100], [2, 3, 1]), ([7, 7], [0, 2]), ([3, 1], [2, 0]), ([4], [0]), ([], []), ([9, 2], [3, 3])],
)
def test_ranges_stand_one_after_the_other(begins, counts):
    found = joined_ranges(np.array(begins, dtype=np.int32), np.array(counts, dtype=np.int32))
    assert found.dtype == np.int64
    assert found.tolist() == [
        n for first, count in zip(begins, counts, strict=True) for n in range(first, first + count)
    ]


def test_one_beginning_serves_all():
    assert joined_ranges(0, np.array([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]
