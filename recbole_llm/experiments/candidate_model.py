"""The trained model, or models, that semantic features stand on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbole_llm.data.loaders import EvalLoader
from recbole_llm.data.split import Cases, fold_of_users, rows_digest
from recbole_llm.errors import UserError
from recbole_llm.registry import SEQUENTIAL
from recbole_llm.training.ranking import full_scorer

if TYPE_CHECKING:
    from recbole_llm.experiments.run import Run
    from recbole_llm.experiments.runner import Prepared, Runner
    from recbole_llm.utils.progress import Stopwatch

WHOLE = -1  # in the place of a fold: the model of all training users


class CandidateModel:
    """A prerequisite, trained (or found) when its items are first asked for.

    With ``candidate_folds: k`` there are ``k`` more models, each without one fold of the users; they speak for the
    training rows of the users they have not seen. Validation and test rows always get the model of all, as a user
    would be served. The models of folds are no results: their records lie beside their checkpoints.

    Args:
        runner: trains and finds models.
        cell: of the model of all training users.
        watch: times the phase ``stage_one``.
        folds: ``k``; 1 for no others.

    Attributes:
        key: key of its cell, known without training.
        folds: after :meth:`top_items`, what each model of a fold was trained on; empty where there is none.

    Raises:
        UserError: folds with a model that knows users by their ids alone.
    """

    def __init__(self, runner: Runner, cell: Run, watch: Stopwatch, folds: int = 1) -> None:
        from recbole_llm.experiments.run import Run
        from recbole_llm.experiments.runner import Runner
        from recbole_llm.experiments.store import ResultStore

        settings = cell.settings
        if folds > 1 and settings.method.kind != SEQUENTIAL:
            raise UserError(
                f"candidate_folds={folds}: {settings.method.name} knows a user only by an id and has nothing to say of "
                "users that it has not seen; choose a sequential stage_one_model."
            )
        self._watch, self.key = watch, cell.key
        self._models: dict[int, tuple[Runner, Run]] = {WHOLE: (runner, cell)}
        aside = Runner(ResultStore(Path(settings["checkpoint_dir"]) / "folds"), runner.bars)
        for fold in range(folds if folds > 1 else 0):
            self._models[fold] = aside, Run(settings.replaced(left_out=[fold, folds]), cell.location)
        self._whole: Prepared | None = None
        self.folds: list[dict[str, Any]] = []

    def untrained(self) -> int:
        """How many models there are to be trained."""
        found = [
            runner.finished(cell) is not None and (cell.folder / "best.pt").is_file()
            for runner, cell in self._models.values()
        ]
        return found.count(False)

    def top_items(self, rows: np.ndarray, k: int) -> np.ndarray:
        """``(len(rows), k)`` int64 item ids, best first, from the histories before ``rows``."""
        with self._watch("stage_one"):
            return self._top_items(rows, k)

    def _top_items(self, rows: np.ndarray, k: int) -> np.ndarray:
        runner, cell = self._models[WHOLE]
        if self._whole is None:
            self._whole = runner.trained(cell)
        if len(self._models) == 1:
            return best_items(self._whole, rows, k, runner)
        table, split = self._whole.dataset.table, self._whole.dataset.split
        fold = fold_of_users(table, split, len(self._models) - 1)[table.user[rows]]
        fold[~np.isin(rows, split.train_targets)] = WHOLE
        found = np.zeros((len(rows), min(k, self._whole.dataset.item_num - 1)), dtype=np.int64)
        self.folds = []
        for number, (runner, cell) in self._models.items():
            prepared = self._whole if number == WHOLE else runner.trained(cell)
            found[fold == number] = best_items(prepared, rows[fold == number], k, runner)
            if number != WHOLE:
                self.folds.append({"key": cell.key, "train_rows": rows_digest(prepared.dataset.split.train_rows)})
        return found


@torch.no_grad()
def best_items(prepared: Prepared, rows: np.ndarray, k: int, runner: Runner) -> np.ndarray:
    """``(len(rows), k)`` int64, the items that a trained model scores highest after the histories before ``rows``."""
    table = prepared.dataset.table
    user = np.asarray(table.user[rows], dtype=np.int64)
    starts = np.asarray(table.offsets)[user]
    cases = Cases(user, starts, rows, np.arange(len(rows) + 1, dtype=np.int64), rows)
    n_items = prepared.dataset.item_num
    size = max(1, (int(prepared.config["score_block_mib"]) << 20) // (4 * n_items))
    loader = EvalLoader(prepared.device_table(), cases, min(size, 4096), prepared.sequential)
    score = full_scorer(prepared.model, loader.table, pair_batch=max(n_items, 1 << 16))
    found = np.zeros((len(rows), min(k, n_items - 1)), dtype=np.int64)
    for chosen, batch in runner.bars(loader, "candidates"):
        scores = score(batch)
        scores[:, 0] = -torch.inf
        found[chosen] = scores.topk(found.shape[1], dim=1).indices.cpu().numpy()
    return found
