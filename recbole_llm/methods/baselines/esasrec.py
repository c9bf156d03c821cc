"""eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion (RecSys 2025, arXiv 2508.06450).

SASRec's training at every position, LiGR's gated blocks (arXiv 2502.03417) and a sampled softmax. For a history with
item vectors ``E``, with position embeddings ``P`` and ``*`` element-wise:

     X = Dropout(E + P)
     X <- X + sigmoid(X G_1 + c_1) * Dropout(MHA(LN(X)))          causal, each of ``n_layers`` times
     X <- X + sigmoid(X G_2 + c_2) * Dropout(FF(LN(X)))
     FF(x) = (SiLU(x W_1) * x W_2) W_3                            SwiGLU
     score_i = LN(x_n) . e_i,  L = sampled softmax over ``n_negatives`` uniform negatives

Deviates from the paper in: negatives are drawn once for a batch unless ``shared_negatives: False`` (one draw for each
position in the release); histories are left-aligned and positions are counted from the first item. Not known for sure:
the width of FF (4 d here), biases in it (none here), and whether a layer norm precedes the scores (here it does).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_llm.layers.causal_attention import SelfAttention
from recbole_llm.layers.dropout import Dropout
from recbole_llm.methods.baselines.sequence import SequenceModel
from recbole_llm.methods.baselines.settings import ESASRecSettings


class SwiGLU(nn.Module):
    """``FF``.

    Args:
        size: ``d``.
        inner: width of the hidden layer.
    """

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(size, inner, bias=False), nn.Linear(size, inner, bias=False)
        self.down = nn.Linear(inner, size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., d)`` to ``(..., d)``."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GatedBlock(nn.Module):
    """One block of LiGR: attention and FF behind layer norms, each scaled by a gate that reads the part's input.

    Args:
        size: ``d``.
        inner: width of FF.
        heads: of attention.
        dropout, attn_dropout: of each part's output, and of attention weights.
    """

    def __init__(self, size: int, inner: int, heads: int, dropout: float, attn_dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(size, size) for _ in range(2))
        self.parts = nn.ModuleList([SelfAttention(size, heads, attn_dropout), SwiGLU(size, inner)])
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, L, d)`` to ``(B, L, d)``."""
        for norm, gate, part in zip(self.norms, self.gates, self.parts, strict=True):
            x = x + torch.sigmoid(gate(x)) * self.dropout(part(norm(x)))
        return x


class eSASRec(SequenceModel):  # noqa: N801 - the paper's spelling
    """SASRec with gated blocks."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = ESASRecSettings.of(config)
        dropouts = settings.hidden_dropout_prob, settings.attn_dropout_prob
        self.dropout = Dropout(settings.hidden_dropout_prob)
        self.blocks = nn.ModuleList(
            GatedBlock(self.size, settings.inner_size, settings.n_heads, *dropouts) for _ in range(settings.n_layers)
        )
        self.norm = nn.LayerNorm(self.size)
        self.reset_parameters(settings.initializer_range)

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor, *columns: torch.Tensor) -> torch.Tensor:
        """``LN(X)``, ``(B, L, d)``."""
        x = self.dropout(self.embedded(item_seq))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
