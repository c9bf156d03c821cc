"""Item embeddings made from frozen text vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

ADAPTORS = ("linear", "mlp")


class TextItemEmbedding(nn.Module):
    """Stands where a model has ``nn.Embedding`` of items: ``adaptor(t_i)``, plus an id embedding by choice.

    Args:
        texts: ``(n_items, d_enc)`` frozen text vectors; zero rows for items without text.
        size: dimension of the embeddings.
        adaptor: ``linear`` or ``mlp`` (one hidden layer of ``size``, GELU).
        with_ids: add a learned embedding of the item's id.
        deviation: of the normal distribution that parameters start from.
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
        self._made: torch.Tensor | None = None

    @property
    def weight(self) -> torch.Tensor:
        """``(n_items, size)``: the table that scores are taken with; row 0, the padding item, is zero."""
        if self._made is not None:
            return self._made
        table = self.adaptor(self.texts)
        if self.ids is not None:
            table = table + self.ids.weight
        keep = torch.ones(len(table), 1, device=table.device)
        keep[0] = 0.0
        return table * keep

    @contextmanager
    def made_once(self) -> Iterator[None]:
        """Make the table once for everything inside: a batch looks items up many times."""
        self._made = self.weight
        try:
            yield
        finally:
            self._made = None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of some items."""
        return F.embedding(ids, self.weight, padding_idx=0)
