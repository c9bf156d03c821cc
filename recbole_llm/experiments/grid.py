"""Grids of cells: which are missing, one after the other or many at once, whatever fails."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.execution.executors import (
    Executor,
    Job,
    JobError,
    JobResult,
    SerialExecutor,
    each_result,
    open_executor,
)
from recbole_llm.experiments.jobs import make_features, run_job, run_job_away
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.registry import Method, find_method, register
from recbole_llm.settings.layers import check_grid_keys, layer_settings
from recbole_llm.settings.schema import AT_MOST, CHOICES, check_followed
from recbole_llm.utils.files import make_folder
from recbole_llm.utils.progress import Bars

logger = logging.getLogger(__name__)


def as_list(value: Any) -> list[Any]:
    """``"A, B"`` or a sequence to a list of names."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, type) else list(value)


def parse_seeds(value: Any, default: int) -> list[int]:
    """``5`` to five seeds from the default on, ``[1, 7]`` or ``"1,7"`` to just these.

    Raises:
        UserError: the value names no seeds.
    """
    if value is None:
        return [default]
    try:
        if isinstance(value, (list, tuple)):
            seeds = [_whole(seed) for seed in value]
        elif isinstance(value, str) and "," in value:
            seeds = [_whole(seed) for seed in value.split(",")]
        else:
            seeds = list(range(default, default + _whole(value)))
    except (TypeError, ValueError):
        raise UserError(f"--seeds={value}: give a number of seeds (5) or a list of them ([1,2,3]).") from None
    if not seeds or min(seeds) < 0:
        raise UserError(f"--seeds={value}: give at least one seed, none negative.")
    if max(seeds) > AT_MOST["seed"]:
        raise UserError(f"--seeds={value}: a seed is at most {AT_MOST['seed']}; got {max(seeds)}.")
    return list(dict.fromkeys(seeds))


def _whole(value: Any) -> int:
    """A whole number or its digits; ``ValueError`` for what ``int`` would cut off or take for one (1.5, true)."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _method(model: Any) -> Method:
    """The registry row of a model given by name or, in the Python API, as a class."""
    if isinstance(model, type):
        row = find_method(f"{model.__module__}:{model.__qualname__}")
        register(row)
        return row
    return find_method(str(model))


def expand(
    model: Any,
    dataset: Any,
    protocol: Any = None,
    seeds: Any = None,
    semantics: Any = None,
    config_files: Iterable[str | Path] = (),
    overrides: dict[str, Any] | None = None,
) -> list[Run]:
    """All cells of a grid, each once, in the order they should run.

    Raises:
        UserError: an unknown name or key anywhere in the grid, before anything runs.
    """
    overrides = dict(overrides or {})
    files = [Path(file) for file in config_files]
    methods = [_method(name) for name in as_list(model)]
    datasets = as_list(dataset)
    if not methods or not datasets:
        raise UserError("give --model=NAME and --dataset=NAME; `recbole-llm list` shows what there is.")
    kinds = as_list(semantics) if semantics is not None else [None]
    protocols = as_list(protocol) if protocol is not None else [None]
    if not kinds or not protocols:
        raise UserError(f"--{'protocol' if kinds else 'semantics'}=: it names nothing; leave it out for the default.")
    for kind in kinds:
        if kind is not None and kind not in CHOICES["semantics"]:
            raise UserError(f"--semantics={kind}: use {', '.join(CHOICES['semantics'])}.")
    cells: dict[str, Run] = {}
    for name in datasets:
        for each_protocol in protocols:
            check_grid_keys(methods, name, each_protocol, overrides, files)
            for method in methods:
                for kind in kinds:
                    extra = {"semantics": kind} if kind is not None else {}
                    base = {**overrides, **extra}
                    default = layer_settings(method, name, each_protocol, files, base, strict=False)
                    check_followed(default.values, layer_settings(method, name, default["protocol"]).values)
                    for seed in parse_seeds(seeds, int(default["seed"])):
                        settings = layer_settings(
                            method, name, each_protocol, files, {**base, "seed": seed}, strict=False
                        )
                        cell = Run.of(settings)
                        cells.setdefault(cell.key, cell)
    return list(cells.values())


def run(
    model: Any,
    dataset: Any,
    protocol: Any = None,
    seeds: Any = None,
    semantics: Any = None,
    config_files: Sequence[str | Path] = (),
    results_dir: str | Path | None = None,
    force: bool = False,
    quiet: bool = True,
    workers: int | None = None,
    executor: str | None = None,
    ray_address: str | None = None,
    **overrides: Any,
) -> list[Record]:
    """Train and evaluate every cell of a grid that has no record yet.

    Args:
        model: name, ``package.module:Class``, class, or several of them.
        dataset: name or names.
        protocol: protocol or protocols; the default is ``loo``.
        seeds: a number of seeds or a list.
        semantics: ``llm``, ``offline``, ``shuffled``, ``random``, ``none``, or several.
        config_files: YAML files of settings.
        results_dir: where records are kept; default ``results``.
        force: run again what has a record.
        quiet: no progress bars.
        workers, executor, ray_address: where the cells run, see :func:`~recbole_llm.execution.executors.open_executor`.
        **overrides: any setting, such as ``learning_rate=0.003``.

    Returns:
        One record a cell; failed cells have ``status == "failed"`` and say why.

    Raises:
        UserError: an unknown name or key, before anything runs.
    """
    if results_dir is not None:
        overrides["results_dir"] = str(results_dir)
    cells = expand(model, dataset, protocol, seeds, semantics, config_files, overrides)
    store = ResultStore(cells[0].settings["results_dir"])
    with open_executor(executor, workers, ray_address) as chosen:
        return run_all(cells, Runner(store, Bars(not quiet), force), chosen)


def run_all(cells: Sequence[Run], runner: Runner, executor: Executor | None = None) -> list[Record]:
    """Run the cells that have no record; a failing cell is recorded as failed and the others go on.

    With a single cell its error is raised too; a user's mistake is not recorded there.

    Args:
        cells: what to run.
        runner: runs them here, or makes what they have in common before others run them.
        executor: where they run; one after the other in this process by default.

    Returns:
        One record a cell, in the order of the cells.
    """
    make_folder(runner.store.folder)
    executor = executor or SerialExecutor()
    records = _present(cells, runner)
    if records:
        logger.info("%d of %d results are present already (--force runs them again)", len(records), len(cells))
    missing = [cell for cell in cells if cell.key not in records]
    for place in sorted({runner.store.place(cell.location.name, cell.settings["protocol"]) for cell in missing}):
        make_folder(place)  # one that cannot be written to is known before hours are spent
    if not isinstance(executor, SerialExecutor) and missing:
        reasons = make_features(missing, runner)
        records |= {c.key: _failed(c, runner, reasons[c.key]) for c in missing if c.key in reasons}
        records |= _present(missing, runner)  # a stage one may be a cell of the grid
        missing = [cell for cell in missing if cell.key not in records]
    for number, outcome in enumerate(each_result(executor, _works(missing, runner, executor)), start=1):
        cell = outcome.work.tag
        records[cell.key] = _record(outcome, runner, lone=len(cells) == 1)
        if not isinstance(executor, SerialExecutor):
            logger.info("[%d/%d] %s: %s", number, len(missing), cell.title(), records[cell.key].status)
    return [records[cell.key] for cell in cells]


def _present(cells: Sequence[Run], runner: Runner) -> dict[str, Record]:
    return {cell.key: record for cell in cells if (record := runner.finished(cell)) is not None}


def _run_here(ask: Any, runner: Runner, cell: Run, place: str) -> Record:
    if place and runner.finished(cell) is None:
        logger.info("%s", place)
    return runner.run(cell)


def _works(cells: Sequence[Run], runner: Runner, executor: Executor) -> list[Job]:
    """The cells as the executor takes them."""
    if isinstance(executor, SerialExecutor):
        places = [f"[{n}/{len(cells)}]" if len(cells) > 1 else "" for n in range(1, len(cells) + 1)]
        return [Job(c.title(), _run_here, (runner, c, place), tag=c) for c, place in zip(cells, places, strict=True)]
    if executor.shares_files:
        folder = str(runner.store.folder)
        return [Job(cell.title(), run_job, (cell, folder, runner.force), tag=cell) for cell in cells]
    from recbole_llm.experiments.jobs import PayloadSender

    ship = PayloadSender(executor, runner)
    return [Job(cell.title(), run_job_away, (cell, ship(cell)), tag=cell) for cell in cells]


def _record(outcome: JobResult, runner: Runner, lone: bool) -> Record:
    """The record of a cell that was run: its own, or one that says why there is none."""
    cell: Run = outcome.work.tag
    if outcome.error is not None:
        logger.debug("%s", cell.title(), exc_info=outcome.error)
        if lone and not isinstance(outcome.error, JobError):
            if not isinstance(outcome.error, UserError):
                _keep_failure(cell, runner, outcome.reason)
            raise outcome.error
        return _failed(cell, runner, outcome.reason)
    if isinstance(outcome.value, Record):
        return outcome.value
    return runner.store.unpack(outcome.value)


def _failed(cell: Run, runner: Runner, reason: str) -> Record:
    """Log and record a failure."""
    logger.error("%s failed: %s", cell.title(), reason)
    return _keep_failure(cell, runner, reason)


def _keep_failure(cell: Run, runner: Runner, reason: str) -> Record:
    """Record a failure; the next run tries the cell again. A good record of the cell stays (``--force``)."""
    record = cell.blank_record()
    record.status, record.error = "failed", reason[:2000]
    older = runner.store.find(cell.key)
    if older is None or older.status == "failed":
        runner.store.put(record)
    return record
