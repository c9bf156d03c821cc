"""ComiRec: Controllable Multi-Interest Framework for Recommendation (KDD 2020, arXiv 2005.09347).

A user is represented by ``K`` interest vectors ``V``. In training the interest nearest to the target is read out; in
serving an item's score is the maximum over the interests.

ComiRec-DR, interests by dynamic routing (section 3.1):

     u_{k,l} = W_{k,l} e_l,  three rounds of routing over the history,  v_k = squash(sum_l c_{k,l} u_{k,l})

ComiRec-SA, interests by self-attention (section 3.1, equations 6 and 7):

     A = softmax_L(W2 tanh(W1 (X + P))),  V = A X

with ``X`` item vectors of the history and ``P`` positions; values are taken without positions, as released.

Deviates from the release in: padding is masked before the softmax over the history (``mask_first: False`` masks it
after); the aggregation for diversity (lambda) is left out, since items are ranked by score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_llm.layers.bucketing import by_length
from recbole_llm.layers.capsule import CapsuleRouting, SelfAttentiveInterests
from recbole_llm.layers.cross_entropy import linear_cross_entropy
from recbole_llm.methods.baselines.settings import CapsuleSettings, MultiInterestSettings


class MultiInterestRecommender(SequentialRecommender):
    """A sequential model that represents a user by several vectors.

    Subclasses give ``interests(item_seq, item_seq_len) -> (B, K, d)`` and may add losses.

    Settings: ``embedding_size`` ``d``, ``n_interests`` ``K``, ``n_sampled`` negatives of a sampled softmax
    (0: softmax over all items), ``hard_negative_beta`` (REMI's weight of hard sampled negatives).
    """

    reads_past_length = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = MultiInterestSettings.of(config)
        self.size = settings.embedding_size
        self.n_interests = settings.n_interests
        self.n_sampled = settings.n_sampled
        self.hard_negative_beta = settings.hard_negative_beta
        self.item_embedding = nn.Embedding(self.n_items, self.size, padding_idx=0)

    def reset_parameters(self) -> None:
        """Initialise every parameter uniformly in ``+-1/sqrt(d)``, as ComiRec and REMI do; item row 0 stays zero."""
        bound = 1.0 / math.sqrt(self.size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        with torch.no_grad():
            self.item_embedding.weight[0].zero_()

    def interests(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``(B, K, d)`` interests of a batch of histories."""
        raise NotImplementedError

    def embedded(self, item_seq: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Item vectors ``(B, L, d)``, zero at padding, and the mask ``(B, L)``."""
        mask = item_seq > 0
        return self.item_embedding(item_seq) * mask[:, :, None], mask

    @staticmethod
    def readout(interests: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The interest nearest to the target, ``(B, d)``: ``V_{argmax_k V_k . e_t}``.

        Args:
            interests: ``(B, K, d)``.
            target: ``(B, d)`` target vectors.
        """
        best = torch.einsum("bkd,bd->bk", interests, target).argmax(dim=1)
        return interests[torch.arange(len(best), device=best.device), best]

    def recommendation_loss(self, user: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Softmax over all items, or over the target and ``n_sampled`` uniform negatives.

        Args:
            user: ``(B, d)``.
            target: ``(B,)`` item ids.
        """
        weight = self.item_embedding.weight
        if not self.n_sampled:
            return linear_cross_entropy(user, weight, target)
        negatives = torch.randint(1, self.n_items, (self.n_sampled,), device=user.device)
        positive = (user * weight[target]).sum(dim=1, keepdim=True)
        others = user @ weight[negatives].T
        others = others.masked_fill(negatives[None, :] == target[:, None], -torch.inf)
        if self.hard_negative_beta:
            # Interest-aware hard negatives (REMI, equation 7): weights exp(beta * score), scaled to mean one.
            share = (self.hard_negative_beta * others).softmax(dim=1).detach()
            share = share.nan_to_num()  # a row whose negatives are all its target
            others = others + torch.log(share * self.n_sampled + 1e-12)
        logits = torch.cat([positive, others], dim=1)
        return F.cross_entropy(logits, torch.zeros(len(user), dtype=torch.int64, device=user.device))

    def losses(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss, the interest read out ``(B, d)`` and the target vectors ``(B, d)``."""
        target = interaction[self.POS_ITEM_ID]
        target_vector = self.item_embedding(target)
        interests = self.interests(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        user = self.readout(interests, target_vector)
        return self.recommendation_loss(user, target), user, target_vector

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The loss of a batch."""
        return self.losses(interaction)[0]

    def serving_interests(self, interaction: Any) -> torch.Tensor:
        """The interests that score items, ``(B, K, d)``."""
        return self.interests(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        items = self.item_embedding(interaction[self.ITEM_ID])
        return torch.einsum("bkd,bd->bk", self.serving_interests(interaction), items).amax(dim=1)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, n_items)``: the maximum over interests, one interest at a time to hold only two score matrices."""
        interests = self.serving_interests(interaction)
        items = self.item_embedding.weight.T
        scores = interests[:, 0] @ items
        for number in range(1, interests.shape[1]):
            torch.maximum(scores, interests[:, number] @ items, out=scores)
        return scores


class ComiRecDR(MultiInterestRecommender):
    """Capsules by dynamic routing.

    Settings: ``routing_rounds``, ``routing_transform`` (``position``: as released; ``interest``; ``shared``, which
    starts from random logits as MIND does), ``mask_first``, ``interest_scale`` (1 as released; the products of vectors
    shorter than 1 keep the softmax flat, so it learns slowly).
    """

    random_logits = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = CapsuleSettings.of(config)
        mask_first = settings.mask_first
        self.interest_scale = settings.interest_scale
        self.reads_past_length = not mask_first
        self.routing = CapsuleRouting(
            self.size,
            self.n_interests,
            self.max_seq_length,
            settings.routing_transform,
            settings.routing_rounds,
            # With one shared map and equal logits, all interests would stay equal.
            self.random_logits or settings.routing_transform == "shared",
            mask_first,
        )
        self.reset_parameters()

    def interests(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``(B, K, d)`` capsules."""
        return self._by_length(self.capsules, item_seq, item_seq_len)

    def capsules(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``(B, K, d)`` capsules from routing, none longer than ``interest_scale``."""
        capsules: torch.Tensor = self.routing(*self.embedded(item_seq)) * self.interest_scale
        return capsules

    def _by_length(
        self,
        encode: Callable[..., torch.Tensor],
        item_seq: torch.Tensor,
        item_seq_len: torch.Tensor,
        *others: torch.Tensor,
    ) -> torch.Tensor:
        """``encode`` in groups of similar length, or at once if routing reads the padding (``mask_first: False``)."""
        if self.reads_past_length:
            return encode(item_seq, item_seq_len, *others)
        return by_length(encode, item_seq, item_seq_len, *others)


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
