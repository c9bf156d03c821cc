"""Several SR-GNNs (Session-based Recommendation with Graph Neural Networks, AAAI 2019, arXiv 1811.00855) as one model.

LLM-DMsRec reads what an LLM, or a rule, chose among the top items of a second model. Two SR-GNNs that differ only in
their initial weights show how much a second model gains by itself:

     L = sum_m L_m,   score(i) = sum_m score_m(i)

No member enters another's loss, so each learns as if alone, from the same batches. A softmax subtracts the same
constant from all scores of a session, so sums of scores rank as products of probabilities do.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender import SRGNN
from torch import nn

from recbole_llm.compat.fast import accelerated
from recbole_llm.methods.llmdmsrec.settings import SRGNNEnsembleSettings


class SRGNNEnsemble(SequentialRecommender):
    """``members`` SR-GNNs side by side; with one member it equals SR-GNN bit for bit."""

    reads_past_length = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        kind, members = accelerated(SRGNN), SRGNNEnsembleSettings.of(config).members
        self.members = nn.ModuleList(kind(config, dataset) for _ in range(members))

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """The sum of the members' losses."""
        losses = [member.calculate_loss(interaction) for member in self.members]  # type: ignore[operator]
        return torch.stack(losses).sum()

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        return torch.stack([member.predict(interaction) for member in self.members]).sum(dim=0)  # type: ignore[operator]

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, n_items)`` scores of all items."""
        found = [member.full_sort_predict(interaction) for member in self.members]  # type: ignore[operator]
        return torch.stack(found).sum(dim=0)
