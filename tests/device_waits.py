"""Finds what a program on a GPU would wait for, on a machine without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recbole.utils import init_seed
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_llm.layers import waits

# Operators of ATen whose result, or its size, is read on the host.
_READS = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
_INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Waits(TorchDispatchMode):
    """Records the operators that would stop a program until the device has done all that was begun.

    Attributes:
        found: their names, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        by_mask = name in _INDEXES and any(i is not None and i.dtype == torch.bool for i in args[1])
        unsized = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in _READS or by_mask or unsized:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here to the end of a test, models and loaders take the ways that they take on a GPU."""
    monkeypatch.setattr(waits, "_AT_HAND", frozenset())


def assert_waits_for_nothing(model: Any, make_batch: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step reads nothing back on a GPU, and its loss and gradient are what they are where it may.

    Args:
        model: one that learns.
        make_batch: a batch; the same each time.
        monkeypatch: takes the ways of a GPU.
    """
    expected = _loss_and_gradient(model, make_batch())
    nothing_at_hand(monkeypatch)
    found = _loss_and_gradient(model, make_batch())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    batch = make_batch()
    model.train()
    with Waits() as waiting:
        _sum(model.calculate_loss(batch)).backward()
    assert not waiting.found


def _loss_and_gradient(model: Any, batch: Any) -> list[torch.Tensor]:
    """Without dropout."""
    model.eval()
    model.zero_grad()
    init_seed(3, True)
    loss = _sum(model.calculate_loss(batch))
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def _sum(losses: Any) -> torch.Tensor:
    parts = losses if isinstance(losses, tuple) else (losses,)
    return sum(parts[1:], parts[0])
