"""Batches that alternate between two tasks (P5, POD and their family)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from recbole_llm.data.batch import LazyInteraction
from recbole_llm.data.loaders import DeviceTable
from recbole_llm.data.negative import NegativeSampler
from recbole_llm.methods.isrf.settings import ISRFSettings

Draw = tuple[torch.Tensor, torch.Tensor | None]  # users of a batch, and the rows of their targets where they are known


class AlternatingLoader:
    """One epoch: batches of the sequential and of the direct task in turn.

    With ``draws_per_interaction`` each task takes that share of the training interactions as targets in an epoch.
    Without it each task takes each user ``samples_per_user`` times, as released, however long the history. A sequential
    batch holds random sub-sequences of training segments: the last item is the target, and up to
    ``MAX_ITEM_LIST_LENGTH`` items before it are the history. A direct batch holds ``candidates`` ``(B, 1 + n)``: a
    training item of the user among ``n`` items that the user does not have in training, in random order. ``n`` is
    ``n_negatives``. Before that, each number of the ``curriculum`` holds for ``curriculum_batches`` direct batches, so
    that a model learns to copy from a short list before it learns to choose from a long one.

    Args:
        table: the interactions on the device.
        train_part: the dataset with training rows only (RecBole's trainers ask for it).
        config: RecBole's configuration.
    """

    def __init__(self, table: DeviceTable, train_part: Any, config: Any) -> None:
        self.table, self.config, self.dataset = table, config, train_part
        settings = ISRFSettings.of(config)
        data, split = table.dataset.table, table.dataset.split
        offsets = np.asarray(data.offsets)
        # A user's training segment is the first `count` of the user's rows.
        counts = np.bincount(np.asarray(data.user)[split.train_rows], minlength=len(offsets) - 1)
        self._begin, self._count = torch.from_numpy(offsets[:-1].copy()), torch.from_numpy(counts)
        self._user, self._item = (torch.from_numpy(np.array(ids)).long() for ids in (data.user, data.item))
        self.users = {"sequence": (self._count > 1).nonzero()[:, 0], "direct": (self._count > 0).nonzero()[:, 0]}
        self.targets = [torch.from_numpy(np.array(rows)) for rows in (split.train_targets, split.train_rows)]
        self.step = int(config["train_batch_size"])
        self.passes, self.draws = settings.samples_per_user, settings.draws_per_interaction
        self.negatives = min(settings.n_negatives, data.n_items - 1)
        self.curriculum = [min(int(number), self.negatives) for number in settings.curriculum]
        self.curriculum_batches = settings.curriculum_batches
        self.direct_batches = 0
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
        if self.draws:
            return sum(-(-self._drawn(rows) // self.step) for rows in self.targets)
        return self.passes * sum(-(-len(users) // self.step) for users in self.users.values())

    def __iter__(self) -> Iterator[LazyInteraction]:
        for _ in range(1 if self.draws else self.passes):
            sequence, direct = self._by_interaction() if self.draws else self._by_user()
            for number in range(max(len(sequence), len(direct))):
                if number < len(sequence):
                    yield self.sequence_batch(*sequence[number])
                if number < len(direct):
                    yield self.direct_batch(*direct[number])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Random states and the progress of the curriculum, so that a checkpoint resumes exactly."""
        batches = torch.tensor(self.direct_batches)
        return {"draws": self.generator.get_state(), "negatives": self.sampler.state(), "direct_batches": batches}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.generator.set_state(state["draws"].cpu())
        self.sampler.set_state(state["negatives"])
        self.direct_batches = int(state["direct_batches"])

    # ---- what is drawn ---------------------------------------------------------------------------

    def _by_user(self) -> tuple[list[Draw], list[Draw]]:
        """Batches of users for each task; a batch draws its targets when it is made."""
        sequence, direct = (
            list(users[torch.randperm(len(users), generator=self.generator)].split(self.step))
            for users in self.users.values()
        )
        return [(users, None) for users in sequence], [(users, None) for users in direct]

    def _by_interaction(self) -> tuple[list[Draw], list[Draw]]:
        """Batches of training interactions for each task; none comes twice before all have come once."""
        found: list[list[Draw]] = []
        for rows in self.targets:
            wanted, taken = self._drawn(rows), []
            while wanted > 0:
                order = torch.randperm(len(rows), generator=self.generator)[:wanted]
                taken.append(rows[order])
                wanted -= len(order)
            found.append([(self._user[part], part) for part in torch.cat(taken).split(self.step)])
        return found[0], found[1]

    def _drawn(self, rows: torch.Tensor) -> int:
        """Number of targets that an epoch draws from these rows."""
        return max(1, round(self.draws * len(rows)))

    def _below(self, limit: torch.Tensor) -> torch.Tensor:
        """Uniform whole numbers, one in ``[0, limit)`` for each limit."""
        drawn = torch.rand(len(limit), generator=self.generator, dtype=torch.float64)
        return (drawn * limit).long().minimum(limit - 1)

    def candidates_now(self) -> int:
        """Number of negatives per user in the next direct batch."""
        stage = self.direct_batches // self.curriculum_batches
        return self.curriculum[stage] if stage < len(self.curriculum) else self.negatives

    # ---- batches -----------------------------------------------------------------------------------

    def sequence_batch(self, users: torch.Tensor, targets: torch.Tensor | None) -> LazyInteraction:
        """A random sub-sequence of each user that ends with the given target, or else with a random one.

        A segment of ``n`` items: start in ``[0, n - 2]``, target in ``[start + 1, n - 1]``.
        """
        begin, device = self._begin[users], self.table.device
        if targets is not None:
            target = targets - begin
            start = self._below(target)
        else:
            count = self._count[users]
            start = self._below(count - 1)
            target = start + 1 + self._below(count - 1 - start)
        width = self.table.width(int((target - start).max()))
        user, first, row = (values.to(device) for values in (users, begin + start, begin + target))
        sources = self.table.interactions(row)
        sources |= self.table.histories(user, first, row, width)
        return LazyInteraction(sources, len(users))

    def direct_batch(self, users: torch.Tensor, targets: torch.Tensor | None) -> LazyInteraction:
        """Each user's given target, or else a random one, among sampled negatives in random order."""
        device = self.table.device
        rows = self._begin[users] + self._below(self._count[users]) if targets is None else targets
        sources = self.table.interactions(rows.to(device))
        positive = self._item[rows]
        negatives = self.candidates_now()
        self.direct_batches += 1
        negative = self.sampler.for_users(users, negatives).view(negatives, -1).T
        mixed = torch.rand((len(users), negatives + 1), generator=self.generator).argsort(dim=1)
        candidates = torch.cat([positive[:, None], negative], dim=1).gather(1, mixed).to(device)
        sources["candidates"] = lambda: candidates
        return LazyInteraction(sources, len(users))
