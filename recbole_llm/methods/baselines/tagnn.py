"""TAGNN: Target Attentive Graph Neural Networks for Session-based Recommendation (SIGIR 2020, arXiv 2005.02844).

SR-GNN whose session vector depends on the item that is scored. For a session of ``n`` items with the adjacency
matrix ``A_s`` of ``layers/session_graph.py`` and item vectors ``v``, in the paper's order:

     a   = A_s [v_1 ... v_n] H + b                                   a gated graph network over the session,
     z   = sigmoid(W_z a + U_z v),  r = sigmoid(W_r a + U_r v)       ``step`` times
     v~  = tanh(W_o a + U_o (r * v)),  v <- (1 - z) * v + z * v~
     beta_it  = softmax_i(v_t^T W v_i),  s_target^t = sum_i beta_it v_i           target ``t``, session item ``i``
     s_local  = v_n
     alpha_i  = softmax_i(q^T sigmoid(W_1 v_n + W_2 v_i + c)),  s_global = sum_i alpha_i v_i
     s_t = W_3 [s_global ; s_local] + b_3 + s_target^t,  score_t = s_t . v_t,  L = CE

``v_t`` are item embeddings, ``v_i`` states of the graph network; the sums run over the positions of the session, so a
repeated item counts as often as it occurs.

Deviates from the paper in: ``s_t`` is the sum above, as in the released code, which LLM-DMsRec builds on (the paper:
``s_t = W_3 [s_target ; s_local ; s_global]``). Deviates from the released code in: padding has no part in the two
softmaxes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from recbole.model.sequential_recommender.srgnn import GNN
from torch import nn

from recbole_llm.layers.bucketing import by_length, padded
from recbole_llm.layers.session_graph import session_graph
from recbole_llm.layers.target_attention import Attended, attended_cross_entropy, score_all, score_items
from recbole_llm.methods.baselines.session import Session, SessionModel
from recbole_llm.methods.baselines.settings import TAGNNSettings


class TAGNN(SessionModel):
    """Target attention over the states of a gated graph network.

    Settings: ``embedding_size`` ``d``, ``step`` of the graph network.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = TAGNNSettings.of(config)
        size = settings.embedding_size
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.gnn = GNN(size, settings.step)
        self.last = nn.Linear(size, size)
        self.each = nn.Linear(size, size)
        self.query = nn.Linear(size, 1, bias=False)
        self.readout = nn.Linear(2 * size, size)
        self.target = nn.Linear(size, size, bias=False)
        bound = 1.0 / math.sqrt(size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def states(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``(B, L, d)``, the state of each position after the graph network; zero at padding."""
        alias_inputs, adjacency, items, mask = session_graph(item_seq)
        vectors = self.item_embedding(items)
        nodes = self.gnn(adjacency.to(vectors.dtype), vectors)
        return nodes.gather(1, alias_inputs[:, :, None].expand(-1, -1, nodes.shape[2])) * mask[:, :, None]

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> Session:
        """``[s_global ; s_local]``, and the states that scores attend to."""
        states = by_length(padded(self.states, item_seq.shape[1]), item_seq, item_seq_len)
        attended = Attended(states, self.target(states), item_seq_len)
        local = self.gather_indexes(states, item_seq_len - 1)
        energy = self.query(torch.sigmoid(self.last(local)[:, None] + self.each(states)))
        alpha = energy.masked_fill(attended.padding()[:, :, None], -torch.inf).softmax(dim=1)
        return Session(torch.cat([(alpha * states).sum(dim=1), local], dim=1), attended)

    def loss(self, z: torch.Tensor, session: Session, target: torch.Tensor) -> torch.Tensor:
        """Softmax over the target-aware scores of all items."""
        assert session.attended is not None
        return attended_cross_entropy(z, session.attended, self.item_embedding.weight, target)

    def scores(self, z: torch.Tensor, session: Session) -> torch.Tensor:
        """``(B, N)`` target-aware scores of all items."""
        assert session.attended is not None
        return score_all(z, session.attended, self.item_embedding.weight)

    def score(self, z: torch.Tensor, session: Session, items: torch.Tensor) -> torch.Tensor:
        """``(B,)`` target-aware scores of one item each."""
        assert session.attended is not None
        return score_items(z, session.attended, self.item_embedding(items))
