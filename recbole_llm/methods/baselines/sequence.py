"""Base of sequential models that have a state after each item and score items by dot products with it.

A subclass gives the states. Training at one position or at all of them, the losses of ``layers/next_item.py`` and the
scores follow from the states.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_llm.compat.fast import next_item_loss
from recbole_llm.layers.bucketing import by_length, padded
from recbole_llm.layers.next_item import TARGETS, at_targets
from recbole_llm.methods.baselines.settings import SequenceSettings


class SequenceModel(SequentialRecommender):
    """A model with a state ``x_n`` after each item; ``x_n . e_i`` scores item ``i`` after the history ``1..n``."""

    reads_past_length = False
    every_position = True
    columns: tuple[str, ...] = ()  # sequence columns of a batch that are read beside the items

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = SequenceSettings.of(config)
        self.size = settings.hidden_size
        self.item_embedding = nn.Embedding(self.n_items, self.size, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, self.size)
        self.next_item_loss = next_item_loss(config, dataset)

    def reset_parameters(self, deviation: float) -> None:
        """Initialise embeddings normally with this deviation and linear layers by Xavier, with biases of zero."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=deviation)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.item_embedding.weight[0].zero_()

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor, *columns: torch.Tensor) -> torch.Tensor:
        """``(B, L, d)``, the state after each item.

        Args:
            item_seq: ``(B, L)`` ids, left-aligned, 0 padded.
            item_seq_len: ``(B,)`` lengths.
            columns: ``(B, L)`` each, the batch's columns that the attribute ``columns`` names.
        """
        raise NotImplementedError

    def item_vectors(self) -> torch.Tensor:
        """``(n_items, d)``: the vectors that items are scored with."""
        return self.item_embedding.weight

    def embedded(self, item_seq: torch.Tensor) -> torch.Tensor:
        """``e_i + p``, item vectors plus position embeddings, ``(B, L, d)``."""
        place = torch.arange(item_seq.shape[1], device=item_seq.device)
        return self.item_embedding(item_seq) + self.position_embedding(place)

    def _by_length(self, encode: Any, interaction: Any) -> torch.Tensor:
        others = (interaction[name] for name in self.columns)
        return by_length(encode, interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], *others)

    def last_states(self, interaction: Any) -> torch.Tensor:
        """``(B, d)``, the state after each whole history."""
        return self._by_length(self.encode_last, interaction)

    def encode_last(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor, *columns: torch.Tensor) -> torch.Tensor:
        """``(B, d)``, the state after the last item of each row; see :meth:`encode`."""
        return _at(self.encode(item_seq, item_seq_len, *columns), item_seq_len)

    def loss_and_last(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of a batch, at every position if it has ``TARGETS``, and the states after whole histories."""
        if TARGETS in interaction:
            width = interaction[self.ITEM_SEQ].shape[1]
            states = self._by_length(padded(self.encode, width), interaction)
            hidden, target = at_targets(states, interaction)
            last = _at(states, interaction[self.ITEM_SEQ_LEN])
        else:
            last = hidden = self.last_states(interaction)
            target = interaction[self.POS_ITEM_ID]
        return self.next_item_loss(hidden, self.item_vectors(), target), last

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The loss of a batch."""
        return self.loss_and_last(interaction)[0]

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        return (self.last_states(interaction) * self.item_vectors()[interaction[self.ITEM_ID]]).sum(dim=1)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, n_items)`` scores of all items."""
        return self.last_states(interaction) @ self.item_vectors().T


def _at(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """``(B, d)``, the last state of each row ``(B, L, d)``."""
    return states[torch.arange(len(states), device=states.device), lengths - 1]
