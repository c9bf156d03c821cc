"""Whether one method's advantage over another holds: paired tests over users.

Cases of one user are not independent, nor are runs that differ by the seed alone: a case's values are
averaged over seeds first, and users, with all their cases, are the sample. What is tested is the number
that a table shows, the mean over cases; a user with several cases weighs as many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.ranks import Ranks

RESAMPLES = 10_000
FEWEST_RESAMPLES = 2_000
MOST_DRAWS = 300_000_000  # users times resamples; some seconds
LEVEL = 0.05
EXACT_DIGITS = 12  # of a user's difference; what is smaller is rounding

Methods = Mapping[str, Sequence[Ranks]]


@dataclass(frozen=True)
class Interval:
    """A mean with its spread over seeds.

    Attributes:
        mean: over cases and seeds.
        deviation: sample standard deviation over seeds; ``nan`` for one seed.
        low, high: 95 % confidence interval of the mean over users (bootstrap).
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
        low, high: 95 % interval of the difference (paired bootstrap).
        p_bootstrap, p_wilcoxon: two-sided, before correction. In families that ask for a smaller p than the
            resamples can count, that of the bootstrap comes from the normal law where no resample is as extreme.
        p_holm: the larger of the two, or 1 where both are below 5 % for opposite sides, after Holm's correction over
            the family.
        effect: Cohen's d of the users' paired differences (mean over standard deviation).
        users: size of the sample.
        greater, less: users for whom the first method's value is greater, or less, than the second's.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_wilcoxon: float
    p_holm: float
    effect: float
    users: int
    greater: int = 0
    less: int = 0

    @property
    def holds(self) -> bool:
        """Whether the difference holds at 5 % after correction."""
        return self.p_holm < LEVEL

    def turned(self) -> Comparison:
        """The same comparison seen from the other side."""
        return Comparison(
            self.second,
            self.first,
            0.0 - self.difference,  # zero stays without a sign
            0.0 - self.high,
            0.0 - self.low,
            self.p_bootstrap,
            self.p_wilcoxon,
            self.p_holm,
            0.0 - self.effect,
            self.users,
            self.less,
            self.greater,
        )


def same_cases(a: Ranks, b: Ranks) -> bool:
    """Whether two results were tested on the same cases in the same order."""
    return np.array_equal(a.user, b.user) and np.array_equal(a.offsets, b.offsets) and np.array_equal(a.item, b.item)


def _check_cases(a: Ranks, b: Ranks) -> None:
    if not same_cases(a, b):
        raise UserError("two results were tested on different cases: they cannot be compared pairwise.")


def per_user(runs: Sequence[Ranks], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Users (ascending) and their mean values over cases and runs.

    Raises:
        UserError: the runs were tested on different cases.
    """
    for other in runs[1:]:
        _check_cases(runs[0], other)
    values = np.mean([per_case(run, metric) for run in runs], axis=0)
    users, place = np.unique(runs[0].user, return_inverse=True)
    return users, np.bincount(place, weights=values) / np.bincount(place)


def _resampled_means(values: np.ndarray, cases: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over cases in bootstrap samples of users, ``(resamples, k)``; all columns share their samples.

    Args:
        values: ``(n, k)`` means over each user's cases.
        cases: ``(n,)`` number of each user's cases.
        resamples: bootstrap samples.
        seed: of the bootstrap.
    """
    generator = np.random.default_rng(seed)
    count = len(values)
    means = np.empty((resamples, values.shape[1]))
    piece = max(1, 2_000_000 // max(1, count))
    totals = values * cases[:, None]
    for begin in range(0, resamples, piece):
        size = min(piece, resamples - begin)
        drawn = generator.integers(count, size=(size, count), dtype=np.uint32)
        # How often each user is drawn: the means are one product with these counts.
        often = np.stack([np.bincount(line, minlength=count) for line in drawn]).astype(np.float64)
        means[begin : begin + size] = often @ totals / (often @ cases)[:, None]
    return means


class Family:
    """Methods tested on the same cases, with one bootstrap for all that is asked of them.

    Args:
        methods: for each label its runs (one a seed).
        metric: such as ``ndcg@10``.
        resamples: bootstrap samples of users; by default 10,000, fewer where users are many.
        seed: of the bootstrap.

    Raises:
        UserError: the methods were tested on different cases.
    """

    def __init__(self, methods: Methods, metric: str, resamples: int | None = None, seed: int = 0) -> None:
        self.labels = list(methods)
        reference = methods[self.labels[0]][0]
        for label in self.labels:
            _check_cases(reference, methods[label][0])
        self._by_seed = {
            label: [float(per_case(run, metric).mean()) for run in runs] for label, runs in methods.items()
        }
        self._values = np.stack([per_user(methods[label], metric)[1] for label in self.labels], axis=1)
        self._cases = np.unique(reference.user, return_counts=True)[1].astype(np.float64)
        self._resamples, self._seed = resamples, seed
        self._drawn: np.ndarray | None = None

    @classmethod
    def of_metrics(cls, methods: Methods, metrics: Sequence[str], seed: int = 0) -> dict[str, Family]:
        """A family for each metric, all from the same bootstrap samples, drawn once."""
        families = {metric: cls(methods, metric, seed=seed) for metric in metrics}
        if families:
            first = next(iter(families.values()))
            together = np.concatenate([family._values for family in families.values()], axis=1)
            drawn = _resampled_means(together, first._cases, first._count(), seed)
            for family, means in zip(families.values(), np.split(drawn, len(families), axis=1), strict=True):
                family._drawn = means
        return families

    def _count(self) -> int:
        if self._resamples is not None:
            return self._resamples
        return int(np.clip(MOST_DRAWS // max(1, len(self._values)), FEWEST_RESAMPLES, RESAMPLES))

    @property
    def _means(self) -> np.ndarray:
        if self._drawn is None:
            self._drawn = _resampled_means(self._values, self._cases, self._count(), self._seed)
        return self._drawn

    @property
    def users(self) -> int:
        """Size of the sample."""
        return len(self._values)

    def interval(self, label: str) -> Interval:
        """Mean of a method over its seeds, its deviation, and the 95 % interval over users."""
        by_seed = self._by_seed[label]
        low, high = np.quantile(self._means[:, self.labels.index(label)], [0.025, 0.975])
        spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else float("nan")
        return Interval(float(np.mean(by_seed)), spread, float(low), float(high), len(by_seed))

    def compare(self, pairs: Sequence[tuple[str, str]] | None = None) -> list[Comparison]:
        """Paired tests of some pairs of labels (every pair by default), corrected over all of them."""
        if pairs is None:
            pairs = [(a, b) for number, a in enumerate(self.labels) for b in self.labels[number + 1 :]]
        if not pairs:
            return []
        left, right = ([self.labels.index(pair[side]) for pair in pairs] for side in (0, 1))
        # Seeds add up in another order to a sum that is off by 1e-17: no user's difference, and no rank of its own.
        differences = np.round(self._values[:, left] - self._values[:, right], EXACT_DIGITS)
        means = self._means[:, left] - self._means[:, right]
        observed = self._cases @ differences / self._cases.sum()
        # The bootstrap distribution is centred on the difference; moved to zero it is that of the null.
        extreme = (np.abs(means - observed) >= np.abs(observed) - 1e-15).sum(axis=0)
        p_bootstrap = (extreme + 1) / (len(means) + 1)
        if len(pairs) / (len(means) + 1) > LEVEL / 2:  # Holm's first p could not hold, or just so
            p_bootstrap = np.where(extreme == 0, np.minimum(p_bootstrap, _normal_tail(observed, means)), p_bootstrap)
        p_wilcoxon = np.array([_wilcoxon(differences[:, number]) for number in range(len(pairs))])
        larger = np.maximum(p_bootstrap, p_wilcoxon)
        for number in np.flatnonzero(larger < LEVEL):
            # A few users may make the mean and many the ranks, all the more where one side is a mean over more seeds.
            if _direction(differences[:, number]) * observed[number] < 0:
                larger[number] = 1.0
        p_holm = multipletests(larger, method="holm")[1]
        low, high = np.quantile(means, [0.025, 0.975], axis=0)
        deviation = differences.std(axis=0, ddof=1) if len(differences) > 1 else np.zeros(len(pairs))
        mean = differences.mean(axis=0)
        effect = np.divide(mean, deviation, out=np.zeros_like(mean), where=deviation > 0)
        greater, less = (differences > 0).sum(axis=0), (differences < 0).sum(axis=0)
        return [
            Comparison(
                first=a,
                second=b,
                difference=float(observed[n]),
                low=float(low[n]),
                high=float(high[n]),
                p_bootstrap=float(p_bootstrap[n]),
                p_wilcoxon=float(p_wilcoxon[n]),
                p_holm=float(p_holm[n]),
                effect=float(effect[n]),
                users=len(differences),
                greater=int(greater[n]),
                less=int(less[n]),
            )
            for n, (a, b) in enumerate(pairs)
        ]


def _normal_tail(observed: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Two-sided p of differences under normal laws with the deviations of their bootstrap distributions."""
    spread = means.std(axis=0, ddof=1)
    distance = np.divide(np.abs(observed), spread, out=np.full_like(spread, np.inf), where=spread > 0)
    return 2 * stats.norm.sf(distance)


def _wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p of the signed-rank test; 1 where nothing differs."""
    if not np.any(differences):
        return 1.0
    return float(stats.wilcoxon(differences, zero_method="pratt", method="approx").pvalue)


def _direction(differences: np.ndarray) -> float:
    """The sign of the sum of signed ranks: which side the signed-rank test is for."""
    return float(np.sign(np.sign(differences) @ stats.rankdata(np.abs(differences))))
