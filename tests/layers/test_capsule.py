"""Capsule routing, self-attentive interests, and their regulariser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recbole_llm.layers.capsule import CapsuleRouting, SelfAttentiveInterests, routing_regulariser, squash
from tests.device_waits import nothing_at_hand

B, L, D, K = 5, 7, 6, 3
LENGTHS = torch.tensor([7, 1, 3, 5, 2])
MASK = torch.arange(L) < LENGTHS[:, None]


def items(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, L, D, generator=generator) * MASK[:, :, None]


def filled(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


def plain_routing(module: CapsuleRouting, row: torch.Tensor) -> torch.Tensor:
    """Interests ``(K, d)`` of one history ``(n, d)`` without padding, by the paper's loop."""
    made = module._transformed(row[None])  # (1, K, n, d), or (1, n, d) for one shared map
    made = made.expand(K, -1, -1) if module.transform == "shared" else made[0]
    logits = torch.zeros(made.shape[:2])
    for _ in range(module.rounds):
        weights = logits.softmax(dim=1)
        interest = torch.stack([squash(weights[k] @ made[k]) for k in range(len(made))])
        logits = logits + torch.stack([made[k] @ interest[k] for k in range(len(made))])
    return interest


def test_squash_keeps_the_direction_and_presses_the_length_below_one() -> None:
    vectors = torch.randn(10, D) * torch.logspace(-2, 2, 10)[:, None]
    pressed = squash(vectors)
    norm = vectors.norm(dim=1)
    torch.testing.assert_close(pressed.norm(dim=1), norm**2 / (1 + norm**2), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(torch.cosine_similarity(pressed, vectors), torch.ones(10))


@pytest.mark.parametrize("transform", ["position", "interest", "shared"])
def test_routing_of_padded_histories_is_that_of_each_alone(transform: str) -> None:
    module = filled(CapsuleRouting(D, K, L, transform))
    found = module(items(), MASK)
    assert found.shape == (B, K, D)
    for number, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(found[number], plain_routing(module, items()[number, :length]))


def test_gradients_flow_through_the_last_round_alone() -> None:
    module = filled(CapsuleRouting(D, K, L, "interest"))
    once = filled(CapsuleRouting(D, K, L, "interest", rounds=1))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), once.parameters(), strict=True))
    module(items(), MASK).sum().backward()
    given = module.linear.weight.grad.clone()
    # By hand: the weights of the last round are constants.
    with torch.no_grad():
        made = module._transformed(items())
        logits = torch.zeros(B, K, L)
        for _ in range(2):
            weights = logits.masked_fill(~MASK[:, None], -torch.inf).softmax(dim=2)
            interest = squash(torch.einsum("bkl,bkld->bkd", weights, made))
            logits = logits + torch.einsum("bkld,bkd->bkl", made, interest)
        weights = logits.masked_fill(~MASK[:, None], -torch.inf).softmax(dim=2)
    once.zero_grad()
    squash(torch.einsum("bkl,bkld->bkd", weights, once._transformed(items()))).sum().backward()
    torch.testing.assert_close(given, once.linear.weight.grad)


def test_interests_of_one_shared_map_differ_only_by_random_logits() -> None:
    plain = filled(CapsuleRouting(D, K, L, "shared"))(items(), MASK)
    torch.testing.assert_close(plain[:, 0], plain[:, 1])
    random = filled(CapsuleRouting(D, K, L, "shared", random_logits=True))
    assert not torch.allclose(random(items(), MASK)[0, 0], random(items(), MASK)[0, 1])
    torch.testing.assert_close(random(items(), MASK), random(items(), MASK))
    random.train()
    assert not torch.allclose(random(items(), MASK), random(items(), MASK))


def test_masking_after_the_softmax_depends_on_the_padding() -> None:
    released = filled(CapsuleRouting(D, K, L, "interest", mask_first=False))
    whole, cut = released(items()[1:2], MASK[1:2]), released(items()[1:2, :1], MASK[1:2, :1])
    assert not torch.allclose(whole, cut)
    torch.testing.assert_close(cut, filled(CapsuleRouting(D, K, L, "interest"))(items()[1:2], MASK[1:2]))


def test_attention_of_each_interest_sums_to_one_over_the_history() -> None:
    module = filled(SelfAttentiveInterests(D, K, L))
    interests, attention = module(items(), MASK)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(B, K))
    assert not attention.masked_select(~MASK[:, None].expand(-1, K, -1)).any()
    torch.testing.assert_close(interests, attention @ items())


def test_attention_is_the_equation_history_by_history() -> None:
    """``softmax_L(W2 tanh(W1 (X + P)))``, positions counted from the first item."""
    module = filled(SelfAttentiveInterests(D, K, L))
    _, attention = module(items(), MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        x = items()[row, :length] + module.position[0, :length]
        wanted = (torch.tanh(x @ module.inner.weight.T) @ module.outer.weight.T).softmax(dim=0).T
        torch.testing.assert_close(attention[row, :, :length], wanted)


def test_padding_is_not_scored() -> None:
    module = filled(SelfAttentiveInterests(D, K, L))
    seen: list[int] = []
    module.inner.register_forward_hook(lambda _, read, __: seen.append(read[0].numel() // D))
    module(items(), MASK)
    assert seen == [int(LENGTHS.sum())]


def test_scores_without_padding_have_the_gradients_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    module = filled(SelfAttentiveInterests(D, K, L)).double()
    found = []
    for _ in range(2):
        vectors = items().double().requires_grad_()
        interests, attention = module(vectors, MASK)
        wanted = [vectors, *module.parameters()]
        found.append(torch.autograd.grad(interests.sin().sum() + attention.square().sum(), wanted))
        nothing_at_hand(monkeypatch)
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded)


def test_the_regulariser_is_the_variance_of_each_interest() -> None:
    _, attention = filled(SelfAttentiveInterests(D, K, L))(items(), MASK)
    expected = 0.0
    for row, length in zip(attention.tolist(), LENGTHS.tolist(), strict=True):
        for interest in row:
            own = interest[:length]
            mean = sum(own) / length
            expected += (sum((value - mean) ** 2 for value in own) / D) ** 2 / B
    assert math.isclose(float(routing_regulariser(attention, LENGTHS, D)), expected, rel_tol=1e-4)


def test_even_attention_costs_nothing() -> None:
    even = MASK[:, None].expand(-1, K, -1) / LENGTHS[:, None, None]
    assert float(routing_regulariser(even, LENGTHS, D)) == pytest.approx(0.0, abs=1e-12)
