"""Cliques of users with like histories, and what a clique has done as one user (LDMI, user-crowd level)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy import sparse

from recbole_llm.utils.arrays import joined_ranges

PAIRS = 200_000_000  # products of a search; beyond it the most popular items are left out of the search
BLOCK = 5_000_000  # products of one block of rows

Progress = Callable[[Iterable[Any], str], Iterable[Any]]


def user_item_matrix(offsets: np.ndarray, items: np.ndarray, n_items: int, weighting: str) -> sparse.csr_matrix:
    """``(m, n_items + 1)`` rows of norm one: which items a user has, equally or by inverse user frequency.

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
    """``(m, count)`` the nearest other users of each by cosine, nearest first; -1 where no user shares an item.

    Among equally near users the one with fewer items comes first, then the earlier row.
    """
    size = matrix.shape[0]
    holders = np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.float64)
    by_popularity = np.argsort(-holders, kind="stable")
    left = np.cumsum((holders**2)[by_popularity][::-1])[::-1]  # products if only these and rarer items are kept
    common = by_popularity[left > PAIRS]
    kept = np.ones(matrix.shape[1], dtype=np.float32)
    kept[common] = 0.0
    search = matrix.dot(sparse.diags(kept)).tocsr() if len(common) else matrix
    search.eliminate_zeros()
    columns = search.T.tocsr()
    lengths = np.diff(matrix.indptr)
    work = np.concatenate([[0], np.cumsum(_products(search, columns))])
    cuts = np.searchsorted(work, np.arange(0, work[-1] + BLOCK, BLOCK))
    cuts = np.unique(np.concatenate([[0], cuts.clip(max=size), [size]]))
    found = np.full((size, count), -1, dtype=np.int64)
    for begin, end in progress(list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)), "cliques"):
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


def _products(left: sparse.csr_matrix, right: sparse.csr_matrix) -> np.ndarray:
    """Multiplications that each row of ``left @ right`` takes."""
    each = np.diff(right.indptr)[left.indices]
    sums = np.concatenate([[0], np.cumsum(each)])
    counts: np.ndarray = sums[left.indptr[1:]] - sums[left.indptr[:-1]]
    return counts


def disjoint(cliques: np.ndarray) -> np.ndarray:
    """Cliques in which every user stands once: a user who is taken is no longer a neighbour (-1) and leads none.

    Args:
        cliques: ``(m, n)`` a user and the nearest others, -1 for none.
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
    """What a clique has done as one user: its members' items, those of more members first, then the more recent.

    How recent an interaction is, is counted from the end of its member's history, so that ordinal times serve.

    Args:
        cliques: ``(c, n)`` users, -1 for none.
        offsets, items: items of each user in compressed rows, oldest first.
        longest: items kept of each.

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
        # The most recent row of each item of a clique stands for it; how many members have it is counted once each.
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
    """Sets chosen greedily by the weight that they add, at least ``1 - 1/e`` of the best possible.

    The gain of a set only falls while others are chosen. So the set that had the largest gain when it was last
    looked at is the best one if it still has it (lazy evaluation, Minoux 1978): most sets are looked at once.

    Args:
        offsets, elements: set ``s`` holds ``elements[offsets[s]:offsets[s + 1]]``, each once.
        weights: ``(n_elements,)`` not negative, what an element counts once it is covered.
        budget: sets at most.
        share: of the weight of all sets' union; enough when covered.

    Returns:
        Numbers of the chosen sets in the order of choice; among equal gains the smaller set, then the first.
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
