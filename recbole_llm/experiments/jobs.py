"""What executors run: cells of a grid and trials of a search.

The functions are called as ``function(ask, *arguments)`` in whatever process the executor has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_llm.errors import UserError
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Cell
from recbole_llm.experiments.runner import CellRunner, StopTraining
from recbole_llm.experiments.store import ResultStore
from recbole_llm.settings.rules import SEMANTIC_KEYS, features_read

if TYPE_CHECKING:
    from recbole_llm.experiments.payload import Shipment

Ask = Callable[[Any], Any]


def run_cell(ask: Ask, cell: Cell, results: str, force: bool) -> Record:
    """Run a cell in a worker that shares the driver's folders."""
    return CellRunner(ResultStore(results), force=force, mends=False).run(cell)


def run_cell_away(ask: Ask, cell: Cell, shipment: Shipment) -> dict[str, bytes]:
    """Run a cell where the driver's files may be missing; gives the files of its record."""
    with shipment.unpacked(cell) as (cell, results):
        store = ResultStore(results)
        return store.pack(CellRunner(store, force=True, mends=False).run(cell))


@dataclass
class Trained:
    """What a search learns from a trial: validation alone.

    Attributes:
        score: best validation score, ``None`` where training was stopped before there was one.
        best_epoch, epochs: when it was reached, how many there were.
        pruned: stopped because the driver said so.
        seconds: of all phases.
    """

    score: float | None
    best_epoch: int | None
    epochs: int
    pruned: bool
    seconds: float


def run_trial(ask: Ask, cell: Cell, folder: str, max_seconds: float | None) -> Trained:
    """Train a cell and validate it; after each epoch ``ask((epoch, score))`` says whether to stop.

    Args:
        ask: asks the driver.
        cell: with the settings of the trial.
        folder: of checkpoints, so that a trial that was killed goes on; removed at the end.
        max_seconds: of training and validation, also before the trial was killed; it ends with the epoch in which
            they are over.
    """
    pruned = False

    def after(epoch: int, score: float) -> None:
        nonlocal pruned
        pruned = bool(ask((epoch, score)))
        if pruned:
            raise StopTraining

    place = Path(folder)
    runner = CellRunner(ResultStore(cell.settings["results_dir"]), mends=False)
    try:
        record = runner.validate(cell, place, after, max_seconds)
    except Exception:
        shutil.rmtree(place, ignore_errors=True)
        raise  # Ctrl-C leaves the checkpoints: the trial goes on from them
    shutil.rmtree(place, ignore_errors=True)
    score = record.valid_metrics.get(record.valid_metric)
    return Trained(score, record.best_epoch, record.epochs or 0, pruned, record.seconds["total"])


def run_trial_away(ask: Ask, cell: Cell, shipment: Shipment, max_seconds: float | None) -> Trained:
    """Run a trial where the driver's files may be missing."""
    with shipment.unpacked(cell) as (cell, _):
        return run_trial(ask, cell, str(Path(cell.settings["checkpoint_dir"]) / cell.key), max_seconds)


def features_of(cell: Cell, runner: CellRunner) -> tuple[Any, ...]:
    """What tells the semantic features of two cells apart."""
    from recbole_llm.features.registry import find_feature

    method = cell.settings.method
    keys = [*SEMANTIC_KEYS, *(key for feature in map(find_feature, method.features) for key in feature.settings_keys)]
    stage = runner.stage_one_cell(cell).key if method.stage_one else None
    values = [str(cell.settings.get(key)) for key in keys]
    read = features_read(method, cell.settings.values)
    return cell.location.name, cell.settings["protocol"], method.features, read, stage, *values


def make_features(cells: Sequence[Cell], runner: CellRunner) -> dict[str, str]:
    """Make the semantic features of all cells, each once, before the cells are spread over workers.

    Returns:
        Why there are none, by the keys of the cells that cannot run without them.
    """
    made: dict[tuple[Any, ...], str] = {}
    for cell in cells:
        if cell.settings["semantics"] == "none":
            continue
        features = features_of(cell, runner)
        if features not in made:
            try:
                runner.make_features(cell)
                made[features] = ""
            except UserError as error:
                if len(cells) == 1:
                    raise
                made[features] = str(error)
    reasons = {cell.key: made[features_of(cell, runner)] for cell in cells if cell.settings["semantics"] != "none"}
    return {key: reason for key, reason in reasons.items() if reason}
