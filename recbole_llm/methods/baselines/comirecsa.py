"""ComiRec-SA: Controllable Multi-Interest Framework for Recommendation (KDD 2020, arXiv 2005.09347).

Interests by self-attention (section 3.1, equations 6 and 7):

     A = softmax_L(W2 tanh(W1 (X + P))),  V = A X

``X`` item vectors of the history, ``P`` positions; values are taken without positions, as released.
"""

from __future__ import annotations

from typing import Any

import torch

from recbole_llm.layers.capsule import SelfAttentiveInterests
from recbole_llm.methods.baselines.multi_interest import MultiInterestRecommender


class ComiRecSA(MultiInterestRecommender):
    """Self-attentive interests."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.attention = SelfAttentiveInterests(self.size, self.n_interests, self.max_seq_length)
        self.reset_parameters()

    def interests(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``(B, K, d)`` attended histories."""
        interests, _ = self.attention(*self.embedded(item_seq))
        return interests
