"""Batches of two tasks in turn, drawn user by user (P5, POD and their family)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from recbole_llm.data.loaders import DeviceTable, LazyInteraction, NegativeSampler
from recbole_llm.methods.isrf.settings import ISRFSettings


class AlternatingLoader:
    """One epoch: batches of the sequential and of the direct task in turn, each user ``samples_per_user`` times.

    A sequential batch holds a random sub-sequence of each user's training segment (its last item is the target, at
    most ``MAX_ITEM_LIST_LENGTH`` before it the history). A direct batch holds ``candidates`` ``(B, 1 + n_negatives)``:
    a random training item among items that the user has not, in random order.

    Args:
        table: the interactions on the device.
        train_part: the dataset with training rows alone (RecBole's trainers ask for it).
        config: RecBole's configuration.
    """

    def __init__(self, table: DeviceTable, train_part: Any, config: Any) -> None:
        self.table, self.config, self.dataset = table, config, train_part
        settings = ISRFSettings.of(config)
        data, split = table.dataset.table, table.dataset.split
        offsets = np.asarray(data.offsets)
        # Where each user's training segment ends: it is the beginning of the user's rows.
        counts = np.bincount(np.asarray(data.user)[split.train_rows], minlength=len(offsets) - 1)
        self._begin, self._count = torch.from_numpy(offsets[:-1].copy()), torch.from_numpy(counts)
        self.users = {"sequence": (self._count > 1).nonzero()[:, 0], "direct": (self._count > 0).nonzero()[:, 0]}
        self.step = int(config["train_batch_size"])
        self.passes = settings.samples_per_user
        self.negatives = min(settings.n_negatives, data.n_items - 1)
        self.generator = torch.Generator().manual_seed(int(config["seed"]))
        known = np.arange(len(data)) if settings.legacy_leaks else split.train_rows
        self.sampler = NegativeSampler(
            np.asarray(data.user[known]),
            np.asarray(data.item[known]),
            data.n_users + 1,
            data.n_items + 1,
            torch.device("cpu"),
            seed=int(config["seed"]),
        )

    def __len__(self) -> int:
        return self.passes * sum(-(-len(users) // self.step) for users in self.users.values())

    def __iter__(self) -> Iterator[LazyInteraction]:
        for _ in range(self.passes):
            sequence, direct = (
                list(users[torch.randperm(len(users), generator=self.generator)].split(self.step))
                for users in self.users.values()
            )
            for number in range(max(len(sequence), len(direct))):
                if number < len(sequence):
                    yield self.sequence_batch(sequence[number])
                if number < len(direct):
                    yield self.direct_batch(direct[number])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Random states, for a checkpoint that resumes exactly."""
        return {"draws": self.generator.get_state(), "negatives": self.sampler.state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.generator.set_state(state["draws"].cpu())
        self.sampler.set_state(state["negatives"])

    def _below(self, limit: torch.Tensor) -> torch.Tensor:
        """Uniform whole numbers from 0 to just below each limit."""
        drawn = torch.rand(len(limit), generator=self.generator, dtype=torch.float64)
        return (drawn * limit).long().minimum(limit - 1)

    def sequence_batch(self, users: torch.Tensor) -> LazyInteraction:
        """A random sub-sequence of each user: start in [0, n - 2], target in [start + 1, n - 1]."""
        count, device = self._count[users], self.table.device
        start = self._below(count - 1)
        target = start + 1 + self._below(count - 1 - start)
        longest = int((target - start).max())
        begin = self._begin[users]
        user, first, row = (values.to(device) for values in (users, begin + start, begin + target))
        sources = self.table.interactions(row)
        sources |= self.table.histories(user, first, row, longest)
        return LazyInteraction(sources, len(users))

    def direct_batch(self, users: torch.Tensor) -> LazyInteraction:
        """A random training item of each user among others, in random order."""
        device = self.table.device
        row = (self._begin[users] + self._below(self._count[users])).to(device)
        sources = self.table.interactions(row)
        positive = sources[self.table.iid]().cpu()
        negative = self.sampler.for_users(users, self.negatives).view(self.negatives, -1).T
        mixed = torch.rand((len(users), self.negatives + 1), generator=self.generator).argsort(dim=1)
        candidates = torch.cat([positive[:, None], negative], dim=1).gather(1, mixed).to(device)
        sources["candidates"] = lambda: candidates
        return LazyInteraction(sources, len(users))
