"""Base of models that count training interactions and learn nothing by gradients.

They count when they are built, so checkpoints hold no counts. An epoch of their training is one empty batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_llm.data.batch import LazyInteraction
from recbole_llm.data.interactions import Interactions
from recbole_llm.data.times import why_incomparable


class EmptyBatch:
    """An epoch of one batch without rows, for a model that reads nothing in training.

    Args:
        table, train_part, config: as for other loaders.
    """

    def __init__(self, table: Any, train_part: Any, config: Any) -> None:
        self.dataset = self._dataset = train_part

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[LazyInteraction]:
        yield LazyInteraction({}, 0)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing to restore."""


class CountingModel(SequentialRecommender):
    """A model of counts; it scores from histories and so serves users that it has not seen.

    Attributes:
        popularity: ``(n_items,)`` training interactions of each item, scaled below one to break ties of a model's own
            counts.
        rounds: number of epochs, whatever ``epochs``, ``eval_step`` and ``stopping_step`` say; one more would only
            validate the same counts again.
    """

    input_type = InputType.POINTWISE
    reads_past_length = False
    learns = False
    rounds = 1
    train_loader = EmptyBatch

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.nothing = nn.Parameter(torch.zeros(1))  # optimisers need a parameter
        rows = np.asarray(dataset.split.train_rows)
        self.train_user = np.asarray(dataset.table.user)[rows]
        self.train_item = np.asarray(dataset.table.item)[rows].astype(np.int64)
        counts = np.bincount(self.train_item, minlength=self.n_items)
        self.popularity = counts / (counts.max() + 1.0)

    def scores(self, interaction: Any) -> np.ndarray | torch.Tensor:
        """``(B, n_items)`` scores of all items."""
        raise NotImplementedError

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Zero, with no effect on any parameter."""
        return 0.0 * self.nothing.sum()

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, n_items)`` scores of all items, in double precision: counts are large, their differences small."""
        return torch.as_tensor(self.scores(interaction), dtype=torch.float64, device=self.device)

    def histories(self, interaction: Any) -> tuple[np.ndarray, np.ndarray]:
        """The batch's histories ``(B, L)``, 0 padded, and their lengths ``(B,)``, on the host."""
        return interaction[self.ITEM_SEQ].cpu().numpy(), interaction[self.ITEM_SEQ_LEN].cpu().numpy()


def clock(table: Interactions) -> np.ndarray | None:
    """``(n,)`` times of the interactions; ``None`` if there are none that can be compared between users."""
    if table.time is None or why_incomparable(table.facts):
        return None
    return np.asarray(table.time)
