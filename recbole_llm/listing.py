"""Lists of the models, datasets, protocols, suites and settings, as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recbole_llm.data.catalog import known_datasets
from recbole_llm.errors import UserError
from recbole_llm.registry import Method, find_method, methods, recbole_methods
from recbole_llm.settings.core import CoreSettings
from recbole_llm.settings.definitions import definitions_of
from recbole_llm.settings.layers import layer_settings
from recbole_llm.settings.schema import bounds_of, described, role_of
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

Listed = Literal["models", "datasets", "protocols", "suites", "settings"]


@dataclass(frozen=True)
class SettingEntry:
    """One setting of a model, or of every run.

    Attributes:
        name, default, takes, bounds, role, help: from its definition.
        of: ``run`` for settings of every run, or the model's name.
    """

    name: str
    default: Any
    takes: str
    bounds: str
    role: str
    help: str
    of: str


@dataclass
class Catalogue:
    """What :func:`recbole_llm.list` found; parts that were not asked for are empty.

    Attributes:
        models: the registered models by name.
        presets: the models that have a preset, by the preset's name.
        recbole: names of RecBole's models by kind.
        datasets, protocols, suites: a description of each, by name.
        statistics: of the datasets on this machine (``stats``).
        settings: of the model, if one is given, then of every run.
    """

    models: dict[str, Method] = field(default_factory=dict)
    presets: dict[str, list[str]] = field(default_factory=dict)
    recbole: dict[str, list[str]] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)
    suites: dict[str, str] = field(default_factory=dict)
    statistics: list[Any] = field(default_factory=list)
    settings: list[SettingEntry] = field(default_factory=list)


def catalogue(
    what: Listed | None, stats: bool, model: str | None, data_path: str | None, dataset_dir: Path
) -> Catalogue:
    """See :func:`recbole_llm.api.list_`."""
    if stats and what not in (None, "datasets"):
        raise UserError(f"--stats is for datasets, not for {what}.")
    if model is not None and what != "settings":
        raise UserError("--model is for `list settings`.")
    found = Catalogue()
    if stats:
        from recbole_llm.data.statistics import dataset_statistics  # reads files, which no other list does

        found.statistics = [*dataset_statistics(data_path, dataset_dir)]
        return found
    if what in (None, "models"):
        found.models = dict(methods())
        for stem in property_names("preset"):
            name, _, preset = stem.rpartition("-")
            found.presets.setdefault(preset, []).append(name)
        for name, row in recbole_methods().items():
            found.recbole.setdefault(row.kind, []).append(name)
    if what in (None, "datasets"):
        found.datasets = {name: _about("dataset", name) for name in known_datasets(dataset_dir)}
    if what in (None, "protocols"):
        found.protocols = {name: _about("protocol", name) for name in property_names("protocol")}
    if what in (None, "suites"):
        found.suites = {name: _about("suite", name) for name in property_names("suite")}
    if what == "settings":
        found.settings = [*_settings(model)]
    return found


def _about(section: str, name: str) -> str:
    """The title or description in a file of ``properties/``; empty if there is none."""
    file = properties_folder() / section / f"{name}.yaml"
    about = read_yaml(file).get("about") if file.is_file() else None
    return str(about.get("title", "") if isinstance(about, dict) else about or "")


def _settings(model: str | None) -> Iterator[SettingEntry]:
    """The settings of a model first, then those of every run."""
    method = find_method(model or "Pop")
    values = layer_settings(method, "ml-100k").values
    core = CoreSettings.model_fields
    definitions = definitions_of(method)
    names = [] if model is None else [name for name in values if name in definitions and name not in core]
    for name in (*names, *core):
        field_ = definitions[name].model_fields[name]
        yield SettingEntry(
            name=name,
            default=values.get(name),
            takes=described(field_) or "anything",
            bounds=bounds_of(field_),
            role=str(role_of(field_)),
            help=field_.description or "",
            of="run" if name in core else method.name,
        )
