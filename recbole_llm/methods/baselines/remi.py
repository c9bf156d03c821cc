"""REMI: Rethinking Multi-Interest Learning for Candidate Matching (RecSys 2023, arXiv 2302.14532).

ComiRec-SA with two additions: hard negatives weigh more in a sampled softmax (equation 7, only with ``n_sampled``),
and routing regularisation keeps an interest from collapsing on one item (equation 9):

     L = L_rec + lambda L_RR,   L_RR = sum_b || diag(C_b) ||^2,   C = (A - mean(A)) (A - mean(A))^T / d

Deviates from the release in: the release sums over batches of 128; here the sum is 128 times the mean over the batch,
so that lambda means the same for batches of any size; padding has no part in ``mean(A)``.
"""

from __future__ import annotations

from typing import Any

import torch

from recbole_llm.layers.capsule import routing_regulariser
from recbole_llm.methods.baselines.comirec import ComiRecSA
from recbole_llm.methods.baselines.settings import REMISettings

RELEASED_BATCH = 128  # batch size for which lambda = 100 was chosen


class REMI(ComiRecSA):
    """Self-attentive interests with routing regularisation.

    Settings besides ComiRecSA's: ``routing_weight`` (lambda; 0 gives ComiRecSA).
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = REMISettings.of(config)
        self.routing_weight = settings.routing_weight

    def losses(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss, the interest read out ``(B, d)`` and the target vectors ``(B, d)``."""
        target = interaction[self.POS_ITEM_ID]
        interests, attention = self.attention(*self.embedded(interaction[self.ITEM_SEQ]))
        target_vector = self.item_embedding(target)
        user = self.readout(interests, target_vector)
        loss = self.recommendation_loss(user, target)
        if self.routing_weight:
            lengths = interaction[self.ITEM_SEQ_LEN]
            spread = routing_regulariser(attention, lengths, self.size)
            loss = loss + self.routing_weight * RELEASED_BATCH * spread
        return loss, user, target_vector
