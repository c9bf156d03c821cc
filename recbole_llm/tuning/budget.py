"""The budget of a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import optuna

from recbole_llm.errors import UserError, check_choice
from recbole_llm.tuning.users import UserPruner

OBJECTIVES = ("accuracy", "seconds")
PRUNERS = ("median", "hyperband", "users", "none")


@dataclass(frozen=True)
class Budget:
    """What each model of a search gets: the same for all.

    Attributes:
        trials: how many; the first one has the defaults.
        epochs: of a trial at most; ``None`` leaves the models' settings.
        seconds: of a trial's training and validation; the trial ends with the epoch in which they run out.
        pruner: ``median``, ``hyperband``, ``users`` or ``none``.
        objectives: ``accuracy`` on validation and optionally ``seconds`` of training up to the best epoch.
    """

    trials: int
    epochs: int | None = None
    seconds: float | None = None
    pruner: str = "median"
    objectives: tuple[str, ...] = OBJECTIVES[:1]

    @classmethod
    def given(
        cls, trials: int, epochs: int | None, minutes: float | None, pruner: str, objectives: str | Sequence[str]
    ) -> Budget:
        """The budget from the command line's options, with time in minutes and objectives written ``A,B``."""
        objectives = objectives.replace(" ", "").split(",") if isinstance(objectives, str) else objectives
        return cls(trials, epochs, None if minutes is None else 60 * minutes, pruner, tuple(objectives))

    @property
    def minutes(self) -> float | None:
        """``seconds`` in minutes, as on the command line."""
        return None if self.seconds is None else self.seconds / 60

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise UserError(f"--trials={self.trials}: give 1 or more.")
        check_choice("--pruner", self.pruner, PRUNERS)
        # nan and inf limit nothing, and records cannot hold them: JSON has neither.
        no_time = self.seconds is not None and not 0 < self.seconds < math.inf
        if no_time or (self.epochs is not None and self.epochs < 1):
            raise UserError("--trial_epochs and --trial_minutes are positive and finite.")
        self._check_objectives()

    def _check_objectives(self) -> None:
        given = ",".join(self.objectives)
        if "dollars" in self.objectives:
            raise UserError(
                f"--objectives={given}: all trials of a search read the same answers, so they cost the same dollars; "
                "`report` draws accuracy against dollars over the rows of several sources."
            )
        if self.objectives not in (OBJECTIVES[:1], OBJECTIVES):
            raise UserError(f"--objectives={given}: use accuracy, or accuracy,seconds.")
        if self.several and self.pruner != "none":
            raise UserError(f"--objectives={given}: Optuna prunes by one objective alone; give --pruner=none.")

    @property
    def several(self) -> bool:
        """Whether trials are compared by more than accuracy."""
        return len(self.objectives) > 1

    def optuna_pruner(self, epochs: int) -> optuna.pruners.BasePruner:
        """Optuna's pruner, for trials of at most ``epochs`` epochs."""
        if self.pruner == "none":
            return optuna.pruners.NopPruner()
        if self.pruner == "users":
            return UserPruner()
        if self.pruner == "median":
            return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)  # a first epoch says little
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
