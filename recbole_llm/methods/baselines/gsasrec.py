"""gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative Sampling.

RecSys 2023, arXiv 2308.07192. SASRec (ICDM 2018, arXiv 1808.09781) trained at every position by gBCE with many
negatives. With item vectors ``E``, position embeddings ``P``, causal attention ``SA`` and
``g'(x) = x + Dropout(g(LN(x)))`` around each part ``g`` (SASRec, section III-C):

     X = Dropout(E + P)
     X <- SA'(X),  X <- FF'(X),  FF(x) = ReLU(x W_1 + b_1) W_2 + b_2          ``n_layers`` times
     s_i = LN(x_n) . e_i
     L = -1/(n + 1) [log sigmoid(s_t)^beta + sum_j log(1 - sigmoid(s_j))]     ``n`` negatives ``j``
     beta = alpha (t (1 - 1 / alpha) + 1 / alpha),  alpha = n / (N - 1)       ``t`` the calibration

The loss is ``gbce`` of ``layers/next_item.py``; ``t = 0`` gives SASRec's own loss.

Deviates from the paper in: negatives are drawn once for a batch unless ``shared_negatives: False``, and may be items of
the user's history. Deviates from the release in: input and output items have the same vectors, as in the papers. Not
known for sure: whether FF is wider than ``d`` (not here).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recbole_llm.layers.causal_attention import SelfAttention
from recbole_llm.layers.dropout import Dropout
from recbole_llm.methods.baselines.sequence import SequenceModel
from recbole_llm.methods.baselines.settings import GSASRecSettings


class gSASRec(SequenceModel):  # noqa: N801 - the paper's spelling
    """Pre-norm SASRec, trained by gBCE."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = GSASRecSettings.of(config)
        self.dropout = Dropout(settings.hidden_dropout_prob)
        parts: list[nn.Module] = []
        for _ in range(settings.n_layers):
            parts.append(SelfAttention(self.size, settings.n_heads, settings.attn_dropout_prob))
            inner = nn.Linear(self.size, self.size), nn.ReLU(), Dropout(settings.hidden_dropout_prob)
            parts.append(nn.Sequential(*inner, nn.Linear(self.size, self.size)))
        self.parts = nn.ModuleList(parts)
        self.norms = nn.ModuleList(nn.LayerNorm(self.size) for _ in parts)
        self.norm = nn.LayerNorm(self.size)
        self.reset_parameters(settings.initializer_range)

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor, *columns: torch.Tensor) -> torch.Tensor:
        """``LN(X)``, ``(B, L, d)``."""
        x = self.dropout(self.embedded(item_seq))
        for norm, part in zip(self.norms, self.parts, strict=True):
            x = x + self.dropout(part(norm(x)))
        return self.norm(x)
