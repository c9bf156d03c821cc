"""Frozen text vectors projected to the size that a model needs, or whitened."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import nn

PROJECTIONS = ("pca", "linear", "random")
BLOCK = 2**15  # vectors that are held in double precision at a time


def _centred(vectors: torch.Tensor) -> Iterator[torch.Tensor]:
    """Vectors ``(n, d)`` without their mean, in double precision, in blocks of rows."""
    mean = vectors.mean(dim=0)
    return ((block - mean).double() for block in vectors.split(BLOCK))


def pca(vectors: torch.Tensor, size: int) -> torch.Tensor:
    """The first ``size`` principal components of ``(n, d)`` vectors (fewer where there are fewer)."""
    rank = min(size, *vectors.shape)
    # The triangular factor R has the axes of the rows behind it, and unlike their covariance no squared errors.
    rows = reduce(lambda upper, block: torch.linalg.qr(torch.cat([upper, block]), mode="r").R, _centred(vectors))
    _, _, axes = torch.linalg.svd(rows, full_matrices=False)
    # The sign of a component is arbitrary: the largest entry is made positive, so that runs agree.
    largest = axes.abs().argmax(dim=1, keepdim=True)
    axes = axes * axes.gather(1, largest).sign()
    return torch.cat([(block @ axes[:rank].T).float() for block in _centred(vectors)])


def zca(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors ``(n, d)`` with their dimensions decorrelated, as near to the original vectors as possible.

        W = S^(-1/2),  S the covariance,  rows (x - mean) W

    Eigenvalues count at least a thousandth of the largest, so directions in which the vectors hardly differ are not
    blown up. The result is scaled to the mean norm of the original vectors.
    """
    values, axes = torch.linalg.eigh(sum(block.T @ block for block in _centred(vectors)) / len(vectors))
    root = values.clamp(min=1e-3 * float(values.max()) + 1e-12).rsqrt()

    def white() -> Iterator[torch.Tensor]:
        return (block @ (axes * root) @ axes.T for block in _centred(vectors))

    norms = torch.cat([block.norm(dim=1) for block in white()])
    scale = vectors.norm(dim=1).mean() / norms.mean().clamp(min=1e-12)
    return torch.cat([(block * scale).float() for block in white()])


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
