"""Finds host-device synchronisation that would stall a GPU, on a machine without one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_llm.layers import waits
from recbole_llm.layers.propagation import SparseGraph
from recbole_llm.training.recorded import Waits


def nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make models and loaders take their GPU code paths until the end of the test."""
    monkeypatch.setattr(waits, "_AT_HAND", frozenset())


def assert_waits_for_nothing(model: Any, make_batch: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a GPU step reads nothing back to the host and has the loss and gradient of the CPU code path.

    Args:
        model: a model that learns by gradients.
        make_batch: returns a batch, the same one each time.
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


def assert_moves_nothing(model: Any, make_batch: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a step copies nothing between host and device and never mixes tensors of both.

    Args:
        model: a model that learns by gradients, on the host; it is moved to the meta device.
        make_batch: returns a batch on the host.
        monkeypatch: takes the ways of a GPU.
    """
    nothing_at_hand(monkeypatch)
    monkeypatch.setattr(torch, "autocast", _no_autocast)  # the meta device has no autocast
    batch = make_batch()
    model.train()
    model.calculate_loss(batch)  # builds the columns that the model reads
    columns = {name: batch[name].to("meta") for name in batch}
    model = model.to("meta")
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.device):
                setattr(module, name, torch.device("meta"))
            elif isinstance(value, (torch.Tensor, Interaction)):
                setattr(module, name, value.to("meta"))
            elif isinstance(value, SparseGraph):  # the meta device has no sparse matrices either
                value._forward = value._backward = torch.empty(value.shape, device="meta")
    with Waits() as waiting:
        _sum(model.calculate_loss(Interaction(columns))).backward()
    assert not waiting.found


def _no_autocast(*args: Any, **kwargs: Any) -> Any:
    return nullcontext()


def _loss_and_gradient(model: Any, batch: Any) -> list[torch.Tensor]:
    """Loss and gradients of one batch, without dropout."""
    model.eval()
    model.zero_grad()
    init_seed(3, True)
    loss = _sum(model.calculate_loss(batch))
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def _sum(losses: Any) -> torch.Tensor:
    parts = losses if isinstance(losses, tuple) else (losses,)
    return sum(parts[1:], parts[0])
