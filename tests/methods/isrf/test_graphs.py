"""Similar users in blocks, and propagation over their graph."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_llm.features import similar_users
from recbole_llm.layers.alignment import soft_target_alignment
from recbole_llm.layers.neighbours import nearest_neighbours
from recbole_llm.layers.propagation import mean_of_layers
from recbole_llm.methods.isrf.graphs import similar_users_graph


@pytest.mark.parametrize("block_mib", [0, 1, 256])
def test_neighbours_equal_those_of_the_whole_matrix(block_mib: int) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(301, 8)
    unit = F.normalize(vectors, dim=1)
    whole = (unit @ unit.T).fill_diagonal_(-torch.inf).topk(7, dim=1).indices
    assert torch.equal(nearest_neighbours(vectors, 7, block_mib), whole)


class Products(TorchDispatchMode):
    """Counts the products of matrices, and the most that are there at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[torch.Tensor]] = []
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default:
            self.made.append(weakref.ref(found))
            self.most = max(self.most, sum(each() is not None for each in self.made))
        return found


def test_a_block_of_similarities_is_gone_before_the_next_is_made() -> None:
    with Products() as products:
        nearest_neighbours(torch.randn(30, 4), 3, block_mib=0)
    assert (len(products.made), products.most) == (30, 1)


def test_there_are_never_more_neighbours_than_others() -> None:
    assert nearest_neighbours(torch.randn(4, 3), 100).shape == (4, 3)


def test_the_graph_of_similar_users_is_s_with_loops_over_row_sums(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(30, 6)
    known = torch.ones(30, dtype=torch.bool)
    known[0] = known[17] = False
    graph = similar_users_graph(vectors, known, 5, tmp_path)
    start = torch.randn(30, 4, requires_grad=True)
    dense = torch.eye(30)
    chosen = known.nonzero()[:, 0]
    dense[chosen[:, None], chosen[nearest_neighbours(vectors[chosen], 5)]] = 1.0
    root = dense.sum(1) ** -0.5
    operator = root[:, None] * dense * root
    wanted = (start + operator @ start + operator @ operator @ start) / 3
    found = mean_of_layers(graph, start, 2)
    torch.testing.assert_close(found, wanted)
    (expected,) = torch.autograd.grad(wanted.square().sum(), start, retain_graph=True)
    (gradient,) = torch.autograd.grad(found.square().sum(), start)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(found[17], start[17])  # without a profile a user stands alone


def test_the_similar_users_of_a_graph_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar_users, "FEWEST", 0)
    vectors, known = torch.randn(30, 6), torch.ones(30, dtype=torch.bool)
    start = torch.randn(30, 4)
    first, second = (mean_of_layers(similar_users_graph(vectors, known, 5, tmp_path), start, 2) for _ in range(2))
    assert torch.equal(first, second)
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_soft_targets_follow_the_released_formula() -> None:
    first, second = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.5, 0.5], [1.0, 1.0]])
    logits = first @ second.T
    targets = ((first @ first.T + second @ second.T) / 2).softmax(1)
    rows = -(targets * F.log_softmax(logits, 1)).sum(1)
    columns = -(targets.T * F.log_softmax(logits.T, 1)).sum(1)
    torch.testing.assert_close(soft_target_alignment(first, second), (rows / 2 + columns / 2).mean())
