"""The numbers by which items are written: random, in order, or paths through clusters.

A language model that generates numbers gains if items whose numbers begin alike are similar (P5-CID, arXiv 2305.06569;
TIGER, arXiv 2305.05065). A path is a number with two digits per level: the first levels are clusters of residual
k-means, the last ones distinguish items of the same clusters. Orders and paths use only training interactions or
texts. P5's numbers follow the order of appearance in whole histories and so tell which item comes next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_llm.data.interactions import hash_ranks

BASE = 100  # two digits per level, one token for a tokenizer from scratch
LEVELS = 2  # of clusters
DIMENSIONS = 64  # of the co-occurrence vectors that are clustered


def random_numbers(tokens: np.ndarray) -> list[str]:
    """A number for each id after the padding: the rank of its hash, which tells neither order nor popularity."""
    return [str(rank + 1) for rank in hash_ranks(tokens).tolist()]


def appearance_numbers(tokens: np.ndarray) -> list[str]:
    """Numbers in the order of the ids, as released."""
    return [str(number) for number in range(1, len(tokens))]


def trained_order(dataset: Any) -> list[str]:
    """Numbers in the order of the items' first training interactions, user by user; the other items come after."""
    rows, table = np.asarray(dataset.split.train_rows), dataset.table
    items = np.asarray(table.item)[rows]
    first = np.full(len(table.item_tokens), len(rows), dtype=np.int64)
    np.minimum.at(first, items, np.arange(len(rows)))
    order = np.lexsort((hash_ranks(table.item_tokens), first[1:]))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(1, len(order) + 1)
    return [str(number) for number in ranks.tolist()]


def cooccurrence_vectors(dataset: Any) -> np.ndarray:
    """``(N - 1, d)`` spectral vectors of the items from the training user-item matrix; zero for items without users."""
    rows, table = np.asarray(dataset.split.train_rows), dataset.table
    pairs = np.unique(np.stack([np.asarray(table.user)[rows], np.asarray(table.item)[rows]]), axis=1)
    shape = (len(table.user_tokens), len(table.item_tokens))
    matrix = sp.coo_matrix((np.ones(pairs.shape[1]), pairs), shape=shape).tocsr()
    users, items = (np.asarray(matrix.sum(axis=side)).ravel() for side in (1, 0))
    scaled = sp.diags(np.maximum(users, 1.0) ** -0.5) @ matrix @ sp.diags(np.maximum(items, 1.0) ** -0.5)
    size = min(DIMENSIONS + 1, min(shape) - 1)
    _, values, vectors = sp.linalg.svds(scaled, k=size, v0=np.ones(min(shape)), solver="arpack")
    found = vectors.T * values
    trivial = np.sqrt(items / items.sum())  # the direction that tells only how many users an item has
    found -= np.outer(trivial, trivial @ found)
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return np.where(items[:, None] > 0, found / np.maximum(norms, 1e-9), 0.0)[1:]


def path_numbers(vectors: np.ndarray, tokens: np.ndarray, width: int) -> list[str]:
    """Paths of the items through residual k-means of their vectors; items without a vector have a branch of their own.

    Args:
        vectors: ``(N - 1, d)`` of the items after the padding; zero for an item without one.
        tokens: ``(N,)``; their hashes order items of the same clusters.
        width: clusters per level, below 100.
    """
    from sklearn.cluster import KMeans  # slow to load, and few runs want it

    known = np.flatnonzero(np.any(vectors != 0.0, axis=1))
    residual = np.asarray(vectors, dtype=np.float64)[known]
    code = np.zeros(len(vectors), dtype=np.int64)
    for _ in range(LEVELS):
        level = np.full(len(vectors), width)
        if len(known):
            wanted = min(width, len(np.unique(residual.round(9), axis=0)))
            found = KMeans(wanted, n_init=3, random_state=0).fit(residual)
            level[known] = found.labels_
            residual = residual - found.cluster_centers_[found.labels_]
        code = code * BASE + level
    order = np.lexsort((hash_ranks(tokens), code))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.searchsorted(code[order], code[order], side="left")
    last = 1
    while BASE**last <= place.max():
        last += 1
    digits = 2 * (LEVELS + last)
    return [f"{number:0{digits}d}" for number in (code * BASE**last + place).tolist()]
