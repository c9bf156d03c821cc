"""Dropout with a mask that costs little on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_LEVELS = 1 << 16  # number of equally likely values that decide on an element


class _MaskedScale(torch.autograd.Function):
    """``values * mask * scale``, which keeps one byte per element for the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return torch.ops.aten.native_dropout_backward(values, mask, scale)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        (mask,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(grad, mask, ctx.scale), None, None


def dropout(values: torch.Tensor, p: float) -> torch.Tensor:
    """``F.dropout(values, p)`` in training, from torch's own generator, so that seeds and resumed runs hold.

    On a CPU torch draws one number of its serial generator for each element, a fifth of SASRec's training time. Here
    each draw of 64 bits decides on four elements. ``p`` is rounded to a multiple of 2^-16, and the scale uses the
    rounded value, so that the expectation is exact.
    """
    dropped = round(p * _LEVELS)
    if values.device.type != "cpu" or not 0 < dropped < _LEVELS:
        return F.dropout(values, p)
    count = values.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    mask = (bits >= dropped - _LEVELS // 2).view(values.shape)
    kept: torch.Tensor = _MaskedScale.apply(values, mask, _LEVELS / (_LEVELS - dropped))
    return kept


class Dropout(nn.Dropout):
    """``nn.Dropout`` that uses :func:`dropout`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """In training, the input with some elements 0 and the others scaled; otherwise the input itself."""
        return dropout(input, self.p) if self.training else input
