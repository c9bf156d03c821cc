"""Whether one method's advantage over another holds: paired tests over users.

Cases of one user are not independent, nor are runs that differ by the seed alone: a user's values are
averaged over cases and seeds first, and users are the sample.
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
LEVEL = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean with its spread over seeds.

    Attributes:
        mean: over seeds.
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
        difference: mean over users.
        low, high: 95 % interval of the difference (paired bootstrap).
        p_bootstrap, p_wilcoxon: two-sided, before correction.
        p_holm: the larger of the two, after Holm's correction over the family.
        effect: Cohen's d of paired differences (mean over standard deviation).
        users: size of the sample.
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

    @property
    def holds(self) -> bool:
        """Whether the difference holds at 5 % after correction."""
        return self.p_holm < LEVEL


def per_user(runs: Sequence[Ranks], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Users (ascending) and their mean values over cases and runs.

    Raises:
        UserError: the runs were tested on different cases.
    """
    first = runs[0]
    for other in runs[1:]:
        _same_cases(first, other)
    values = np.mean([per_case(run, metric) for run in runs], axis=0)
    users, place = np.unique(first.user, return_inverse=True)
    return users, np.bincount(place, weights=values) / np.bincount(place)


def _same_cases(a: Ranks, b: Ranks) -> None:
    if not (np.array_equal(a.user, b.user) and np.array_equal(a.offsets, b.offsets) and np.array_equal(a.item, b.item)):
        raise UserError("two results were tested on different cases: they cannot be compared pairwise.")


def _resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of bootstrap samples of ``(n, k)`` columns, ``(resamples, k)``; all columns share their samples."""
    generator = np.random.default_rng(seed)
    count = len(values)
    means = np.empty((resamples, values.shape[1]))
    piece = max(1, 2_000_000 // max(1, count))
    for begin in range(0, resamples, piece):
        size = min(piece, resamples - begin)
        drawn = generator.integers(count, size=(size, count), dtype=np.uint32)
        # How often each user is drawn: the means are one product with these counts.
        often = np.stack([np.bincount(line, minlength=count) for line in drawn]).astype(np.float64)
        means[begin : begin + size] = often @ values / count
    return means


class Family:
    """Methods tested on the same cases, with one bootstrap for all that is asked of them.

    Args:
        methods: for each label its runs (one a seed).
        metric: such as ``ndcg@10``.
        resamples: bootstrap samples of users.
        seed: of the bootstrap.

    Raises:
        UserError: the methods were tested on different cases.
    """

    def __init__(
        self, methods: Mapping[str, Sequence[Ranks]], metric: str, resamples: int = RESAMPLES, seed: int = 0
    ) -> None:
        self.labels = list(methods)
        reference = methods[self.labels[0]][0]
        for label in self.labels:
            _same_cases(reference, methods[label][0])
        self._by_seed = {
            label: [float(per_case(run, metric).mean()) for run in runs] for label, runs in methods.items()
        }
        self._values = np.stack([per_user(methods[label], metric)[1] for label in self.labels], axis=1)
        self._means = _resampled_means(self._values, resamples, seed)

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
        differences = self._values[:, left] - self._values[:, right]
        means = self._means[:, left] - self._means[:, right]
        observed = differences.mean(axis=0)
        # The bootstrap distribution is centred on the difference; moved to zero it is that of the null.
        extreme = (np.abs(means - observed) >= np.abs(observed) - 1e-15).sum(axis=0)
        p_bootstrap = (extreme + 1) / (len(means) + 1)
        p_wilcoxon = np.array([_wilcoxon(differences[:, number]) for number in range(len(pairs))])
        p_holm = multipletests(np.maximum(p_bootstrap, p_wilcoxon), method="holm")[1]
        low, high = np.quantile(means, [0.025, 0.975], axis=0)
        deviation = differences.std(axis=0, ddof=1) if len(differences) > 1 else np.zeros(len(pairs))
        effect = np.divide(observed, deviation, out=np.zeros_like(observed), where=deviation > 0)
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
            )
            for n, (a, b) in enumerate(pairs)
        ]


def _wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p of the signed-rank test; 1 where nothing differs."""
    if not np.any(differences):
        return 1.0
    return float(stats.wilcoxon(differences, zero_method="pratt", method="approx").pvalue)
