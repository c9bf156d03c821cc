"""Suites: commands of the command line that belong together, written down in a YAML file.

::

    about: what the suite is for
    common: {dataset: ml-100k, results_dir: results/mine}      # keys of every stage
    stages:                                                    # a verb and its keys, as the command line has them
      - tune: {model: [SASRec, LLMDMsRec], trials: 20, seeds: 5}
      - table: {format: markdown, output: table.md}            # outputs lie in the results folder
    budgets:                                                   # --budget=small: keys that win over those of a stage
      small: {common: {results_dir: results/small}, tune: {trials: 2, seeds: 1}}

A stage does what its command does, and so runs only what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_llm.errors import UserError, check_known
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

STAGE_VERBS = ("generate", "tune", "run", "table", "report")
RUNNING = ("generate", "tune", "run")  # verbs that take settings
# Options that not all of them have; what else the command line gives is a setting.
_OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("seeds", "workers", "executor", "ray_address", "gpus"), ("tune", "run")),
    **dict.fromkeys(
        ("trials", "trial_epochs", "trial_minutes", "pruner", "objectives", "storage", "space", "report"), ("tune",)
    ),
    **dict.fromkeys(("limit", "poll"), ("generate",)),
    "force": ("run",),
}
FULL = "full"  # the budget of the stages themselves
_SECTIONS = ("about", "common", "stages", "budgets")
_NAMES = ("model", "dataset", "protocol", "semantics", "metrics")  # written A,B
_FLAGS = ("quiet", "verbose", "force", "groups", "check_reference", "report")  # true: the bare word


class Stage(NamedTuple):
    """One command.

    Attributes:
        verb: of the command line.
        keys: its options and settings.
    """

    verb: str
    keys: Mapping[str, Any]

    @property
    def words(self) -> list[str]:
        """The command as it would be typed."""
        return [self.verb, *(_word(k, v) for k, v in self.keys.items() if k not in _FLAGS or v is not False)]


def _word(key: str, value: Any) -> str:
    if key in _FLAGS and value is True:
        return f"--{key}"
    if isinstance(value, list) and key in _NAMES:
        return f"--{key}={','.join(map(str, value))}"
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def read_suite(name: str, budget: str = FULL, given: Mapping[str, Any] | None = None) -> list[Stage]:
    """The commands of a suite.

    Args:
        name: of a file in ``properties/suite/``, or the path of a ``.yaml`` file.
        budget: ``full``, or one that the suite names.
        given: keys from the command line; they win over all, ``None`` says nothing. Settings go to the stages that run
            something, options of some verbs to their stages, ``dataset`` and ``results_dir`` to every stage.

    Raises:
        UserError: there is no such suite or budget, the file says something else, or no stage has a given option.
    """
    given = {key: value for key, value in (given or {}).items() if value is not None}
    path = _path_of(name)
    suite = read_yaml(path)
    _known(suite, _SECTIONS, str(path))
    budgets = _mapping(suite.get("budgets", {}), f"{path}, budgets")
    check_known(f"--budget={budget}: {path} has no such budget", budget, (FULL, *budgets))
    chosen = _mapping(budgets.get(budget, {}), f"{path}, budgets, {budget}")
    _known(chosen, ("common", *STAGE_VERBS), f"{path}, budgets, {budget}")
    common = _mapping(suite.get("common", {}), f"{path}, common")
    stages = suite.get("stages")
    if not isinstance(stages, list) or not stages:
        raise UserError(f"{path}: stages is a list such as `- run: {{model: SASRec}}`.")
    found = []
    for number, stage in enumerate(stages, start=1):
        where = f"{path}, stage {number}"
        if not isinstance(stage, dict) or len(stage) != 1:
            raise UserError(f"{where}: a stage is one verb with its keys, such as `run: {{model: SASRec}}`.")
        ((verb, keys),) = stage.items()
        _known(stage, STAGE_VERBS, where)
        of_budget = (_mapping(chosen.get(part, {}), f"{path}, budgets, {budget}") for part in ("common", verb))
        found.append(_stage(str(verb), (common, _mapping(keys or {}, where), *of_budget), given))
    for key in given:
        takers = _OPTIONS.get(key, STAGE_VERBS)
        if not any(stage.verb in takers for stage in found):
            raise UserError(f"--{key} is an option of {' and '.join(takers)}, and {path} has no such stage.")
    return found


def _stage(verb: str, layers: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> Stage:
    mine = {k: v for k, v in given.items() if verb in _OPTIONS.get(k, RUNNING) or k in ("dataset", "results_dir")}
    keys = {key: value for layer in (*layers, mine) for key, value in layer.items()}
    if "output" in keys:
        keys["output"] = str(Path(keys.get("results_dir", "results")) / str(keys["output"]))
    return Stage(verb, keys)


def _path_of(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    check_known(f"there is no suite {name!r}", name, property_names("suite"))
    return properties_folder() / "suite" / f"{name}.yaml"


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected `key: value`, found {value!r}.")
    return value


def _known(found: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in found:
        check_known(f"{where}: there is no {key!r}", key, known)
