"""Next-item losses over all items and over sampled ones."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from recbole_llm.layers import next_item
from recbole_llm.layers.next_item import (
    TARGETS,
    NextItemLoss,
    at_targets,
    gbce_beta,
    generalised_bce,
    sampled_softmax,
    scores_of_negatives,
)

ROWS, ITEMS, SIZE = 7, 12, 5


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States, item vectors (row 0 is padding) and targets."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(ROWS, SIZE, generator=generator)
    weight = torch.randn(ITEMS, SIZE, generator=generator)
    return hidden, weight, torch.randint(1, ITEMS, (ROWS,), generator=generator)


def loss_of(objective: str, given: tuple[torch.Tensor, ...], negatives: torch.Tensor, **more: float) -> float:
    """The loss with the given negatives instead of sampled ones."""
    loss = NextItemLoss(objective, ITEMS, negatives.shape[-1], negatives.dim() == 1, **more)  # type: ignore[arg-type]
    loss.draw = lambda rows, device: negatives  # type: ignore[method-assign]
    return float(loss(*given))


@pytest.mark.parametrize("shape", [(4,), (ROWS, 4)])
def test_scores_and_gradients_of_negatives_are_those_of_plain_products(
    given: tuple[torch.Tensor, ...], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next_item, "_ON_CPU", 2 * 4 * SIZE)  # two rows per chunk
    negatives = torch.randint(1, ITEMS, shape, generator=torch.Generator().manual_seed(1))
    found = []
    for plainly in (True, False):
        hidden, weight = (part.clone().requires_grad_() for part in given[:2])
        scores = torch.einsum("md,mnd->mn", hidden, weight[negatives.expand(ROWS, 4)]) if plainly else None
        scores = scores_of_negatives(hidden, weight, negatives) if scores is None else scores
        (scores * torch.arange(scores.numel()).view_as(scores)).sum().backward()
        found.append((scores.detach(), hidden.grad, weight.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_sampled_softmax_over_every_other_item_is_the_softmax(given: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, target = given
    others = torch.stack([torch.tensor([i for i in range(1, ITEMS) if i != t]) for t in target.tolist()])
    full = F.cross_entropy((hidden @ weight.T)[:, 1:], target - 1)
    assert loss_of("sampled_softmax", given, others) == pytest.approx(float(full), rel=1e-5)


@pytest.mark.parametrize("shape", [(6,), (ROWS, 6)])
def test_a_sampled_softmax_by_hand(given: tuple[torch.Tensor, ...], shape: tuple[int, ...]) -> None:
    hidden, weight, target = given
    negatives = torch.randint(1, ITEMS, shape, generator=torch.Generator().manual_seed(1))
    expected = 0.0
    for row in range(ROWS):
        drawn = [j for j in negatives.expand(ROWS, 6)[row].tolist() if j != int(target[row])]
        scores = [float(hidden[row] @ weight[j]) for j in drawn]
        own = float(hidden[row] @ weight[target[row]])
        expected -= own - math.log(math.exp(own) + sum(map(math.exp, scores)))
    assert loss_of("sampled_softmax", given, negatives) == pytest.approx(expected / ROWS, rel=1e-5)


@pytest.mark.parametrize("by_popularity", [False, True])
def test_corrected_draws_estimate_the_softmax_over_all_items(
    given: tuple[torch.Tensor, ...], by_popularity: bool
) -> None:
    """The sum over draws is unbiased, so with very many draws the loss equals that over all items."""
    hidden, weight, target = given
    counts = torch.arange(ITEMS) if by_popularity else None
    torch.manual_seed(0)
    full = float(F.cross_entropy((hidden @ weight.T)[:, 1:], target - 1))
    corrected, plain = (
        float(NextItemLoss("sampled_softmax", ITEMS, 200_000, True, counts, log_q)(hidden, weight, target))
        for log_q in (True, False)
    )
    assert corrected == pytest.approx(full, abs=0.01)
    assert plain > full + 1


@pytest.mark.parametrize("objective", ["bce", "gbce"])
def test_bce_and_gbce_by_hand(given: tuple[torch.Tensor, ...], objective: str) -> None:
    hidden, weight, target = given
    negatives = torch.randint(1, ITEMS, (ROWS, 3), generator=torch.Generator().manual_seed(2))
    negatives[0, 0] = target[0]  # a negative that equals the target is ignored
    alpha = 3 / (ITEMS - 2)
    beta = alpha * (0.6 * (1 - 1 / alpha) + 1 / alpha) if objective == "gbce" else 1.0

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = 0.0
    for row in range(ROWS):
        expected -= math.log(sigmoid(float(hidden[row] @ weight[target[row]])) ** beta) / 4
        for j in negatives[row].tolist():
            if j != int(target[row]):
                expected -= math.log(1 - sigmoid(float(hidden[row] @ weight[j]))) / 4
    assert loss_of(objective, given, negatives, calibration=0.6) == pytest.approx(expected / ROWS, rel=1e-5)


def test_beta_at_its_ends() -> None:
    """Without calibration, gBCE is BCE; with full calibration, or if every item is drawn, ``beta`` is ``alpha``."""
    assert gbce_beta(5, 101, 0.0) == pytest.approx(1.0)
    assert gbce_beta(5, 101, 1.0) == pytest.approx(0.05)
    assert gbce_beta(5, 101, 0.5) == pytest.approx((1.0 + 0.05) / 2)
    assert gbce_beta(100, 101, 0.3) == pytest.approx(1.0)
    assert gbce_beta(400, 101, 1.0) == pytest.approx(1.0)


def test_the_padding_item_is_never_drawn_and_every_other_one_is() -> None:
    torch.manual_seed(0)
    for shared in (True, False):
        drawn = NextItemLoss("bce", ITEMS, 300, shared).draw(5, torch.device("cpu"))
        assert drawn.shape == ((300,) if shared else (5, 300))
        assert set(drawn.unique().tolist()) == set(range(1, ITEMS))


def test_draws_by_popularity_follow_the_counts() -> None:
    torch.manual_seed(0)
    counts = torch.tensor([9, 0, 3, 1])
    drawn = NextItemLoss("bce", 4, 40_000, True, counts).draw(1, torch.device("cpu"))
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    assert share[:2].tolist() == [0.0, 0.0]
    assert share[2:].tolist() == pytest.approx([0.75, 0.25], abs=0.02)


def test_the_loss_adds_nothing_to_a_state_dict() -> None:
    assert not NextItemLoss("bce", 4, 2, True, torch.ones(4)).state_dict()


def test_only_positions_with_a_target_are_kept() -> None:
    states = torch.arange(12.0).view(2, 3, 2)
    hidden, target = at_targets(states, {TARGETS: torch.tensor([[0, 5, 6], [7, 0, 0]])})
    assert target.tolist() == [5, 6, 7]
    assert hidden[:, 0].tolist() == [2.0, 4.0, 6.0]


def test_large_scores_stay_finite() -> None:
    positive, negative = torch.tensor([-200.0]), torch.tensor([[300.0, -300.0]])
    none = torch.zeros(1, 2, dtype=torch.bool)
    assert float(sampled_softmax(positive, negative, none)) == pytest.approx(500.0)
    assert float(generalised_bce(positive, negative, none)) == pytest.approx(500.0 / 3)
