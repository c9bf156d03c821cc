"""Nearest rows of a matrix, in bounded memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F


@torch.no_grad()
def nearest_neighbours(vectors: torch.Tensor, k: int, block_mib: int = 256) -> torch.Tensor:
    """``(n, k)`` int64 row numbers of the most similar other rows by cosine, best first.

    Similarities are computed block by block, so memory is one block instead of ``n^2``.

    Args:
        vectors: ``(n, d)``.
        k: neighbours of a row; fewer if there are fewer rows.
        block_mib: memory for one block of similarities.
    """
    unit = F.normalize(vectors.float(), dim=1)
    count = len(unit)
    k = min(k, count - 1)
    rows = max(1, (block_mib << 20) // (4 * count))
    found = torch.empty((count, max(0, k)), dtype=torch.int64)
    for begin in range(0, count, rows):
        similar = unit[begin : begin + rows] @ unit.T
        place = torch.arange(len(similar), device=similar.device)
        similar[place, place + begin] = -torch.inf
        found[begin : begin + rows] = similar.topk(k, dim=1).indices.cpu()
        del similar  # before the next block is made
    return found
