"""The graph of items that stand near one another in sessions (GCE-GNN's global graph)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def nearby_items(
    owner: np.ndarray, items: np.ndarray, n_items: int, epsilon: int, n_neighbours: int
) -> tuple[np.ndarray, np.ndarray]:
    """The items that most often stand near each item, over all sessions.

    Two places of a session that are at most ``epsilon`` apart make their items neighbours of one another; the
    weight of an edge is how often that happens (GCE-GNN, SIGIR 2020, section 3.2). Among equal weights at the
    edge of the list a hash of the item decides, not its id.

    Args:
        owner: ``(n,)`` session of each interaction; a session's interactions are consecutive, in order.
        items: ``(n,)`` item ids.
        n_items: number of ids, padding included.
        epsilon: largest distance of two neighbours.
        n_neighbours: neighbours that an item keeps.

    Returns:
        ``(n_items, n_neighbours)`` int64 ids, the heaviest first, 0 where there are fewer;
        ``(n_items, n_neighbours)`` float32 weights.
    """
    items = items.astype(np.int64)
    ends = []
    for distance in range(1, epsilon + 1):
        same = owner[distance:] == owner[:-distance]
        ends.append(np.stack([items[:-distance][same], items[distance:][same]]))
    first, second = np.concatenate(ends, axis=1) if ends else np.zeros((2, 0), dtype=np.int64)
    row, column = np.concatenate([first, second]), np.concatenate([second, first])
    counts = sp.coo_matrix((np.ones(len(row)), (row, column)), shape=(n_items, n_items)).tocsr().tocoo()
    mixed = counts.col.astype(np.int64) * 2654435761 % (1 << 32)  # Knuth's multiplicative hash
    order = np.lexsort((mixed, -counts.data, counts.row))
    row, column, weight = counts.row[order], counts.col[order], counts.data[order]
    place = np.arange(len(row)) - np.searchsorted(row, row, side="left")
    kept = place < n_neighbours
    neighbours = np.zeros((n_items, n_neighbours), dtype=np.int64)
    weights = np.zeros((n_items, n_neighbours), dtype=np.float32)
    neighbours[row[kept], place[kept]] = column[kept]
    weights[row[kept], place[kept]] = weight[kept]
    return neighbours, weights
