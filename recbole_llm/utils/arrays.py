"""Index arithmetic that NumPy has no function for."""

from __future__ import annotations

import numpy as np


def joined_ranges(begins: np.ndarray | int, counts: np.ndarray) -> np.ndarray:
    """The numbers of several ranges, one range after the other.

    Args:
        begins: ``(n,)`` first number of each range, or one number for all.
        counts: ``(n,)`` how many numbers each range has; may be 0.

    Returns:
        ``(sum(counts),)`` int64: ``begins[0], begins[0] + 1, ..., begins[1], begins[1] + 1, ...``.
    """
    ends = np.cumsum(counts, dtype=np.int64)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(begins - ends + counts, counts)
