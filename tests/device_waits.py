"""Finds what a program on a GPU would wait for, on a machine without one."""

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


def assert_moves_nothing(model: Any, make_batch: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step moves nothing between the host and its device, and mixes nothing of both.

    Args:
        model: one that learns, on the host; it is moved to a device without numbers.
        make_batch: a batch on the host.
        monkeypatch: takes the ways of a GPU.
    """
    nothing_at_hand(monkeypatch)
    monkeypatch.setattr(torch, "autocast", _no_autocast)  # there is none without numbers
    batch = make_batch()
    model.train()
    model.calculate_loss(batch)  # which makes the columns that it reads
    columns = {name: batch[name].to("meta") for name in batch}
    model = model.to("meta")
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.device):
                setattr(module, name, torch.device("meta"))
            elif isinstance(value, (torch.Tensor, Interaction)):
                setattr(module, name, value.to("meta"))
            elif isinstance(value, SparseGraph):  # nor are there sparse matrices
                value._forward = value._backward = torch.empty(value.shape, device="meta")
    with Waits() as waiting:
        _sum(model.calculate_loss(Interaction(columns))).backward()
    assert not waiting.found


def _no_autocast(*args: Any, **kwargs: Any) -> Any:
    return nullcontext()


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
