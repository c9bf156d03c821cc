"""Alignment losses between two views."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_llm.layers.alignment import (
    cosine_distance,
    direct_au,
    info_nce,
    kl_alignment,
    soft_target_alignment,
    uniformity,
)


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


# ---- alternatives -------------------------------------------------------------------------------


def unit(row):
    return row / row.norm()


def naive_info_nce(one, other, tau):
    """InfoNCE computed row by row, without torch's softmax."""
    total = 0.0
    for i, anchor in enumerate(one):
        weights = [torch.exp(unit(anchor) @ unit(row) / tau) for row in other]
        total -= torch.log(weights[i] / sum(weights))
    return total / len(one)


def naive_uniformity(rows):
    pairs = [
        torch.exp(-2 * (unit(one) - unit(other)).square().sum()) for i, one in enumerate(rows) for other in rows[:i]
    ]
    return torch.log(sum(pairs) / len(pairs))


def naive_direct_au(one, other):
    apart = [(unit(a) - unit(b)).square().sum() for a, b in zip(one, other, strict=True)]
    return sum(apart) / len(apart) + 0.5 * (naive_uniformity(one) + naive_uniformity(other)) / 2


def naive_soft_targets(one, other, tau):
    """Each entry of the logits and of their targets for itself; the targets are exponents, normalised by row."""
    numbers = range(len(one))
    logits = [[one[i] @ other[j] / tau for j in numbers] for i in numbers]
    near = [[torch.exp(tau * (one[i] @ one[j] + other[i] @ other[j]) / 2) for j in numbers] for i in numbers]
    total = 0.0
    for i in numbers:
        for j in numbers:
            target = near[i][j] / sum(near[i])
            forth = logits[i][j] - torch.log(sum(torch.exp(logits[i][k]) for k in numbers))
            back = logits[i][j] - torch.log(sum(torch.exp(logits[k][j]) for k in numbers))
            total -= target * (forth + back) / 2
    return total / len(one)


NAIVE = {
    "info_nce, tau 0.5": (lambda a, b: info_nce(a, b, 0.5), lambda a, b: naive_info_nce(a, b, 0.5)),
    "info_nce, tau 0.07": (lambda a, b: info_nce(a, b, 0.07), lambda a, b: naive_info_nce(a, b, 0.07)),
    "soft targets, tau 1": (soft_target_alignment, lambda a, b: naive_soft_targets(a, b, 1.0)),
    "soft targets, tau 0.5": (
        lambda a, b: soft_target_alignment(a, b, 0.5),
        lambda a, b: naive_soft_targets(a, b, 0.5),
    ),
    "direct_au": (direct_au, naive_direct_au),
    "uniformity": (lambda a, b: uniformity(a) + uniformity(b), lambda a, b: naive_uniformity(a) + naive_uniformity(b)),
}


@pytest.mark.parametrize(("ours", "naive"), NAIVE.values(), ids=list(NAIVE))
def test_values_and_gradients_are_those_of_a_loop(ours, naive):
    found, wanted = views(dtype=torch.float64), views(dtype=torch.float64)
    one, other = ours(*found), naive(*wanted)
    torch.testing.assert_close(one, other)
    one.backward()
    other.backward()
    for a, b in zip(found, wanted, strict=True):
        assert b.grad.abs().max() > 1e-5
        torch.testing.assert_close(a.grad, b.grad)


def test_a_single_row_has_no_uniformity():
    one, other = (view[:1] for view in views())
    assert uniformity(one).item() == 0.0
    wanted = (unit(one[0]) - unit(other[0])).square().sum()
    torch.testing.assert_close(direct_au(one, other), wanted)


@pytest.mark.parametrize("loss", [lambda *given: info_nce(*given[:2], 0.5, *given[2:]), cosine_distance])
def test_rows_that_do_not_count_are_as_if_they_were_not_there(loss):
    found, wanted = views(dtype=torch.float64), views(dtype=torch.float64)
    counts = torch.arange(11) % 3 > 0
    one, other = loss(*found, counts), loss(*(view[counts] for view in wanted))
    torch.testing.assert_close(one, other)
    one.backward()
    other.backward()
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert loss(*found, torch.zeros(11, dtype=torch.bool)).item() == 0.0
