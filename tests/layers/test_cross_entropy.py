"""The softmax loss that avoids the full score matrix equals torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_llm.layers import cross_entropy
from recbole_llm.layers.cross_entropy import linear_cross_entropy


def inputs(rows, items, size=8, dtype=torch.float32, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = (torch.randn(rows, size, generator=generator, dtype=dtype) * scale).requires_grad_()
    weight = (torch.randn(items, size, generator=generator, dtype=dtype) * scale).requires_grad_()
    return hidden, weight, torch.randint(items, (rows,), generator=generator)


def plain(hidden, weight, target):
    return F.cross_entropy(hidden @ weight.T, target)


def with_gradients(function, hidden, weight, target):
    hidden, weight = (value.detach().clone().requires_grad_() for value in (hidden, weight))
    loss = function(hidden, weight, target)
    loss.backward()
    return loss.detach(), hidden.grad, weight.grad


SIZES = [(1, 2, 1), (3, 5, 8), (16, 1682, 64), (17, 100, 8), (300, 12_101, 16), (2048, 500, 4), (40, 30_000, 8)]


@pytest.mark.parametrize(("rows", "items", "size"), SIZES)
def test_value_and_gradients_are_torch_s(rows, items, size):
    given = inputs(rows, items, size)
    for ours, theirs in zip(with_gradients(linear_cross_entropy, *given), with_gradients(plain, *given), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_the_number_of_pieces_changes_nothing(monkeypatch, pieces):
    given = inputs(160, 50)
    expected = with_gradients(plain, *given)
    monkeypatch.setattr(cross_entropy, "_CACHED_SCORES", -(-160 // pieces) * 50)
    for ours, theirs in zip(with_gradients(linear_cross_entropy, *given), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_large_scores_do_not_overflow():
    given = inputs(20, 50, scale=30.0)
    ours, theirs = with_gradients(linear_cross_entropy, *given), with_gradients(plain, *given)
    assert all(torch.isfinite(part).all() for part in ours)
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-4) for one, other in zip(ours, theirs, strict=True))


def test_a_target_that_stands_there_often_is_counted_as_often():
    hidden, weight, _ = inputs(50, 9)
    target = torch.full((50,), 3)
    ours, theirs = (with_gradients(function, hidden, weight, target) for function in (linear_cross_entropy, plain))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(ours, theirs, strict=True))


def test_the_gradient_of_a_scaled_loss_is_scaled():
    hidden, weight, target = inputs(20, 30)
    (3 * linear_cross_entropy(hidden, weight, target)).backward()
    _, expected, _ = with_gradients(plain, hidden, weight, target)
    assert torch.allclose(hidden.grad, 3 * expected, atol=1e-6)


def test_the_weight_may_be_used_elsewhere_too():
    hidden, weight, target = inputs(20, 30)
    (linear_cross_entropy(hidden, weight, target) + weight.square().sum()).backward()
    _, _, expected = with_gradients(plain, hidden, weight, target)
    assert torch.allclose(weight.grad, expected + 2 * weight.detach(), atol=1e-5)


@pytest.mark.parametrize(("hidden_needs", "weight_needs"), [(True, False), (False, True), (False, False)])
def test_inputs_may_need_no_gradient(hidden_needs, weight_needs):
    hidden, weight, target = inputs(20, 30)
    hidden.requires_grad_(hidden_needs)
    weight.requires_grad_(weight_needs)
    loss = linear_cross_entropy(hidden, weight, target)
    assert loss.requires_grad == (hidden_needs or weight_needs)
    if loss.requires_grad:
        loss.backward()
    assert (hidden.grad is not None) == hidden_needs
    assert (weight.grad is not None) == weight_needs


def test_the_inputs_are_left_as_they_are():
    hidden, weight, target = inputs(20, 30)
    before = [value.detach().clone() for value in (hidden, weight, target)]
    linear_cross_entropy(hidden, weight, target).backward()
    assert all(torch.equal(one, other) for one, other in zip((hidden, weight, target), before, strict=True))


# ---- other precisions run the plain form ---------------------------------------------------------


def test_double_gives_torch_s_value_and_passes_gradcheck():
    given = inputs(6, 7, dtype=torch.float64)
    assert torch.equal(linear_cross_entropy(*given), plain(*given))
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, given[2]), given[:2])


def test_bfloat16_gives_torch_s_value():
    given = inputs(6, 7, dtype=torch.bfloat16)
    assert torch.equal(linear_cross_entropy(*given), plain(*given))


def test_under_autocast_the_plain_form_runs():
    given = inputs(6, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear_cross_entropy(*given), plain(*given))


def test_single_precision_gradients_agree_with_those_in_double():
    hidden, weight, target = inputs(4, 6)
    _, grad_hidden, grad_weight = with_gradients(linear_cross_entropy, hidden, weight, target)
    exact = with_gradients(plain, hidden.double(), weight.double(), target)
    assert torch.allclose(grad_hidden.double(), exact[1], atol=1e-6)
    assert torch.allclose(grad_weight.double(), exact[2], atol=1e-6)
