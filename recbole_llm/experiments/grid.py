"""Expand the options of a command into runs; every name and setting is checked."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from recbole_llm.data.catalog import locate
from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.experiments.published import check_store
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.store import ResultStore
from recbole_llm.experiments.vector_files import check_vectors_read
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.sources import chosen_endpoint
from recbole_llm.llm.address import redact
from recbole_llm.registry import Method, find_method, register
from recbole_llm.settings.core import LARGEST_SEED, CoreSettings
from recbole_llm.settings.layers import Settings, check_grid_keys, layer_settings, names_parts
from recbole_llm.settings.rules import check_followed
from recbole_llm.settings.schema import check_value, from_python
from recbole_llm.utils.text import names_of

_READ_ONCE = ("results_dir", "max_cost", "max_requests", "answers")  # for all runs of a command


def parse_seeds(value: Any, default: int) -> list[int]:
    """``5`` gives five seeds from the default on, ``[1, 7]`` or ``"1,7"`` just these two.

    Raises:
        UserError: the value names no seeds.
    """
    value = from_python(value, "--seeds")
    if value is None:
        return [default]
    try:
        if isinstance(value, list):
            seeds = [_whole(seed) for seed in value]
        elif isinstance(value, str) and "," in value:
            seeds = [_whole(seed) for seed in value.split(",")]
        else:
            seeds = list(range(default, default + _whole(value)))
    except (TypeError, ValueError):
        raise UserError(f"--seeds={value}: give a number of seeds (5) or a list of them ([1,2,3]).") from None
    if not seeds or min(seeds) < 0:
        raise UserError(f"--seeds={value}: give at least one seed, none negative.")
    if max(seeds) > LARGEST_SEED:
        raise UserError(f"--seeds={value}: a seed is at most {LARGEST_SEED}; got {max(seeds)}.")
    return list(dict.fromkeys(seeds))


def parse_shares(value: Any) -> list[float]:
    """Growing shares from a list or ``0.05,0.2,1``.

    Raises:
        UserError: the value is nothing of the kind.
    """
    value = from_python(value, "--shares")
    try:
        found = [float(share) for share in (value if isinstance(value, list) else names_of(str(value)))]
    except (TypeError, ValueError):
        found = []
    if not found or found != sorted({*found}) or found[0] <= 0 or found[-1] > 1:
        raise UserError(f"--shares={value}: give growing shares of the answers, above 0 and at most 1: 0.05,0.2,1.")
    return found


def _whole(value: Any) -> int:
    """An integer from a whole number or its digits; ``ValueError`` for 1.5 and ``true``, which ``int`` would take."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _method(model: Any) -> Method:
    """The registry row of a model given by name or, in the Python API, as a class.

    Raises:
        UserError: there is no such model, or the class was typed into a session that has another one of its name now.
    """
    if isinstance(model, type):
        row = find_method(f"{model.__module__}:{model.__qualname__}")
        if model.__module__ == "__main__" and row.load() is not model:  # a module's class may have been reloaded
            raise UserError(
                f"--model={row.target}: another class has this name now. Give each class a name of its own, and pass "
                "the one that is defined under it."
            )
        register(row)
        return row
    return find_method(str(model))


def _ready_parts(method: Method, dataset: str, files: list[Path], overrides: dict[str, Any]) -> str | None:
    """``parts`` if the user gives ready parts or the dataset has nothing else; ``None`` for the default protocol."""
    if names_parts(files, overrides):
        return "parts"
    try:
        settings = layer_settings(method, dataset, None, files, overrides, strict=False)
        location = locate(dataset, settings.data_path, settings["dataset_dir"])
    except UserError:
        return None  # reported when the settings are checked, with the file that they come from
    return "parts" if location.file("inter") is None else None


def expand(
    model: Any,
    dataset: Any,
    protocol: Any = None,
    seeds: Any = None,
    semantics: Any = None,
    config_files: str | Path | Iterable[str | Path] = (),
    overrides: dict[str, Any] | None = None,
    results_dir: str | Path | None = None,
) -> list[Run]:
    """All runs of a grid, each once, in the order they should run.

    Raises:
        UserError: an unknown name or key anywhere in the grid, before anything runs.
    """
    load_prompt.cache_clear()  # in a notebook, prompts are edited between calls
    overrides = {key: from_python(value, f"--{key}") for key, value in (overrides or {}).items()}
    if results_dir is not None:
        overrides["results_dir"] = str(results_dir)
    models = names_of(model)
    if not models and overrides.get("lists"):
        models = ["Lists"]
    files = [
        Path(file) for file in ([config_files] if isinstance(config_files, (str, Path)) else names_of(config_files))
    ]
    methods = [_method(name) for name in models]
    datasets = names_of(dataset)
    if not methods or not datasets:
        meant = (f" --{key}:{hint}" for key in overrides if (hint := did_you_mean(key, ("model", "dataset"))))
        raise UserError(
            f"give --model=NAME and --dataset=NAME; `recbole-llm list` shows what there is.{next(meant, '')}"
        )
    kinds = names_of(semantics) if semantics is not None else [None]
    protocols = names_of(protocol) if protocol is not None else [None]
    if not kinds or not protocols:
        raise UserError(f"--{'protocol' if kinds else 'semantics'}=: it names nothing; leave it out for the default.")
    for kind in kinds:
        if kind is not None:
            check_value(CoreSettings, "semantics", kind, None, f"--semantics={kind}")
    runs: dict[str, Run] = {}
    layered: list[Settings] = []
    for name in datasets:
        for given in protocols:
            each_protocol = _ready_parts(methods[0], name, files, overrides) if given is None else given
            check_grid_keys(methods, name, each_protocol, overrides, files)
            for method, kind in product(methods, kinds):
                base = overrides if kind is None else {**overrides, "semantics": kind}
                default = _checked(method, name, each_protocol, files, base)
                layered.append(default)
                for seed in parse_seeds(seeds, int(default["seed"])):
                    of_seed = {**base, f"{method.name}.seed": seed}  # else a model's own seed would win
                    run = Run.of(layer_settings(method, name, each_protocol, files, of_seed, strict=False))
                    runs.setdefault(run.key, run)
    _check_agreed(layered)
    check_vectors_read(layered)
    return list(runs.values())


def _check_agreed(layered: Iterable[Settings]) -> None:
    """Raise a ``UserError`` if models have values of their own for what a command has only one of."""
    for key in _READ_ONCE:
        found = {settings.method.name: settings.get(key) for settings in layered}
        if len({*found.values()}) > 1:
            values = ", ".join(f"{k}: {'none' if v is None else redact(str(v))}" for k, v in found.items())
            raise UserError(
                f"--{key} holds for the whole command, and its models differ in it ({values}): give --{key}=VALUE "
                "without a model's name before it, or each model a command of its own."
            )


def _checked(
    method: Method, dataset: str, protocol: str | None, files: list[Path], overrides: dict[str, Any]
) -> Settings:
    """Settings of one model of a grid, before seeds are set.

    Raises:
        UserError: a setting would be ignored.
    """
    found = layer_settings(method, dataset, protocol, files, overrides, strict=False)
    preset = {"preset": found["preset"]} if found.get("preset") else {}
    own = layer_settings(method, dataset, found["protocol"], overrides=preset, strict=False)
    check_followed(method, found.values, own.values)
    return found


def unfinished(runs: Iterable[Run], store: ResultStore, force: bool) -> list[Run]:
    """The runs that have no finished record; with ``force`` all of them."""
    return [run for run in runs if force or (done := store.find(run.key)) is None or done.status != "ok"]


def check_importable(runs: Iterable[Run], executor: str) -> None:
    """Refuse classes that processes of their own cannot import: those of a session, or of the script that runs.

    Args:
        runs: what will be run.
        executor: where: ``serial``, ``processes`` or ``ray``.

    Raises:
        UserError: there is such a class, and another process would train it.
    """
    for run in runs:
        target = run.settings.method.target
        if target.startswith("__main__:") and (executor != "serial" or int(run.settings["nproc"]) > 1):
            raise UserError(
                f"--model={target}: other processes cannot import a class of a session, or of the script that runs; "
                "put it into a module, or leave out --workers, --executor and --nproc."
            )


def check_sources(runs: Iterable[Run]) -> None:
    """Refuse sources of answers that cannot be used, before anything is loaded.

    These are endpoints, for example a paid one without a limit, and published answers whose folder holds none.
    """
    stores = set()
    for run in runs:
        if run.settings["semantics"] != "none" and chosen_endpoint(run.settings) and run.settings.get("answers"):
            stores.add(str(run.settings["answers"]))
    for address in sorted(stores):
        check_store(address)
