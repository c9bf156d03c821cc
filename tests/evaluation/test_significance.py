"""Significance tests over users and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.significance import Estimate, Family, adjusted, per_user, standard_error

USERS = 400


def ranks_of(higher: np.ndarray, users: np.ndarray | None = None, person: Sequence[int] = ()) -> Ranks:
    """Ranks of cases with a single target."""
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
        person=np.array(person, dtype=np.int64),
    )


def draw(mean: float, seed: int, shared: int = 0) -> Ranks:
    """Random ranks around a mean; each user has a component that is the same for all methods."""
    own = np.random.default_rng(shared).exponential(mean, USERS)
    return ranks_of(own * np.random.default_rng([seed, 9]).uniform(0.5, 1.5, USERS))


# ---- what the sample is ---------------------------------------------------------------------------


def test_a_case_counts_once_however_many_seeds() -> None:
    runs = [draw(20, seed) for seed in (1, 2)]
    users, values = per_user(runs, "ndcg@10")
    assert values.shape == (2, USERS) == (2, len(users))
    assert values[1] == pytest.approx(per_case(runs[1], "ndcg@10"))
    assert Family({"a": runs}, "ndcg@10").users == USERS


def test_a_user_weighs_by_the_number_of_its_cases() -> None:
    users = np.array([1, 1, 1, 2])
    family = Family({"a": [ranks_of(np.array([0, 0, 0, 50]), users)]}, "hit@10")
    found = family.interval("a")
    assert family.users == 2
    assert found.mean == 0.75  # the mean over cases, which tables show
    # The mean is a ratio of sums over two users, whose contributions to the deviation are +-0.1875.
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, 1) * np.sqrt(2 * 2 * 0.1875**2))


def test_users_with_as_many_cases_are_a_plain_sample() -> None:
    values = np.random.default_rng(0).random((1, USERS))
    error, df = standard_error(Estimate.of(values * 3, np.full(USERS, 3)))
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(USERS))
    assert df == pytest.approx(USERS - 1)


def test_where_histories_are_cut_the_person_is_the_user() -> None:
    """Eight sessions of two people count as two independent users, even if only one of the runs recorded the people."""
    generator = np.random.default_rng(1)
    places = generator.integers(20, size=(2, 8))
    people = [0, 0, 0, 0, 1, 1, 1, 1]
    noted, before = ranks_of(places[0], person=people), ranks_of(places[1])
    for methods in ({"a": [noted], "b": [before]}, {"a": [before], "b": [noted]}):
        family = Family(methods, "ndcg@10")
        assert family.users == 2
        assert family.compare()[0].df == pytest.approx(1)
    assert Family({"a": [before]}, "ndcg@10").users == 8


def test_a_single_user_says_nothing() -> None:
    one = np.array([1, 1])
    family = Family({"a": [ranks_of(np.array([0, 1]), one)], "b": [ranks_of(np.array([5, 9]), one)]}, "ndcg@10")
    (found,) = family.compare()
    assert (found.p, found.low, found.high) == (1.0, -np.inf, np.inf)


def test_other_cases_cannot_be_compared() -> None:
    fewer = draw(5, 1).select(np.arange(10))
    for methods in ({"a": [draw(5, 1)], "b": [fewer]}, {"a": [draw(5, 1), fewer]}):
        with pytest.raises(UserError, match="different cases"):
            Family(methods, "hit@1")


# ---- the test -------------------------------------------------------------------------------------


def test_one_seed_is_the_paired_t_test_of_two_trainings() -> None:
    a, b = draw(15, 1), draw(20, 2)
    (found,) = Family({"a": [a], "b": [b]}, "ndcg@10").compare()
    first, second = per_case(a, "ndcg@10"), per_case(b, "ndcg@10")
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert (found.p, found.df) == pytest.approx((expected.pvalue, USERS - 1))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.one_training
    assert not Family({"a": [a, draw(15, 3)], "b": [b, draw(20, 4)]}, "ndcg@10").compare()[0].one_training
    assert Family({"a": [a, draw(15, 3)], "b": [b]}, "ndcg@10").compare()[0].one_training


def test_where_users_add_nothing_it_is_welch_s_test_of_the_seeds() -> None:
    """All users have the same value within a training, so only the trainings differ."""
    a, b = np.array([0.1, 0.3, 0.2]), np.array([0.5, 0.2, 0.6, 0.4])
    sides = [Estimate.of(np.repeat(values[:, None], 50, axis=1), np.ones(50)) for values in (a, b)]
    error, df = standard_error(*sides)
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert df == pytest.approx(expected.df)
    assert (a.mean() - b.mean()) / error == pytest.approx(expected.statistic)


def quasi_f(a: np.ndarray, b: np.ndarray) -> float:
    """Clark's quasi-F (1973, table for words within treatments) from the mean squares of the analysis of variance.

    Treatments are methods, words are seeds, subjects are users: ``MS_T / (MS_TxS + MS_W - MS_SxW)``.
    """
    table = np.stack([a, b])  # treatment, word, subject
    treatments, words, subjects = table.shape
    means = table.mean(axis=(1, 2))
    ms_t = words * subjects * np.square(means - table.mean()).sum() / (treatments - 1)
    by_word = table.mean(axis=2)
    ms_w = subjects * np.square(by_word - means[:, None]).sum() / (treatments * (words - 1))
    by_subject, subject = table.mean(axis=1), table.mean(axis=(0, 1))
    crossed = by_subject - means[:, None] - subject[None] + table.mean()
    ms_ts = words * np.square(crossed).sum() / ((treatments - 1) * (subjects - 1))
    rest = table - by_word[:, :, None] - by_subject[:, None] + means[:, None, None]
    ms_sw = np.square(rest).sum() / (treatments * (words - 1) * (subjects - 1))
    return float(ms_t / (ms_ts + ms_w - ms_sw))


def test_the_statistic_is_clarks_quasi_f() -> None:
    generator = np.random.default_rng(2)
    users = generator.normal(size=(2, 1, 60))  # each method suits users differently
    a, b = generator.normal(size=(2, 4, 60)) + users + generator.normal(size=(2, 4, 1)) * 0.3
    sides = [Estimate.of(values, np.ones(60)) for values in (a, b)]
    error, _ = standard_error(*sides)
    assert ((a.mean() - b.mean()) / error) ** 2 == pytest.approx(quasi_f(a, b))


@pytest.mark.parametrize("crossed", [0.0, 1.0])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_equal_methods_seldom_differ(seeds: int, spread: float, crossed: float) -> None:
    """At the 5 % level, equal methods differ in about 5 % of cases; a test over users alone finds many more."""
    generator = np.random.default_rng([seeds, int(100 * spread), int(crossed)])
    shape, repeats, wrong, naive = (2, seeds, 60), 1500, 0, 0
    for _ in range(repeats):
        table = generator.normal(size=shape) + crossed * generator.normal(size=(2, 1, 60))
        table += spread * generator.normal(size=(2, seeds, 1))
        a, b = (Estimate.of(values, np.ones(60)) for values in table)
        error, df = standard_error(a, b)
        wrong += 2 * stats.t.sf(abs(a.mean - b.mean) / error, df) < 0.05
        naive += stats.ttest_rel(a.values, b.values).pvalue < 0.05
    assert 0.025 < wrong / repeats < 0.07
    if spread == 0.2 and not crossed:
        assert naive / repeats > 0.15


def test_seeds_widen_the_interval_and_one_seed_says_that_it_is_one() -> None:
    trainings = [ranks_of(np.full(USERS, place)) for place in (0, 1, 2)]  # no variance between users
    values = [per_case(run, "mrr@10").mean() for run in trainings]
    found, alone = Family({"a": trainings, "b": trainings[:1]}, "mrr@10"), Family({"b": trainings[:1]}, "mrr@10")
    interval = found.interval("a")
    assert interval.deviation == pytest.approx(np.std(values, ddof=1))
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
    assert (interval.low, interval.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    assert np.isnan(alone.interval("b").deviation)
    assert (alone.interval("b").low, alone.interval("b").high) == (1.0, 1.0)


def test_effect_and_wilcoxon_are_over_users() -> None:
    a, b = draw(15, 1), draw(20, 2)
    (found,) = Family({"a": [a], "b": [b]}, "ndcg@10").compare()
    differences = per_case(a, "ndcg@10") - per_case(b, "ndcg@10")
    assert found.p_wilcoxon == stats.wilcoxon(differences.round(12), zero_method="pratt", method="approx").pvalue
    assert found.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert (found.greater, found.less) == ((differences > 0).sum(), (differences < 0).sum())


def test_seeds_in_another_order_are_no_difference_of_a_user() -> None:
    seeds = [draw(3, seed) for seed in range(5)]
    alike = np.arange(USERS) < USERS // 2
    changed = ranks_of(np.where(alike, seeds[0].higher, seeds[0].higher + 1))
    (found,) = Family({"a": seeds, "b": [*seeds[:0:-1], changed]}, "ndcg@10").compare()
    assert (found.greater, found.less) == (np.sum(~alike & (seeds[0].higher < 10)), 0)


def test_equal_methods_differ_by_nothing() -> None:
    run = draw(20, 1)
    (found,) = Family({"a": [run], "b": [run]}, "ndcg@10").compare()
    assert (found.difference, found.p_wilcoxon, found.p, found.effect) == (0, 1, 1, 0)
    assert not found.holds
    shown = found.turned()
    assert f"{shown.difference:+.4f} [{shown.low:+.4f}, {shown.high:+.4f}] {shown.effect:+.2f}" == (
        "+0.0000 [+0.0000, +0.0000] +0.00"
    )


@pytest.mark.parametrize("seed", range(8))
def test_equal_runs_differ_by_nothing_however_many_they_are(seed: int) -> None:
    run = draw(20, seed)
    (found,) = Family({"a": [run] * 10, "b": [run] * 3}, "ndcg@10").compare()
    assert (found.difference, found.low, found.high, found.p, found.effect) == (0, 0, 0, 1, 0)


@pytest.mark.parametrize("users", [2, 7])
def test_the_effect_is_infinite_where_all_users_differ_by_the_same(users: int) -> None:
    first, second = (ranks_of(np.full(users, rank)) for rank in (0, 1))
    (found,) = Family({"a": [first], "b": [second]}, "ndcg@10").compare()
    assert (found.effect, found.turned().effect) == (np.inf, -np.inf)


@pytest.mark.parametrize(("margin", "p_equal"), [(0.4, 1.0), (0.5, 0.5), (0.6, 0.0)])
def test_a_difference_without_any_error_is_certain(margin: float, p_equal: float) -> None:
    """All users and seeds differ by 1 - 1/2."""
    first, second = ([ranks_of(np.full(9, rank))] * 2 for rank in (0, 1))
    for methods in ({"a": first, "b": second}, {"b": second, "a": first}):
        (found,) = Family(methods, "mrr@10", margin=margin).compare()
        assert (abs(found.difference), found.p, found.p_equal) == (0.5, 0.0, p_equal)
        assert found.low == found.high == found.difference


def test_a_clear_difference_holds_and_turns_with_the_sides() -> None:
    a, b = ([draw(mean, seed) for seed in seeds] for mean, seeds in ((5, (1, 2, 3)), (40, (4, 5, 6))))
    found = Family({"a": a, "b": b}, "ndcg@10").compare()[0]
    assert found.holds
    assert found.low > 0
    turned = found.turned()
    assert (turned.first, turned.difference, turned.high) == ("b", -found.difference, -found.low)
    assert (turned.greater, turned.less, turned.p) == (found.less, found.greater, found.p)
    assert turned.turned() == found


# ---- families -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("correction", "method"), [("holm", "holm"), ("fdr", "fdr_bh")])
def test_p_are_corrected_over_the_family(correction: str, method: str) -> None:
    methods = {name: [draw(20 + 4 * n, n), draw(20 + 4 * n, n + 10)] for n, name in enumerate("abcd")}
    family = Family(methods, "ndcg@10", correction, margin=0.01)
    found = family.compare()
    assert len(found) == 6
    alone = [family.compare([(c.first, c.second)])[0] for c in found]
    for name in ("p_adjusted", "p_wilcoxon", "p_equal"):
        raw = [getattr(c, "p" if name == "p_adjusted" else name) for c in alone]
        assert [getattr(c, name) for c in found] == pytest.approx(multipletests(raw, method=method)[1])
    assert family.compare([]) == []


def test_the_false_discovery_rate_finds_more() -> None:
    p = [0.001, 0.02, 0.03, 0.04]
    assert adjusted(p, "fdr") == pytest.approx([0.004, 0.04, 0.04, 0.04])
    assert adjusted(p, "holm") == pytest.approx([0.004, 0.06, 0.06, 0.06])


def test_an_unknown_correction_is_an_error() -> None:
    with pytest.raises(UserError, match="correction=bonferroni: known are holm, fdr"):
        Family({"a": [draw(5, 1)]}, "hit@1", "bonferroni")


@pytest.mark.parametrize(("margin", "none"), [(0.005, False), (0.05, True)])
def test_a_difference_within_the_margin_is_equivalent(margin: float, none: bool) -> None:
    """Two one-sided tests at 5 % are equivalent to the 90 % interval."""
    a, b = [draw(20, seed) for seed in (1, 2, 3)], [draw(20, seed) for seed in (4, 5, 6)]
    (found,) = Family({"a": a, "b": b}, "ndcg@10", margin=margin).compare()
    half = (found.high - found.low) / 2 / stats.t.ppf(0.975, found.df) * stats.t.ppf(0.95, found.df)
    assert (found.none, found.holds) == (none, False)
    assert found.none == (abs(found.difference) + half < margin)
    assert found.turned().p_equal == found.p_equal


def test_without_a_margin_nothing_is_said_of_equality() -> None:
    (found,) = Family({"a": [draw(20, 1)], "b": [draw(20, 2)]}, "ndcg@10").compare()
    assert np.isnan(found.p_equal)
    assert not found.none


@pytest.mark.parametrize("level", [0.9, 0.95, 0.995])
def test_the_interval_at_another_level_is_that_of_the_same_t(level: float) -> None:
    (found,) = Family({"a": [draw(20, 1), draw(20, 2)], "b": [draw(25, 3), draw(25, 4)]}, "ndcg@10").compare()
    low, high = found.interval(level)
    error = (found.high - found.low) / 2 / stats.t.ppf(0.975, found.df)
    assert (low, high) == pytest.approx(stats.t.interval(level, found.df, found.difference, error))


def test_the_same_runs_give_the_same_numbers() -> None:
    methods = {"a": [draw(5, 1)], "b": [draw(9, 2)]}
    first, second = (Family(methods, "mrr@10", margin=0.1).compare() for _ in range(2))
    assert first == second
