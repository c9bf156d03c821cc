"""UniSRec: Towards Universal Sequence Representation Learning (KDD 2022, arXiv 2206.05941), without its pretraining.

SASRec over frozen text vectors through a mixture of whitening experts. For an item with the text vector ``x``:

     x^(k) = (Dropout(x) - b_k) W_k                                      equation 2, ``n_experts`` of them
     v = sum_k g_k x^(k),  g = softmax(x W_g + delta)                    equations 3 and 4
     delta = n * softplus(x W_d),  n ~ N(0, 1)                           in training only
     e_i = v_i [+ id_i]                                                  inductive; with ``with_ids`` transductive
     score = cos(SASRec(e_1 .. e_n), e_i) / temperature,  L = CE

The paper's pretraining over several domains and its two contrastive losses are left out; the row shows what the adaptor
gives on one dataset.

Deviates from the release in: noise and dropout are drawn once for the whole catalogue in a batch, so an item has the
same vector when it is read and when it is scored. Not known for sure: how experts and gates start (here normal with
deviation ``initializer_range``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.sequential_recommender import SASRec
from torch import nn

from recbole_llm.compat.fast import accelerated
from recbole_llm.layers.dropout import Dropout
from recbole_llm.methods.baselines.sasrectext import MadeItemEmbedding, SASRecText
from recbole_llm.methods.baselines.settings import UniSRecSettings


class MixtureEmbedding(MadeItemEmbedding):
    """``v``, optionally plus an id embedding; items are scored with normalised vectors.

    Args:
        texts: ``(n_items, d_enc)`` frozen text vectors; zero rows for items without text.
        size: ``d``.
        experts: number of experts.
        dropout: on the text vectors.
        with_ids: add a learned embedding of the item's id.
        deviation: of the normal distribution that parameters start from.
    """

    texts: torch.Tensor

    def __init__(
        self, texts: torch.Tensor, size: int, experts: int, dropout: float, with_ids: bool, deviation: float
    ) -> None:
        super().__init__()
        self.embedding_dim, self.experts = size, experts
        self.register_buffer("texts", texts, persistent=False)
        self.dropout = Dropout(dropout)
        self.expert_bias = nn.Parameter(torch.zeros(experts, texts.shape[1]))
        self.expert = nn.Parameter(torch.randn(experts, texts.shape[1], size) * deviation)
        self.gate = nn.Parameter(torch.randn(texts.shape[1], experts) * deviation)
        self.noise = nn.Parameter(torch.randn(texts.shape[1], experts) * deviation)
        self.ids = nn.Embedding(len(texts), size, padding_idx=0) if with_ids else None
        if self.ids is not None:
            nn.init.normal_(self.ids.weight, std=deviation)

    def gates(self) -> torch.Tensor:
        """``g``, ``(n_items, n_experts)``."""
        logits = self.texts @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * F.softplus(self.texts @ self.noise)
        return logits.softmax(dim=1)

    def table(self) -> torch.Tensor:
        """The items' embeddings."""
        gates = self.gates()
        total = torch.zeros(len(self.texts), self.embedding_dim, device=self.texts.device)
        for number in range(self.experts):
            # (x - b) W = x W - b W, which needs no table of centred vectors for each expert
            whitened = self.dropout(self.texts) @ self.expert[number] - self.expert_bias[number] @ self.expert[number]
            total = total + gates[:, number, None] * whitened
        return total if self.ids is None else total + self.ids.weight

    @property
    def weight(self) -> torch.Tensor:
        """The embeddings, normalised."""
        return F.normalize(self.looked_up, dim=1)


class CosineSASRec(accelerated(SASRec)):  # type: ignore[misc]
    """SASRec whose states are normalised and divided by the temperature."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.temperature = UniSRecSettings.of(config).temperature

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``(B, d)``."""
        return F.normalize(super().forward(item_seq, item_seq_len), dim=1) / self.temperature

    def states(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``(B, L, d)``, the state after each item."""
        return F.normalize(super().states(item_seq, item_seq_len), dim=2) / self.temperature

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items, by their normalised vectors."""
        states = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return (states * self.item_embedding.weight[interaction[self.ITEM_ID]]).sum(dim=1)


class UniSRec(SASRecText):
    """SASRec over a mixture of whitened text vectors. Without semantic features it is SASRec."""

    def make_backbone(self, config: Any, dataset: Any) -> Any:
        """The SASRec that reads the embeddings; it scores by cosine only with text vectors."""
        return (CosineSASRec if dataset.semantics is not None else accelerated(SASRec))(config, dataset)

    def text_embedding(self, config: Any, features: Any) -> MadeItemEmbedding:
        """The mixture."""
        settings = UniSRecSettings.of(config)
        return MixtureEmbedding(
            features.item_vectors(settings.text_columns)[0],
            int(config["hidden_size"]),
            settings.n_experts,
            settings.adaptor_dropout,
            settings.with_ids,
            float(config["initializer_range"]),
        )
