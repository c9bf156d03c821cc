"""The similarities of ``ItemKNN``, computed from pairs of items that share a user instead of from all pairs."""

from __future__ import annotations

import logging
import time

import numpy as np
from scipy import sparse

from recbole_llm.utils.sparse import product_blocks

logger = logging.getLogger(__name__)

BLOCK = 5_000_000  # multiplications in one block of items
SAY_EVERY = 30.0  # seconds


def similar_items(matrix: sparse.csr_matrix, k: int, shrink: float) -> sparse.csc_matrix:
    """The ``k`` most similar items of each item, as ``ComputeSimilarity`` finds them (itemknn.py:47), bit for bit.

    RecBole multiplies the matrix by every item and sorts all items by their similarity to it. Here only items are
    compared that share a user; all others have similarity zero, which RecBole does not store either.

    Which items are dropped where several are as similar as the last one is left to ``argpartition`` there. So it is
    asked here too, about the same line: its choice depends on the line's length, on numpy and on the processor.

    Args:
        matrix: ``(n_users, n_items)`` float32 counts of interactions.
        k: most neighbours of an item.
        shrink: is added to the product of the norms.

    Returns:
        ``(n_items, n_items)`` float32; column ``i`` holds the similarities of the neighbours of item ``i``.
    """
    n_items = matrix.shape[1]
    k = min(k, n_items)
    norms = np.sqrt(np.asarray(matrix.power(2).sum(axis=0)).ravel())
    users = matrix.T.tocsr()
    line = np.full(n_items, -0.0, dtype=np.float32)
    said = time.monotonic()
    counts, neighbours, similarities = [], [], []
    for begin, end in product_blocks(users, matrix, BLOCK):
        products = users[begin:end] @ matrix
        item, other = np.repeat(np.arange(begin, end), np.diff(products.indptr)), products.indices
        apart = item != other
        item, other, values = item[apart], other[apart], products.data[apart]
        values *= 1 / (norms[item] * norms[other] + shrink + 1e-6)
        kept = np.ones(len(item), dtype=bool)
        ends = np.cumsum(np.bincount(item - begin, minlength=end - begin))
        for first, last in zip([0, *ends[:-1]], ends, strict=True):
            if last - first > k:
                kept[first:last] = _among_best(other[first:last], values[first:last], k, line)
        counts.append(np.bincount(item[kept] - begin, minlength=end - begin))
        neighbours.append(other[kept])
        similarities.append(values[kept])
        if time.monotonic() - said > SAY_EVERY:
            said = time.monotonic()
            logger.info("ItemKNN: %s of %s items compared", f"{end:,}", f"{n_items:,}")
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    shape = (n_items, n_items)
    found = sparse.csc_matrix((np.concatenate(similarities), np.concatenate(neighbours), offsets), shape)
    found.sort_indices()
    return found


def _among_best(other: np.ndarray, values: np.ndarray, k: int, line: np.ndarray) -> np.ndarray:
    """``(m,)`` bool: which of an item's similarities are its ``k`` best.

    Args:
        other, values: ``(m,)`` items and their similarities, more than ``k``.
        k: how many are best.
        line: ``(n_items,)`` float32, negative zero throughout; restored after use.
    """
    least = np.partition(values, -k)[-k]
    best: np.ndarray = values >= least
    if np.count_nonzero(best) > k:
        line[other] = -values
        best = np.isin(other, line.argpartition(k - 1)[:k], assume_unique=True)
        line[other] = -0.0
    return best
