"""LLM-ESR: Large Language Models Enhancement for Long-tailed Sequential Recommendation.

NeurIPS 2024, arXiv 2405.20646. One encoder ``f`` (SASRec's) reads two views of each item, its text and its id. Each
user also learns from users with similar texts. In the paper's order:

     e^se_i = W_2 (W_1 x_i + b_1) + b_2                  ``x_i`` the frozen text vector
     e^co_i  learned, from the principal components of ``x``
     S^co <- softmax(Q K^T / sqrt(d)) V,  Q of S^se, K and V of S^co     cross-attention, and the other way round
     u = [f(S^se) ; f(S^co)],  score_i = u . [e^se_i ; e^co_i]
     L = L_rank + distillation_weight * mean_u 1/(2 d) |u - t_u|^2,  t_u the mean of ``u'`` over the ``similar_users``

``t_u`` has no gradient. ``distillation_weight`` multiplies a mean over the ``2 d`` entries of ``u``. Similar users are
found by their vectors, which come from a file (``--vectors``) or are the mean of their training items' vectors.

Deviates from the paper in: L_rank follows ``objective``, by default a softmax over all items as in the other rows of a
table (the paper: pairwise, with one negative). Cross-attention is causal, so that a model can train at every position.
The paper's user vectors come from an LLM. Not known for sure: whether the two views are added to the output of
cross-attention (here they are not), and its number of heads (one here).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.layers import TransformerEncoder
from torch import nn

from recbole_llm.data.split import whole_histories
from recbole_llm.errors import UserError
from recbole_llm.features.similar_users import kept_neighbours
from recbole_llm.layers.bucketing import by_length
from recbole_llm.layers.causal_attention import attend, encode_all
from recbole_llm.layers.dropout import Dropout
from recbole_llm.layers.owner_sums import sums_by_owner
from recbole_llm.layers.waits import at_hand
from recbole_llm.methods.baselines.sasrectext import MadeItemEmbedding
from recbole_llm.methods.baselines.sequence import SequenceModel
from recbole_llm.methods.baselines.settings import LLMESRSettings
from recbole_llm.training.initial import start_from_vectors


class AdaptedTexts(MadeItemEmbedding):
    """``e^se``, the adapted text vectors.

    Args:
        texts: ``(n_items, d_enc)``.
        size: ``d``.
    """

    texts: torch.Tensor

    def __init__(self, texts: torch.Tensor, size: int) -> None:
        super().__init__()
        self.register_buffer("texts", texts, persistent=False)
        middle = max(1, texts.shape[1] // 2)
        self.adapter = nn.Sequential(nn.Linear(texts.shape[1], middle), nn.Linear(middle, size))

    def table(self) -> torch.Tensor:
        """The items' semantic vectors."""
        table: torch.Tensor = self.adapter(self.texts)
        return table


class CrossAttention(nn.Module):
    """Causal attention in which one view asks the other.

    Args:
        size: ``d``.
        dropout: of attention weights.
    """

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, size, bias=False) for _ in range(3))
        self.dropout = dropout

    def forward(self, asking: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """``(B, L, d)``; a position sees itself and those before it."""
        parts = (self.query(asking), self.key(asked), self.value(asked))
        query, key, value = (part[:, None] for part in parts)
        return attend(query, key, value, self.dropout if self.training else 0.0)[:, 0]


class LLMESR(SequenceModel):
    """Dual view, cross-attention, similar users. Without semantic features only the view of ids is left."""

    neighbours: torch.Tensor
    trained_items: torch.Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = LLMESRSettings.of(config)
        self.distillation_weight = settings.distillation_weight
        dropouts = settings.hidden_dropout_prob, settings.attn_dropout_prob
        encoder = TransformerEncoder(
            settings.n_layers, settings.n_heads, self.size, settings.inner_size, *dropouts, "gelu", 1e-12
        )
        self.layers = encoder.layer
        self.norm, self.dropout = nn.LayerNorm(self.size, eps=1e-12), Dropout(settings.hidden_dropout_prob)
        features = dataset.semantics
        self.semantic: AdaptedTexts | None = None
        if features is not None:
            texts, known = features.item_vectors(settings.text_columns)
            self.semantic = AdaptedTexts(texts, self.size)
            if settings.cross_attention:
                self.to_ids, self.to_texts = (CrossAttention(self.size, dropouts[1]) for _ in range(2))
        self.cross = settings.cross_attention and self.semantic is not None
        self.reset_parameters(settings.initializer_range)
        if features is not None:
            start_from_vectors(self, texts, known)
        if self.semantic is not None and self.distillation_weight:
            self._find_similar_users(dataset, features.user_vectors(), settings.similar_users)

    def _find_similar_users(self, dataset: Any, given: tuple[torch.Tensor, torch.Tensor] | None, count: int) -> None:
        """Find each user's most similar users, and keep the last training items of all users.

        Raises:
            UserError: fewer than two users have vectors and training items.
        """
        assert self.semantic is not None
        rows = whole_histories(dataset.table, np.asarray(dataset.split.train_rows))
        user, item = (np.asarray(column)[rows].astype(np.int64) for column in (dataset.table.user, dataset.table.item))
        n_users, longest = dataset.user_num, self.max_seq_length
        length = np.bincount(user, minlength=n_users)
        place = np.arange(len(user)) - (np.cumsum(length) - length)[user] - np.maximum(length - longest, 0)[user]
        items = np.zeros((n_users, longest), dtype=np.int64)
        items[user[place >= 0], place[place >= 0]] = item[place >= 0]
        if given is None:
            unit = F.normalize(self.semantic.texts, dim=1)
            total = sums_by_owner(unit, torch.from_numpy(user), torch.from_numpy(item), n_users)
            given = total, torch.from_numpy(length > 0)
        vectors, known = given
        trained = (known & torch.from_numpy(length > 0)).nonzero()[:, 0]
        if len(trained) < 2:
            raise UserError(
                "LLMESR learns from similar users and needs two with training items and a vector, found "
                f"{len(trained)}: give --vectors of more users, or --distillation_weight=0 to train without."
            )
        near = trained[kept_neighbours(vectors[trained], count, dataset.location.similar_users)]
        table = torch.zeros(n_users, near.shape[1], dtype=torch.int64)
        table[trained] = near
        self.register_buffer("neighbours", table, persistent=False)  # 0, the padding user, where there is none
        self.register_buffer("trained_items", torch.from_numpy(items), persistent=False)

    def item_vectors(self) -> torch.Tensor:
        """``[e^se ; e^co]``, ``(n_items, 2 d)``; without texts ``e^co``."""
        ids = self.item_embedding.weight
        return ids if self.semantic is None else torch.cat([self.semantic.weight, ids], dim=1)

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor, *columns: torch.Tensor) -> torch.Tensor:
        """``u`` after each item, ``(B, L, 2 d)``."""
        ids = self.item_embedding(item_seq)
        if self.semantic is None:
            return self._read(ids)
        texts = self.semantic(item_seq)
        if self.cross:
            ids, texts = self.to_ids(texts, ids), self.to_texts(ids, texts)
        return torch.cat([self._read(texts), self._read(ids)], dim=2)

    def _read(self, view: torch.Tensor) -> torch.Tensor:
        """``f``, with position embeddings."""
        place = torch.arange(view.shape[1], device=view.device)
        return encode_all(self.layers, self.dropout(self.norm(view + self.position_embedding(place))))

    def teachers(self, users: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``t_u`` ``(B, 2 d)`` of some users ``(B,)``, and ``(B,)`` bool: which of them have one."""
        near = self.neighbours[users]
        if at_hand(near):  # users share neighbours
            needed, place = near.unique(return_inverse=True)
        else:
            needed, place = near.flatten(), torch.arange(near.numel(), device=near.device).view_as(near)
        items = self.trained_items[needed]
        lengths = (items > 0).sum(dim=1)
        states = by_length(self.encode_last, items, lengths.clamp(min=1))
        return states[place].mean(dim=1), (near > 0).all(dim=1)

    def calculate_loss(self, interaction: Any) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """The ranking loss of a batch, and the weighted distillation loss."""
        if self.semantic is None:
            return super().calculate_loss(interaction)
        with self.semantic.made_once():
            loss, last = self.loss_and_last(interaction)
            if not self.distillation_weight:
                return loss
            with torch.no_grad():
                teachers, known = self.teachers(interaction[self.USER_ID])
            apart = (last - teachers).square().mean(dim=1) * known
            return loss, self.distillation_weight * apart.sum() / known.sum().clamp(min=1)

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        if self.semantic is None:
            return super().predict(interaction)
        with self.semantic.made_once():
            return super().predict(interaction)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, n_items)`` scores of all items."""
        if self.semantic is None:
            return super().full_sort_predict(interaction)
        with self.semantic.made_once():
            return super().full_sort_predict(interaction)
