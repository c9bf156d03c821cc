"""Frozen text vectors projected to the size that a model needs, or whitened."""

from __future__ import annotations

import torch
from torch import nn

PROJECTIONS = ("pca", "linear", "random")


def pca(vectors: torch.Tensor, size: int) -> torch.Tensor:
    """The first ``size`` principal components of ``(n, d)`` vectors (fewer where there are fewer)."""
    centred = vectors - vectors.mean(dim=0)
    rank = min(size, *centred.shape)
    _, _, axes = torch.linalg.svd(centred.double(), full_matrices=False)
    # The sign of a component is arbitrary: the largest entry is made positive, so that runs agree.
    largest = axes.abs().argmax(dim=1, keepdim=True)
    axes = axes * axes.gather(1, largest).sign()
    return (centred.double() @ axes[:rank].T).float()


def zca(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors ``(n, d)`` with their dimensions decorrelated, as near to the original vectors as possible.

        W = S^(-1/2),  S the covariance,  rows (x - mean) W

    Eigenvalues count at least a thousandth of the largest, so directions in which the vectors hardly differ are not
    blown up. The result is scaled to the mean norm of the original vectors.
    """
    centred = (vectors - vectors.mean(dim=0)).double()
    values, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    root = values.clamp(min=1e-3 * float(values.max()) + 1e-12).rsqrt()
    white = centred @ (axes * root) @ axes.T
    scale = vectors.norm(dim=1).mean() / white.norm(dim=1).mean().clamp(min=1e-12)
    return (white * scale).float()


class ProjectedTexts(nn.Module):
    """A table of text vectors, projected.

    Args:
        vectors: ``(n, d)`` frozen vectors.
        size: dimension wanted; ``pca`` gives fewer if there are fewer vectors or dimensions.
        projection: ``pca`` fixed, fitted on the table; ``linear`` learned; ``random`` noise in place of the
            vectors, which is what EIMF's released code trains.
        trainable: whether the table is learned too: the projected table, or with ``linear`` the vectors.
    """

    def __init__(self, vectors: torch.Tensor, size: int, projection: str = "pca", trainable: bool = False) -> None:
        super().__init__()
        if projection not in PROJECTIONS:
            raise ValueError(f"text_proj is one of {', '.join(PROJECTIONS)}, not {projection!r}")
        self.linear: nn.Linear | None = None
        table = vectors
        if projection == "linear":
            self.linear = nn.Linear(vectors.shape[1], size)
        elif projection == "pca":
            table = pca(vectors, size)
        else:
            bound = size**-0.5
            table = torch.empty(len(vectors), size).uniform_(-bound, bound)
        self.size = size if projection != "pca" else table.shape[1]
        if trainable:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table, persistent=projection == "random")

    def forward(self, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Projected vectors of some texts, or of all."""
        chosen = self.table if ids is None else self.table[ids]
        return self.linear(chosen) if self.linear is not None else chosen
