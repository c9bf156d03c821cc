"""Session graphs built with tensor operations equal those of RecBole's loops."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.model.sequential_recommender.gcsan import GCSAN
from recbole.model.sequential_recommender.srgnn import SRGNN

from recbole_llm.layers.session_graph import edge_relations, session_edges, session_graph


def padded(*rows, width=None):
    width = width or max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def recbole_s(item_seq):
    model = torch.nn.Module()
    model.device = torch.device("cpu")
    alias, a, items, mask = SRGNN._get_slice(model, item_seq)
    return alias, a, items, mask


def assert_same(item_seq):
    for ours, theirs in zip(session_graph(item_seq), recbole_s(item_seq), strict=True):
        assert ours.shape == theirs.shape
        assert torch.equal(ours.to(theirs.dtype), theirs)


CASES = {
    "padded rows": padded([1, 2, 3], [4, 5], [6], width=5),
    "full rows": padded([3, 1, 2], [9, 8, 7]),
    "repeated items": padded([1, 2, 1, 2, 3, 1], [5, 5, 5], [7, 8, 7], width=7),
    "repeated items in full rows": padded([1, 2, 1, 2, 1], [4, 4, 4, 4, 4]),
    "rows of one item": padded([1], [2], width=4),
    "width one": padded([1], [2]),
    "mixed": padded([1, 2, 3, 4], [9, 8, 9, 8], [2], [3, 3], width=4),
}


@pytest.mark.parametrize("item_seq", CASES.values(), ids=list(CASES))
def test_the_graph_is_recbole_s(item_seq):
    assert_same(item_seq)


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=8), min_size=1, max_size=6), st.integers(0, 3))
def test_any_graph_is_recbole_s(rows, padding):
    assert_same(padded(*rows, width=max(map(len, rows)) + padding))


def test_the_graph_is_gcsan_s():
    item_seq = CASES["mixed"]
    model = torch.nn.Module()
    model.device = torch.device("cpu")
    for ours, theirs in zip(session_graph(item_seq)[:3], GCSAN._get_slice(model, item_seq), strict=True):
        assert torch.equal(ours.to(theirs.dtype), theirs)


def test_a_small_graph_worked_by_hand():
    alias, a, items, mask = session_graph(padded([7, 3, 7, 5], width=5))
    # nodes in ascending order: 0 (padding), 3, 5, 7; edges 7->3, 3->7, 7->5
    assert items.tolist() == [[0, 3, 5, 7, 0]]
    assert alias.tolist() == [[3, 1, 3, 2, 0]]
    assert mask.tolist() == [[True, True, True, True, False]]
    into, out = a[0, :, :5], a[0, :, 5:]
    assert into.nonzero().tolist() == [[1, 3], [2, 3], [3, 1]]
    assert out.nonzero().tolist() == [[1, 3], [3, 1], [3, 2]]
    assert out[3].tolist() == [0, 0.5, 0.5, 0, 0]


def test_the_input_is_left_as_it_is():
    item_seq = CASES["mixed"].clone()
    session_graph(item_seq)
    assert torch.equal(item_seq, CASES["mixed"])


def relation_by_hand(session, one, other):
    steps = set(pairwise(session))
    if one == other:
        return 1
    return {(True, False): 2, (False, True): 3, (True, True): 4, (False, False): 0}[
        (one, other) in steps, (other, one) in steps
    ]


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=8), min_size=1, max_size=5))
def test_relations_are_self_out_in_and_both(rows):
    _, edges, items, _ = session_edges(padded(*rows))
    relations = edge_relations(edges)
    for session, nodes, found in zip(rows, items.tolist(), relations.tolist(), strict=True):
        for i, one in enumerate(nodes):
            for j, other in enumerate(nodes):
                if one and other:
                    assert found[i][j] == relation_by_hand(session, one, other)
                elif i != j:
                    assert found[i][j] == 0
