"""The trained model that semantic features stand on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from recbole_llm.data.loader import EvalLoader
from recbole_llm.data.split import Cases
from recbole_llm.evaluation.ranks import full_scorer

if TYPE_CHECKING:
    from recbole_llm.bench.cell import Cell, CellRunner, Prepared, Stopwatch


class TrainedStageOne:
    """A prerequisite, trained (or found) when its items are first asked for.

    Attributes:
        key: key of its cell, known without training.
    """

    def __init__(self, runner: CellRunner, cell: Cell, watch: Stopwatch) -> None:
        self._runner, self._cell, self._watch = runner, cell, watch
        self.key = cell.key
        self._prepared: Prepared | None = None

    def top_items(self, rows: np.ndarray, k: int) -> np.ndarray:
        """``(len(rows), k)`` int64 item ids, best first, from the histories before ``rows``."""
        with self._watch("stage_one"):
            if self._prepared is None:
                self._prepared = self._runner.trained(self._cell)
            return _top_items(self._prepared, rows, k, self._runner)


@torch.no_grad()
def _top_items(prepared: Prepared, rows: np.ndarray, k: int, runner: CellRunner) -> np.ndarray:
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
