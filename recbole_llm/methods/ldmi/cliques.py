"""Cliques of users with similar histories, and each clique's items as those of one user (LDMI, user-crowd level)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy import sparse

from recbole_llm.utils.arrays import joined_ranges
from recbole_llm.utils.sparse import product_blocks

PAIRS = 200_000_000  # most multiplications of a neighbour search; the most popular items are left out until it fits
BLOCK = 5_000_000  # multiplications, or interactions, in one block of rows

Progress = Callable[[Iterable[Any], str], Iterable[Any]]


def user_item_matrix(offsets: np.ndarray, items: np.ndarray, n_items: int, weighting: str) -> sparse.csr_matrix:
    """``(m, n_items + 1)``, each user's items as a row of norm one, weighted equally or by inverse user frequency.

    Args:
        offsets, items: items of each user in compressed rows.
        n_items: largest item id.
        weighting: ``binary`` or ``idf``.
    """
    matrix = sparse.csr_matrix((np.ones(len(items), dtype=np.float32), items, offsets), (len(offsets) - 1, n_items + 1))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    if weighting == "idf":
        holders = np.bincount(matrix.indices, minlength=n_items + 1)
        matrix.data *= np.log((1.0 + len(offsets) - 1) / (1.0 + holders))[matrix.indices].astype(np.float32) + 1e-6
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.diags(1.0 / np.maximum(norms, 1e-9)).dot(matrix).tocsr()


def nearest_users(matrix: sparse.csr_matrix, count: int, progress: Progress) -> np.ndarray:
    """``(m, count)`` each user's nearest other users by cosine, nearest first; -1 where no user shares an item.

    Ties go to the user with fewer items, then to the earlier row.
    """
    size = matrix.shape[0]
    holders = np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.float64)
    by_popularity = np.argsort(-holders, kind="stable")
    left = np.cumsum((holders**2)[by_popularity][::-1])[::-1]  # multiplications if an item and rarer ones are kept
    common = by_popularity[left > PAIRS]
    kept = np.ones(matrix.shape[1], dtype=np.float32)
    kept[common] = 0.0
    search = matrix.dot(sparse.diags(kept)).tocsr() if len(common) else matrix
    search.eliminate_zeros()
    columns = search.T.tocsr()
    lengths = np.diff(matrix.indptr)
    found = np.full((size, count), -1, dtype=np.int64)
    for begin, end in progress(product_blocks(search, columns, BLOCK), "cliques"):
        near = search[begin:end].dot(columns).tocsr()
        row = np.repeat(np.arange(begin, end), np.diff(near.indptr))
        other = near.indices
        order = np.lexsort((other, lengths[other], -near.data.round(6), row))
        order = order[row[order] != other[order]]
        row, other = row[order], other[order]
        first = np.searchsorted(row, row, side="left")
        place = np.arange(len(row)) - first
        inside = place < count
        found[row[inside], place[inside]] = other[inside]
    return found


def disjoint(cliques: np.ndarray) -> np.ndarray:
    """Make cliques disjoint, in row order: a user already in one is removed from later ones (-1) and leads none.

    Args:
        cliques: ``(m, n)`` each user and the nearest others, -1 for none.
    """
    taken = np.zeros(len(cliques), dtype=bool)
    kept = []
    for line in cliques:
        if taken[line[0]]:
            continue
        members = np.where((line >= 0) & ~taken[line], line, -1)
        taken[members[members >= 0]] = True
        kept.append(members)
    return np.array(kept)


def clique_items(
    cliques: np.ndarray, offsets: np.ndarray, items: np.ndarray, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Items of each clique as one user: those that most members have are kept, among equals the more recent.

    Recency is counted from the end of the member's history, so ordinal times are enough.

    Args:
        cliques: ``(c, n)`` users, -1 for none.
        offsets, items: items of each user in compressed rows, oldest first.
        longest: items kept per clique.

    Returns:
        Offsets ``(c + 1,)`` and item ids in compressed rows, oldest first.
    """
    counts = np.where(cliques >= 0, (offsets[1:] - offsets[:-1])[cliques], 0)
    pieces, lengths = [], []
    cuts = np.flatnonzero(np.diff(np.cumsum(counts.sum(axis=1)) // BLOCK)) + 1
    for block, sizes in zip(np.split(cliques, cuts), np.split(counts, cuts), strict=True):
        flat = sizes.ravel()
        item = items[joined_ranges(offsets[block.ravel()], flat)]
        age = np.repeat(flat, flat) - 1 - joined_ranges(0, flat)
        member = np.repeat(np.tile(np.arange(block.shape[1]), len(block)), flat)
        clique = np.repeat(np.arange(len(block)), sizes.sum(axis=1))
        # Keep the most recent row of each item per clique; a member who has an item several times counts once.
        order = np.lexsort((member, age, item, clique))
        clique, item, age, member = clique[order], item[order], age[order], member[order]
        new = np.ones(len(item), dtype=bool)
        new[1:] = (clique[1:] != clique[:-1]) | (item[1:] != item[:-1])
        group = np.cumsum(new) - 1
        pairs = np.unique(group * np.int64(block.shape[1]) + member)
        holders = np.bincount(pairs // block.shape[1], minlength=int(new.sum()))
        clique, item, age, member = clique[new], item[new], age[new], member[new]
        best = np.lexsort((member, age, -holders, clique))
        place = np.arange(len(best)) - np.searchsorted(clique[best], clique[best], side="left")
        best = best[place < longest]
        best = best[np.lexsort((member[best], -age[best], clique[best]))]
        pieces.append(item[best])
        lengths.append(np.bincount(clique[best], minlength=len(block)))
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]), np.concatenate(pieces)


def max_coverage(
    offsets: np.ndarray, elements: np.ndarray, weights: np.ndarray, budget: int, share: float = 1.0
) -> list[int]:
    """Choose sets greedily by the weight that they add, which covers at least ``1 - 1/e`` of the best possible.

    A set's gain only falls as others are chosen. So if the set with the largest last known gain still leads after
    its gain is computed again, it is the best one (lazy evaluation, Minoux 1978), and most gains are computed once.

    Args:
        offsets, elements: set ``s`` holds ``elements[offsets[s]:offsets[s + 1]]``, each once.
        weights: ``(n_elements,)`` weight of each element, not negative.
        budget: most sets to choose.
        share: stop once this share of the weight of all sets' union is covered.

    Returns:
        Numbers of the chosen sets in the order of choice; ties go to the smaller set, then to the first.
    """
    sizes = np.diff(offsets)
    sums = np.concatenate([[0.0], np.cumsum(weights[elements], dtype=np.float64)])
    gains = sums[offsets[1:]] - sums[offsets[:-1]]
    wanted = share * float(weights[np.unique(elements)].sum(dtype=np.float64)) - 1e-9
    queue = [
        (-gain, size, number) for number, (gain, size) in enumerate(zip(gains.tolist(), sizes.tolist(), strict=True))
    ]
    heapq.heapify(queue)
    covered = np.zeros(len(weights), dtype=bool)
    chosen: list[int] = []
    total = 0.0
    while queue and len(chosen) < budget and total < wanted:
        _, size, number = queue[0]
        own = elements[offsets[number] : offsets[number + 1]]
        gain = float(weights[own[~covered[own]]].sum(dtype=np.float64))
        fresh = (-gain, size, number)
        if len(queue) > 1 and fresh > min(queue[1:3]):
            heapq.heapreplace(queue, fresh)
            continue
        heapq.heappop(queue)
        if gain <= 0:
            break
        covered[own] = True
        chosen.append(number)
        total += gain
    return chosen
