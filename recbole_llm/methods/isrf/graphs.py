"""ISRF's graph of users with similar texts, and the adapter of item semantics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from recbole_llm.features.similar_users import kept_neighbours
from recbole_llm.layers.propagation import SparseGraph


def similar_users_graph(vectors: torch.Tensor, known: torch.Tensor, k: int, folder: Path) -> SparseGraph:
    """``D^-1/2 (S + I) D^-1/2`` where ``S[u, v] = 1`` for the ``k`` users most similar to ``u`` (ISRF, equation 6).

    ``S`` is not symmetrised, and degrees are row sums on both sides, as released.

    Args:
        vectors: ``(n, d)``, one row per user id.
        known: ``(n,)`` bool, which users have a vector; the others have no neighbours.
        k: neighbours of each user.
        folder: where neighbours of many users are kept.
    """
    size, chosen = len(vectors), known.nonzero()[:, 0]
    near = np.zeros((len(chosen), 0), int)
    if len(chosen) > 1:
        near = chosen[kept_neighbours(vectors[chosen], k, folder)].numpy()
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
