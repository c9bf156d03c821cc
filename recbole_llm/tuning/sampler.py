"""What a search tries next: first settings that are known to be good, then TPE, seeded anew for each trial."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

STARTUP_TRIALS = 10  # sampled at random before TPE takes over


def _tpe(seed: int) -> TPESampler:
    """TPE with every argument set that affects sampling or whose default differs between Optuna 4.9 and 5.

    ``multivariate`` is off because the two versions compute its kernels differently. Without it one seed gives the same
    search in both.
    """
    return TPESampler(
        n_startup_trials=STARTUP_TRIALS,
        n_ei_candidates=24,
        multivariate=False,
        group=False,
        constant_liar=True,
        seed=seed,
    )


class TrialSampler(optuna.samplers.BaseSampler):
    """Samples the parameters of a trial, depending only on its number, the trials that have ended, and those that run.

    With one trial at a time, a search that was stopped therefore continues as if it had not been. Running trials count
    as bad ones, so that workers do not try the same.

    Args:
        seed: of the search.
        starts: parameters of the first trials, which are not sampled. The first are the model's defaults, so that on
            validation a search never does worse than no search.
    """

    def __init__(self, seed: int, starts: Sequence[Mapping[str, Any]]) -> None:
        self._seed, self._starts = seed, starts
        self._sampler = _tpe(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed TPE for the trial."""
        digest = hashlib.sha256(f"{self._seed}-{trial.number}".encode()).digest()
        self._sampler = _tpe(int.from_bytes(digest[:4], "big"))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Empty: each parameter is sampled on its own."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Empty, like the search space."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """The value from ``starts``, or else TPE's."""
        if trial.number < len(self._starts) and param_name in self._starts[trial.number]:
            return self._starts[trial.number][param_name]
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Nothing is kept between trials."""
