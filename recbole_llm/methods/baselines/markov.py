"""MarkovChain: first-order transitions between items, by counting (MC of arXiv 1803.09587; FPMC, WWW 2010, section 4).

     p(i | l) = (n_li + smoothing * p_i) / (n_l + smoothing),  p_i = n_i / n

``n_li`` counts the training targets ``i`` that directly follow ``l``; ``l`` is the last item of the history. Smoothing
pulls towards popularity, which alone ranks the items after an ``l`` without transitions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_llm.methods.baselines.counting import CountingModel
from recbole_llm.methods.baselines.settings import MarkovChainSettings


class MarkovChain(CountingModel):
    """Counts of the items that follow the last item."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.smoothing = MarkovChainSettings.of(config).smoothing
        targets, items = np.asarray(dataset.split.train_targets), np.asarray(dataset.table.item)
        pairs = items[targets - 1], items[targets]
        shape = (self.n_items, self.n_items)
        self.transitions = sp.coo_matrix((np.ones(len(targets)), pairs), shape=shape).tocsr()
        self.total = np.asarray(self.transitions.sum(axis=1)).ravel()

    def scores(self, interaction: Any) -> np.ndarray:
        """``p(i | l)``."""
        items, lengths = self.histories(interaction)
        last = items[np.arange(len(items)), lengths - 1]
        share = self.popularity / self.popularity.sum()
        counts = self.transitions[last].toarray() + self.smoothing * share
        return counts / np.maximum(self.total[last] + self.smoothing, 1e-12)[:, None]
