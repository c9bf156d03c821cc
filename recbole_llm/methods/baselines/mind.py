"""MIND: Multi-Interest Network with Dynamic Routing for Recommendation at Tmall (CIKM 2019, arXiv 1904.08030).

Behaviour-to-interest routing with one bilinear map ``S`` for all interests and random first logits (section 4.2); two
linear layers ``H`` with ReLU between on each capsule (section 4.3); label-aware attention in training (section 4.4):

     u_l = S e_l,  b ~ N(0, 1),  v_k by routing,  V_k = H(v_k)
     user = sum_k softmax_k((V_k . e_t)^p) V_k

Deviates from the paper in: no user profile enters ``H`` (the datasets have none); every user has ``K`` interests unless
``adaptive_interests`` (equation 9: ``max(1, min(K, log2 n))``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recbole_llm.methods.baselines.comirec import ComiRecDR
from recbole_llm.methods.baselines.settings import MINDSettings


class MIND(ComiRecDR):
    """Capsules with shared routing and label-aware attention.

    Settings besides ComiRecDR's: ``relu_layers``, ``label_power`` (``p``; 0 picks the nearest interest),
    ``adaptive_interests``.
    """

    random_logits = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = MINDSettings.of(config)
        self.label_power = settings.label_power
        self.adaptive = settings.adaptive_interests
        self.project: nn.Module = nn.Identity()
        if settings.relu_layers:
            self.project = nn.Sequential(
                nn.Linear(self.size, 4 * self.size), nn.ReLU(), nn.Linear(4 * self.size, self.size)
            )
        self.reset_parameters()

    def interests(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``(B, K, d)``; with ``adaptive_interests`` the surplus ones repeat the first."""
        interests = self.project(super().interests(item_seq, item_seq_len))
        if self.adaptive:
            allowed = torch.log2(item_seq_len.float()).long().clamp(min=1, max=self.n_interests)
            number = torch.arange(self.n_interests, device=interests.device)
            keep = (number < allowed[:, None])[:, :, None]
            interests = torch.where(keep, interests, interests[:, :1])
        return interests

    def readout(self, interests: torch.Tensor, target: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Label-aware attention, ``(B, d)``."""
        if not self.label_power:
            return super().readout(interests, target)
        nearness = torch.einsum("bkd,bd->bk", interests, target)
        signed = nearness.sign() * nearness.abs().pow(self.label_power)
        if self.adaptive:  # the first interest has one vote, not one for each copy
            copies = (interests == interests[:, :1]).all(dim=2)
            copies[:, 0] = False
            signed = signed.masked_fill(copies, -torch.inf)
        return torch.einsum("bk,bkd->bd", signed.softmax(dim=1), interests)
