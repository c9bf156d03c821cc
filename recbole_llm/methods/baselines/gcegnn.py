"""GCE-GNN: Global Context Enhanced Graph Neural Networks for Session-based Recommendation.

SIGIR 2020, arXiv 2106.05081. Items are seen in two graphs, one of the session and one of all training sessions.
Symbols: ``h`` item embeddings, ``s`` their mean over the session, ``||`` concatenation, ``N^g`` the ``n_neighbours``
heaviest neighbours on the global graph with weights ``w`` (:func:`nearby_items`). In the paper's order:

Global level, ``n_hops`` times:

     pi(i, j) = q_1^T LeakyReLU(W_1 [(s * h_j) || w_ij]),  softmax over N^g(i)
     h_N(i)   = sum_j pi(i, j) h_j,  h^g_i = ReLU(W_2 [h_i || h_N(i)])

Session level, over the session graph with self-loops; ``r`` is self, in, out or in-out:

     e_ij = LeakyReLU(a_r(i,j)^T (h_i * h_j)),  alpha = softmax over N^s(i),  h^s_i = sum_j alpha_ij h_j

Session vector, for a session of ``l`` positions; ``p`` are reversed position embeddings:

     h'_i = Dropout(h^g_i) + h^s_i
     z_i  = tanh(W_3 [h'_i || p_(l-i+1)] + b_3),  s' = 1/l sum_i h'_i
     beta_i = q_2^T sigmoid(W_4 z_i + W_5 s' + b_4),  S = sum_i beta_i h'_i
     score = S^T h,  L = CE

Deviates from the paper in: the global graph also counts a session's own transitions, as in the released code (the paper
leaves them out, which would need a graph for each session). Deviates from the released code in: an item has exactly its
heaviest neighbours, with padding masked (the release draws them with repetition); relations are as the paper defines
them, in whatever order a session walks its edges.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import nn

from recbole_llm.layers.bucketing import by_length
from recbole_llm.layers.dropout import Dropout
from recbole_llm.layers.session_graph import N_RELATIONS, edge_relations, session_edges
from recbole_llm.methods.baselines.session import Session, SessionModel
from recbole_llm.methods.baselines.settings import GCEGNNSettings


class GlobalAggregator(nn.Module):
    """One hop on the global graph: ``pi``, ``h_N`` and ``h^g`` of the module's docstring.

    Args:
        size: ``d``.
        slope: of LeakyReLU below zero.
        dropout: on ``[h || h_N]``.
    """

    def __init__(self, size: int, slope: float, dropout: float) -> None:
        super().__init__()
        self.slope = slope
        self.w_1 = nn.Linear(size + 1, size, bias=False)
        self.q_1 = nn.Linear(size, 1, bias=False)
        self.w_2 = nn.Linear(2 * size, size, bias=False)
        self.dropout = Dropout(dropout)

    def forward(
        self, own: torch.Tensor, near: torch.Tensor, weights: torch.Tensor, session: torch.Tensor
    ) -> torch.Tensor:
        """``(B, n, d)``.

        Args:
            own: ``(B, n, d)`` vectors of items.
            near: ``(B, n, m, d)`` vectors of their neighbours.
            weights: ``(B, n, m)``, 0 where there is no neighbour.
            session: ``(B, d)``, s.
        """
        batch, count, width, size = near.shape
        # W_1 [(s * h_j) || w_ij] with s folded into W_1, so neither the product nor the concatenation is made.
        of_session = self.w_1.weight[:, :size] * session[:, None]
        of_weights = weights.reshape(batch, -1, 1) * self.w_1.weight[:, size]
        alike = torch.baddbmm(of_weights, near.view(batch, -1, size), of_session.transpose(1, 2))
        energy = self.q_1(F.leaky_relu(alike, self.slope, inplace=True)).view(batch, count, width)
        # Items without any neighbour: a softmax of equal numbers, then zero.
        share = energy.masked_fill(weights == 0, -1e9).softmax(dim=2) * (weights > 0)
        mean = share.view(-1, 1, width) @ near.view(-1, width, size)
        joined = torch.cat([own, mean.view(batch, count, size)], dim=2)
        return torch.relu(self.w_2(self.dropout(joined)))


class GCEGNN(SessionModel):
    """Session graph and global graph.

    Settings: ``embedding_size`` ``d``, ``epsilon`` (largest distance of neighbours), ``n_neighbours`` of an item,
    ``n_hops`` on the global graph, ``leaky_slope``, ``dropout_gcn`` (on ``[h || h_N]``), ``dropout_local`` (on
    ``h^s``), ``dropout_global`` (on ``h^g``).

    The global graph is made from training interactions only and is not part of a checkpoint.
    """

    neighbours: torch.Tensor
    weights: torch.Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = GCEGNNSettings.of(config)
        size = settings.embedding_size
        self.slope = settings.leaky_slope
        table, rows = dataset.table, np.asarray(dataset.split.train_rows)
        owner, items = np.asarray(table.user), np.asarray(table.item)
        graph = nearby_items(owner, items, rows, self.n_items, settings.epsilon, settings.n_neighbours)
        for name, values in zip(("neighbours", "weights"), graph, strict=True):
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.position_embedding = nn.Embedding(int(config["MAX_ITEM_LIST_LENGTH"]), size)
        self.hops = nn.ModuleList(
            GlobalAggregator(size, self.slope, settings.dropout_gcn) for _ in range(settings.n_hops)
        )
        self.relation = nn.Parameter(torch.empty(N_RELATIONS, size))
        self.dropout_local = Dropout(settings.dropout_local)
        self.dropout_global = Dropout(settings.dropout_global)
        self.w_3 = nn.Linear(2 * size, size)
        self.w_4 = nn.Linear(size, size)
        self.w_5 = nn.Linear(size, size, bias=False)
        self.q_2 = nn.Linear(size, 1, bias=False)
        self.readout = nn.Identity()
        bound = 1.0 / math.sqrt(size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        with torch.no_grad():
            self.item_embedding.weight[0].zero_()

    def global_level(self, items: torch.Tensor, session: torch.Tensor, hops: int) -> torch.Tensor:
        """``h^g`` ``(B, n, d)`` of items ``(B, n)`` after ``hops`` hops, given the session's mean ``(B, d)``."""
        if hops == 0:
            return self.item_embedding(items)
        near = self.neighbours[items]
        batch, count, width = near.shape
        own = self.global_level(items, session, hops - 1)
        vectors = self.global_level(near.view(batch, count * width), session, hops - 1)
        return self.hops[hops - 1](own, vectors.view(batch, count, width, -1), self.weights[items], session)

    def session_level(self, vectors: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """``h^s`` ``(B, n, d)`` of nodes ``(B, n, d)`` and their edges ``(B, n, n)``."""
        relations = edge_relations(edges)
        batch, count, size = vectors.shape
        asking = (vectors[:, :, None] * self.relation).view(batch, -1, size)
        energy = (asking @ vectors.transpose(1, 2)).view(batch, count, N_RELATIONS, count)
        chosen = energy.gather(2, (relations - 1).clamp(min=0)[:, :, None])[:, :, 0]
        share = F.leaky_relu(chosen, self.slope).masked_fill(relations == 0, -torch.inf).softmax(dim=2)
        return share @ vectors

    def _session_vectors(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        alias_inputs, edges, items, mask = session_edges(item_seq)
        real = mask[:, :, None]
        mean = (self.item_embedding(item_seq) * real).sum(dim=1) / item_seq_len[:, None]
        far = self.dropout_global(self.global_level(items, mean, len(self.hops)))
        near = self.dropout_local(self.session_level(self.item_embedding(items), edges))
        nodes = far + near
        places = nodes.gather(1, alias_inputs[:, :, None].expand(-1, -1, nodes.shape[2])) * real
        # Reversed: the last item has position 0 at any length.
        back = item_seq_len[:, None] - 1 - torch.arange(item_seq.shape[1], device=item_seq.device)
        position = self.position_embedding(back.clamp(min=0))
        z = torch.tanh(self.w_3(torch.cat([places, position], dim=2)))
        whole = places.sum(dim=1) / item_seq_len[:, None]
        beta = self.q_2(torch.sigmoid(self.w_4(z) + self.w_5(whole)[:, None]))
        return (beta * places).sum(dim=1)

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> Session:
        """``S`` ``(B, d)``."""
        return Session(by_length(self._session_vectors, item_seq, item_seq_len))


def nearby_items(
    owner: np.ndarray, items: np.ndarray, rows: np.ndarray, n_items: int, epsilon: int, n_neighbours: int
) -> tuple[np.ndarray, np.ndarray]:
    """The items that are most often near each item, over all training sessions.

    Two positions of a session at most ``epsilon`` apart make their items neighbours of one another; the weight of an
    edge is how often that happens (GCE-GNN, SIGIR 2020, section 3.2). Among equal weights a hash of the item decides
    which neighbours are kept, not its id.

    Args:
        owner: ``(n,)`` session of each interaction; a session's interactions are consecutive, in order.
        items: ``(n,)`` item ids.
        rows: the interactions that are counted, each with those before it.
        n_items: number of ids, padding included.
        epsilon: largest distance of two neighbours.
        n_neighbours: neighbours that an item keeps.

    Returns:
        ``(n_items, n_neighbours)`` int64 ids, the heaviest first, 0 where there are fewer;
        ``(n_items, n_neighbours)`` float32 weights.
    """
    items = items.astype(np.int64)
    ends = []
    for distance in range(1, epsilon + 1):
        later = rows[rows >= distance]
        later = later[owner[later] == owner[later - distance]]
        ends.append(np.stack([items[later - distance], items[later]]))
    first, second = np.concatenate(ends, axis=1) if ends else np.zeros((2, 0), dtype=np.int64)
    row, column = np.concatenate([first, second]), np.concatenate([second, first])
    counts = sp.coo_matrix((np.ones(len(row)), (row, column)), shape=(n_items, n_items)).tocsr().tocoo()
    mixed = counts.col.astype(np.int64) * 2654435761 % (1 << 32)  # Knuth's multiplicative hash
    order = np.lexsort((mixed, -counts.data, counts.row))
    row, column, weight = counts.row[order], counts.col[order], counts.data[order]
    place = np.arange(len(row)) - np.searchsorted(row, row, side="left")
    kept = place < n_neighbours
    neighbours = np.zeros((n_items, n_neighbours), dtype=np.int64)
    weights = np.zeros((n_items, n_neighbours), dtype=np.float32)
    neighbours[row[kept], place[kept]] = column[kept]
    weights[row[kept], place[kept]] = weight[kept]
    return neighbours, weights
