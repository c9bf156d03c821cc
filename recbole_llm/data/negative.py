"""Negative items of training examples, drawn on the device."""

from __future__ import annotations

import logging

import numpy as np
import torch

logger = logging.getLogger(__name__)


class NegativeSampler:
    """Items that a user has no training interaction with.

    Uniform draws are exact in one step: if user ``u`` lacks ``m`` items, draw ``r`` in ``[0, m)`` and take
    the ``r``-th missing one. With the user's items sorted as ``s_0 < s_1 < ...``, ``s_j - j - 1`` items are
    missing below ``s_j``, so the answer is ``r + 1`` plus the number of ``j`` with ``s_j - j - 1 <= r``: one
    binary search. The distribution is that of RecBole's ``Sampler``, which rejects draws in Python loops.

    Args:
        user, item: training interactions (ids from 1).
        n_users, n_items: numbers of ids, the padding id included.
        device: where samples are drawn and returned.
        distribution: ``uniform`` or ``popularity`` (proportional to training counts to the power ``alpha``).
        seed: of the sampler's own generator.

    Attributes:
        generator: the random generator of all draws.
    """

    def __init__(
        self,
        user: np.ndarray,
        item: np.ndarray,
        n_users: int,
        n_items: int,
        device: torch.device,
        distribution: str = "uniform",
        alpha: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.n_items, self.device = n_items, device
        pairs = np.unique(user.astype(np.int64) * n_items + item)
        owner, items = pairs // n_items, pairs % n_items
        degree = np.bincount(owner, minlength=n_users)
        begin = np.concatenate([[0], np.cumsum(degree)[:-1]])
        missing_below = items - (np.arange(len(pairs)) - begin[owner]) - 1
        self._keys = torch.from_numpy(owner * (n_items + 1) + missing_below).to(device)
        self._pairs = torch.from_numpy(pairs).to(device)
        self._begin = torch.from_numpy(begin).to(device)
        self._missing = torch.from_numpy(n_items - 1 - degree).to(device)
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self._cumulative: torch.Tensor | None = None
        if distribution == "popularity":
            weights = np.bincount(item, minlength=n_items).astype(np.float64) ** alpha
            weights[0] = 0.0
            self._cumulative = torch.from_numpy(np.cumsum(weights) / weights.sum()).to(device)

    def reseed(self, seed: int) -> None:
        """Restart the draws from a seed."""
        self.generator.manual_seed(seed)

    def state(self) -> torch.Tensor:
        """State of the random generator, for checkpoints."""
        return self.generator.get_state()

    def set_state(self, state: torch.Tensor) -> None:
        """Restore the state that :meth:`state` returned, if the generator is of the same kind of device."""
        if len(state) == len(self.state()):
            self.generator.set_state(state.cpu())
        else:
            logger.warning(
                "the training began on another kind of device, whose random generator cannot go on here: negatives are "
                "drawn from the seed again"
            )

    def _random(self, size: int) -> torch.Tensor:
        return torch.rand(size, generator=self.generator, device=self.device, dtype=torch.float64)

    def for_users(self, users: torch.Tensor, count: int = 1) -> torch.Tensor:
        """``count`` negatives for each of ``users``, in RecBole's layout: ``(count * B,)``, round by round."""
        users = users.repeat(count)
        if self._cumulative is not None:
            return self._popular(users)
        missing = self._missing[users]
        drawn = (self._random(len(users)) * missing).long().clamp_(max=self.n_items - 2)
        keys = users * (self.n_items + 1) + drawn
        below = torch.searchsorted(self._keys, keys, right=True) - self._begin[users]
        # A user who has every item has no negative: RecBole would loop forever, here some item is returned.
        return (drawn + 1 + below).clamp_(max=self.n_items - 1)

    def _popular(self, users: torch.Tensor) -> torch.Tensor:
        """Draws by popularity, repeated for items that the user has, for a bounded number of rounds."""
        assert self._cumulative is not None
        items = torch.searchsorted(self._cumulative, self._random(len(users))).clamp_(1, self.n_items - 1)
        for _ in range(64):
            keys = users * self.n_items + items
            place = torch.searchsorted(self._pairs, keys).clamp_(max=len(self._pairs) - 1)
            taken = (self._pairs[place] == keys).nonzero(as_tuple=True)[0]
            if not len(taken):
                break
            items[taken] = torch.searchsorted(self._cumulative, self._random(len(taken))).clamp_(1, self.n_items - 1)
        return items

    def except_items(self, items: torch.Tensor, count: int = 1) -> torch.Tensor:
        """``count`` items for each row other than the row's own, by the distribution (``RepeatableSampler``)."""
        items = items.repeat(count)
        if self._cumulative is not None:
            below = self._cumulative[items - 1]
            own = self._cumulative[items] - below
            point = self._random(len(items)) * (1.0 - own)
            point += own * (point >= below)  # passes over the row's own item
            return torch.searchsorted(self._cumulative, point, right=True).clamp_(1, self.n_items - 1)
        drawn = (self._random(len(items)) * (self.n_items - 2)).long() + 1
        return drawn + (drawn >= items).long()
