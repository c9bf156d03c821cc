"""Tests whether one method's advantage over another is significant, treating users and trainings both as samples.

A number in a table is a mean over test users and over trainings that differ by the seed. Other users or other seeds
would have given another number. Users are crossed with everything (the same users test every training); seeds
are nested in methods (each method has its own trainings). The test is the quasi-F for that design, with one degree
of freedom in the numerator (Clark, "The language-as-fixed-effect fallacy", 1973; the "readers nested in tests" design
of Obuchowski and Rockette, 1995, and Hillis, 2014). For methods ``A`` and ``B`` with means over cases ``m``::

    t = (m_A - m_B) / sqrt(V),    V = S_A + S_B + max(0, U - E_A - E_B)

``S`` is the variance of a method's mean over its seeds, estimated from the spread of its seeds' means. ``U`` is the
variance of the difference over users, estimated from the users' differences, averaged over seeds. Both contain the
noise of single users under single seeds; ``E``, estimated from the residuals of the users-by-seeds table, removes it
once. Satterthwaite's degrees of freedom (Biometrics 1946) follow from the three mean squares; they are Welch's if
users add nothing. With one seed on both sides this is the paired t test over users, whose result holds for these two
trainings only.

The tested number is the one in the tables, the mean over cases. A user is weighted by the number of cases; the
variances are those of a ratio of sums over users (Cochran, "Sampling Techniques", 1977, section 6.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.ranks import Ranks

LEVEL = 0.05
EXACT_DIGITS = 12  # decimals of differences and their spread; smaller ones are rounding errors
_WILCOXON_CELLS = 200_000  # users times pairs per call: some 20 MiB of ranks
CORRECTIONS = {"holm": "Holm", "fdr": "Benjamini-Hochberg"}

Methods = Mapping[str, Sequence[Ranks]]


@dataclass(frozen=True)
class Interval:
    """A mean with its spread.

    Attributes:
        mean: over cases and seeds.
        deviation: sample standard deviation over seeds; ``nan`` for one seed.
        low, high: 95 % confidence interval of the mean, over users and seeds; for one seed, over users only.
        seeds: number of runs.
    """

    mean: float
    deviation: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """One pair of methods on one metric.

    Attributes:
        first, second: labels; differences are ``first - second``.
        difference: of the means over cases.
        low, high: 95 % interval of the difference, from the same t distribution as ``p``.
        p: two-sided, before correction.
        p_adjusted: ``p`` after correction over the family.
        p_wilcoxon: for information: signed-rank test over users, averaged over seeds, after the same correction.
        p_equal: p value of the hypothesis that the difference is at least as large as the margin (TOST; Schuirmann
            1987), after the same correction; ``nan`` without a margin.
        df: degrees of freedom.
        effect: Cohen's d of the users' paired differences (mean over standard deviation); infinite if all users differ
            by the same.
        users: number of users in the sample.
        greater, less: number of users for whom the first method's value is greater, or less, than the second's.
        one_training: one side or both have a single seed, so that the test is of that training, not of the method.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    p_wilcoxon: float
    p_equal: float
    df: float
    effect: float
    users: int
    greater: int = 0
    less: int = 0
    one_training: bool = False

    @property
    def holds(self) -> bool:
        """Whether the difference is significant at 5 % after correction; see also ``one_training``."""
        return self.p_adjusted < LEVEL

    @property
    def none(self) -> bool:
        """Whether a difference as large as the margin is ruled out at 5 % after correction."""
        return self.p_equal < LEVEL

    def interval(self, level: float) -> tuple[float, float]:
        """The interval of the difference at another level, such as 0.99, from the same t distribution."""
        half = (self.high - self.low) / 2
        if half > 0:
            half *= float(stdtrit(self.df, (1 + level) / 2) / stdtrit(self.df, 1 - LEVEL / 2))
        return self.difference - half, self.difference + half

    def turned(self) -> Comparison:
        """The same comparison seen from the other side."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            difference=0.0 - self.difference,  # plain negation would turn 0.0 into -0.0
            low=0.0 - self.high,
            high=0.0 - self.low,
            effect=0.0 - self.effect,
            greater=self.less,
            less=self.greater,
        )


def same_cases(a: Ranks, b: Ranks) -> bool:
    """Whether two results were tested on the same cases in the same order."""
    return np.array_equal(a.user, b.user) and np.array_equal(a.offsets, b.offsets) and np.array_equal(a.item, b.item)


def _check_cases(a: Ranks, b: Ranks) -> None:
    if not same_cases(a, b):
        raise UserError("two results were tested on different cases: they cannot be compared pairwise.")


def sample_of(runs: Sequence[Ranks]) -> np.ndarray:
    """``(m,)`` the sampling unit of each case: its user.

    If a protocol cuts histories into sessions, it is the person behind the session, provided that a run stores it.
    """
    return next((run.person for run in runs if len(run.person)), runs[0].user)


def per_user(runs: Sequence[Ranks], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Users, ascending, and their mean values over cases, ``(runs, users)``.

    Raises:
        UserError: the runs were tested on different cases.
    """
    users, sums, cases = _sums(runs, metric, sample_of(runs))
    return users, sums / cases


def _sums(runs: Sequence[Ranks], metric: str, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, the sums of a metric over their cases, ``(runs, users)``, and their numbers of cases."""
    for other in runs[1:]:
        _check_cases(runs[0], other)
    users, place, cases = np.unique(sample, return_inverse=True, return_counts=True)
    sums = [np.bincount(place, weights=per_case(run, metric), minlength=len(users)) for run in runs]
    return users, np.stack(sums), cases


@dataclass(frozen=True)
class Estimate:
    """One method's mean and its variance components, estimated from its runs.

    Attributes:
        by_seed: mean over cases of each run.
        shares: ``(n,)`` each user's contribution to the deviation of the mean, averaged over seeds; they sum to zero.
        seeds: variance of the mean over seeds (``S``); 0 for one seed.
        noise: variance of the mean from single users under single seeds (``E``); 0 for one seed.
        values: ``(n,)`` users' means over cases and seeds.
    """

    by_seed: np.ndarray
    shares: np.ndarray
    seeds: float
    noise: float
    values: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray, cases: np.ndarray) -> Estimate:
        """The estimate from sums of a metric over users' cases.

        Args:
            sums: ``(seeds, n)``.
            cases: ``(n,)`` number of each user's cases.
        """
        count = len(sums)
        by_seed = sums.sum(axis=1) / cases.sum()
        deviations = (sums - by_seed[:, None] * cases) / cases.sum()
        shares = deviations.mean(axis=0)
        seeds = noise = 0.0
        if count > 1:
            seeds = float(by_seed.var(ddof=1)) / count
            noise = _over_users(deviations - shares) / (count - 1) / count
        return cls(by_seed, shares, seeds, noise, sums.mean(axis=0) / cases)

    @property
    def mean(self) -> float:
        """The mean over cases and seeds."""
        return float(self.by_seed.mean())


def _over_users(shares: np.ndarray) -> float:
    """Variance of a mean over users, from their contributions to its deviation; infinite for a single user."""
    users = shares.shape[-1]
    return float(np.square(shares).sum()) * users / (users - 1) if users > 1 else float("inf")


def standard_error(*sides: Estimate) -> tuple[float, float]:
    """Standard error of a method's mean, or of the difference of two, and its degrees of freedom.

    Returns:
        ``(sqrt(V), df)`` as in the module's docstring.
    """
    shares = sides[0].shares if len(sides) == 1 else sides[0].shares - sides[1].shares
    users = len(shares)
    if users < 2:
        return float("inf"), 1.0
    by_users = max(0.0, _over_users(shares) - sum(side.noise for side in sides))
    variance = by_users + sum(side.seeds for side in sides)
    if np.sqrt(variance) < 10.0**-EXACT_DIGITS:
        return 0.0, float(users - 1)
    # Satterthwaite: each mean square with its own degrees of freedom.
    squares = by_users**2 / (users - 1)
    squares += sum(side.seeds**2 / (len(side.by_seed) - 1) for side in sides if len(side.by_seed) > 1)
    return float(np.sqrt(variance)), float(variance**2 / squares)


def _upper(distance: float, error: float, df: float) -> float:
    """Probability that a t variable exceeds ``distance / error``."""
    if error == 0:
        return 0.5 if distance == 0 else float(distance < 0)
    return float(stdtr(df, -distance / error))


def _effect(differences: np.ndarray) -> float:
    """Cohen's d of users' differences; infinite if all users differ by the same, 0 for a single user."""
    deviation = np.round(differences.std(ddof=1), EXACT_DIGITS) if len(differences) > 1 else float("inf")
    mean = float(differences.mean())
    return float(mean / deviation) if deviation > 0 else float(np.copysign(np.inf, mean)) if mean else 0.0


class Family:
    """Methods tested on the same cases, and their comparisons on one metric.

    Args:
        methods: for each label, its runs (one per seed).
        metric: such as ``ndcg@10``.
        correction: ``holm`` (limits the probability of any false finding) or ``fdr`` (limits the share of false ones
            among the findings; Benjamini and Hochberg 1995).
        margin: smaller differences count as none; ``None`` leaves out the test of equivalence.

    Raises:
        UserError: the methods were tested on different cases, or there is no such correction.
    """

    def __init__(self, methods: Methods, metric: str, correction: str = "holm", margin: float | None = None) -> None:
        if correction not in CORRECTIONS:
            raise UserError(f"correction={correction}: known are {', '.join(CORRECTIONS)}.")
        self.labels, self.metric, self.correction, self.margin = list(methods), metric, correction, margin
        everything = [run for runs in methods.values() for run in runs]
        sample = sample_of(everything)
        for runs in methods.values():
            _check_cases(everything[0], runs[0])
        self._estimates: dict[str, Estimate] = {}
        for label, runs in methods.items():
            _, sums, cases = _sums(runs, metric, sample)
            self._estimates[label] = Estimate.of(sums, cases)
        self.users = len(cases)

    def interval(self, label: str) -> Interval:
        """A method's mean over its seeds, with standard deviation and 95 % interval."""
        found = self._estimates[label]
        error, df = standard_error(found)
        half = float(stdtrit(df, 1 - LEVEL / 2)) * error
        spread = float(found.by_seed.std(ddof=1)) if len(found.by_seed) > 1 else float("nan")
        return Interval(found.mean, spread, found.mean - half, found.mean + half, len(found.by_seed))

    def compare(self, pairs: Sequence[tuple[str, str]] | None = None) -> list[Comparison]:
        """Tests of some pairs of labels (every pair by default), corrected over all of them."""
        if pairs is None:
            pairs = [(a, b) for number, a in enumerate(self.labels) for b in self.labels[number + 1 :]]
        found = [self._compared(a, b) for a, b in pairs]
        found = [replace(each, p_wilcoxon=p) for each, p in zip(found, self._wilcoxon(pairs), strict=True)]
        corrected = {
            name: adjusted([getattr(each, name) for each in found], self.correction)
            for name in ("p", "p_wilcoxon", "p_equal")
        }
        return [
            replace(each, p_adjusted=p, p_wilcoxon=wilcoxon, p_equal=equal)
            for each, p, wilcoxon, equal in zip(found, *corrected.values(), strict=True)
        ]

    def _compared(self, first: str, second: str) -> Comparison:
        """One pair, before correction."""
        a, b = self._estimates[first], self._estimates[second]
        difference = float(np.round(a.mean - b.mean, EXACT_DIGITS))
        error, df = standard_error(a, b)
        half = float(stdtrit(df, 1 - LEVEL / 2)) * error
        by_user = self._by_user(first, second)
        return Comparison(
            first=first,
            second=second,
            difference=difference,
            low=difference - half,
            high=difference + half,
            p=2 * _upper(abs(difference), error, df),
            p_adjusted=1.0,
            p_wilcoxon=1.0,
            p_equal=float("nan") if self.margin is None else _upper(self.margin - abs(difference), error, df),
            df=df,
            effect=_effect(by_user),
            users=len(by_user),
            greater=int((by_user > 0).sum()),
            less=int((by_user < 0).sum()),
            one_training=min(len(a.by_seed), len(b.by_seed)) == 1,
        )

    def _by_user(self, first: str, second: str) -> np.ndarray:
        """``(n,)`` each user's difference, averaged over cases and seeds.

        Differences are rounded: adding seeds in another order changes a sum by 1e-17, which must not count as a
        difference or get a rank of its own.
        """
        return np.round(self._estimates[first].values - self._estimates[second].values, EXACT_DIGITS)

    def _wilcoxon(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """``p_wilcoxon`` of some pairs, before correction; in batches, since a call costs more than its arithmetic."""
        at_once = max(1, _WILCOXON_CELLS // max(1, self.users))
        return [
            p
            for begin in range(0, len(pairs), at_once)
            for p in _wilcoxon(np.stack([self._by_user(a, b) for a, b in pairs[begin : begin + at_once]]))
        ]


def adjusted(p: Sequence[float], correction: str) -> list[float]:
    """The p values after correction over all of them; unchanged if any is ``nan``.

    Holm (Scandinavian Journal of Statistics 1979) multiplies the smallest of ``m`` values by ``m``, the next by
    ``m - 1`` and so on; Benjamini and Hochberg (JRSS B 1995) multiply the ``i``-th smallest by ``m / i``.
    """
    if not len(p) or np.isnan(p).any():
        return list(p)
    values, count = np.asarray(p, dtype=float), len(p)
    order = np.argsort(values, kind="stable")
    if correction == "holm":
        steps = np.maximum.accumulate(values[order] * np.arange(count, 0, -1))
    else:
        steps = np.minimum.accumulate((values[order] / (np.arange(1, count + 1) / count))[::-1])[::-1]
    found = np.empty(count)
    found[order] = np.minimum(steps, 1.0)
    return [float(value) for value in found]


def _wilcoxon(differences: np.ndarray) -> list[float]:
    """Two-sided p of the signed-rank test of each row of ``(pairs, users)``; 1 for a row without differences."""
    found = np.ones(len(differences))
    differ = differences.any(axis=1)
    if differ.any():
        from scipy import stats  # takes half a second, which a table of a single row need not pay

        test = stats.wilcoxon(differences[differ], zero_method="pratt", method="approx", axis=1)
        found[differ] = test.pvalue
    return [float(value) for value in found]
