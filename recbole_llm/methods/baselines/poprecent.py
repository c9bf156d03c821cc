"""PopRecent: popularity of the last days (A Re-visit of the Popularity Baseline, SIGIR 2020, arXiv 2005.13829).

     score_i = #{training interactions with i at times in (t - D, t]} + popularity_i

``t`` is the time of the last item of the history, ``D`` one of ``days``; ``popularity_i`` is below one. Each epoch
takes the next of ``days``, and validation keeps the best, like the best epoch of other models. All of ``days`` are
tried, whatever ``epochs``, ``eval_step`` and ``stopping_step`` say.

Deviates from the paper in: ``D`` is fitted instead of fixed; counts do not fade within the ``D`` days.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_llm.data.sessions import DAY
from recbole_llm.data.times import EARLIEST, LATEST, larger_unit
from recbole_llm.errors import UserError
from recbole_llm.methods.baselines.counting import CountingModel, clock
from recbole_llm.methods.baselines.settings import PopRecentSettings


class PopRecent(CountingModel):
    """Counts of all items over the last days; validation chooses the number of days."""

    days: torch.Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.choices = list(PopRecentSettings.of(config).days)
        self.rounds = len(self.choices)
        times = clock(dataset.table)
        if times is None:
            raise UserError(
                "--model=PopRecent counts days: it needs times (load_col) that compare between users, and this "
                "dataset's are missing or those of no common clock."
            )
        if not EARLIEST <= np.median(times) < LATEST:
            why = larger_unit(times) or "most would be of before 1985 or after 2099"
            raise UserError(
                "--model=PopRecent counts days: it needs times in seconds since 1970, and this dataset's are "
                f"{np.min(times):g} to {np.max(times):g}: {why}."
            )
        when = times[np.asarray(dataset.split.train_rows)]
        order = np.argsort(when, kind="stable")
        self.when, self.what = when[order], self.train_item[order]
        self.time_column = config["TIME_FIELD"] + config["LIST_SUFFIX"]
        self.epoch = 0  # checkpoints hold a model's plain numbers
        self.register_buffer("days", torch.tensor(self.choices[0]))

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Zero; takes the next number of days."""
        self.days.fill_(self.choices[min(self.epoch, len(self.choices) - 1)])
        self.epoch += 1
        return super().calculate_loss(interaction)

    def scores(self, interaction: Any) -> np.ndarray:
        """Counts of the days before each history's last item."""
        _, lengths = self.histories(interaction)
        times = interaction[self.time_column].cpu().numpy()
        now = times[np.arange(len(times)), lengths - 1]
        ends = np.searchsorted(self.when, now, side="right")
        days = int(self.days)
        begins = np.searchsorted(self.when, now - days * DAY, side="right") if days else np.zeros_like(ends)
        found = np.empty((len(now), self.n_items))
        counts, begin, end = np.zeros(self.n_items, dtype=np.int64), 0, 0
        for case in np.argsort(now, kind="stable"):  # both ends of the window move on with the cases
            counts += np.bincount(self.what[end : ends[case]], minlength=self.n_items)
            end = ends[case]
            counts -= np.bincount(self.what[begin : begins[case]], minlength=self.n_items)
            begin = begins[case]
            found[case] = counts
        return found + self.popularity
