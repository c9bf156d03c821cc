"""Settings of one run: YAML files in layers, then the command line, typed and checked.

The layers, later ones winning::

    RecBole   properties/overall.yaml, dataset/sample.yaml, model/<Model>.yaml
    ours      overall.yaml, protocol/<protocol>.yaml, dataset/<dataset>.yaml, model/<Model>.yaml,
              preset/<Model>-<preset>.yaml where --preset names one
              (the files of a model's backbone, if it has one, come below its own)
    outside   properties/model/<Model>.yaml beside the module of a class from outside
    user      --config_file=FILE (in order), then --key=value

Values are read as YAML, never evaluated. This module imports neither torch nor RecBole, so a
mistyped key is answered at once; ``compat/config.py`` turns the result into RecBole's ``Config``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError, check_known, did_you_mean
from recbole_llm.registry import (
    EXTERNAL_LIBRARY,
    SEQUENTIAL,
    Method,
    find_method,
    methods,
    recbole_folder,
    recbole_methods,
)
from recbole_llm.settings.core import CoreSettings
from recbole_llm.settings.definitions import Definitions, definitions_of
from recbole_llm.settings.identity import identity, key_of
from recbole_llm.settings.rules import leave_negatives_out, settle, settle_each, with_vectors
from recbole_llm.settings.schema import check_open, check_value, key_name, kinds_of
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml, value_of

logger = logging.getLogger(__name__)

_OF_COMMAND = ("model", "dataset", "protocol")  # they decide which files are read, so no file can set them
_OURS = "properties/overall.yaml"
_OF_STAGE_ONE = ("seed", "nproc", "engine", "refit")  # fixed for every candidate model, whatever is set


@dataclass(frozen=True)
class Layer:
    """One source of settings: where it comes from (for messages) and its values."""

    source: str
    values: Mapping[str, Any]


@dataclass
class Settings:
    """The settings of one run: one model, dataset, protocol and seed.

    Attributes:
        method: the model's registry row.
        values: every setting after layering.
        origin: for each key, the layer that set it.
        config_files, overrides: the user's layers as they were given.
    """

    method: Method
    values: dict[str, Any] = field(repr=False)  # some 300
    origin: dict[str, str] = field(default_factory=dict, repr=False)
    config_files: tuple[Path, ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, or ``default`` if no layer sets it."""
        return self.values.get(key, default)

    @property
    def data_path(self) -> str | None:
        """The user's ``data_path``; ``None`` if it is RecBole's default."""
        return None if self.origin.get("data_path", "RecBole").startswith("RecBole") else str(self["data_path"])

    def replaced(self, **changes: Any) -> Settings:
        """A copy with other values for some keys."""
        return replace(self, values={**self.values, **changes})

    @property
    def definitions(self) -> Definitions:
        """The class that defines each listed setting of the model."""
        key = backbone_key(self.method)
        return definitions_of(self.method, None if key is None else str(self[key]))

    def identity(self) -> dict[str, Any]:
        """The settings that can change a result, in a canonical order."""
        return identity(
            self.values, self.definitions, self.method.target if self.method.is_external else self.method.name
        )

    def key(self, **more: Any) -> str:
        """Hash of the identity and of ``more`` (dataset hash, versions of features, ...): 16 hex digits."""
        return key_of(self.identity(), **more)


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split ``key=value`` into a key and its YAML value; text that YAML refuses stays text.

    >>> parse_assignment("learning_rate=1e-3")
    ('learning_rate', 0.001)
    """
    key, _, raw = text.partition("=")
    return key.strip(), value_of(raw)


@cache  # once per command, though each of its runs reads the settings again
def _say_renamed(where: str, old: str, new: str) -> None:
    logger.warning("%s: %s is now called %s", where, old, new)


@cache
def _recbole_model_keys() -> dict[str, frozenset[str]]:
    """Keys of each RecBole model's own YAML file."""
    found = {}
    for path in (recbole_folder() / "properties" / "model").glob("*.yaml"):
        found[path.stem] = frozenset(read_yaml(path))
    return found


@cache
def _our_model_keys() -> dict[str, frozenset[str]]:
    return {
        name: frozenset(read_yaml(properties_folder() / "model" / f"{name}.yaml")) for name in property_names("model")
    }


@cache
def _recbole_argument_names() -> frozenset[str]:
    """Argument names that RecBole lists but gives no default for."""
    text = (recbole_folder() / "utils" / "argument_list.py").read_text(encoding="utf-8")
    return frozenset(re.findall(r"'(\w+)'", text))


class _UnknownKeyError(UserError):
    """A model has no such setting; another one of the grid may have it."""


def _unknown_key(key: str, where: str, known: Iterable[str], method: Method) -> _UnknownKeyError:
    owners = sorted(
        {n for n, keys in {**_recbole_model_keys(), **_our_model_keys()}.items() if key in keys and n != method.name}
    )
    if owners:
        shown = ", ".join(owners[:4]) + (", ..." if len(owners) > 4 else "")
        return _UnknownKeyError(f"{where}: {method.name} has no setting {key!r} (it belongs to {shown}).")
    return _UnknownKeyError(f"{where}: there is no setting {key!r}.{did_you_mean(key, known)}")


def _taken(key: str, value: Any, default: Any, where: str, definitions: Definitions) -> Any:
    """A value, checked and converted to its setting's type; see ``settings/schema.py``."""
    if key.endswith("_inter_num_interval") and isinstance(value, list):
        value = f"[{','.join(map(str, value))}]"  # what YAML makes of a closed interval
    owner = definitions.get(key)
    if owner is None:
        return check_open(key, value, default, where)
    return check_value(owner, key, value, default, where)


def _within(mapping: Mapping[str, Any], key: str, value: Any, where: str) -> dict[str, Any]:
    """A mapping with one entry replaced; a dotted key reaches into nested mappings."""
    head, dot, rest = key.partition(".")
    inner = mapping.get(head)
    if dot and isinstance(inner, dict):
        return {**mapping, head: _within(inner, rest, value, where)}
    return {**mapping, key: check_open(key, value, inner, where)}


def _takes_mapping(key: str, definitions: Definitions) -> bool:
    owner = definitions.get(key)
    return owner is not None and dict in kinds_of(owner.model_fields[key])


def _columns(
    values: Mapping[str, Any], method: Method, config_files: Iterable[Path], overrides: Mapping[str, Any]
) -> list[str]:
    """The columns of ``.inter`` that are read by default: user, item and time, by the names that the settings give."""
    usual = values["load_col"]["inter"]
    fields = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
    return [
        _given(field, method, config_files, overrides) or values[field] or name
        for field, name in zip(fields, usual, strict=True)
    ]


def check_preset(preset: str) -> None:
    """Raise a ``UserError`` when no model has a preset of that name."""
    known = sorted({name.rpartition("-")[2] for name in property_names("preset")})
    check_known(f"--preset={preset}: there is no such preset", preset, known)


def _given(key: str, method: Method, config_files: Iterable[Path], overrides: Mapping[str, Any]) -> Any:
    """The user's value for a key that decides which files are read; ``None`` if the user gives none."""
    for layer in (overrides, *(read_yaml(file) for file in [*config_files][::-1])):
        for name in (f"{method.name}.{key}", key):
            if name in layer:
                return layer[name]
    return None


def backbone_key(method: Method) -> str | None:
    """The key that names the model a method is built on, ``None`` if it is built on none."""
    return methods().get(method.settings_of, method).backbone


def _backbone(method: Method, config_files: Iterable[Path], overrides: Mapping[str, Any]) -> str | None:
    """The model whose settings come below the method's own, ``None`` if there is none."""
    key = backbone_key(method)
    if key is None:
        return None
    default = read_yaml(properties_folder() / "model" / f"{method.settings_of or method.name}.yaml")[key]
    value = _given(key, method, config_files, overrides)
    if value is None:
        return str(default)
    return str(_taken(key, value, default, f"--{key}={value}", definitions_of(method)))


def _base_layers(method: Method, dataset: str, protocol: str, preset: str | None, backbone: str | None) -> list[Layer]:
    recbole = recbole_folder() / "properties"
    ours = properties_folder()
    own = [] if method.settings_of and method.is_external else [method.name]
    models = list(dict.fromkeys(name for name in (backbone, method.settings_of, *own) if name))
    files = [
        (recbole / "overall.yaml", "RecBole overall.yaml"),
        (recbole / "dataset" / "sample.yaml", "RecBole dataset/sample.yaml"),
        *((recbole / "model" / f"{each}.yaml", f"RecBole model/{each}.yaml") for each in models),
        (ours / "overall.yaml", _OURS),
        (ours / "protocol" / f"{protocol}.yaml", f"properties/protocol/{protocol}.yaml"),
        (ours / "dataset" / f"{dataset}.yaml", f"properties/dataset/{dataset}.yaml"),
        *((ours / "model" / f"{each}.yaml", f"properties/model/{each}.yaml") for each in models),
        *((ours / "preset" / f"{each}-{preset}.yaml", f"properties/preset/{each}-{preset}.yaml") for each in models),
    ]
    if (beside := _file_beside(method)) is not None:
        files.append((beside, f"properties/model/{method.name}.yaml of {method.target}"))
    return [Layer(source, read_yaml(path)) for path, source in files if path.is_file()]


def _file_beside(method: Method) -> Path | None:
    """The settings file beside the module of a class from outside; ``None`` if it has none."""
    file = None if method.properties is None else method.properties / "model" / f"{method.name}.yaml"
    return file if file is not None and file.is_file() else None


def takes_any_key(method: Method) -> bool:
    """Whether a model has settings that no file lists: a class from outside takes any key without a file of its own."""
    return (method.is_external and _file_beside(method) is None) or method.kind == EXTERNAL_LIBRARY


def check_protocol(name: str) -> None:
    """Raise a ``UserError`` when there is no protocol of that name."""
    check_known(f"--protocol={name}: there is no such protocol", name, property_names("protocol"))


def layer_settings(
    method: Method,
    dataset: str,
    protocol: str | None = None,
    config_files: Iterable[Path] = (),
    overrides: Mapping[str, Any] | None = None,
    strict: bool = True,
) -> Settings:
    """Layer the files and the user's values for one model on one dataset.

    Args:
        method: the model's registry row.
        dataset: dataset alias or folder name, as ``--dataset`` gives it.
        protocol: name of the protocol; the default of ``properties/overall.yaml`` when ``None``.
        config_files: the user's YAML files, in order.
        overrides: ``key -> value`` from the command line or the Python API; a key may be dotted,
            or be prefixed by a model's name (``SASRec.n_layers``) to reach that model alone.
        strict: refuse keys that this model does not have. In a grid of several models the caller
            checks that each key belongs to one of them and passes ``False``.

    Raises:
        UserError: an unknown key, a value of the wrong type, an unreadable file, settings that contradict each other.
    """
    settings = _layered(method, dataset, protocol, config_files, overrides, strict)
    if settings.origin["train_neg_sample_args"].startswith("RecBole"):
        leave_negatives_out(method, settings.values)
    if settings["init"] == "vectors":
        settings = replace(settings, method=with_vectors(method, settings.values))
    settle(settings.method, settings.values)
    return settings


def _layered(
    method: Method,
    dataset: str,
    protocol: str | None,
    config_files: Iterable[Path],
    overrides: Mapping[str, Any] | None,
    strict: bool = True,
) -> Settings:
    """The merged layers, before settings are checked against each other, so that one key can be checked by itself."""
    overrides = dict(overrides or {})
    protocol = overrides.pop("protocol", protocol)
    if protocol is None:
        protocol = str(read_yaml(properties_folder() / "overall.yaml").get("protocol", "loo"))
    check_protocol(protocol)
    config_files = [*config_files]
    preset = _given("preset", method, config_files, overrides)
    if preset is not None:
        check_preset(str(preset))

    backbone = _backbone(method, config_files, overrides)
    named = [Layer("--protocol", {"protocol": protocol}), Layer("--dataset", {"dataset": dataset})]
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for layer in (*_base_layers(method, dataset, protocol, preset, backbone), *named):
        values.update(layer.values)
        origin.update(dict.fromkeys(layer.values, layer.source))
    if origin["load_col"] == _OURS:
        values["load_col"] = {"inter": _columns(values, method, config_files, overrides)}
    values["repeatable"] = method.kind == SEQUENTIAL

    user = _UserLayers(method, definitions_of(method, backbone), values, origin, strict)
    for file in config_files:
        for key, value in user.own_last(read_yaml(Path(file))):
            if key in _OF_COMMAND:
                raise UserError(f"{file}, {key}: give --{key} on the command line; it decides which files are read.")
            user.put(key, value, f"{file}, {key}", str(file))
    for key, value in user.own_last(overrides):
        user.put(key, value, f"--{key}={value}", "command line")
    return Settings(method, values, origin, tuple(map(Path, config_files)), overrides)


class _UserLayers:
    """Puts the user's values, after checking each of them, over those of the shipped files.

    Args:
        method: the model's registry row.
        definitions: the classes that define its settings.
        values, origin: values of the layers below and where they come from; changed in place.
        strict: refuse keys that this model does not have, instead of ignoring them.
    """

    def __init__(
        self, method: Method, definitions: Definitions, values: dict[str, Any], origin: dict[str, str], strict: bool
    ) -> None:
        self.method, self.definitions, self.strict = method, definitions, strict
        self.values, self.origin = values, origin
        self._known = set(values) | set(_recbole_argument_names()) | {*CoreSettings.model_fields}
        self._open_ended = takes_any_key(method)

    @cached_property
    def _renamed(self) -> dict[str, str]:
        """Today's names by the names that enter the keys of runs; made only where a key has no setting of its name."""
        return {key_name(name, owner.model_fields[name]): name for name, owner in self.definitions.items()}

    def own_last(self, layer: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """A layer's items, keys with the model's name last, so that they win over the plain keys."""
        return sorted(layer.items(), key=lambda item: str(item[0]).partition(".")[0] == self.method.name)

    def put(self, key: str, value: Any, where: str, source: str) -> None:
        """Replace one value.

        Args:
            key: name of the setting; a model's name may come before it, and a key of its mapping after it, with a dot.
            value: as YAML gives it.
            where: where the user gave it, for messages.
            source: its layer.

        Raises:
            UserError: the model has no such setting, or the setting does not take the value.
        """
        name, dot, rest = key.partition(".")
        if dot and name not in self.values and (name == self.method.name or _is_model(name)):
            if name == self.method.name:
                self.put(rest, value, where, source)
        elif name not in self._known and self._renamed.get(name) in self._known:
            _say_renamed(where, name, self._renamed[name])
            self.put(self._renamed[name] + dot + rest, value, where, source)
        elif name in self._known and dot:
            self._put_within(name, rest, value, where)
            self.origin[name] = source
        elif name in self._known or self._open_ended:
            self.values[key] = _taken(key, value, self.values.get(key), where, self.definitions)
            self.origin[name] = source
        elif self.strict:
            raise _unknown_key(name, where, self._known, self.method)

    def _put_within(self, name: str, key: str, value: Any, where: str) -> None:
        """Put a value into the mapping that a setting holds."""
        inside = self.values.get(name)
        if not isinstance(inside, dict) and not (inside is None and _takes_mapping(name, self.definitions)):
            raise UserError(f"{where}: {name} is not a mapping and has no {key!r}.")
        self.values[name] = _within(inside or {}, key, value, where)


def _is_model(name: str) -> bool:
    """Whether one of RecBole's models or of ours has this name."""
    return name in methods() or name in recbole_methods()


def names_parts(config_files: Iterable[str | Path], overrides: Mapping[str, Any]) -> bool:
    """Whether the user gives ready-made files of training, validation and test."""
    layers = (overrides, *(read_yaml(Path(file)) for file in config_files))
    return any(layer.get(key) for layer in layers for key in ("train", "valid", "test", "benchmark_filename"))


def stage_one_settings(settings: Settings) -> Settings:
    """Settings of the candidate model that ``settings``' model depends on.

    The user's keys apply to it, too, unless they are prefixed by the other model's name. Its seed is
    ``stage_one_seed``, so that a new seed of the run asks no prompt again; ``SRGNN.seed`` only applies to a run of
    SRGNN itself. It is never refit: prompts must not show what was learnt from validation data.
    """
    method = _stage_one(settings)
    own = settings.method.name + "."
    fixed = {f"{method.name}.{key}" for key in _OF_STAGE_ONE}
    overrides = {k: v for k, v in settings.overrides.items() if not k.startswith(own) and k not in fixed}
    overrides["seed"] = settings["stage_one_seed"]
    overrides["nproc"] = 1
    overrides["engine"] = "fast"  # so candidates and prompts are the same whichever engine trains the method
    found = layer_settings(
        method, settings["dataset"], settings["protocol"], settings.config_files, overrides, strict=False
    )
    return found.replaced(refit=False)


def check_grid_keys(
    chosen: Iterable[Method],
    dataset: str,
    protocol: str | None,
    overrides: Mapping[str, Any],
    config_files: Iterable[Path] = (),
) -> None:
    """In a grid of several models, each key must be a setting of at least one of them, in the user's files too.

    A key with a model's name before it (``SRGNN.epochs``) must be a setting of that model. On the command line that
    model must be in the grid or be the candidate model of one in it; a file may serve several commands.

    Raises:
        UserError: a key that none of the models has, or that a model which only makes candidates does not read.
    """
    chosen, config_files = list(chosen), list(config_files)

    def check(method: Method, key: str, value: Any) -> None:
        named = backbone_key(method)
        base = {named: _backbone(method, config_files, overrides)} if named else {}
        alone = _layered(method, dataset, protocol, (), {**base, key: value})
        settle_each(method, alone.values)  # layer_settings checks settings against each other

    def check_any(key: str, value: Any) -> None:
        owner, dot, _ = key.partition(".")
        if dot and _is_model(owner):
            check(find_method(owner), key, value)
            return
        errors = []
        for method in chosen:
            try:
                check(method, key, value)
            except UserError as error:
                errors.append(error)
        if len(errors) == len(chosen):
            raise next((error for error in errors if not isinstance(error, _UnknownKeyError)), errors[0])

    for file in config_files:
        for key, value in read_yaml(file).items():
            if key in _OF_COMMAND:
                continue  # layer_settings refuses it with the reason
            try:
                check_any(key, value)
            except UserError as error:
                raise UserError(f"{file}, {key}: {str(error).removeprefix(f'--{key}={value}: ')}") from error
    trained = {method.name for method in chosen}
    for key, value in overrides.items():
        owner, dot, rest = key.partition(".")
        if dot and _is_model(owner) and owner not in trained:
            known = trained | {m.name for m in _stage_ones(chosen, dataset, protocol, overrides, config_files)}
            if owner not in known:
                raise UserError(f"--{key}={value}: {owner} takes no part in this run ({', '.join(sorted(known))} do).")
            if rest in _OF_STAGE_ONE:
                advice = f"give --stage_one_seed={value}" if rest == "seed" else f"leave it out, or add --model={owner}"
                raise UserError(
                    f"--{key}={value}: {owner} makes candidates here and takes no {rest} of its own; {advice}."
                )
        check_any(key, value)


def _stage_ones(
    chosen: Iterable[Method],
    dataset: str,
    protocol: str | None,
    overrides: Mapping[str, Any],
    config_files: Iterable[Path],
) -> list[Method]:
    """The candidate models that some of the chosen ones depend on, as the run's settings name them."""
    found = []
    for method in chosen:
        if method.stage_one is not None:
            settings = layer_settings(method, dataset, protocol, config_files, overrides, strict=False)
            found.append(_stage_one(settings))
    return found


def _stage_one(settings: Settings) -> Method:
    """The candidate model that ``settings``' model depends on.

    Raises:
        UserError: there is no model of that name, or it depends on a candidate model itself.
    """
    key = settings.method.stage_one
    assert key is not None
    try:
        found = find_method(str(settings[key]))
    except UserError as error:
        raise UserError(str(error).replace("--model=", f"--{key}=", 1)) from error
    if found.stage_one is not None:
        raise UserError(
            f"--{key}={found.name}: it needs a candidate model itself; choose one that does not, such as SRGNN."
        )
    return found
