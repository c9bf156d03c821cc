"""PopUser: popularity in the user's own history, S-POP of GRU4Rec's paper (ICLR 2016, arXiv 1511.06939, section 4).

     score_i = #{i in the history} + popularity_i,  popularity_i < 1

If items of the history are not ranked (``mask_history``), only popularity is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_llm.methods.baselines.counting import CountingModel


class PopUser(CountingModel):
    """Counts in the history; popularity breaks ties."""

    def scores(self, interaction: Any) -> np.ndarray:
        """Counts in each history."""
        items, lengths = self.histories(interaction)
        found = np.tile(self.popularity, (len(items), 1))
        line, place = np.nonzero(np.arange(items.shape[1]) < lengths[:, None])
        np.add.at(found, (line, items[line, place]), 1.0)
        return found
