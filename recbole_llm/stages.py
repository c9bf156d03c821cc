"""The commands of a suite: all checked before the first one runs, then run in order or estimated.

``verbs`` are the functions of the API by name; options that a command does not give have their defaults.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.execution.choice import check_executor
from recbole_llm.experiments.grid import check_importable, check_sources, expand, unfinished
from recbole_llm.experiments.record import Record, SemanticFacts
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.store import ResultStore
from recbole_llm.experiments.suite import RUNNING, Options, Stage, read_suite
from recbole_llm.experiments.tracking import open_tracking
from recbole_llm.features.sources import chosen_endpoint
from recbole_llm.reporting.choice import check_shown
from recbole_llm.reporting.grouping import Label
from recbole_llm.utils.options import of_types
from recbole_llm.utils.text import names_of
from recbole_llm.utils.yaml import property_names

logger = logging.getLogger(__name__)

Verbs = Mapping[str, Callable[..., Any]]
GRID = ("model", "dataset", "protocol", "semantics", "results_dir")
SEARCH = ("trials", "trial_epochs", "trial_minutes", "pruner", "objectives", "space")


@dataclass(frozen=True)
class StageResult:
    """One command of a suite.

    Attributes:
        stage: the command.
        place: its number among all commands, such as ``1/5``.
        value: the result of its function; ``None`` before it ran and if it failed.
        error: why it failed.
    """

    stage: Stage
    place: str
    value: Any = None
    error: Exception | None = None


def run_stages(stages: Sequence[Stage], verbs: Verbs, dry_run: bool, quiet: bool) -> Iterator[StageResult]:
    """Each command twice: without a value before it runs, then with its result; in a dry run only the former."""
    for number, stage in enumerate(stages, start=1):
        place = f"{number}/{len(stages)}"
        yield StageResult(stage, place)
        if dry_run:
            continue
        shown = {"quiet": quiet} if stage.verb in RUNNING else {}
        try:
            yield StageResult(stage, place, verbs[stage.verb](**{**shown, **stage.keys}))
        except Exception as error:  # the caller reports it; the other commands still run
            yield StageResult(stage, place, error=error)


def checked_stages(
    name: str, verbs: Verbs, budget: str, given: Mapping[str, Any], asks: bool = False, quiet: bool = False
) -> list[Stage]:
    """The commands of a suite, after all of them were checked.

    Tables and reports of rows that ``given`` leaves out, and that the results folder does not have, are left out.

    Args:
        name, budget, given: see :func:`~recbole_llm.experiments.suite.read_suite`.
        verbs: the functions of the commands.
        asks: check the sources of their answers too.
        quiet: do not say which commands are left out.

    Raises:
        UserError: there is no such suite or budget, or a mistake in one of the commands.
    """
    options = {verb: inspect.signature(function).parameters for verb, function in verbs.items()}
    left_out = _left_out(name, options, budget, given)
    planned: list[Record] = []
    stages: list[Stage] = []
    for stage in read_suite(name, options, budget, given):
        read = of_types(verbs[stage.verb], stage.keys)
        stage = Stage(stage.verb, {key: read.get(key, value) for key, value in stage.keys.items()})
        if stage.verb in RUNNING:
            planned += _planned(stage, verbs, asks)
            stages.append(stage)
        else:
            for key in stage.keys:
                if key not in options[stage.verb]:
                    raise UserError(f"{stage.verb} has no option {key!r}.{did_you_mean(key, options[stage.verb])}")
            shown, missing = check_shown(stage.keys, planned, stage.verb == "table", left_out)
            if shown is not None:
                stages.append(Stage(stage.verb, shown))
            elif not quiet:
                words = "this command and the results folder have no rows of"
                logger.info("%s is left out: %s %s", " ".join(stage.words), words, ", ".join(missing))
    return stages


def _left_out(name: str, options: Options, budget: str, given: Mapping[str, Any]) -> dict[str, set[str]]:
    """By option of tables, the names that ``--model``, ``--protocol`` and given settings may have left out."""
    found: dict[str, set[str]] = {}
    whole = read_suite(name, options, budget)
    models: set[str] = set()
    if given.get("model"):
        models = {m for stage in whole for m in names_of(stage.keys.get("model"))}
        found |= {"model": models}
    if "protocol" in given:
        protocols = {*property_names("protocol")}
        found |= {"protocol": protocols, "twin": protocols}
    changed = {key.rpartition(".")[2] for key in given}  # a model's name may stand before a key
    baselines = {str(stage.keys["baseline"]) for stage in whole if stage.keys.get("baseline")}
    found["baseline"] = {each for each in baselines if Label.of(each).model in models or changed & _decide(each)}
    return {option: names for option, names in found.items() if option not in given or option in GRID}


def _decide(label: str) -> set[str]:
    """The keys that decide whether a suite has a row with a label, where it has rows of the model."""
    named = Label.of(label)
    found = {*named.settings, *(("semantics", "llm", "llm_model") if named.source else ())}
    return found | {"preset", "config_file"} if found else found


def _planned(stage: Stage, verbs: Verbs, asks: bool) -> list[Record]:
    """Check a command that is yet to run, and return records of its runs with what is known before they run.

    Raises:
        UserError: a mistake in an option, a name, a key or a value.
    """
    options, settings = _split(stage, verbs)
    if stage.verb == "generate":
        here = [options[key] for key in ("dry_run", "batch_file", "export_to", "import_from")]  # none of these asks
        check_generate(options["limit"], (options["batch"], *here))
        asks = asks and not any(here)
    runs = _runs(options, settings, options.get("seeds"))
    store = ResultStore(runs[0].settings["results_dir"])
    if stage.verb != "generate":
        executor = check_executor(*(options[name] for name in ("executor", "workers", "ray_address", "gpus")))
        check_importable(runs, executor)
        open_tracking(options["track"], store)
    spaces: list[Any] = [()] * len(runs)
    if stage.verb == "tune":
        from recbole_llm.tuning.space import searched  # Optuna, which no other command needs
        from recbole_llm.tuning.storage import storage_address

        spaces, _ = searched(runs, **{name: options[name] for name in SEARCH}, quiet=True)
        storage_address(options["storage"], store.folder)
    if asks:
        check_sources(unfinished(runs, store, options["force"]) if stage.verb == "run" else runs)
    found = []
    for run, space in zip(runs, spaces, strict=True):
        record, method = run.blank_record(), run.settings.method
        kept = {key: value for key, value in record.settings.items() if key not in space}
        llm = chosen_endpoint(run.settings, asks=False) if record.semantics == "llm" else None
        features = None if llm is None else SemanticFacts(llm=llm.name, llm_model=llm.model)
        found.append(record.model_copy(update={"settings": kept, "features": features}))
        if method.stage_one:  # is trained too, with settings of its own
            model = str(run.settings[method.stage_one])
            found.append(record.model_copy(update={"model": model, "semantics": "none", "settings": {}}))
    return found


def check_generate(limit: int | None, actions: Sequence[Any]) -> None:
    """Raise a ``UserError`` if ``generate`` is given several actions, or a limit below 1."""
    if sum(action not in (None, False) for action in actions) > 1:
        raise UserError("generate does one thing: --dry_run, --batch, --batch_file, --export or --import.")
    if limit is not None and limit < 1:
        raise UserError(f"--limit={limit}: give 1 or more.")


def trained_by(stages: Sequence[Stage], verbs: Verbs) -> list[tuple[list[Run], Any, dict[str, Any] | None]]:
    """Runs, seeds and search (see :func:`~recbole_llm.tuning.work.work_of`) of the commands that train anything."""
    found = []
    for stage in stages:
        if stage.verb in ("run", "tune"):
            options, settings = _split(stage, verbs)
            search = {name: options[name] for name in SEARCH} if stage.verb == "tune" else None
            found.append((_runs(options, settings, None if search else options["seeds"]), options["seeds"], search))
    return found


def _split(stage: Stage, verbs: Verbs) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of all options of a command's verb, and the command's other keys, which are settings."""
    parameters = inspect.signature(verbs[stage.verb]).parameters.values()
    options = {p.name: stage.keys.get(p.name, p.default) for p in parameters if p.kind is not p.VAR_KEYWORD}
    return options, {key: value for key, value in stage.keys.items() if key not in options}


def _runs(options: Mapping[str, Any], settings: dict[str, Any], seeds: Any) -> list[Run]:
    model, dataset, protocol, semantics, folder = (options.get(name) for name in GRID)
    return expand(model, dataset, protocol, seeds, semantics, options["config_file"], settings, folder)
