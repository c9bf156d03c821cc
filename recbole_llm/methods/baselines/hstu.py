"""HSTU: Actions Speak Louder than Words, Hierarchical Sequential Transduction Units (ICML 2024, arXiv 2402.17152).

Pointwise aggregated attention: there is no softmax over the history, so a state can tell how strong a preference is.
With item vectors ``E``, position embeddings ``P`` and times ``t`` of the history, ``phi`` SiLU, ``n_layers`` times:

     X = Dropout(sqrt(d) E + P)
     U, V, Q, K = Split(phi(LN(X) W_1 + b_1))                                       equation 1
     A_ij = phi(q_i . k_j + rab_ij) / L  for j <= i, else 0                         equation 2
     rab_ij = p_(i-j) + w_b(t_i - t_j),  b(x) = floor(ln(max(1, x)) / 0.301)
     X <- X + Dropout(LN(A V) * U) W_2 + b_2                                        equation 3
     score_i = cos(x_n, e_i) / temperature,  L = sampled softmax

``L`` is ``MAX_ITEM_LIST_LENGTH`` whatever the history's length, as released. ``rab`` is shared by the heads of a layer.

Deviates from the release in: ``t_i`` is the time of the last item read; in the release it is the time of the item to
predict, which no other model in a table knows. Negatives are drawn once for a batch unless ``shared_negatives: False``.
Left out: ratings as input and stochastic length. Not known for sure: the initial deviation of the tables of ``rab``
(0.02 here).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_llm.errors import UserError
from recbole_llm.layers.causal_attention import heads_of
from recbole_llm.layers.dropout import Dropout
from recbole_llm.methods.baselines.sequence import SequenceModel
from recbole_llm.methods.baselines.settings import HSTUSettings

_BASE = 0.301  # of the logarithm of times, as released


def time_buckets(times: torch.Tensor, count: int) -> torch.Tensor:
    """``(B, L, L)`` int64 bucket of the time between each two positions.

    Args:
        times: ``(B, L)``.
        count: number of buckets; longer times fall into the last one.
    """
    apart = (times[:, :, None] - times[:, None, :]).abs().clamp(min=1)
    return (apart.double().log() / _BASE).long().clamp_(max=count - 1)


class HSTULayer(nn.Module):
    """Equations 1 to 3.

    Args:
        size: ``d``.
        heads: number of heads; ``d`` is divided among them.
        longest: ``L``.
        buckets: number of time buckets; 0 for no bias by time.
        by_place: whether there is a bias by relative position.
        dropout, attn_dropout: before ``W_2``, and of ``A``.
    """

    def __init__(
        self, size: int, heads: int, longest: int, buckets: int, by_place: bool, dropout: float, attn_dropout: float
    ) -> None:
        super().__init__()
        self.heads, self.longest = heads, longest
        self.norm, self.norm_seen = nn.LayerNorm(size), nn.LayerNorm(size)
        self.split, self.out = nn.Linear(size, 4 * size), nn.Linear(size, size)
        self.place = nn.Parameter(torch.randn(longest) * 0.02) if by_place else None
        self.time = nn.Parameter(torch.randn(buckets) * 0.02) if buckets else None
        self.dropout, self.attn_dropout = Dropout(dropout), Dropout(attn_dropout)

    def forward(self, x: torch.Tensor, buckets: torch.Tensor | None) -> torch.Tensor:
        """``(B, L, d)`` to ``(B, L, d)``, with the buckets ``(B, L, L)`` of times."""
        width = x.shape[1]
        u, v, q, k = F.silu(self.split(self.norm(x))).chunk(4, dim=2)
        scores = heads_of(q, self.heads) @ heads_of(k, self.heads).transpose(2, 3)
        place = torch.arange(width, device=x.device)
        back = place[:, None] - place
        if self.place is not None:
            scores = scores + self.place[back.clamp(min=0)]
        if self.time is not None and buckets is not None:
            scores = scores + self.time[buckets][:, None]
        weights = (F.silu(scores) / self.longest).masked_fill(back < 0, 0.0)
        seen = (self.attn_dropout(weights) @ heads_of(v, self.heads)).transpose(1, 2).reshape(x.shape)
        return x + self.out(self.dropout(self.norm_seen(seen) * u))


class HSTU(SequenceModel):
    """Pointwise aggregated attention with biases by relative position and time."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = HSTUSettings.of(config)
        self.temperature, self.n_buckets = settings.temperature, 0
        if settings.time_bias:
            if dataset.table.time is None:
                raise UserError(
                    "--model=HSTU reads times, which TIME_FIELD leaves out: name it, or give time_bias=False."
                )
            self.columns = (config["TIME_FIELD"] + config["LIST_SUFFIX"],)
            self.n_buckets = settings.time_buckets
        self.dropout = Dropout(settings.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            HSTULayer(
                self.size,
                settings.n_heads,
                self.max_seq_length,
                self.n_buckets,
                settings.position_bias,
                settings.hidden_dropout_prob,
                settings.attn_dropout_prob,
            )
            for _ in range(settings.n_layers)
        )
        self.reset_parameters(settings.initializer_range)

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor, *columns: torch.Tensor) -> torch.Tensor:
        """Normalised ``X``, divided by the temperature, ``(B, L, d)``."""
        place = torch.arange(item_seq.shape[1], device=item_seq.device)
        x = self.item_embedding(item_seq) * math.sqrt(self.size) + self.position_embedding(place)
        x = self.dropout(x)
        buckets = time_buckets(columns[0], self.n_buckets) if columns else None
        for layer in self.layers:
            x = layer(x, buckets)
        return F.normalize(x, dim=2) / self.temperature

    def item_vectors(self) -> torch.Tensor:
        """Normalised item vectors, ``(n_items, d)``."""
        return F.normalize(self.item_embedding.weight, dim=1)
