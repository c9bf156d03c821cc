"""Suites: commands that belong together, written down in a YAML file.

::

    about: what the suite is for
    common: {dataset: ml-100k, results_dir: results/mine}      # keys for every stage that takes them
    stages:                                                    # a verb and its keys, as on the command line
      - tune: {model: [SASRec, LLMDMsRec], trials: 20, seeds: 5}
      - table: {format: markdown, output: table.md}            # outputs lie in the results folder
    budgets:                                                   # --budget=small: keys that override a stage's
      small: {common: {results_dir: results/small}, tune: {trials: 2, seeds: 1}}

A key of ``common`` goes to each stage whose verb has an option of that name; a setting goes to each stage that runs
something. A budget's key, or one of the command line, with a model's name before it (``SASRec.n_layers``) goes to the
stages that have this model. A stage does what its command does, so it runs only what is missing. ``--model`` on the
command line selects rows of the suite, each with the keys of its stage.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_llm.errors import UserError, check_known
from recbole_llm.settings.core import CoreSettings
from recbole_llm.utils.text import names_of
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

STAGE_VERBS = ("generate", "tune", "run", "table", "report")
RUNNING = ("generate", "tune", "run")  # verbs that take settings
FULL = "full"  # the budget that leaves the stages as they are written
_SECTIONS = ("about", "common", "stages", "budgets")
_NAMES = ("model", "dataset", "protocol", "semantics", "metrics", "twin", "objectives")  # written A,B
_SEVERAL = "config_file"  # written once for each value
# Written without a value if true.
_FLAGS = ("quiet", "verbose", "force", "batch", "dry_run", "groups", "check_reference", "report")


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
        return [self.verb, *(word for key, value in self.keys.items() for word in _words(key, value))]


def _words(key: str, value: Any) -> list[str]:
    if key in _FLAGS and isinstance(value, bool):
        return [f"--{key}"] if value else []
    if isinstance(value, list) and key == _SEVERAL:
        return [f"--{key}={each}" for each in value]
    if isinstance(value, list) and key in _NAMES:
        return [f"--{key}={','.join(map(str, value))}"]
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}"]


Options = Mapping[str, Collection[str]]  # the names of each verb's options


def read_suite(name: str, options: Options, budget: str = FULL, given: Mapping[str, Any] | None = None) -> list[Stage]:
    """The commands of a suite.

    Args:
        name: of a file in ``properties/suite/``, or the path of a ``.yaml`` file.
        options: the names of each verb's options; any other key is a setting.
        budget: ``full``, or one that the suite names.
        given: keys from the command line, which override all others. They go to the stages that run something;
            ``dataset``, ``results_dir`` and keys that those stages do not take also go to the others. ``model`` keeps
            only the rows of these models in the stages that run something. These three may be ``None``.

    Raises:
        UserError: there is no such suite or budget, the file is not a suite, no stage takes a key of ``common`` or of
            ``given``, or no stage has one of the models.
    """
    path = _path_of(name)
    suite = read_yaml(path)
    _known(suite, _SECTIONS, str(path))
    budgets = _mapping(suite.get("budgets", {}), f"{path}, budgets")
    check_known(f"--budget={budget}: {path} has no such budget", budget, (FULL, *budgets))
    of_budget = f"{path}, budgets, {budget}"
    chosen = _mapping(budgets.get(budget, {}), of_budget)
    _known(chosen, ("common", *STAGE_VERBS), of_budget)
    common = _mapping(suite.get("common", {}), f"{path}, common")
    cheaper = _mapping(chosen.get("common", {}), f"{of_budget}, common")
    stages = suite.get("stages")
    if not isinstance(stages, list) or not stages:
        raise UserError(f"{path}: stages is a list such as `- run: {{model: SASRec}}`.")
    options_of_suite = ("model", "dataset", "results_dir")
    given = {k: value for k, value in (given or {}).items() if value is not None or k not in options_of_suite}
    models = names_of(given.pop("model", ()))
    there = {name for stage in stages for name in _models_of(stage)}
    found = []
    for number, stage in enumerate(stages, start=1):
        where = f"{path}, stage {number}"
        if not isinstance(stage, dict) or len(stage) != 1:
            raise UserError(f"{where}: a stage is one verb with its keys, such as `run: {{model: SASRec}}`.")
        _known(stage, STAGE_VERBS, where)
        ((verb, keys),) = stage.items()
        others = there - {*_models_of(stage)}
        layers = (
            _of_verb(verb, common, options),
            _mapping(keys or {}, where),
            _of_verb(verb, cheaper, options),
            _without(others, _mapping(chosen.get(verb, {}), f"{of_budget}, {verb}")),
            _without(others, {k: value for k, value in given.items() if verb in _takers_of_given(k, options)}),
        )
        found.append(_stage(verb, layers))
    verbs = {stage.verb for stage in found}
    for key in (*common, *cheaper):
        if not verbs.intersection(_takers(key, options)):
            raise UserError(f"{path}, common: no stage takes {key!r}; {_described_takers(key, options)}.")
    for key in given:
        if not verbs.intersection(_takers_of_given(key, options)):
            takers = " and ".join(_takers_of_given(key, options))
            raise UserError(f"--{key} is an option of {takers}, and {path} has no such stage.")
    return _rows_of(models, found, str(path)) if models else found


def _models_of(stage: Any) -> list[str]:
    """The models of a stage, as the file has it; none if it is no stage."""
    keys = [*stage.values()] if isinstance(stage, dict) else []
    models = [each.get("model") for each in keys if isinstance(each, dict)]
    return [str(name) for each in models if isinstance(each, (str, list)) for name in names_of(each)]


def _without(models: Collection[str], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys but for those with the name of one of these models before them."""
    return {key: value for key, value in keys.items() if str(key).partition(".")[0] not in models}


def _rows_of(models: Sequence[str], stages: Sequence[Stage], where: str) -> list[Stage]:
    """The stages with only the rows of these models; a stage that is left with nothing to run is dropped."""
    rows = [names_of(stage.keys.get("model")) if stage.verb in RUNNING else [] for stage in stages]
    there = [name for names in rows for name in names]
    for model in models:
        check_known(f"--model={model}: {where} has no such row", model, there)
    found: list[Stage] = []
    for stage, names in zip(stages, rows, strict=True):
        if chosen := [name for name in names if name in models]:
            stage = Stage(stage.verb, {**stage.keys, "model": chosen})
        elif stage.verb in RUNNING:
            continue
        if stage not in found:  # --protocol can make two stages the same
            found.append(stage)
    return found


def _takers(key: str, options: Options) -> list[str]:
    """The verbs whose stages get a key: those that have such an option, or take it as a setting."""
    having = [verb for verb in STAGE_VERBS if key in options[verb]]
    is_setting = not having or (key in CoreSettings.model_fields and not {*having} & {*RUNNING})
    return [verb for verb in STAGE_VERBS if verb in having or (is_setting and verb in RUNNING)]


def _takers_of_given(key: str, options: Options) -> list[str]:
    """The same for a key on the command line, where a key that runs take does not select rows or columns of tables."""
    takers = _takers(key, options)
    running = [verb for verb in takers if verb in RUNNING]
    return running if running and key not in ("dataset", "results_dir") else takers


def _described_takers(key: str, options: Options) -> str:
    having = [verb for verb in STAGE_VERBS if key in options[verb]]
    return f"it is an option of {' and '.join(having)}" if having else f"settings are for {', '.join(RUNNING)}"


def _of_verb(verb: str, keys: Mapping[str, Any], options: Options) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if verb in _takers(key, options)}


def _stage(verb: str, layers: Sequence[Mapping[str, Any]]) -> Stage:
    keys = {key: value for layer in layers for key, value in layer.items()}
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
