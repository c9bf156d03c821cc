"""LLM-DMsRec: Integrating LLM-Derived Multi-Semantic Intent into Graph Model for Session-based Recommendation.

arXiv 2507.20147. Three stages:

I.   A pretrained GNN gives the top 50 candidates of each prefix (``features.py``).
II.  An LLM names intents among them; those in the session are explicit (set X), the others latent (Y)
     (``features.py``). ``x_s``, ``y_s``: means of their frozen text vectors.
III. Fusion with a GNN trained from scratch, here. Symbols: ``d`` item dimension, ``q`` dropout, ``g`` structural
     intent, ``h_t`` last item's state, ``E`` item embeddings.

     x' = Dropout_q(x_s) W^T + b,  y' = Dropout_q(y_s) W^T + b      one W, b for both
     z  = W3 [g ; h_t ; x' ; y'] + b3                               SR-GNN, TAGNN (4d -> d)
     z  = W3 [g ; x' ; y']                                          GCE-GNN, GC-SAN (3d -> d)
     z  = W3 [m ; LayerNorm(m) ; x' ; y'] + b3,  g = m              SHARE (4d -> d)
     z_k = W3 [l_k ; g_k ; x' ; y'] + b3,  x' with g_1, y' with l_1   MSGIFSR (4d -> d, each level k)
     scores = z E^T                                                 TAGNN: (z + beta_i H) . e_i
     L_info = mean_s [ KL(P_g || P_x') + KL(P_g || P_y') ],  P_v = softmax(v) + 1e-8
     L  = CE(scores, target) + sigma L_info

A prefix without any intent (an unanswered question) has ``x' = y' = 0`` and takes no part in ``L_info``. ``align``
replaces KL by one of the paper's alternatives, each summed over x' and y': ``contrastive`` (in-batch, tau 0.5),
``infonce`` (the same with tau 0.07, as released) or ``directau`` (alignment and half the uniformity).

Deviates from the paper in: intents come as a JSON list, not joined by semicolons; titles are stripped before they are
matched (``legacy_match: True`` counts all but the first as latent, as the released code does); padding is left out of
the mean of a text; models are selected by validation, not by test; the sentence encoder is MiniLM unless ``encoder``
says otherwise (the paper: bert-base-uncased); GC-SAN, which the paper does not try, is fused like GCE-GNN; MSGIFSR is
fused like SR-GNN, whereas the release fuses nothing (``fusion: False``). ``--preset=paper`` has the release's sizes and
learning-rate decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_llm.layers.alignment import direct_au, info_nce, kl_alignment
from recbole_llm.layers.text_bag import InteractionKeys, TextBag
from recbole_llm.methods.baselines.gcegnn import GCEGNN
from recbole_llm.methods.baselines.msgifsr import MSGIFSR
from recbole_llm.methods.baselines.session import GCSANEncoder, Session, SessionEncoder, SRGNNEncoder
from recbole_llm.methods.baselines.share import SHARE
from recbole_llm.methods.baselines.tagnn import TAGNN
from recbole_llm.methods.llmdmsrec.settings import LLMDMsRecSettings

BACKBONES: dict[str, Callable[[Any, Any], SessionEncoder]] = {
    "SRGNN": SRGNNEncoder,
    "GCSAN": GCSANEncoder,
    "TAGNN": TAGNN,
    "GCEGNN": GCEGNN,
    "SHARE": SHARE,
    "MSGIFSR": MSGIFSR,
}
Alignment = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ALIGNMENTS: dict[str, Alignment] = {
    "kl": kl_alignment,
    "contrastive": partial(info_nce, temperature=0.5),
    "infonce": partial(info_nce, temperature=0.07),
    "directau": direct_au,
}


class LLMDMsRec(SequentialRecommender):
    """A session model (``backbone``) with explicit and latent intents.

    With ``fusion: False`` and ``sigma: 0`` (or ``align: none``), or without semantic features, it equals its backbone:
    the same parameters in the same order, the same numbers from the same seed.

    Batches must carry ``position``, the index of the target in the user's whole history. User and position are the key
    of the intents.
    """

    reads_past_length = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = LLMDMsRecSettings.of(config)
        self.sigma = settings.sigma
        self.backbone = BACKBONES[settings.backbone](config, dataset)
        self.item_embedding = self.backbone.item_embedding
        self.size = self.item_embedding.embedding_dim
        self.readout = self.backbone.readout
        self.backbone.readout = nn.Identity()

        features = dataset.semantics
        self.fusion = settings.fusion and features is not None
        self.align = ALIGNMENTS.get(settings.align)
        self.aligned = self.sigma > 0 and self.align is not None and features is not None
        if self.fusion or self.aligned:
            vectors = features.text_vectors()
            bags = features.bags("intent", ["explicit_text", "latent_text"])
            self.explicit = TextBag(vectors, bags["explicit_text"].offsets, bags["explicit_text"].ids)
            self.latent = TextBag(vectors, bags["latent_text"].offsets, bags["latent_text"].ids)
            self.latent.vectors = self.explicit.vectors
            self.keys = InteractionKeys(features.user_offsets())
            self.semantic_dropout = nn.Dropout(settings.semantic_dropout)
            self.project = self._initialised(nn.Linear(self.explicit.dim, self.size))
            answered = (bags["explicit_text"].offsets.diff() > 0) | (bags["latent_text"].offsets.diff() > 0)
            self.all_answered = bool(answered[torch.as_tensor(dataset.split.train_targets)].all())
        if self.fusion:
            # Reads what the backbone's own last layer reads plus both intents; has a bias if that layer has one.
            width = getattr(self.readout, "in_features", self.size)
            bias = getattr(self.readout, "bias", None) is not None
            self.readout = self._initialised(nn.Linear(width + 2 * self.size, self.size, bias))

    def _initialised(self, layer: nn.Linear) -> nn.Linear:
        """Initialise uniformly in ``+-1/sqrt(d)``, like all parameters of the paper's backbones."""
        bound = 1.0 / math.sqrt(self.size)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        return layer

    def intents(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``x'`` and ``y'``, each ``(B, d)``, and ``(B,)`` bool: which rows have intents.

        An empty set takes the other set's vector; where both are empty, both vectors are zero.
        """
        rows = self.keys(interaction[self.USER_ID], interaction["position"])
        explicit, has_explicit = self.explicit(rows)
        latent, has_latent = self.latent(rows)
        x = torch.where(has_explicit[:, None], explicit, latent)
        y = torch.where(has_latent[:, None], latent, explicit)
        known = has_explicit | has_latent
        x, y = (self.project(self.semantic_dropout(one)) * known[:, None] for one in (x, y))
        return x, y, known

    def forward(self, interaction: Any) -> tuple[torch.Tensor, Session, torch.Tensor]:
        """The session vector ``z`` ``(B, d)``, the session, and the alignment loss (zero where there is none)."""
        session = self.backbone.encode(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        vectors, alignment = session.vectors, session.vectors.new_zeros(())
        if not (self.fusion or self.aligned):
            return self.readout(vectors), session, alignment
        x, y, known = self.intents(interaction)
        if self.aligned and self.training:
            assert self.align is not None
            of_x, of_y = session.structural or (vectors[:, : self.size], vectors[:, : self.size])
            parts = [of_x, x, of_y, y]
            if not self.all_answered:  # selecting rows waits for the device
                parts = [part[known] for part in parts]
            if len(parts[0]):
                alignment = self.align(parts[0], parts[1]) + self.align(parts[2], parts[3])
        if self.fusion:
            intents = torch.cat([x, y], dim=1)
            if vectors.dim() == 3:  # several vectors per session, each with the same intents
                intents = intents[:, None].expand(-1, vectors.shape[1], -1)
            vectors = torch.cat([vectors, intents], dim=-1)
        return self.readout(vectors), session, alignment

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The backbone's loss plus ``sigma`` times the alignment."""
        z, session, alignment = self.forward(interaction)
        loss = self.backbone.loss(z, session, interaction[self.POS_ITEM_ID])
        return loss + self.sigma * alignment if self.aligned else loss

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        z, session, _ = self.forward(interaction)
        return self.backbone.score(z, session, interaction[self.ITEM_ID])

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, n_items)`` scores of all items."""
        z, session, _ = self.forward(interaction)
        return self.backbone.scores(z, session)
