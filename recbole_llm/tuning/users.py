"""Pruning by users: a trial ends when its users get significantly worse lists than in the best trial so far.

A difference of means is noise if few users differ. Optuna's ``WilcoxonPruner`` tests whether the differences of single
users tend to one side. It does not know epochs, so each epoch is compared separately.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, WilcoxonPruner
from optuna.trial import FrozenTrial, TrialState

from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.significance import per_user

MOST_USERS = 1000  # that a study keeps values of: about 5 kB per epoch
P_VALUE = 0.05
WARMUP_EPOCHS = 2  # a first epoch says little
_ATTRIBUTE = re.compile(r"users_(\d+)")


def attribute_of(epoch: int) -> str:
    """Name of the trial attribute with the users' values of an epoch."""
    return f"users_{epoch}"


def users_of(attributes: Mapping[str, Any]) -> dict[int, list[float]]:
    """The users' values among a trial's attributes, by epoch."""
    found = ((_ATTRIBUTE.fullmatch(name), values) for name, values in attributes.items())
    return {int(match[1]): values for match, values in found if match}


def values_of_users(ranks: Ranks, metric: str) -> list[float]:
    """A metric's value for each user, in the order of their ids; for every n-th user if there are more than 1,000.

    Args:
        ranks: of the validation cases, which are the same in all trials of a search.
        metric: such as ``ndcg@10``.
    """
    values = per_user([ranks], metric)[1][0]
    step = -(-len(values) // MOST_USERS)
    return [round(float(value), 4) for value in values[::step]]


class UserPruner(BasePruner):
    """Ends a trial whose users' values are worse than those of the best finished trial after as many epochs.

    If the best trial has no values of that epoch, its last ones before it are used.
    """

    def __init__(self) -> None:
        self._test = WilcoxonPruner(p_threshold=P_VALUE, n_startup_steps=0)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial should end after its latest epoch."""
        epoch = trial.last_step
        own = users_of(trial.user_attrs)
        if epoch is None or epoch < WARMUP_EPOCHS or epoch not in own:
            return False
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        finished = [other for other in done if users_of(other.user_attrs)]
        if not finished:
            return False
        best = max(finished, key=lambda other: (other.value, -other.number))
        theirs = users_of(best.user_attrs)
        before = [known for known in theirs if known <= epoch]
        return bool(before) and self._is_worse(own[epoch], theirs[max(before)])

    def _is_worse(self, own: list[float], best: list[float]) -> bool:
        """Optuna's test, on a study whose steps are users."""
        shown = optuna.create_study(direction="maximize")
        shown.add_trial(_trial_of(best, TrialState.COMPLETE))
        return self._test.prune(shown, _trial_of(own, TrialState.RUNNING))


def _trial_of(users: list[float], state: TrialState) -> FrozenTrial:
    value = float(np.mean(users)) if state == TrialState.COMPLETE else None
    return optuna.create_trial(state=state, value=value, intermediate_values=dict(enumerate(users)))
