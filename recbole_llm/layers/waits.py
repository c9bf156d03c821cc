"""Where code may read values of tensors: reading from a GPU waits until all work queued on it is done."""

from __future__ import annotations

import torch

_AT_HAND = frozenset({"cpu"})


def at_hand(values: torch.Tensor) -> bool:
    """Whether values can be read without a wait, so that shapes may depend on them.

    Elsewhere a step uses only shapes that the host knows and leaves rows out by a weight of zero. The numbers are the
    same, and a step with known shapes can be recorded once and replayed.
    """
    return values.device.type in _AT_HAND
