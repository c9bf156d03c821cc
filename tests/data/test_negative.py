"""Negative sampling: draws only items that the user lacks, with the right probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from recbole_llm.data.negative import NegativeSampler

CPU = torch.device("cpu")
DRAWS = 20_000


def sampler(user, item, n_users=4, n_items=11, **options):
    options = {"seed": 5, **options}
    return NegativeSampler(np.array(user), np.array(item), n_users, n_items, CPU, **options)


def counts(items, n_items=11):
    return torch.bincount(items, minlength=n_items).numpy()


@pytest.mark.parametrize(
    ("own", "missing"),
    [
        ([1, 2, 3], [4, 5, 6, 7, 8, 9, 10]),
        ([10, 9], [1, 2, 3, 4, 5, 6, 7, 8]),
        ([2, 4, 6, 8, 10], [1, 3, 5, 7, 9]),
        ([5], [1, 2, 3, 4, 6, 7, 8, 9, 10]),
        ([3, 3, 3, 7, 3], [1, 2, 4, 5, 6, 8, 9, 10]),
    ],
)
def test_negatives_are_uniform_over_exactly_the_missing_items(own, missing):
    drawn = sampler([1, *[2] * len(own), 3], [5, *own, 5]).for_users(torch.full((DRAWS,), 2))
    found = counts(drawn)
    assert np.flatnonzero(found).tolist() == missing
    assert chisquare(found[missing]).pvalue > 0.001


def test_a_user_who_lacks_one_item_gets_that():
    drawn = sampler([2] * 9, [1, 2, 3, 4, 6, 7, 8, 9, 10]).for_users(torch.full((100,), 2))
    assert set(drawn.tolist()) == {5}


def test_each_user_has_missing_items_of_their_own():
    generator = np.random.default_rng(3)
    pairs = np.unique(generator.integers([1, 1], [21, 31], size=(200, 2)), axis=0)
    made = sampler(pairs[:, 0], pairs[:, 1], n_users=21, n_items=31)
    users = torch.arange(1, 21).repeat(500)
    drawn = set(zip(users.tolist(), made.for_users(users).tolist(), strict=True))
    assert drawn == {(u, i) for u in range(1, 21) for i in range(1, 31)} - set(map(tuple, pairs.tolist()))


def test_a_user_without_training_items_may_get_any():
    found = counts(sampler([1, 1], [2, 3]).for_users(torch.full((DRAWS,), 3)))
    assert np.flatnonzero(found).tolist() == list(range(1, 11))


def test_a_user_with_every_item_gets_some_item_and_no_one_else_is_disturbed():
    made = sampler([1] * 10 + [2], [*range(1, 11), 4])
    drawn = made.for_users(torch.tensor([1, 2] * 2000)).view(-1, 2)
    assert ((drawn >= 1) & (drawn <= 10)).all()
    assert 4 not in drawn[:, 1]


def test_several_negatives_come_round_by_round():
    made = sampler([1] * 9 + [2] * 9, [*range(1, 10), *range(2, 11)])  # user 1 lacks 10, user 2 lacks 1
    assert made.for_users(torch.tensor([1, 2]), 3).tolist() == [10, 1, 10, 1, 10, 1]


def test_the_same_seed_gives_the_same_negatives():
    users = torch.tensor([1, 2, 3] * 20)
    one, two, other = (sampler([1, 2], [3, 4], seed=seed).for_users(users) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_state_resumes_the_draws():
    users = torch.tensor([1, 2, 3] * 20)
    made = sampler([1, 2], [3, 4])
    made.for_users(users)
    state = made.state().clone()
    expected = made.for_users(users)
    fresh = sampler([1, 2], [3, 4], seed=99)
    fresh.set_state(state)
    assert torch.equal(fresh.for_users(users), expected)


def test_the_state_of_a_gpu_s_generator_is_passed_over_on_a_cpu(caplog):
    """Regression: a training that began on a GPU could not go on on a CPU, nor the other way round."""
    users = torch.tensor([1, 2, 3] * 20)
    expected = sampler([1, 2], [3, 4], seed=5).for_users(users)
    fresh = sampler([1, 2], [3, 4], seed=5)
    fresh.set_state(torch.zeros(16, dtype=torch.uint8))  # its seed and offset
    assert torch.equal(fresh.for_users(users), expected)
    assert "the training began on another kind of device" in caplog.text


def test_torch_s_own_random_numbers_are_not_used():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    sampler([1], [3]).for_users(torch.tensor([1, 2]))
    assert torch.equal(torch.rand(3), expected)


# ---- popularity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_popular_negatives_follow_the_training_counts(alpha):
    user = [1] * 10 + [2] * 5 + [3] * 2
    item = [1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 6, 6, 7, 7]
    made = sampler(user, item, n_items=8, distribution="popularity", alpha=alpha)
    found = counts(made.for_users(torch.full((DRAWS,), 2)), 8)
    expected = np.bincount(item, minlength=8).astype(float) ** alpha * (np.arange(8) > 0)
    expected[[5, 6]] = 0.0  # the user's own
    present = np.flatnonzero(expected)
    assert np.flatnonzero(found).tolist() == present.tolist()
    share = expected[present] / expected.sum()
    assert chisquare(found[present], share * DRAWS).pvalue > 0.001


def test_a_user_with_every_popular_item_still_gets_one():
    made = sampler([1, 1], [1, 2], distribution="popularity")
    assert set(made.for_users(torch.full((50,), 1)).tolist()) <= {1, 2}


def test_items_that_nobody_has_are_never_popular():
    made = sampler([1, 2, 3], [1, 2, 3], distribution="popularity")
    assert set(made.for_users(torch.full((DRAWS,), 1)).tolist()) == {2, 3}


# ---- negatives that differ from the positive only ------------------------------------------------


@pytest.mark.parametrize("positive", [1, 5, 10])
def test_negatives_beside_a_positive_are_uniform_over_all_others(positive):
    found = counts(sampler([1], [3]).except_items(torch.full((DRAWS,), positive)))
    others = [item for item in range(1, 11) if item != positive]
    assert np.flatnonzero(found).tolist() == others
    assert chisquare(found[others]).pvalue > 0.001


def test_popular_negatives_are_never_the_positive():
    made = sampler([1] * 9 + [2], [3] * 9 + [5], distribution="popularity")
    drawn = made.except_items(torch.full((DRAWS,), 3))
    assert 3 not in drawn
    assert 0 not in drawn


def test_popular_negatives_beside_a_positive_keep_the_proportions_of_the_others():
    made = sampler([1] * 9 + [2] * 8 + [3] * 4, [3] * 9 + [5] * 8 + [9] * 4, distribution="popularity")
    found = counts(made.except_items(torch.full((DRAWS,), 3)))
    assert np.flatnonzero(found).tolist() == [5, 9]
    assert chisquare(found[[5, 9]], DRAWS * np.array([2, 1]) / 3).pvalue > 0.001


def test_several_negatives_beside_positives_come_round_by_round():
    drawn = sampler([1, 2], [1, 2], n_items=3).except_items(torch.tensor([1, 2]), 2)
    assert drawn.tolist() == [2, 1, 2, 1]
