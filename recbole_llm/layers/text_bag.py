"""Means of frozen text vectors per interaction."""

from __future__ import annotations

import torch
from torch import nn


class InteractionKeys(nn.Module):
    """Rows of features from (user, position): the rows of the flat interactions at which predictions are made.

    Args:
        offsets: ``(n_users + 1,)`` int64 first row of each user, and the end.
    """

    offsets: torch.Tensor

    def __init__(self, offsets: torch.Tensor) -> None:
        super().__init__()
        self.neutral = int(offsets[-1])
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, user: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """``(B,)`` rows; one past the last row, which has no features, for positions after a user's history."""
        rows = self.offsets[user] + position
        return torch.where(rows < self.offsets[user + 1], rows, self.neutral)


class TextBag(nn.Module):
    """The mean vector of each interaction's short list of texts.

    The vectors and lists are neither parameters nor part of the checkpoint: they are features and come from the
    dataset's semantic files.

    Args:
        vectors: ``(n_texts, d)`` frozen vectors; shared by several bags.
        offsets: ``(n + 1,)`` int64; interaction ``r`` owns ``ids[offsets[r]:offsets[r + 1]]``. Row ``n`` has none.
        ids: text ids.
    """

    vectors: torch.Tensor
    line: torch.Tensor
    table: torch.Tensor
    weight: torch.Tensor

    def __init__(self, vectors: torch.Tensor, offsets: torch.Tensor, ids: torch.Tensor) -> None:
        super().__init__()
        counts = offsets.diff()
        longest = max(1, int(counts.max())) if len(counts) else 1
        # Interactions without a list share line 0, so the table is as long as there are lists.
        lists = (counts > 0).nonzero(as_tuple=True)[0]
        line = torch.zeros(len(counts) + 1, dtype=torch.int32)
        line[lists] = torch.arange(1, len(lists) + 1, dtype=torch.int32)
        table = torch.zeros(len(lists) + 1, longest, dtype=torch.int32)
        weight = torch.zeros(len(lists) + 1, longest)
        owner = torch.repeat_interleave(torch.arange(1, len(lists) + 1), counts[lists])
        place = torch.arange(len(ids)) - torch.repeat_interleave(offsets[lists], counts[lists])
        table[owner, place] = ids.int()
        weight[owner, place] = 1.0 / torch.repeat_interleave(counts[lists], counts[lists])
        self.dim = vectors.shape[1]
        for name, value in (("vectors", vectors), ("line", line), ("table", table), ("weight", weight)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean vectors ``(B, d)`` of some interactions, and ``(B,)`` bool: which of them have texts."""
        line = self.line[rows].long()
        found = self.vectors[self.table[line].long()]
        mean = torch.einsum("bk,bkd->bd", self.weight[line], found)
        return mean, line > 0
