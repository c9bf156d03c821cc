"""SASRecText: SASRec over frozen text vectors, the control to compare every LLM method with.

SASRec (ICDM 2018, arXiv 1808.09781) whose item embeddings are made from text:

     e_i = adaptor(t_i) [+ id_i],   score(u, i) = SASRec(e_1 .. e_n) . e_i

``t_i`` is the mean of the frozen vectors of the item's title, categories and brand, as far as it has them, or the
item's vector in a file (``--vectors``). SASRecText reads the same texts through the same encoder as the LLM methods but
asks no LLM. If a method beats SASRec but not SASRecText, the gain comes from text features, not from the LLM.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender import SASRec
from torch import nn

from recbole_llm.compat.fast import accelerated
from recbole_llm.methods.baselines.settings import SASRecTextSettings


class MadeItemEmbedding(nn.Module):
    """Item embeddings from a table that is computed, in the place of ``nn.Embedding``. Subclasses give the table."""

    def __init__(self) -> None:
        super().__init__()
        self._made: torch.Tensor | None = None

    def table(self) -> torch.Tensor:
        """``(n_items, size)``: computed anew in each call; row 0 may hold anything."""
        raise NotImplementedError

    @property
    def looked_up(self) -> torch.Tensor:
        """``(n_items, size)``: the table that items are looked up in; row 0, the padding item, is zero."""
        if self._made is not None:
            return self._made
        table = self.table()
        keep = torch.ones(len(table), 1, device=table.device)
        keep[0] = 0.0
        return table * keep

    @property
    def weight(self) -> torch.Tensor:
        """``(n_items, size)``: the table that items are scored with."""
        return self.looked_up

    @contextmanager
    def made_once(self) -> Iterator[None]:
        """Compute the table once for everything inside, since a batch looks items up many times."""
        self._made = self.looked_up
        try:
            yield
        finally:
            self._made = None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of some items."""
        return F.embedding(ids, self.looked_up, padding_idx=0)


class SASRecText(SequentialRecommender):
    """SASRec with text embeddings; ``with_ids`` adds id embeddings. Without semantic features it is SASRec."""

    reads_past_length = False
    every_position = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.backbone = self.make_backbone(config, dataset)
        self.has_texts = dataset.semantics is not None
        if self.has_texts:
            self.backbone.item_embedding = self.text_embedding(config, dataset.semantics)

    def make_backbone(self, config: Any, dataset: Any) -> Any:
        """The SASRec that reads the embeddings."""
        return accelerated(SASRec)(config, dataset)

    def text_embedding(self, config: Any, features: Any) -> MadeItemEmbedding:
        """The embedding that replaces the backbone's."""
        settings = SASRecTextSettings.of(config)
        return TextItemEmbedding(
            features.item_vectors(settings.text_columns)[0],
            int(config["hidden_size"]),
            settings.adaptor,
            settings.with_ids,
            float(config["initializer_range"]),
        )

    def _ask(self, question: str, interaction: Any) -> torch.Tensor:
        answer = getattr(self.backbone, question)
        if not self.has_texts:
            return answer(interaction)
        with self.backbone.item_embedding.made_once():
            return answer(interaction)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The loss of its SASRec."""
        return self._ask("calculate_loss", interaction)

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        return self._ask("predict", interaction)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, n_items)`` scores of all items."""
        return self._ask("full_sort_predict", interaction)


ADAPTORS = ("linear", "mlp")


class TextItemEmbedding(MadeItemEmbedding):
    """``adaptor(t_i)``, optionally plus an id embedding.

    Args:
        texts: ``(n_items, d_enc)`` frozen text vectors; zero rows for items without text.
        size: dimension of the embeddings.
        adaptor: ``linear`` or ``mlp`` (one hidden layer of ``size``, GELU).
        with_ids: add a learned embedding of the item's id.
        deviation: of the normal distribution that id embeddings start from.
    """

    texts: torch.Tensor

    def __init__(self, texts: torch.Tensor, size: int, adaptor: str, with_ids: bool, deviation: float) -> None:
        super().__init__()
        if adaptor not in ADAPTORS:
            raise ValueError(f"adaptor is one of {', '.join(ADAPTORS)}, not {adaptor!r}")
        self.embedding_dim = size
        self.register_buffer("texts", texts, persistent=False)
        layers: list[nn.Module] = [nn.Linear(texts.shape[1], size)]
        if adaptor == "mlp":
            layers += [nn.GELU(), nn.Linear(size, size)]
        self.adaptor = nn.Sequential(*layers)
        self.ids = nn.Embedding(len(texts), size, padding_idx=0) if with_ids else None
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.startswith("ids"):
                nn.init.normal_(parameter, std=deviation)
            else:
                # Text vectors have norm one: this keeps the embeddings on the scale of id embeddings.
                nn.init.xavier_normal_(parameter)

    def table(self) -> torch.Tensor:
        """The items' embeddings."""
        table: torch.Tensor = self.adaptor(self.texts)
        return table if self.ids is None else table + self.ids.weight
