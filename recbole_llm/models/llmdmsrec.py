"""LLM-DMsRec: Integrating LLM-Derived Multi-Semantic Intent into Graph Model for Session-based Recommendation.

arXiv 2507.20147. Three stages:

I.   A pretrained GNN gives the top 50 candidates of each prefix (``semantics/features/candidates.py``).
II.  An LLM names intents among them; those in the session are explicit (set X), the others latent (Y)
     (``semantics/features/intent.py``). ``x_s``, ``y_s``: means of their frozen text vectors.
III. Fusion with a GNN trained from scratch, here. Symbols: ``d`` item dimension, ``q`` dropout,
     ``g`` structural intent, ``h_t`` last item's state, ``E`` item embeddings.

     x' = Dropout_q(x_s) W^T + b,  y' = Dropout_q(y_s) W^T + b      one W, b for both
     z  = W3 [g ; h_t ; x' ; y'] + b3                               (4d -> d)
     scores = z E^T
     L_info = mean_s [ KL(P_g || P_x') + KL(P_g || P_y') ],  P_v = softmax(v) + 1e-8
     L  = CE(scores, target) + sigma L_info

Deviates from the paper in: intents come as a JSON list, not joined by semicolons; titles are stripped before
they are matched (the released code counts all but the first as latent); padding is left out of the mean of a
text; model selection is on validation, not on test; the sentence encoder is MiniLM unless ``encoder`` says
otherwise (the paper: bert-base-uncased).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender.srgnn import SRGNN
from torch import nn

from recbole_llm.engine.accelerate import accelerated
from recbole_llm.layers.alignment import kl_alignment
from recbole_llm.layers.cross_entropy import linear_cross_entropy
from recbole_llm.layers.text_bag import InteractionKeys, TextBag


class LLMDMsRec(SequentialRecommender):
    """SR-GNN with explicit and latent intents.

    With ``fusion: False`` and ``sigma: 0``, or without semantic features, it is SRGNN: the same parameters in
    the same order, the same numbers from the same seed.

    Batches must carry ``position``, the index of the target in the user's whole history: with the user it is
    the key of the intents.
    """

    reads_past_length = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.sigma = float(config["sigma"])
        size = int(config["embedding_size"])
        self.backbone = accelerated(SRGNN)(config, dataset)
        # The backbone ends in W3 [g ; h_t]; without its last layer it gives [g ; h_t].
        self.readout = self.backbone.linear_transform
        self.backbone.linear_transform = nn.Identity()
        self.item_embedding = self.backbone.item_embedding

        features = dataset.semantics
        self.fusion = bool(config["fusion"]) and features is not None
        self.aligned = self.sigma > 0 and features is not None
        if self.fusion or self.aligned:
            vectors = features.text_vectors()
            bags = features.bags("intent", ["explicit_text", "latent_text"])
            self.explicit = TextBag(vectors, bags["explicit_text"].offsets, bags["explicit_text"].ids)
            self.latent = TextBag(vectors, bags["latent_text"].offsets, bags["latent_text"].ids)
            self.latent.vectors = self.explicit.vectors
            self.keys = InteractionKeys(features.user_offsets())
            self.semantic_dropout = nn.Dropout(float(config["semantic_dropout"]))
            self.project = self._initialised(nn.Linear(self.explicit.dim, size), size)
        if self.fusion:
            self.readout = self._initialised(nn.Linear(4 * size, size), size)

    @staticmethod
    def _initialised(layer: nn.Linear, size: int) -> nn.Linear:
        """Uniform in ``+-1/sqrt(d)``, as all parameters of the backbone."""
        bound = 1.0 / math.sqrt(size)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        return layer

    def intents(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """``x'`` and ``y'``, each ``(B, d)``; an empty set takes the other's vector, two empty ones are zero."""
        rows = self.keys(interaction[self.USER_ID], interaction["position"])
        explicit, has_explicit = self.explicit(rows)
        latent, has_latent = self.latent(rows)
        x = torch.where(has_explicit[:, None], explicit, latent)
        y = torch.where(has_latent[:, None], latent, explicit)
        return self.project(self.semantic_dropout(x)), self.project(self.semantic_dropout(y))

    def forward(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The session vector ``z`` ``(B, d)`` and the alignment loss (zero where there is none)."""
        structural = self.backbone(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        alignment = structural.new_zeros(())
        if not (self.fusion or self.aligned):
            return self.readout(structural), alignment
        x, y = self.intents(interaction)
        if self.aligned and self.training:
            g = structural[:, : structural.shape[1] // 2]
            alignment = kl_alignment(g, x) + kl_alignment(g, y)
        if self.fusion:
            structural = torch.cat([structural, x, y], dim=1)
        return self.readout(structural), alignment

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Cross-entropy over all items plus ``sigma`` times the alignment."""
        session, alignment = self.forward(interaction)
        loss = linear_cross_entropy(session, self.item_embedding.weight, interaction[self.POS_ITEM_ID])
        return loss + self.sigma * alignment if self.aligned else loss

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        session, _ = self.forward(interaction)
        return (session * self.item_embedding(interaction[self.ITEM_ID])).sum(dim=1)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, n_items)`` scores of all items."""
        session, _ = self.forward(interaction)
        return session @ self.item_embedding.weight.T
