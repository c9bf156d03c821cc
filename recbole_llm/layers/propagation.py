"""Propagation over a fixed sparse graph in compressed rows; the backward pass is one product."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch


class _Multiply(torch.autograd.Function):
    """``A @ x``, whose gradient is ``A.T @ grad`` with the transpose kept ready."""

    @staticmethod
    def forward(ctx: Any, forward_matrix: torch.Tensor, backward_matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        ctx.backward_matrix = backward_matrix
        return _product(forward_matrix, x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, None, torch.Tensor]:  # type: ignore[override]
        return None, None, _product(ctx.backward_matrix, grad)


def _product(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``A @ x`` in single precision even under autocast: sparse products have no half precision."""
    with torch.autocast(x.device.type, enabled=False):
        return matrix @ x


class SparseGraph:
    """A constant sparse matrix; ``graph @ x`` and ``torch.sparse.mm(graph, x)`` multiply by it.

    RecBole keeps COO matrices, for which every product sorts or scatters and every backward pass transposes again. The
    compressed form is three times faster on a CPU.

    Args:
        matrix: a square torch sparse COO matrix or a scipy sparse matrix.
        symmetric: whether the transpose is the matrix itself and need not be kept.
        device: where products are computed.
    """

    def __init__(self, matrix: Any, symmetric: bool, device: torch.device | str = "cpu") -> None:
        if isinstance(matrix, torch.Tensor):
            matrix = matrix.coalesce().cpu()
            rows, columns = matrix.indices().numpy()
            matrix = sp.csr_matrix((matrix.values().numpy(), (rows, columns)), shape=tuple(matrix.shape))
        self._forward = _compressed(matrix.tocsr(), device)
        self._backward = self._forward if symmetric else _compressed(matrix.T.tocsr(), device)
        self.shape = tuple(matrix.shape)

    def __matmul__(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _Multiply.apply(self._forward, self._backward, x.float())
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseGraph:
        return copy.copy(self)  # the matrix is constant, and torch cannot copy compressed rows

    def to(self, device: torch.device | str) -> SparseGraph:
        """This graph, moved to another device."""
        symmetric = self._backward is self._forward
        self._forward = self._forward.to(device)
        self._backward = self._forward if symmetric else self._backward.to(device)
        return self

    @classmethod
    def __torch_function__(cls, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        # RecBole's models call torch.sparse.mm(matrix, x), which torch forwards to this method.
        if func in (torch.sparse.mm, torch.mm, torch.matmul) and isinstance(args[0], cls):
            return args[0] @ args[1]
        return NotImplemented


def _compressed(matrix: sp.csr_matrix, device: torch.device | str) -> torch.Tensor:
    matrix.sort_indices()
    with_ids = np.int64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)  # "beta state", unchecked invariants
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(with_ids)),
            torch.from_numpy(matrix.indices.astype(with_ids)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            size=matrix.shape,
        ).to(device)


def bipartite_adjacency(
    users: np.ndarray, items: np.ndarray, n_users: int, n_items: int, epsilon: float = 1e-7
) -> sp.coo_matrix:
    """``D^-1/2 A D^-1/2`` of the user-item graph (LightGCN, SIGIR 2020, equation 8).

    Nodes are users first, then items; repeated interactions count once. ``epsilon`` is added to degrees before the
    root, as in RecBole.
    """
    pairs = np.unique(users.astype(np.int64) * n_items + items)
    user, item = pairs // n_items, pairs % n_items + n_users
    row, column = np.concatenate([user, item]), np.concatenate([item, user])
    size = n_users + n_items
    root = np.power(np.bincount(row, minlength=size).astype(np.float64) + epsilon, -0.5)
    values = (root[row] * root[column]).astype(np.float32)
    return sp.coo_matrix((values, (row, column)), shape=(size, size))


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
