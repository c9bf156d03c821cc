"""MarkovChain: first-order transitions between items, by counting (MC of arXiv 1803.09587; FPMC, WWW 2010, section 4).

     p(i | l) = (n_li + smoothing * p_i) / (n_l + smoothing),  p_i = n_i / n

``n_li`` counts how often ``i`` follows ``l`` in training histories; ``l`` is the last item of the history. Smoothing is
towards popularity, so that an item without transitions has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_llm.methods.baselines.counting import CountingModel
from recbole_llm.methods.baselines.settings import MarkovChainSettings


class MarkovChain(CountingModel):
    """Counts of what follows the last item."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.smoothing = MarkovChainSettings.of(config).smoothing
        rows = np.asarray(dataset.split.train_rows)
        follows = np.flatnonzero((rows[1:] == rows[:-1] + 1) & (self.train_user[1:] == self.train_user[:-1])) + 1
        pairs = self.train_item[follows - 1], self.train_item[follows]
        shape = (self.n_items, self.n_items)
        self.transitions = sp.coo_matrix((np.ones(len(follows)), pairs), shape=shape).tocsr()
        self.total = np.asarray(self.transitions.sum(axis=1)).ravel()

    def scores(self, interaction: Any) -> np.ndarray:
        """``p(i | l)``."""
        items, lengths = self.histories(interaction)
        last = items[np.arange(len(items)), lengths - 1]
        share = self.popularity / self.popularity.sum()
        counts = self.transitions[last].toarray() + self.smoothing * share
        return counts / np.maximum(self.total[last] + self.smoothing, 1e-12)[:, None]
