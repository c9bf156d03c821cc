"""Interests over graphs: LightGCN with layer means, and the graph of users whose texts are alike."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import nn

from recbole_llm.layers.propagation import SparseGraph


def mean_of_layers(graph: SparseGraph, start: torch.Tensor, layers: int) -> torch.Tensor:
    """LightGCN (SIGIR 2020, equation 8): mean of ``A^l x`` for ``l`` from 0 to ``layers``.

    Args:
        graph: the normalised adjacency matrix.
        start: ``(n, d)``.
        layers: propagation steps.
    """
    total = current = start
    for _ in range(layers):
        current = graph @ current
        total = total + current
    return total / (layers + 1)


@torch.no_grad()
def nearest_neighbours(vectors: torch.Tensor, k: int, block_mib: int = 256) -> torch.Tensor:
    """``(n, k)`` int64 row numbers of the most similar other rows by cosine, best first.

    Similarities are made block by block, so that memory is a block's and not ``n^2``.

    Args:
        vectors: ``(n, d)``.
        k: neighbours of a row; fewer where there are fewer rows.
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
    return found


def similar_users_graph(vectors: torch.Tensor, known: torch.Tensor, k: int) -> SparseGraph:
    """``D^-1/2 (S + I) D^-1/2`` where ``S[u, v] = 1`` for the ``k`` users most similar to ``u`` (ISRF, equation 6).

    ``S`` is not symmetrised, and degrees are row sums on both sides, as released.

    Args:
        vectors: ``(n, d)``, one row a user id.
        known: ``(n,)`` bool; the others stand alone.
        k: neighbours of a user.
    """
    size, chosen = len(vectors), known.nonzero()[:, 0]
    near = (
        chosen[nearest_neighbours(vectors[chosen], k)].numpy() if len(chosen) > 1 else np.zeros((len(chosen), 0), int)
    )
    row = np.concatenate([np.repeat(chosen.numpy(), near.shape[1]), np.arange(size)])
    column = np.concatenate([near.reshape(-1), np.arange(size)])
    root = np.bincount(row, minlength=size) ** -0.5
    values = (root[row] * root[column]).astype(np.float32)
    return SparseGraph(sp.csr_matrix((values, (row, column)), shape=(size, size)), symmetric=False)


class Adapter(nn.Module):
    """ISRF, equation 2: ``W2 (W1 z + b1) + b2`` from ``d_mid`` to ``d``, with ``(d_mid + d) / 2`` between.

    The released code has no activation between the two; ``relu`` is an option.
    """

    def __init__(self, source: int, target: int, activation: str = "none") -> None:
        super().__init__()
        middle = (source + target) // 2
        between: nn.Module = nn.ReLU() if activation == "relu" else nn.Identity()
        self.layers = nn.Sequential(nn.Linear(source, middle), between, nn.Linear(middle, target))

    def forward(self, table: torch.Tensor) -> torch.Tensor:
        """Adapted rows."""
        adapted: torch.Tensor = self.layers(table)
        return adapted
