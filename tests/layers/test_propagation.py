"""Products with a fixed sparse graph, in the forward and backward pass."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from recbole.model.general_recommender import NGCF, LightGCN

from recbole_llm.layers.propagation import SparseGraph, bipartite_adjacency
from tests.helpers import prepare


def random_matrix(n=12, seed=0):
    return sp.random(n, n, density=0.3, random_state=seed, dtype=np.float32, format="coo")


def as_torch(matrix):
    matrix = matrix.tocoo()
    indices = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
    return torch.sparse_coo_tensor(indices, torch.from_numpy(matrix.data), matrix.shape)


MULTIPLY = {
    "@": lambda graph, x: graph @ x,
    "torch.sparse.mm": torch.sparse.mm,
    "torch.mm": torch.mm,
    "torch.matmul": torch.matmul,
}


@pytest.mark.parametrize("multiply", MULTIPLY.values(), ids=list(MULTIPLY))
@pytest.mark.parametrize("form", ["coo", "csr", "torch"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_product_and_gradient_are_those_of_the_dense_matrix(multiply, form, symmetric):
    matrix = random_matrix()
    matrix = (matrix + matrix.T).tocoo() if symmetric else matrix
    dense = torch.from_numpy(matrix.toarray())
    graph = SparseGraph(as_torch(matrix) if form == "torch" else matrix.asformat(form), symmetric)
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    weight = torch.randn(12, 5, generator=torch.Generator().manual_seed(2))
    product, expected = multiply(graph, x), dense @ y
    (product * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.allclose(product, expected, atol=1e-6)
    assert torch.allclose(x.grad, y.grad, atol=1e-6)


def test_under_autocast_products_stay_in_single_precision():
    graph = SparseGraph(random_matrix(), symmetric=False)
    half = torch.randn(12, 5).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product = graph @ half
        product.sum().backward()
    assert torch.equal(product, graph @ half.float())
    assert half.grad.dtype == torch.bfloat16


def test_repeated_entries_of_a_torch_matrix_add_up():
    matrix = torch.sparse_coo_tensor(torch.tensor([[0, 0, 1], [1, 1, 0]]), torch.tensor([1.0, 2.0, 4.0]), (2, 2))
    graph = SparseGraph(matrix, symmetric=False)
    assert (graph @ torch.eye(2)).tolist() == [[0, 3], [4, 0]]


def test_the_shape_is_that_of_the_matrix():
    assert SparseGraph(random_matrix(7), symmetric=False).shape == (7, 7)


def test_a_graph_can_be_sent_to_a_device():
    graph = SparseGraph(random_matrix(), symmetric=False)
    assert graph.to("cpu") is graph


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_symmetric_graph_is_one_matrix_on_a_device_too(symmetric):
    graph = SparseGraph(random_matrix(), symmetric=symmetric).to("meta")
    assert graph._forward.device.type == graph._backward.device.type == "meta"
    assert (graph._backward is graph._forward) == symmetric


def test_a_model_that_holds_a_graph_can_be_copied():
    graph = SparseGraph(random_matrix(), symmetric=False)
    x = torch.randn(12, 5)
    assert torch.equal(copy.deepcopy(graph) @ x, graph @ x)


def test_other_functions_of_torch_refuse_a_graph():
    with pytest.raises(TypeError):
        torch.add(SparseGraph(random_matrix(), symmetric=False), 1)


# ---- the user-item graph -------------------------------------------------------------------------


def dense_adjacency(matrix):
    return torch.sparse.mm(matrix, torch.eye(matrix.shape[0])) if isinstance(matrix, torch.Tensor) else matrix


@pytest.mark.parametrize("model", [LightGCN, NGCF])
def test_the_adjacency_is_recbole_s(tiny, model):
    prepared = prepare(model.__name__)
    theirs = dense_adjacency(model.get_norm_adj_mat(prepared.model)).numpy()
    pairs = prepared.model.interaction_matrix
    ours = bipartite_adjacency(pairs.row, pairs.col, prepared.dataset.user_num, prepared.dataset.item_num)
    assert np.allclose(ours.toarray(), theirs, atol=1e-6)
    assert ours.nnz == int((theirs != 0).sum())


def test_repeated_interactions_count_once():
    once = bipartite_adjacency(np.array([1, 2, 2]), np.array([1, 1, 2]), 3, 3)
    twice = bipartite_adjacency(np.array([1, 2, 2, 2, 1]), np.array([1, 1, 2, 2, 1]), 3, 3)
    assert np.array_equal(once.toarray(), twice.toarray())


def test_a_small_graph_worked_by_hand():
    matrix = bipartite_adjacency(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, 2, epsilon=0.0).toarray()
    expected = np.zeros((4, 4))
    expected[0, 2] = expected[2, 0] = 1 / np.sqrt(1 * 2)
    expected[1, 2] = expected[2, 1] = 1 / np.sqrt(2 * 2)
    expected[1, 3] = expected[3, 1] = 1 / np.sqrt(2 * 1)
    assert np.allclose(matrix, expected)


def test_nodes_without_edges_stay_empty():
    matrix = bipartite_adjacency(np.array([1]), np.array([1]), 3, 3)
    assert np.isfinite(matrix.data).all()
    assert matrix.nnz == 2
