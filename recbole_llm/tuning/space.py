"""Search spaces: which settings of a model a search varies, and over which values.

A space is a YAML file, from ``properties/search/`` or the user's own::

    learning_rate: {low: 0.0003, high: 0.01, log: true}   # float; integer if low, high and step are integers
    dropout_prob: {low: 0.0, high: 0.6, step: 0.1}
    n_layers: [1, 2, 3]                                   # one of these

or a ``.hyper`` file in RecBole's format (``learning_rate loguniform -8,0``). Nothing in it is evaluated as code.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.experiments.run import Run
from recbole_llm.features.lookup import find_feature
from recbole_llm.registry import Method
from recbole_llm.settings.core import CoreSettings, NextItemSettings
from recbole_llm.settings.definitions import settings_class
from recbole_llm.settings.layers import Settings, backbone_key, check_grid_keys, layer_settings
from recbole_llm.settings.rules import SEMANTIC_KEYS
from recbole_llm.tuning.budget import Budget
from recbole_llm.utils.text import one_line
from recbole_llm.utils.yaml import parse_yaml, properties_folder, read_yaml, value_of

logger = logging.getLogger(__name__)

SCALARS = (bool, int, float, str, type(None))
# Settings of every run that a search may vary. The others say what is read, how it is measured, and where.
VARIED = {
    *("MAX_ITEM_LIST_LENGTH", "seq_len", "threshold", "window_targets", "min_history", "init"),
    *("epochs", "stopping_step", "eval_step", "train_batch_size", "gradient_accumulation_steps", "min_epoch_steps"),
    *("learner", "learning_rate", "weight_decay", "lr_decay_epochs", "lr_decay", "warmup_steps", "warmup_share"),
    *("clip_grad_norm", "train_neg_sample_args", "transform", "precision", "shuffle"),
}


@dataclass(frozen=True)
class Parameter:
    """A setting that is searched.

    Attributes:
        distribution: Optuna's.
        coded: whether choices are stored as JSON, because storages cannot hold them (lists).
    """

    distribution: BaseDistribution
    coded: bool = False

    @property
    def is_range(self) -> bool:
        """Whether values are drawn from a range of numbers."""
        return not isinstance(self.distribution, CategoricalDistribution)

    def value(self, stored: Any) -> Any:
        """The setting's value for a value of the distribution."""
        return json.loads(stored) if self.coded else stored

    def stored(self, value: Any) -> Any:
        """The inverse of :meth:`value`."""
        return json.dumps(value) if self.coded else value

    def holds(self, value: Any) -> bool:
        """Whether a setting's value is one that can be sampled."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            stored = self.stored(value)
            return any(type(choice) is type(stored) and choice == stored for choice in d.choices)
        return isinstance(value, (int, float)) and d._contains(d.to_internal_repr(value))

    def examples(self) -> list[Any]:
        """All choices, or both ends of the range and a value between them, as values of the setting."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return [self.value(value) for value in d.choices]
        ends = [d.low, d.high]  # type: ignore[attr-defined]
        if not isinstance(d, FloatDistribution) or d.single():
            return ends
        # The ends may be whole numbers where the trials draw others.
        return [*ends, d.low + (d.step or (d.high - d.low) / math.pi)]

    def including(self, value: Any) -> Parameter:
        """The parameter, extended to include ``value``, so that the model's default can be tried."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            stored = self.stored(value)
            if self.holds(value) or any(c == stored for c in d.choices if not isinstance(c, bool)):
                return self
            return replace(self, distribution=CategoricalDistribution([*d.choices, stored]))
        low, high = min(d.low, value), max(d.high, value)  # type: ignore[attr-defined]
        log = d.log and low > 0  # type: ignore[attr-defined]
        if log == d.log and d._contains(d.to_internal_repr(value)):  # type: ignore[attr-defined]
            return self
        whole = isinstance(d, IntDistribution) and float(value).is_integer()
        widened = IntDistribution(int(low), int(high), log) if whole else FloatDistribution(low, high, log)
        return replace(self, distribution=widened)


Space = dict[str, Parameter]


def space_json(space: Mapping[str, Parameter]) -> dict[str, Any]:
    """A space as plain values, for names and reports."""
    return {name: json.loads(distribution_to_json(p.distribution)) for name, p in sorted(space.items())}


def read_space(path: Path) -> Space:
    """A space from a YAML or ``.hyper`` file.

    Raises:
        UserError: the file cannot be read or is not a search space.
    """
    if path.suffix == ".hyper":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: {error}") from error
        return _from_hyper(lines, path)
    space = {}
    for name, entry in read_yaml(path).items():
        try:
            space[name] = _from_yaml(entry)
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(
                f"{path}, {name}: give a list of choices or {{low: ..., high: ..., log: true, step: ...}} ({error})."
            ) from error
    return space


def _from_yaml(entry: Any) -> Parameter:
    if isinstance(entry, list):
        return _choice(entry)
    if not isinstance(entry, dict):
        raise TypeError(f"got {entry!r}")
    unknown = set(entry) - {"low", "high", "log", "step"}
    if unknown:
        raise ValueError(f"unknown word {min(unknown)!r}{did_you_mean(min(unknown), ('low', 'high', 'log', 'step'))}")
    return _range(entry["low"], entry["high"], entry.get("step"), bool(entry.get("log", False)))


def _choice(values: Iterable[Any]) -> Parameter:
    values = list(values)
    if not values:
        raise ValueError("no choices")
    coded = not all(isinstance(value, SCALARS) for value in values)
    return Parameter(CategoricalDistribution([json.dumps(v) for v in values] if coded else values), coded)


def _range(low: Any, high: Any, step: Any = None, log: bool = False) -> Parameter:
    numbers = [value for value in (low, high, step) if value is not None]
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers):
        raise TypeError("low, high and step are numbers")
    if not all(math.isfinite(value) for value in numbers) or low > high:
        raise ValueError(f"from {low} to {high}")
    if all(isinstance(value, int) for value in numbers):
        return Parameter(IntDistribution(low, high, log=log, step=step or 1))
    return Parameter(FloatDistribution(float(low), float(high), log=log, step=step))


def _from_hyper(lines: Iterable[str], path: Path) -> Space:
    """RecBole's format (trainer/hyper_tuning.py:210): name, type, values; the rest of a line is one value."""
    space = {}
    for number, line in enumerate(lines, start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            if len(words) < 3:
                raise ValueError("a line holds name, type and values")
            space[words[0]] = _from_words(words[1], "".join(words[2:]))
        except (TypeError, ValueError, OverflowError, yaml.YAMLError) as error:
            message = one_line(error)
            raise UserError(
                f"{path}, line {number}: {message}. An example: learning_rate choice [0.001,0.01]"
            ) from error
    return space


def _from_words(kind: str, values: str) -> Parameter:
    if kind == "choice":
        parsed = parse_yaml(values.replace("(", "[").replace(")", "]"))
        if not isinstance(parsed, list):
            raise ValueError(f"choices are a list, got {values}")
        return _choice(_of_choice(value) for value in parsed)
    wanted = {"uniform": 2, "loguniform": 2, "quniform": 3}
    if kind not in wanted:
        raise ValueError(f"the type {kind} is none of choice, {', '.join(wanted)}")
    numbers = [float(value) for value in values.split(",")]
    if len(numbers) != wanted[kind]:
        raise ValueError(f"{kind} takes {wanted[kind]} numbers")
    if kind == "loguniform":  # as in hyperopt, the ends are logarithms
        return _range(math.exp(numbers[0]), math.exp(numbers[1]), log=True)
    if kind == "uniform":
        return _range(numbers[0], numbers[1])
    low, high, step = numbers
    if step <= 0:
        raise ValueError("the step of quniform is positive")
    low, high = round(low / step) * step, round(high / step) * step
    if all(value.is_integer() for value in (low, high, step)):
        return _range(int(low), int(high), int(step))
    return _range(low, high, step)


def _of_choice(value: Any) -> Any:
    """What a choice of RecBole's files means: it reads '[64, 64]' and 'True' as Python does."""
    if not isinstance(value, str):
        return value
    return None if value == "None" else value_of(value)


def _file_of(method: Method) -> Path | None:
    """The file of a model's space: for an external class the one beside it, else that of the model it extends."""
    ours = properties_folder() / "search" / f"{method.settings_of or method.name}.yaml"
    own = [method.properties / "search" / f"{method.name}.yaml"] if method.properties is not None else []
    return next((file for file in (*own, ours) if file.is_file()), None)


def searched(
    runs: Sequence[Run],
    trials: int,
    trial_epochs: int | None = None,
    trial_minutes: float | None = None,
    pruner: str = "median",
    objectives: str | Sequence[str] = "accuracy",
    space: str | Path | None = None,
    quiet: bool = False,
) -> tuple[list[Space], Budget]:
    """The search space of each run and the budget of the search, from the options of a command.

    Args:
        runs: one per study.
        trials, trial_epochs, trial_minutes, pruner, objectives: see :meth:`Budget.given`.
        space: the user's file, for a single model.
        quiet: do not warn of what is left out; for a check before the searches begin.

    Raises:
        UserError: a run cannot be searched or has no space, or the budget is invalid.
    """
    budget = Budget.given(trials, trial_epochs, trial_minutes, pruner, objectives)
    if any(run.settings["engine"] != "fast" for run in runs):
        raise UserError("tune needs --engine=fast; RecBole's own loop reads the test data as it trains.")
    if any(int(run.settings["nproc"]) > 1 for run in runs):
        raise UserError("tune trains each trial by one process; give --workers=N instead of --nproc.")
    if space is not None and len({run.settings.method.name for run in runs}) > 1:
        raise UserError("--space is for one model; the spaces of several are files of properties/search/.")
    file = None if space is None else Path(space)
    left_out: list[str] = []
    spaces = [space_of(run.settings, file, budget.epochs, left_out) for run in runs]
    for note in [] if quiet else dict.fromkeys(left_out):  # once, not for each semantics of a model
        logger.warning("%s", note)
    return spaces, budget


def space_of(
    settings: Settings, file: Path | None = None, epochs: int | None = None, left_out: list[str] | None = None
) -> Space:
    """The space of a model without the settings that the user fixed; each parameter can take its default.

    Args:
        settings: of the model without a search.
        file: the user's space, instead of ``properties/search/<Model>.yaml`` on top of its backbone's.
        epochs: of a trial at most. Settings that cannot take effect in a trial are left out of our spaces.
        left_out: takes a line on each setting that is left out for this reason, and on each range whose ``log`` is.

    Raises:
        UserError: there is no space for the model; or it names a setting that the model does not have or that features
            are made from; or a user's space names a setting that cannot take effect in a trial.
    """
    method, own_file = settings.method, file is not None
    key = backbone_key(method)
    backbone = {key: settings[key]} if key is not None else {}
    if file is None:
        file = _file_of(method)
        if file is None:
            raise UserError(f"there is no search space for {method.name}: write one and give --space=FILE.")
        below = [properties_folder() / "search" / f"{name}.yaml" for name in backbone.values()]
        space = {name: parameter for path in (*below, file) for name, parameter in read_space(path).items()}
    else:
        space = read_space(file)
        if not space:
            raise UserError(f"{file} names no setting to search.")
    made_from = _keys_of_features(settings)
    unread = {**_unread(settings, epochs), **_unread_by_loss(settings, space)}
    found = {}
    for name, parameter in space.items():
        _check_varied(file, name, settings)
        if name in unread and own_file:
            raise UserError(f"{file}: {name} {unread[name]}.")
        if name in unread:
            if left_out is not None:
                left_out.append(f"{method.name}: the search leaves {name} out, which {unread[name]}")
            continue
        if name in made_from:
            raise UserError(f"{file}: {name} decides what the semantic features are; a search keeps them as they are.")
        is_open = _is_open(settings, name)
        for value in parameter.examples():
            try:
                check_grid_keys([method], settings["dataset"], settings["protocol"], {**backbone, name: value})
                if is_open:
                    _check_own(settings, name, value, space)
            except UserError as error:
                raise UserError(f"{file}: {str(error).removeprefix('--')}") from error
        if is_open:
            default = default_of(settings, name)
            null = default is None and (parameter.is_range or name not in settings.values)
            found[name] = parameter if null else parameter.including(default)
            if _is_log(parameter) and not _is_log(found[name]) and left_out is not None:
                left_out.append(
                    f"{method.name}: the search draws {name} evenly and not by its logarithm, which the default "
                    f"{default} does not have; a list of choices can hold both, and --{name}=... searches without"
                )
    return found


def _check_own(settings: Settings, name: str, value: Any, space: Space) -> None:
    """Check that a value goes with the other settings, or with a value that the space has for one of them.

    Raises:
        UserError: the value goes with none of them.
    """
    try:
        with_own(settings, {name: value})
    except UserError:
        for other, parameter in space.items():
            for beside in parameter.examples() if other != name and _is_open(settings, other) else ():
                with contextlib.suppress(UserError):
                    with_own(settings, {name: value, other: beside})
                    return
        raise


def _is_log(parameter: Parameter) -> bool:
    return bool(getattr(parameter.distribution, "log", False))


def _is_open(settings: Settings, name: str) -> bool:
    """Whether the user has not fixed a setting."""
    return settings.origin.get(name, "RecBole").startswith(("RecBole", "properties/"))


def with_own(settings: Settings, own: Mapping[str, Any]) -> Settings:
    """Settings with some of the model's own changed; the model that it builds on, if any, keeps its settings."""
    name = settings.method.name
    overrides = {**settings.overrides, **{f"{name}.{key}": value for key, value in own.items()}}
    return layer_settings(
        settings.method, settings["dataset"], settings["protocol"], settings.config_files, overrides, strict=False
    )


def _unread(settings: Settings, epochs: int | None) -> dict[str, str]:
    """Settings that no trial of at most ``epochs`` epochs reads, with the reason."""
    owner = settings_class(settings.method)
    found = {} if owner is None else owner.of(settings.values).unread(epochs)
    if epochs is None:
        return found
    return {**found, "epochs": f"is set by --trial_epochs={epochs} in every trial; leave one of the two out"}


def _unread_by_loss(settings: Settings, space: Space) -> dict[str, str]:
    """Options that the loss does not read, with the reason; where the space varies the loss, those that none reads."""
    owner = settings_class(settings.method)
    if owner is None or not issubclass(owner, NextItemSettings):
        return {}
    varied = [
        [settings.get(name), *(space[name].examples() if name in space and _is_open(settings, name) else ())]
        for name in ("objective", "loss_type")
    ]
    found = [
        owner.of({**settings.values, "objective": objective}).not_followed(loss_type)
        for objective, loss_type in product(*varied)
    ]
    return {name: why for name, why in found[0].items() if all(name in other for other in found)}


def default_of(settings: Settings, name: str) -> Any:
    """The value of a setting, or of a key within one (``train_neg_sample_args.sample_num``); ``None`` without one."""
    if name in settings.values:
        return settings.values[name]
    found: Any = settings.values
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _check_varied(file: Path, name: str, settings: Settings) -> None:
    """Check that trials which differ in a setting can be compared.

    Raises:
        UserError: the setting is not the model's or of its training, or has a model's name before it.
    """
    head, dot, rest = name.partition(".")
    if dot and head not in settings.values:
        raise UserError(f"{file}: {name}: the file is the space of {settings.method.name} alone; write {rest}.")
    if head == "dataset" or (head in CoreSettings.model_fields and head not in VARIED):
        raise UserError(
            f"{file}: {name} cannot be searched: all trials of a search have the same data, evaluation, seed and "
            f"machine, so that their scores can be compared; give --{name} to the command."
        )


def _keys_of_features(settings: Settings) -> set[str]:
    if not settings.method.features:
        return set()
    keys = {key for feature in map(find_feature, settings.method.features) for key in feature.settings_keys}
    return keys | set(SEMANTIC_KEYS) | {settings.method.stage_one or ""}
