"""The trials of a search as a text file, which can be shown, kept in a repository and continued elsewhere.

JSON lines: a header with the search's space and budget, then a line for each trial that has ended::

    {"study": "GRU4Rec-tiny-loo-1a2b3c4d", "schema_version": 1, "metric": "NDCG@10", "budget": {...}, "space": {...}}
    {"number": 0, "state": "COMPLETE", "value": 0.1234, "params": {"learning_rate": 0.001}, "epochs": 12, ...}
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, ValidationError, model_validator

from recbole_llm.errors import UserError
from recbole_llm.tuning.users import attribute_of, users_of
from recbole_llm.utils.files import whole_file
from recbole_llm.utils.text import complaint

logger = logging.getLogger(__name__)

SCHEMA = 1
ATTRIBUTES = ("epochs", "best_epoch", "seconds", "same_as", "error")  # user attributes of Optuna's trials
TAKEN_IN_AS = "taken_in_as"


class Header(BaseModel):
    """The search that a file belongs to.

    Attributes:
        study: name of the study, which depends on everything that can change a trial's value.
        schema_version: of the file.
        metric: of the trials' values, on validation data; higher is better.
        budget: limits of each trial and the pruner.
        space: what was searched, as Optuna writes distributions.
    """

    study: str
    schema_version: int = SCHEMA
    metric: str
    budget: dict[str, Any]
    space: dict[str, Any]


class Ended(BaseModel):
    """A trial that has ended.

    Attributes:
        number: of the trial in its study, from 0.
        state: how it ended.
        value: best validation score; of a pruned trial the last one.
        cost: seconds of training, in a search with several objectives.
        params: as stored by Optuna.
        curve: validation scores by epoch.
        users: users' validation values by epoch, if trials are compared by them.
        epochs, best_epoch, seconds: of its training.
        same_as: number of the trial that had the same parameters; this one was not trained.
        error: why it failed.
    """

    model_config = ConfigDict(extra="forbid")

    number: NonNegativeInt
    state: Literal["COMPLETE", "PRUNED", "FAIL"]
    value: FiniteFloat | None = None
    cost: FiniteFloat | None = None
    params: dict[str, Any] = {}
    curve: dict[NonNegativeInt, FiniteFloat] = {}
    users: dict[NonNegativeInt, list[FiniteFloat]] = {}
    epochs: int | None = None
    best_epoch: int | None = None
    seconds: float | None = None
    same_as: int | None = None
    error: str | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Ended:
        if self.state == "COMPLETE" and self.value is None:
            raise ValueError("a trial that is complete has a value")
        if self.state == "FAIL" and self.error is None:
            raise ValueError("a trial that failed says why")
        return self

    @classmethod
    def of(cls, trial: FrozenTrial) -> Self:
        """From an ended trial of a study."""
        known = {name: trial.user_attrs.get(name) for name in ATTRIBUTES}
        return cls(
            number=trial.number,
            state=trial.state.name,
            value=accuracy(trial),
            cost=cost(trial),
            params=trial.params,
            curve=trial.intermediate_values,
            users=users_of(trial.user_attrs),
            **known,
        )

    def frozen(self, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
        """The trial in the form in which a study can add it.

        Raises:
            ValueError: its parameters do not fit these distributions.
        """
        known = {name: getattr(self, name) for name in ATTRIBUTES} | {TAKEN_IN_AS: self.number}
        known |= {attribute_of(epoch): values for epoch, values in self.users.items()}
        return optuna.create_trial(
            state=TrialState[self.state],
            values=[value for value in (self.value, self.cost) if value is not None] or None,
            params=self.params,
            distributions={**distributions},
            intermediate_values={**self.curve},
            user_attrs={name: value for name, value in known.items() if value is not None},
        )

    def line(self) -> dict[str, Any]:
        """The known fields as plain values, for a line of the file."""
        return {name: value for name, value in self.model_dump().items() if value is not None and value != {}}


def accuracy(trial: FrozenTrial) -> float | None:
    """The validation score of a trial, its first objective."""
    return trial.values[0] if trial.values else None


def cost(trial: FrozenTrial) -> float | None:
    """Seconds of a trial's training, if they are the second objective."""
    return trial.values[1] if trial.values and len(trial.values) > 1 else None


def is_elsewhere(trial: FrozenTrial) -> bool:
    """Whether a trial was added under another number than its own, because two machines read its history at once."""
    return bool(trial.user_attrs.get(TAKEN_IN_AS, trial.number) != trial.number)


def write_history(path: Path, header: Header, trials: Sequence[Ended]) -> None:
    """Write the file, completely or not at all."""
    lines = [header.model_dump(), *(trial.line() for trial in sorted(trials, key=lambda trial: trial.number))]
    with whole_file(path, "w") as stream:
        stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def read_history(path: Path, header: Header) -> dict[int, Ended]:
    """The trials of a file by number; none if there is no file.

    A line that cannot be read is skipped with a warning, and its trial is run again.

    Args:
        path: the file.
        header: of the search that reads it.

    Raises:
        UserError: the file is no history, or is of another search or version; this search would overwrite it.
    """
    if not path.exists():
        return {}
    try:
        first, *rest = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        found = Header.model_validate_json(first)
    except (OSError, ValueError) as error:  # pydantic's and UTF-8's are ValueErrors
        raise UserError(f"{path} is not the history of a search ({complaint(error)}); move it away.") from error
    if found != header:
        later = ", by a later version" if found.schema_version > SCHEMA else ""
        raise UserError(f"{path} was written for another search{later}, and this one would replace it; move it away.")
    trials: dict[int, Ended] = {}
    for number, line in enumerate(rest, start=2):
        try:
            trial = Ended.model_validate_json(line)
        except ValidationError as error:
            logger.warning("%s, line %d is no trial and is skipped: %s", path, number, complaint(error))
        else:
            trials.setdefault(trial.number, trial)
    return trials
