"""EIMF: LLM-based Bi-level Multi-interest Learning Framework for Sequential Recommendation (arXiv 2411.09410).

Two modules (section 3):

IBIM, implicit behavioural interests: a multi-interest model over item ids (REMI unless ``backbone`` says otherwise)
gives ``V`` ``(K, d)``, the interest ``v`` read out for the target, and the recommendation loss.

ESIM, explicit semantic interests: users are clustered by the texts of their items (``.usercluster``), and an LLM names
the interests of each cluster's exemplar (``.exemplar``). With ``T`` ``(M, d_t)`` the vectors of the interests of the
user's cluster:

     T' = softmax(T W_q (T W_k)^T / sqrt(d_t)) T W_v            self-attention, padding masked
     r  = T'_{m*},  m* = argmax_m T'_m . t_target               target-aware readout
     s_text = r T_item^T                                        semantic prediction over all items

Alignment (tau 0.1), with r~ = W_r r, t~ = W_t t_target:

     L_align = 0.4 NCE(v, r~) + 0.4 NCE(e_t, t~) + 0.1 Cos(v, r~) + 0.1 Cos(e_t, t~)
     L = L_rec + 0.1 L_align + 0.1 CE(s_text, target) [+ 100 L_RR with REMI]

Serving uses IBIM alone, without texts or an LLM.

Deviates from the released code in: one fixed projection of the text vectors (``text_proj: random`` trains noise, as
released); padded interests are masked inside the attention and the readout; the semantic losses apply to every
IBIM (the release omits them for two); users without a cluster take no part in them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender import GRU4Rec, SASRec
from torch import nn

from recbole_llm.compat.fast import accelerated
from recbole_llm.layers.alignment import cosine_distance, cross_entropy_where, info_nce
from recbole_llm.layers.cross_entropy import linear_cross_entropy
from recbole_llm.layers.text_projection import ProjectedTexts
from recbole_llm.layers.waits import at_hand
from recbole_llm.methods.baselines.comirec import ComiRecDR, ComiRecSA, MultiInterestRecommender
from recbole_llm.methods.baselines.mind import MIND
from recbole_llm.methods.baselines.remi import REMI
from recbole_llm.methods.eimf.settings import EIMFSettings

IBIMS: dict[str, Any] = {
    "REMI": REMI,
    "ComiRecSA": ComiRecSA,
    "ComiRecDR": ComiRecDR,
    "MIND": MIND,
    "SASRec": SASRec,
    "GRU4Rec": GRU4Rec,
}


class ESIM(nn.Module):
    """The explicit semantic module; used in training only.

    Args:
        vectors: ``(n_texts, d_enc)`` frozen text vectors.
        item_text: ``(n_items,)`` int64 text id of each item's title; -1 for padding and unnamed items.
        user_offsets, user_texts: text ids of the interests of each user's cluster, in compressed rows.
        text_size: ``d_t``.
        item_size: ``d``.
        max_interests: ``M``, most interests kept of a cluster.
        projection, trainable: see :class:`~recbole_llm.layers.text_projection.ProjectedTexts`.
    """

    interests: torch.Tensor
    cluster: torch.Tensor
    item_text: torch.Tensor

    def __init__(
        self,
        vectors: torch.Tensor,
        item_text: torch.Tensor,
        user_offsets: torch.Tensor,
        user_texts: torch.Tensor,
        text_size: int,
        item_size: int,
        max_interests: int,
        projection: str,
        trainable: bool,
    ) -> None:
        super().__init__()
        self.texts = ProjectedTexts(vectors, text_size, projection, trainable)
        size = self.texts.size
        counts = user_offsets.diff().clamp(max=max_interests)
        table = torch.full((len(counts), max(1, int(counts.max()))), -1)
        place = torch.arange(table.shape[1])
        kept = place < counts[:, None]
        table[kept] = user_texts[(user_offsets[:-1, None] + place)[kept]]
        interests, cluster = table.unique(dim=0, return_inverse=True)
        self.knows_all = bool((counts[1:] > 0).all())  # row 0 is the padding user
        self.register_buffer("interests", interests, persistent=False)  # of each cluster
        self.register_buffer("cluster", cluster, persistent=False)  # of each user
        self.register_buffer("item_text", item_text, persistent=False)
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.to_user, self.to_item = nn.Linear(size, item_size), nn.Linear(size, item_size)

    def item_vectors(self) -> torch.Tensor:
        """``T_item`` ``(n_items, d_t)``; zero for items without a title."""
        found = self.texts(self.item_text.clamp(min=0))
        return found * (self.item_text >= 0)[:, None]

    def readout(self, user: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``r`` ``(B, d_t)`` for the targets' text vectors ``(B, d_t)``, and ``(B,)`` bool: who has interests."""
        # Users of a cluster share its interests and clusters are usually few, so each cluster attends once.
        place, lists = self.cluster[user], self.interests
        if len(lists) > len(user):
            place, lists = torch.arange(len(user), device=user.device), lists[place]
        attended, visible, known = self._attended(lists)
        with torch.no_grad():
            nearness = torch.einsum("bmd,bd->bm", attended[place], target).masked_fill(~visible[place], -torch.inf)
        best = place * lists.shape[1] + nearness.argmax(dim=1)
        return F.embedding(best, attended.flatten(0, 1)), known[place]

    def _attended(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Self-attention within lists of interests ``(n, M)``, -1 padded.

        Returns ``T'`` ``(n, M, d_t)``, ``(n, M)`` bool: which interests are real, and ``(n,)`` bool: which lists hold
        any. An empty list attends to zeros that count as real; the caller leaves it out.
        """
        real = ids >= 0
        known = real.any(dim=1)
        interests = self.texts(ids.clamp(min=0)) * real[:, :, None]
        visible = real | ~known[:, None]
        scores = self.query(interests) @ self.key(interests).transpose(1, 2) / interests.shape[2] ** 0.5
        weights = scores.masked_fill(~visible[:, None, :], -torch.inf).softmax(dim=2)
        return weights @ self.value(interests), visible, known


class EIMF(SequentialRecommender):
    """A multi-interest model taught by the named interests of user exemplars.

    Settings: ``backbone``, ``esim`` (off: the backbone alone), ``alignment_weight``, ``semantic_weight``,
    ``temperature``, ``text_size``, ``text_proj``, ``text_trainable``, ``max_text_interests``, and those of the IBIM.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = EIMFSettings.of(config)
        self.alignment_weight = settings.alignment_weight
        self.semantic_weight = settings.semantic_weight
        self.temperature = settings.temperature
        self.ibim = accelerated(IBIMS[settings.backbone])(config, dataset)
        self.reads_past_length = getattr(self.ibim, "reads_past_length", True)
        self.item_embedding = self.ibim.item_embedding
        self.esim: ESIM | None = None
        features = dataset.semantics
        if features is not None and settings.taught:
            offsets, texts = features.user_interests()
            with torch.random.fork_rng(devices=[]):  # so that the IBIM trains with the same draws as without ESIM
                self.esim = ESIM(
                    features.text_vectors(),
                    features.item_text_ids("title_text"),
                    offsets,
                    texts,
                    settings.text_size,
                    self.item_embedding.embedding_dim,
                    settings.max_text_interests,
                    settings.text_proj,
                    settings.text_trainable,
                )

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:  # type: ignore[override]
        """Load weights; ESIM's are skipped where the model has no ESIM, which serving does not use."""
        if self.esim is None:
            state_dict = {name: value for name, value in state_dict.items() if not name.startswith("esim.")}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def behavioural(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss of the IBIM, ``v`` ``(B, d)`` and ``e_t`` ``(B, d)``."""
        if isinstance(self.ibim, MultiInterestRecommender):
            return self.ibim.losses(interaction)
        target = interaction[self.POS_ITEM_ID]
        user = self.ibim.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        loss = linear_cross_entropy(user, self.item_embedding.weight, target)
        return loss, user, self.item_embedding(target)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Weighted sum of the losses of recommendation, alignment and semantic prediction."""
        loss, user, target_vector = self.behavioural(interaction)
        if self.esim is None:
            return loss
        target = interaction[self.POS_ITEM_ID]
        items = self.esim.item_vectors()
        text_target = items[target]
        semantic, known = self.esim.readout(interaction[self.USER_ID], text_target)
        counts = None if self.esim.knows_all else known
        if counts is not None and at_hand(counts):
            if not bool(known.any()):
                return loss
            semantic, text_target, target = semantic[known], text_target[known], target[known]
            user, target_vector, counts = user[known], target_vector[known], None
        if self.semantic_weight:
            if counts is None:
                predicted = linear_cross_entropy(semantic, items, target)
            else:
                predicted = cross_entropy_where(semantic @ items.T, target, counts)
            loss = loss + self.semantic_weight * predicted
        if self.alignment_weight:
            loss = loss + self.alignment_weight * self.alignment(user, target_vector, semantic, text_target, counts)
        return loss

    def alignment(
        self,
        user: torch.Tensor,
        target: torch.Tensor,
        semantic: torch.Tensor,
        text_target: torch.Tensor,
        counts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``L_align`` of the interests ``v``, targets ``e_t``, semantic interests ``r`` and text targets.

        Args:
            user, target: ``(B, d)``.
            semantic, text_target: ``(B, d_t)``.
            counts: ``(B,)`` bool, the rows that take part; ``None``: every one.
        """
        assert self.esim is not None
        r, t = self.esim.to_user(semantic), self.esim.to_item(text_target)
        contrast = info_nce(user, r, self.temperature, counts) + info_nce(target, t, self.temperature, counts)
        return 0.4 * contrast + 0.1 * (cosine_distance(user, r, counts) + cosine_distance(target, t, counts))

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the IBIM."""
        return self.ibim.predict(interaction)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, n_items)`` scores of the IBIM."""
        return self.ibim.full_sort_predict(interaction)
