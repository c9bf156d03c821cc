"""ComiRec-DR: Controllable Multi-Interest Framework for Recommendation (KDD 2020, arXiv 2005.09347).

Interests by dynamic routing (section 3.1):

     u_{k,l} = W_{k,l} e_l,  three rounds of routing over the history,  v_k = squash(sum_l c_{k,l} u_{k,l})

Deviates from the release in: padding is left out before the softmax over the history (``mask_first: False`` has
it after); the aggregation for diversity (lambda) is not part of a ranking by score.
"""

from __future__ import annotations

from typing import Any

import torch

from recbole_llm.layers.capsule import CapsuleRouting
from recbole_llm.methods.baselines.multi_interest import MultiInterestRecommender


class ComiRecDR(MultiInterestRecommender):
    """Capsules by dynamic routing.

    Settings: ``routing_rounds``, ``routing_transform`` (``position``: as released; ``interest``; ``shared``, which
    starts from random logits as MIND does), ``mask_first``.
    """

    random_logits = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        mask_first = bool(config["mask_first"])
        self.reads_past_length = not mask_first
        self.routing = CapsuleRouting(
            self.size,
            self.n_interests,
            self.max_seq_length,
            str(config["routing_transform"]),
            int(config["routing_rounds"]),
            # One map for all and equal logits would keep all interests equal.
            self.random_logits or config["routing_transform"] == "shared",
            mask_first,
        )
        self.reset_parameters()

    def interests(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``(B, K, d)`` capsules."""
        return self.routing(*self.embedded(item_seq))
