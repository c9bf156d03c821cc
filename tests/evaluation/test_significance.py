"""Paired tests over users."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.significance import Family, per_user

USERS = 400


def ranks_of(higher: np.ndarray, users: np.ndarray | None = None) -> Ranks:
    """Ranks of cases with one target each."""
    count = len(higher)
    return Ranks(
        user=np.arange(count) if users is None else users,
        offsets=np.arange(count + 1),
        item=np.ones(count, dtype=np.int32),
        higher=higher.astype(np.int32),
        tied=np.zeros(count, dtype=np.int32),
        history=np.ones(count, dtype=np.int32),
        train_count=np.ones(count, dtype=np.int32),
        head=np.zeros(count, dtype=bool),
    )


def draw(mean: float, seed: int, shared: int = 0) -> Ranks:
    """Places around a mean; one part is the user's own and the same for all methods."""
    own = np.random.default_rng(shared).exponential(mean, USERS)
    return ranks_of(own * np.random.default_rng([seed, 9]).uniform(0.5, 1.5, USERS))


def test_a_case_counts_once_however_many_seeds() -> None:
    runs = [draw(20, seed) for seed in (1, 2)]
    users, values = per_user(runs, "ndcg@10")
    assert len(users) == USERS
    assert values == pytest.approx((per_case(runs[0], "ndcg@10") + per_case(runs[1], "ndcg@10")) / 2)


def test_a_user_is_one_draw_and_weighs_by_the_number_of_its_cases() -> None:
    users = np.array([1, 1, 1, 2])
    ranks = ranks_of(np.array([0, 0, 0, 50]), users)
    family = Family({"a": [ranks]}, "hit@10")
    assert family.users == 2
    assert family.interval("a").mean == 0.75  # as a table shows it
    assert family.interval("a").low == 0.0  # both draws may be the second user


def test_the_interval_is_about_that_of_the_normal_law() -> None:
    runs = [draw(20, 1)]
    values = per_case(runs[0], "ndcg@10")
    found = Family({"a": runs}, "ndcg@10").interval("a")
    half = 1.96 * values.std(ddof=1) / np.sqrt(USERS)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_deviation_is_over_seeds_and_unknown_for_one() -> None:
    runs = [draw(20, seed) for seed in (1, 2, 3)]
    means = [per_case(run, "ndcg@10").mean() for run in runs]
    assert Family({"a": runs}, "ndcg@10").interval("a").deviation == pytest.approx(np.std(means, ddof=1))
    assert np.isnan(Family({"a": runs[:1]}, "ndcg@10").interval("a").deviation)


def test_a_comparison_weighs_a_user_by_its_cases_too() -> None:
    """Of two users one has three cases. Samples with one of them twice are as far off as what was found, or farther."""
    users = np.array([1, 1, 1, 2])
    a, b = ranks_of(np.array([0, 0, 0, 50]), users), ranks_of(np.array([50, 50, 50, 0]), users)
    (found,) = Family({"a": [a], "b": [b]}, "hit@10").compare()
    assert (found.difference, found.low, found.high, found.users) == (0.5, -1.0, 1.0, 2)
    assert found.p_bootstrap == pytest.approx(0.5, abs=0.03)
    assert (found.effect, found.greater, found.less) == (0.0, 1, 1)  # a user is one, whatever its cases


def test_the_interval_of_a_difference_to_nothing_is_that_of_the_method() -> None:
    nothing = ranks_of(np.full(USERS, 99))
    family = Family({"a": [draw(20, 1)], "nothing": [nothing]}, "ndcg@10")
    (found,), alone = family.compare(), family.interval("a")
    assert (found.low, found.high) == (alone.low, alone.high)
    assert found.p_bootstrap == 1 / 10_001  # one pair: no p below one in so many samples
    assert found.turned().turned() == found


def test_p_values_are_those_of_scipy() -> None:
    a, b = draw(15, 1), draw(20, 2)
    (found,) = Family({"a": [a], "b": [b]}, "ndcg@10").compare()
    differences = per_case(a, "ndcg@10") - per_case(b, "ndcg@10")
    assert found.p_wilcoxon == stats.wilcoxon(differences.round(12), zero_method="pratt", method="approx").pvalue
    assert found.p_bootstrap == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert found.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert (found.greater, found.less) == ((differences > 0).sum(), (differences < 0).sum())


def test_tests_that_speak_for_opposite_sides_speak_for_neither() -> None:
    """A tenth of the users has all of the gain, the others lose a little each."""
    few = np.arange(USERS) < USERS // 10
    gains, steady = ranks_of(np.where(few, 0, 9)), ranks_of(np.where(few, 50, 8))
    (found,) = Family({"gains": [gains], "steady": [steady]}, "ndcg@10").compare()
    assert max(found.p_bootstrap, found.p_wilcoxon) < 0.001
    assert (found.difference > 0, found.greater < found.less) == (True, True)
    assert (found.p_holm, found.holds) == (1.0, False)
    clear = ranks_of(np.full(USERS, 60))  # the correction of the other pairs stays that of two tests that agree
    pairs = Family({"gains": [gains], "steady": [steady], "clear": [clear]}, "ndcg@10").compare()
    assert [pair.holds for pair in pairs] == [False, True, True]


def test_seeds_in_another_order_are_no_difference_of_a_user() -> None:
    seeds = [draw(3, seed) for seed in range(5)]
    alike = np.arange(USERS) < USERS // 2
    changed = ranks_of(np.where(alike, seeds[0].higher, seeds[0].higher + 1))
    (found,) = Family({"a": seeds, "b": [*seeds[:0:-1], changed]}, "ndcg@10").compare()
    assert (found.greater, found.less) == (np.sum(~alike & (seeds[0].higher < 10)), 0)


def test_holm_corrects_over_the_family() -> None:
    methods = {name: [draw(20 + 4 * n, n)] for n, name in enumerate("abcd")}
    found = Family(methods, "ndcg@10").compare()
    assert len(found) == 6
    raw = np.array([max(c.p_bootstrap, c.p_wilcoxon) for c in found])
    order = np.argsort(raw)
    wanted = np.empty(6)
    wanted[order] = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(6, 0, -1)))
    assert [c.p_holm for c in found] == pytest.approx(wanted)


def test_a_large_family_can_hold_with_few_resamples() -> None:
    """With 2,000 resamples Holm's first p of 105 pairs is 105 / 2,001 at least, were resamples only counted."""
    methods = {"best": [draw(4, 0)], **{f"m{n}": [draw(20, n)] for n in range(1, 15)}}
    found = Family(methods, "ndcg@10", resamples=2000).compare()
    assert len(found) == 105
    assert {c.first for c in found if c.holds} == {"best"}
    assert sum(c.holds for c in found) == 14


def test_below_what_resamples_count_p_is_about_that_of_the_t_test() -> None:
    a, b = draw(17, 1), draw(20, 2)
    differences = per_case(a, "ndcg@10") - per_case(b, "ndcg@10")
    wanted = stats.ttest_1samp(differences, 0).pvalue
    assert wanted < 1 / 1000  # the smallest p that the resamples count is 1 / 101
    found = Family({"a": [a], "b": [b], "c": [b]}, "ndcg@10", resamples=100).compare()
    assert np.log10(found[0].p_bootstrap) == pytest.approx(np.log10(wanted), rel=0.25)
    assert found[0].p_bootstrap == found[1].p_bootstrap
    assert found[2].p_bootstrap == 1  # what is as extreme is counted


def test_equal_methods_differ_by_nothing() -> None:
    run = draw(20, 1)
    (found,) = Family({"a": [run], "b": [run]}, "ndcg@10").compare()
    assert (found.difference, found.p_wilcoxon, found.p_bootstrap, found.effect) == (0, 1, 1, 0)
    assert not found.holds
    shown = found.turned()
    assert f"{shown.difference:+.4f} [{shown.low:+.4f}, {shown.high:+.4f}] {shown.effect:+.2f}" == (
        "+0.0000 [+0.0000, +0.0000] +0.00"
    )


@pytest.mark.slow
def test_chance_alone_seldom_holds() -> None:
    """Of 100 families of two equally good methods about five would be wrong at 5 %, with both tests fewer."""
    wrong = 0
    for number in range(100):
        a, b = draw(20, 2 * number, shared=number), draw(20, 2 * number + 1, shared=number)
        wrong += Family({"a": [a], "b": [b]}, "ndcg@10", resamples=400).compare()[0].holds
    assert wrong <= 10


def test_a_clear_difference_holds_and_turns_with_the_sides() -> None:
    found = Family({"a": [draw(5, 1)], "b": [draw(40, 2)]}, "ndcg@10").compare()[0]
    assert found.holds
    assert found.low > 0
    turned = found.turned()
    assert (turned.first, turned.difference, turned.high) == ("b", -found.difference, -found.low)
    assert (turned.greater, turned.less) == (found.less, found.greater)


def test_families_of_several_metrics_share_their_samples() -> None:
    methods = {"a": [draw(5, 1)], "b": [draw(9, 2)]}
    together = Family.of_metrics(methods, ["ndcg@10", "hit@5"])
    for metric, family in together.items():
        alone = Family(methods, metric)
        assert family.interval("a").low == pytest.approx(alone.interval("a").low)
        assert [c.p_holm for c in family.compare()] == pytest.approx([c.p_holm for c in alone.compare()])


def test_the_same_seed_gives_the_same_numbers() -> None:
    methods = {"a": [draw(5, 1)], "b": [draw(9, 2)]}
    assert Family(methods, "mrr@10").compare() == Family(methods, "mrr@10").compare()


def test_other_cases_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="different cases"):
        Family({"a": [draw(5, 1)], "b": [draw(5, 1).select(np.arange(10))]}, "hit@1")
