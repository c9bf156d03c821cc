"""The loss that draws two views together."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_llm.layers.alignment import kl_alignment


def views(scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    one, other = (torch.randn(11, 20, generator=generator, dtype=dtype) * scale for _ in range(2))
    return one.requires_grad_(), other.requires_grad_()


def torch_s(structural, semantic):
    """``F.kl_div`` takes the second distribution first, as logarithms."""
    return F.kl_div(semantic.log_softmax(1), structural.log_softmax(1), reduction="batchmean", log_target=True)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_it_is_torch_s_divergence(scale):
    ours, theirs = kl_alignment(*views(scale)), torch_s(*views(scale))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4, abs=1e-6)


def test_both_sides_get_torch_s_gradients():
    ours, theirs = views(), views()
    kl_alignment(*ours).backward()
    torch_s(*theirs).backward()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)
        assert one.grad.abs().max() > 1e-4


def test_equal_views_cost_nothing():
    one, _ = views()
    assert kl_alignment(one, one).item() == pytest.approx(0.0, abs=1e-6)


def test_it_is_not_symmetric():
    one, other = views()
    assert abs(kl_alignment(one, other).item() - kl_alignment(other, one).item()) > 1e-3


def test_extreme_features_give_a_finite_loss_and_gradient():
    one, other = views(scale=200.0)
    loss = kl_alignment(one, other)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(one.grad).all()
    assert torch.isfinite(other.grad).all()


def test_double_passes_gradcheck():
    assert torch.autograd.gradcheck(kl_alignment, views(dtype=torch.float64))
