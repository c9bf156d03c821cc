"""What models share that count training interactions and learn nothing by gradients.

They count when they are built, so that a checkpoint holds no counts, and their training is one empty batch an epoch.
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
    """An epoch of one batch without rows, for a model that has nothing to read in training.

    Args:
        table, train_part, config: as other loaders have them.
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
    """A model of counts; it reads histories and so serves users that it has not seen.

    Attributes:
        popularity: ``(n_items,)`` training interactions of each item, below one all together: what decides between
            items that a model's own counts do not tell apart.
        rounds: epochs that it trains, whatever ``epochs``, ``eval_step`` and ``stopping_step`` say: a second one would
            only validate the same counts again.
    """

    input_type = InputType.POINTWISE
    reads_past_length = False
    learns = False
    rounds = 1
    train_loader = EmptyBatch

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.nothing = nn.Parameter(torch.zeros(1))  # optimisers want one
        rows = np.asarray(dataset.split.train_rows)
        self.train_user = np.asarray(dataset.table.user)[rows]
        self.train_item = np.asarray(dataset.table.item)[rows].astype(np.int64)
        counts = np.bincount(self.train_item, minlength=self.n_items)
        self.popularity = counts / (counts.max() + 1.0)

    def scores(self, interaction: Any) -> np.ndarray | torch.Tensor:
        """``(B, n_items)`` scores of all items."""
        raise NotImplementedError

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Zero, without an effect on any parameter."""
        return 0.0 * self.nothing.sum()

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, n_items)`` scores of all items, in double precision: counts are large and what parts them small."""
        return torch.as_tensor(self.scores(interaction), dtype=torch.float64, device=self.device)

    def histories(self, interaction: Any) -> tuple[np.ndarray, np.ndarray]:
        """The batch's histories ``(B, L)``, 0 padded, and their lengths, in the memory of the host."""
        return interaction[self.ITEM_SEQ].cpu().numpy(), interaction[self.ITEM_SEQ_LEN].cpu().numpy()


def clock(table: Interactions) -> np.ndarray | None:
    """``(n,)`` times of the interactions; ``None`` where there are none that compare between users."""
    if table.time is None or why_incomparable(table.facts):
        return None
    return np.asarray(table.time)
