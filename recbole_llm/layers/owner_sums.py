"""Sums of vectors by owner, in bounded memory."""

from __future__ import annotations

import torch

BLOCK = 2**16  # pairs whose vectors are gathered at a time


def sums_by_owner(vectors: torch.Tensor, owner: torch.Tensor, which: torch.Tensor, count: int) -> torch.Tensor:
    """``(count, d)`` float32 sum of the vectors that each owner has, added in the order of the pairs.

    Vectors are gathered block by block, so memory does not grow with the number of pairs.

    Args:
        vectors: ``(n, d)`` float32.
        owner: ``(m,)`` int64, the owner of each pair, below ``count``.
        which: ``(m,)`` int64, the row of ``vectors`` of each pair.
        count: number of owners.
    """
    total = torch.zeros(count, vectors.shape[1])
    for owners, rows in zip(owner.split(BLOCK), which.split(BLOCK), strict=True):
        total.index_add_(0, owners, vectors[rows])
    return total
