"""V-SKNN: scores from similar sessions, where a session's last items count most (arXiv 1803.09587, section 3.2.2).

For a session ``s`` of ``n`` items whose ``p``-th has the weight ``w(p)``, and a past session ``c`` as the set of its
items:

     sim(s, c) = sum_(i in s and c) w(p_i) / |s|                    ``p_i`` the last place of ``i`` in ``s``
     N_k  = the ``k`` most similar of the ``sample_size`` newest sessions that share an item with ``s``
     score_i = sum_(c in N_k) sim(s, c) d(n + 1 - p_c) 1[i in c]    ``p_c`` the last place in ``s`` of an item of ``c``

     w: div p / n, linear max(0, 1 - (n - p) / 10), quadratic (p / n)^2, log 1 / log10(n - p + 1.7), same 1
     d: div 1 / q, linear max(0, 1 - q / 10), quadratic 1 / q^2, log 1 / log10(q + 1.7), same 1

Past sessions are the training histories; a history is never its own neighbour. Sessions that the protocol cut into
sliding windows are taken whole. If times cannot be compared between users, no session is newer than another and all are
taken.

Deviates from the paper in: a session is a whole history unless the protocol cuts sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_llm.data.sessions import whole_sessions
from recbole_llm.methods.baselines.counting import CountingModel, clock
from recbole_llm.methods.baselines.settings import VSKNNSettings

# Weights by the position (from 1) and the session's length; decays by the distance from the end.
WEIGHTS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "div": lambda place, n: place / n,
    "linear": lambda place, n: np.maximum(0.0, 1.0 - (n - place) / 10),
    "quadratic": lambda place, n: (place / n) ** 2,
    "log": lambda place, n: 1.0 / np.log10(n - place + 1.7),
    "same": lambda place, n: np.ones(len(place)),
}
DECAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "div": lambda back: 1.0 / back,
    "linear": lambda back: np.maximum(0.0, 1.0 - back / 10),
    "quadratic": lambda back: 1.0 / back**2,
    "log": lambda back: 1.0 / np.log10(back + 1.7),
    "same": lambda back: np.ones(len(back)),
}


class VSKNN(CountingModel):
    """Nearest sessions."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = VSKNNSettings.of(config)
        self.k, self.sample_size = settings.k, settings.sample_size
        self.weight, self.decay = WEIGHTS[settings.weighting], DECAYS[settings.score_weighting]
        self.session_of = whole_sessions(dataset.table)
        self.owner, line = np.unique(self.session_of[self.train_user], return_inverse=True)
        shape = (len(self.owner), self.n_items)
        self.sessions = sp.coo_matrix((np.ones(len(line)), (line, self.train_item)), shape=shape).tocsr()
        self.sessions.data[:] = 1.0
        self.holders = self.sessions.T.tocsr()  # sessions that hold an item
        times = clock(dataset.table)
        self.ended: np.ndarray | None = None
        if times is not None:
            self.ended = np.full(len(self.owner), -np.inf)
            np.maximum.at(self.ended, line, times[np.asarray(dataset.split.train_rows)])

    def scores(self, interaction: Any) -> np.ndarray:
        """Scores of the items of the nearest sessions; 0 for others."""
        items, lengths = self.histories(interaction)
        own = self.session_of[interaction[self.USER_ID].cpu().numpy()]
        found = np.zeros((len(items), self.n_items))
        for case in range(len(items)):
            self._score(found[case], items[case, : lengths[case]], int(own[case]))
        return found

    def _score(self, scores: np.ndarray, session: np.ndarray, own: int) -> None:
        n = len(session)
        distinct, back = np.unique(session[::-1], return_index=True)  # the last place of each item
        place = n - back
        shared = self.holders[distinct]
        similarity = shared.T @ self.weight(place, n) / len(distinct)
        near = np.flatnonzero(similarity > 0)
        near = self._nearest(near[self.owner[near] != own], similarity)
        if not len(near):
            return
        # The most recent shared item of each neighbour is the one with the largest inverse distance.
        closest = (sp.diags(1.0 / (back + 1.0)) @ shared[:, near]).max(axis=0).toarray().ravel()
        worth = similarity[near] * self.decay(np.rint(1.0 / closest))
        scores += self.sessions[near].T @ worth

    def _nearest(self, near: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """The ``k`` most similar of the ``sample_size`` newest sessions; ties: the newer, then the lower number."""
        newest = near if self.ended is None else near[np.argsort(-self.ended[near], kind="stable")]
        if self.sample_size and self.ended is not None:
            newest = newest[: self.sample_size]
        # Rounded, since sums in another order differ in their last digits.
        return newest[np.argsort(-similarity[newest].round(12), kind="stable")[: self.k]]
