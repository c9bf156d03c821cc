"""SHARE: Session-based Recommendation with Hypergraph Attention Networks (SDM 2021, arXiv 2112.14266).

A session's hypergraph: the nodes are its distinct items, and each window of 1 to ``window + 1`` consecutive clicks is
a hyperedge. With ``S(a, b) = a . b / sqrt(d)``, in the paper's order, ``step`` times:

     alpha_jt = softmax over t in edge j of S(W^ n_t, u),   eps_j = sum_t alpha_jt W n_t        nodes to hyperedges
     beta_tj  = softmax over edges j of t of S(W^ n_t, V eps_j),   n_t <- n_t^0 + sum_j beta_tj eps_j        and back
     m = last click's state after self-attention over the session's states and a feed-forward layer, both residual
     s = LayerNorm(m),   score = s . v,   L = CE

``u`` is learned, ``W`` is the identity in the first step (as released), ``n^0`` are item embeddings.

Deviates from the release in: layer norms start at one and zero, not at random; item embeddings are drawn like those of
the other session models here. As in the release, the self-attention normalises its queries but not its keys and values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from recbole_llm.layers.bucketing import by_length
from recbole_llm.layers.dropout import Dropout
from recbole_llm.layers.session_graph import session_edges
from recbole_llm.methods.baselines.session import Session, SessionModel
from recbole_llm.methods.baselines.settings import SHARESettings


def window_edges(alias_inputs: torch.Tensor, mask: torch.Tensor, window: int) -> torch.Tensor:
    """``(B, E, N)`` bool, which nodes a hyperedge holds; hyperedges of padding hold none.

    Args:
        alias_inputs: ``(B, L)`` the node of each position, below ``N = L``.
        mask: ``(B, L)`` bool, true at items.
        window: largest distance of two clicks of a hyperedge.
    """
    length = alias_inputs.shape[1]
    nodes = torch.arange(length, device=alias_inputs.device)
    member = (alias_inputs[:, :, None] == nodes) & mask[:, :, None]
    edges = [member]
    for size in range(1, min(window, length - 1) + 1):
        inside = mask[:, size:, None]  # the window ends within the session
        edges.append((edges[-1][:, :-1] | member[:, size:]) & inside)
    return torch.cat(edges, dim=1)


class HypergraphAttention(nn.Module):
    """One step: nodes to hyperedges and back.

    Args:
        size: ``d``.
        transfer: whether ``W`` is learned.
        dropout: on both attentions.
    """

    def __init__(self, size: int, transfer: bool, dropout: float) -> None:
        super().__init__()
        self.key = nn.Linear(size, size, bias=False)
        self.value: nn.Module = nn.Linear(size, size, bias=False) if transfer else nn.Identity()
        self.edge_key = nn.Linear(size, size, bias=False)
        self.context = nn.Parameter(torch.empty(size))
        self.dropout = Dropout(dropout)

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """States ``(B, N, d)`` of nodes ``(B, N, d)`` under hyperedges ``(B, E, N)``; zero for nodes in no edge."""
        keys, root = self.key(nodes), math.sqrt(nodes.shape[2])
        near = (keys @ self.context / root)[:, None].expand(-1, edges.shape[1], -1)
        hyper = self.dropout(_softmax(near, edges)) @ self.value(nodes)
        back = keys @ self.edge_key(hyper).transpose(1, 2) / root
        states: torch.Tensor = self.dropout(_softmax(back, edges.transpose(1, 2))) @ hyper
        return states


def _softmax(scores: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Softmax over the allowed entries of the last dimension; zero where none is allowed."""
    return scores.masked_fill(~allowed, -1e9).softmax(dim=-1) * allowed


class Second(nn.Module):
    """The second half of ``[m ; s]``.

    A last layer that replaces it reads both halves and has a bias (LLM-DMsRec: ``W3 [m ; s ; x' ; y'] + b3``).
    """

    bias = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.in_features = 2 * size

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """``s`` ``(B, d)``."""
        return vectors[:, self.in_features // 2 :]


class SHARE(SessionModel):
    """Hypergraph attention over windows of a session, then self-attention.

    Settings: ``embedding_size`` ``d``, ``step`` (1 or 2), ``window``, ``dropout_prob``.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = SHARESettings.of(config)
        size, dropout = settings.embedding_size, settings.dropout_prob
        self.window = settings.window
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.steps = nn.ModuleList(HypergraphAttention(size, number > 0, dropout) for number in range(settings.step))
        self.query, self.key, self.value, self.joined = (nn.Linear(size, size, bias=False) for _ in range(4))
        self.inner, self.outer = nn.Linear(size, size), nn.Linear(size, size)
        self.dropout = Dropout(dropout)
        self.readout = Second(size)
        bound = 1.0 / math.sqrt(size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        self.norm_query, self.norm_inner, self.norm_last = (nn.LayerNorm(size, eps=1e-6) for _ in range(3))
        with torch.no_grad():
            self.item_embedding.weight[0].zero_()

    def _vectors(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        alias_inputs, _, items, mask = session_edges(item_seq)
        edges = window_edges(alias_inputs, mask, self.window)
        first = nodes = self.item_embedding(items)
        for step in self.steps:
            nodes = self.dropout(step(nodes, edges)) + first
        states = nodes.gather(1, alias_inputs[:, :, None].expand(-1, -1, nodes.shape[2]))
        last = self.gather_indexes(states, item_seq_len - 1)
        query = self.query(self.norm_query(last))[:, None]
        near = (query @ self.key(states).transpose(1, 2))[:, 0] / math.sqrt(states.shape[2])
        share = self.dropout(_softmax(near, mask))[:, None]
        last = last + self.dropout(self.joined((share @ self.value(states))[:, 0]))
        last = last + self.dropout(self.outer(torch.relu(self.inner(self.norm_inner(last)))))
        return torch.cat([last, self.norm_last(last)], dim=1)

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> Session:
        """``[m ; s]``."""
        return Session(by_length(self._vectors, item_seq, item_seq_len))
