"""AlphaRec: Language Representations Can be What Recommenders Need (ICLR 2025, arXiv 2407.05441).

Frozen text vectors pass one learned map, propagate over the user-item graph and train by a contrastive loss; there are
no id embeddings. With the text vector ``x_i`` of an item and ``N_u`` the training items of a user:

     x_u = 1/|N_u| sum_(i in N_u) x_i
     z^(0) = W_2 LeakyReLU(W_1 x + b_1) + b_2                            the same map for users and items
     z^(k) = D^-1/2 A D^-1/2 z^(k-1),  z = 1/(n_layers + 1) sum_k z^(k)
     s_ui = cos(z_u, z_i)
     L = -log exp(s_ui / tau) / (exp(s_ui / tau) + sum_j exp(s_uj / tau))     ``n_negatives`` uniform items ``j``

Deviates from the paper in: negatives are drawn once for a batch unless ``shared_negatives: False``, and may be items
that the user has. Not known for sure: the width of the hidden layer (here half the text vectors'). Without semantic
features, learned vectors replace the text vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import nn

from recbole_llm.layers.next_item import NextItemLoss
from recbole_llm.layers.owner_sums import sums_by_owner
from recbole_llm.layers.propagation import SparseGraph, bipartite_adjacency, mean_of_layers
from recbole_llm.methods.baselines.settings import AlphaRecSettings


class AlphaRec(GeneralRecommender):
    """Text vectors, mapped and propagated over the user-item graph."""

    input_type = InputType.POINTWISE
    texts: torch.Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = AlphaRecSettings.of(config)
        self.n_layers, self.temperature = settings.n_layers, settings.temperature
        rows = np.asarray(dataset.split.train_rows)
        user, item = (np.asarray(column)[rows].astype(np.int64) for column in (dataset.table.user, dataset.table.item))
        adjacency = bipartite_adjacency(user, item, self.n_users, self.n_items)
        self.graph = SparseGraph(adjacency, symmetric=True, device=config["device"])
        self.learned: nn.Parameter | None = None
        if dataset.semantics is not None:
            vectors, _ = dataset.semantics.item_vectors(settings.text_columns)
            self.register_buffer(
                "texts", torch.cat([_means(vectors, user, item, self.n_users), vectors]), persistent=False
            )
        else:
            self.learned = nn.Parameter(torch.randn(self.n_users + self.n_items, settings.embedding_size) * 0.1)
        width = (self.texts if self.learned is None else self.learned).shape[1]
        self.map = nn.Sequential(
            nn.Linear(width, max(1, width // 2)), nn.LeakyReLU(), nn.Linear(max(1, width // 2), settings.embedding_size)
        )
        self.loss = NextItemLoss("sampled_softmax", self.n_items, settings.n_negatives, settings.shared_negatives)
        self._scored: tuple[torch.Tensor, torch.Tensor] | None = None

    def directions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised ``z`` of users ``(n_users, d)`` and items ``(n_items, d)``."""
        start = self.map(self.texts if self.learned is None else self.learned)
        z = F.normalize(mean_of_layers(self.graph, start, self.n_layers), dim=1)
        return z[: self.n_users], z[self.n_users :]

    def train(self, mode: bool = True) -> AlphaRec:
        """Set the mode and drop the vectors that were kept for the last evaluation."""
        self._scored = None
        return super().train(mode)

    def _scoring(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised ``z``, computed once for an evaluation."""
        if self.training or torch.is_grad_enabled():
            return self.directions()
        if self._scored is None:
            self._scored = self.directions()
        return self._scored

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The contrastive loss of a batch."""
        users, items = self.directions()
        hidden = users[interaction[self.USER_ID]] / self.temperature
        loss: torch.Tensor = self.loss(hidden, items, interaction[self.ITEM_ID])
        return loss

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        users, items = self._scoring()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(dim=1)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B * n_items,)`` scores of all items, flat as in RecBole's general models."""
        users, items = self._scoring()
        return (users[interaction[self.USER_ID]] @ items.T).view(-1)


def _means(vectors: torch.Tensor, user: np.ndarray, item: np.ndarray, n_users: int) -> torch.Tensor:
    """``x_u``, ``(n_users, d_enc)``; zero for a user without training items."""
    pairs = np.unique(np.stack([user, item]), axis=1)
    owner, owned = torch.from_numpy(pairs[0]), torch.from_numpy(pairs[1])
    total = sums_by_owner(vectors, owner, owned, n_users)
    return total / torch.bincount(owner, minlength=n_users).clamp(min=1)[:, None]
