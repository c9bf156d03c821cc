"""Dropout with a cheap mask behaves like ordinary dropout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_llm.layers.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_scale_are_those_of_torch(p):
    torch.manual_seed(1)
    kept = dropout(torch.ones(400_003), p)
    assert (kept == 0).float().mean().item() == pytest.approx(p, abs=5e-3)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], rel=1e-4)
    assert kept.mean().item() == pytest.approx(1.0, abs=5 * (p / (1 - p) / 400_003) ** 0.5)


def test_elements_that_share_a_draw_are_independent():
    torch.manual_seed(2)
    columns = (dropout(torch.ones(100_000, 4), 0.3) == 0).float()
    correlation = torch.corrcoef(columns.T) - torch.eye(4)
    assert correlation.abs().max().item() < 5 / 100_000**0.5


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(3)
    values = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    result = dropout(values, 0.4)
    result.sum().backward()
    torch.testing.assert_close(values.grad, (result / values).detach())


def test_same_seed_same_mask_and_resumed_states_go_on_alike():
    values = torch.ones(33, 5)
    torch.manual_seed(4)
    first, state = dropout(values, 0.5), torch.get_rng_state()
    second = dropout(values, 0.5)
    torch.manual_seed(4)
    assert torch.equal(dropout(values, 0.5), first)
    assert not torch.equal(second, first)
    torch.set_rng_state(state)
    assert torch.equal(dropout(values, 0.5), second)


@pytest.mark.parametrize("p, expected", [(0.0, 1.0), (1.0, 0.0)])
def test_the_ends_are_exact(p, expected):
    assert torch.equal(dropout(torch.ones(9), p), torch.full((9,), expected))


def test_a_layer_is_the_identity_in_evaluation():
    layer, values = Dropout(0.5), torch.ones(6)
    assert isinstance(layer, nn.Dropout)
    assert layer.eval()(values) is values
    assert not torch.equal(layer.train()(torch.ones(1000)), torch.ones(1000))
