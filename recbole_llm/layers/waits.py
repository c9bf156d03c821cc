"""Where the number of things may be asked for: asking a GPU stops the program until all that was begun is done."""

from __future__ import annotations

import torch

_AT_HAND = frozenset({"cpu"})


def at_hand(values: torch.Tensor) -> bool:
    """Whether values can be read without a wait, so that shapes may depend on them.

    Elsewhere a step keeps to shapes that the host knows and leaves rows out by a weight of zero. It gives the same
    numbers, and a step whose shapes are known can be recorded once and replayed.
    """
    return values.device.type in _AT_HAND
