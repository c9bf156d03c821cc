"""Target attention in chunks equals a loop over sessions and items."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_llm.layers import target_attention
from recbole_llm.layers.target_attention import Attended, attended_cross_entropy, score_all, score_items

B, L, N, D = 7, 5, 11, 3
LIMITS = [1, N * L, 2 * N * L, 0]  # one item, one session, two sessions, everything at once


def tensors(dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    z, states, keys, weight = (
        torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()
        for shape in ((B, D), (B, L, D), (B, L, D), (N, D))
    )
    return z, states, keys, weight, torch.tensor([3, 1, 5, 2, 5, 4, 1]), torch.tensor([0, 10, 4, 4, 7, 1, 2])


def by_hand(z, states, keys, weight, lengths):
    """Scores by loops over sessions and items, with padding cut off instead of masked."""
    rows = []
    for b in range(B):
        h, k = states[b, : lengths[b]], keys[b, : lengths[b]]
        row = []
        for item in weight:
            beta = (k @ item).softmax(dim=0)
            row.append((z[b] + beta @ h) @ item)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("limit", LIMITS)
def test_scores_are_those_of_the_loop(limit):
    z, states, keys, weight, lengths, _ = tensors()
    found = score_all(z, Attended(states, keys, lengths), weight, limit)
    torch.testing.assert_close(found, by_hand(z, states, keys, weight, lengths))


def test_scores_of_single_items_are_those_of_all():
    z, states, keys, weight, lengths, target = tensors()
    found = score_items(z, Attended(states, keys, lengths), weight[target])
    torch.testing.assert_close(found, by_hand(z, states, keys, weight, lengths).gather(1, target[:, None])[:, 0])


@pytest.mark.parametrize("limit", LIMITS)
def test_loss_and_gradients_are_those_of_the_loop(limit):
    *ours, lengths, target = tensors()
    *theirs, _, _ = tensors()
    z, states, keys, weight = ours
    loss = attended_cross_entropy(z, Attended(states, keys, lengths), weight, target, limit)
    wanted = F.cross_entropy(by_hand(*theirs, lengths), target)
    torch.testing.assert_close(loss, wanted)
    (3 * loss).backward()
    (3 * wanted).backward()
    for one, other in zip(ours, theirs, strict=True):
        assert other.grad.abs().max() > 1e-3
        torch.testing.assert_close(one.grad, other.grad)


def test_padding_gets_no_gradient():
    z, states, keys, weight, lengths, target = tensors()
    session = Attended(states, keys, lengths)
    attended_cross_entropy(z, session, weight, target).backward()
    for values in (states, keys):
        assert values.grad[session.padding()].abs().max() == 0


def test_no_matrix_is_larger_than_the_limit(monkeypatch):
    z, states, keys, weight, lengths, target = tensors()
    sizes = []
    plain = target_attention._block

    def watched(*arguments):
        found = plain(*arguments)
        sizes.append(found[1].numel())
        return found

    monkeypatch.setattr(target_attention, "_block", watched)
    attended_cross_entropy(z, Attended(states, keys, lengths), weight, target, limit=20).backward()
    assert max(sizes) <= 20
    fits = int((lengths == 1).sum())
    assert sum(sizes) == 2 * N * int(lengths.sum()) - N * fits  # computed twice if the items do not fit at once


def test_extreme_scores_give_finite_numbers():
    z, states, keys, weight, lengths, target = tensors(torch.float32)
    loss = attended_cross_entropy(z * 1e3, Attended(states * 1e2, keys * 1e4, lengths), weight, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(weight.grad).all()


def test_half_precision_around_it_changes_nothing():
    z, states, keys, weight, lengths, target = tensors(torch.float32)
    wanted = attended_cross_entropy(z, Attended(states, keys, lengths), weight, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attended_cross_entropy(z, Attended(states, keys, lengths), weight, target)
        scores = score_all(z, Attended(states, keys, lengths), weight)
    assert torch.equal(found, wanted)
    assert torch.equal(scores, score_all(z, Attended(states, keys, lengths), weight))
