"""Products of sparse matrices whose results do not fit into memory at once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np


def product_blocks(left: Any, right: Any, most: int) -> list[tuple[int, int]]:
    """First row and end of blocks of rows, each of which takes about ``most`` multiplications in ``left @ right``.

    A block's product has at most as many entries as it takes multiplications. A row that takes more is a block alone.

    Args:
        left: ``(n, m)`` scipy matrix in compressed rows.
        right: ``(m, k)`` the same.
        most: multiplications of a block.
    """
    size = left.shape[0]
    each = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices], dtype=np.int64)])
    work = each[left.indptr]
    cuts = np.searchsorted(work, np.arange(0, work[-1] + most, most)).clip(max=size)
    ends = np.unique(np.concatenate([[0], cuts, [size]])).tolist()
    return list(pairwise(ends))
