"""The interface of session models, by which another method can enter between their states and their scores.

A session model encodes a session to one or more vectors, maps them by its last layer to ``z`` and scores items by
``z``. LLM-DMsRec (``methods/llmdmsrec/model.py``) joins intents to the vectors, before a last layer of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender import GCSAN, SRGNN
from torch import nn

from recbole_llm.compat.fast import accelerated
from recbole_llm.layers.cross_entropy import linear_cross_entropy
from recbole_llm.layers.target_attention import Attended


class Session(NamedTuple):
    """A batch of encoded sessions.

    Attributes:
        vectors: ``(B, k d)`` input of the last layer, or ``(B, K, k d)`` for several vectors per session; the first
            ``d`` entries are the structural intent ``g`` unless ``structural`` is given.
        attended: what scores attend to, if they do.
        structural: two ``(B, d)``, with which explicit and latent intents are aligned, if not with ``g``.
        items: ``(B, L)`` the session's items (0 padded), if scores need them.
    """

    vectors: torch.Tensor
    attended: Attended | None = None
    structural: tuple[torch.Tensor, torch.Tensor] | None = None
    items: torch.Tensor | None = None


class SessionEncoder(nn.Module):
    """The parts of a session model; a mixin that precedes the model's class.

    Attributes:
        item_embedding: ``d`` dimensions, the padding item in row 0.
        readout: the last layer, from ``Session.vectors`` to ``z`` ``(B, d)``.
        n_items: ``N``, the padding item counted.
    """

    n_items: int
    item_embedding: nn.Embedding
    readout: nn.Module

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> Session:
        """Encode histories ``(B, L)`` of the given lengths ``(B,)``."""
        raise NotImplementedError

    def loss(self, z: torch.Tensor, session: Session, target: torch.Tensor) -> torch.Tensor:
        """Softmax over all items plus the model's own terms; ``z`` ``(B, d)``, ``target`` ``(B,)``."""
        return linear_cross_entropy(z, self.item_embedding.weight, target)

    def scores(self, z: torch.Tensor, session: Session) -> torch.Tensor:
        """``(B, N)`` scores of all items."""
        return z @ self.item_embedding.weight.T

    def score(self, z: torch.Tensor, session: Session, items: torch.Tensor) -> torch.Tensor:
        """``(B,)`` scores of one item each."""
        return (z * self.item_embedding(items)).sum(dim=1)


class SessionModel(SessionEncoder, SequentialRecommender):
    """A session model that can be trained by itself."""

    reads_past_length = False
    gather_indexes: Callable[..., torch.Tensor]  # RecBole's

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> tuple[torch.Tensor, Session]:
        """``z`` ``(B, d)`` and the session it comes from."""
        session = self.encode(item_seq, item_seq_len)
        return self.readout(session.vectors), session

    def _encoded(self, interaction: Any) -> tuple[torch.Tensor, Session]:
        return self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The loss of a batch."""
        return self.loss(*self._encoded(interaction), interaction[self.POS_ITEM_ID])

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        return self.score(*self._encoded(interaction), interaction[self.ITEM_ID])

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, n_items)`` scores of all items."""
        return self.scores(*self._encoded(interaction))


class SRGNNEncoder(SessionEncoder, accelerated(SRGNN)):  # type: ignore[misc]
    """RecBole's SR-GNN: ``z = W3 [g ; h_t] + b3``."""

    linear_transform: nn.Module

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        # Without its last layer the model's forward gives [g ; h_t].
        self.readout, self.linear_transform = self.linear_transform, nn.Identity()

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> Session:
        """``[g ; h_t]``."""
        return Session(self.forward(item_seq, item_seq_len))


class GCSANEncoder(SessionEncoder, accelerated(GCSAN)):  # type: ignore[misc]
    """RecBole's GC-SAN: ``z = g = w E_t + (1 - w) h_t``, self-attention and graph at the last item."""

    reg_loss: nn.Module

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.readout = nn.Identity()

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> Session:
        """``g``."""
        return Session(self.forward(item_seq, item_seq_len))

    def loss(self, z: torch.Tensor, session: Session, target: torch.Tensor) -> torch.Tensor:
        """Softmax over all items plus the weighted norm of the item embeddings."""
        weight = self.item_embedding.weight
        return super().loss(z, session, target) + self.reg_weight * self.reg_loss(weight)
