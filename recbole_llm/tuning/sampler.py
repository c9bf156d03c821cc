"""What a search tries next: TPE, seeded for each trial, after settings that are known to be good."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

STARTUP_TRIALS = 10  # drawn at random before TPE knows enough


def _tpe(seed: int) -> TPESampler:
    """TPE with all arguments whose defaults are others in Optuna 4.9 than in 5, and those that decide what is drawn.

    ``multivariate`` is off: the two versions compute its kernels differently, and without it one seed is one search in
    both.
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
    """Draws the parameters of a trial from its number and from the trials that have ended.

    So a search that was stopped goes on as if it never was.

    Args:
        seed: of the search.
        starts: parameters of the first trials, which are not drawn. The first are the model's defaults, so that on
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
        """Empty: each parameter is drawn by itself."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Empty, as the search space is."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """The value of a start, or TPE's."""
        if trial.number < len(self._starts) and param_name in self._starts[trial.number]:
            return self._starts[trial.number][param_name]
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Nothing is kept between trials."""
