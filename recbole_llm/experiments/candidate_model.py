"""The trained model, or models, whose candidates semantic features are made from."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from recbole_llm.data.atomic import read_header, read_table, split_ids
from recbole_llm.data.loaders import EvalLoader
from recbole_llm.data.split import Cases, fold_of_users, rows_digest, tested_digest
from recbole_llm.errors import UserError
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.run import Run
from recbole_llm.registry import SEQUENTIAL
from recbole_llm.training.ranking import full_scorer
from recbole_llm.utils.progress import Bars, Stopwatch

logger = logging.getLogger(__name__)

WHOLE = -1  # in place of a fold's number: the model of all training users


class Trainer(Protocol):
    """Trains runs or finds trained ones, as a :class:`~recbole_llm.experiments.runner.Runner` does."""

    bars: Bars

    def is_trained(self, run: Run) -> bool:
        """Whether a run has its record and its weights."""

    def trained(self, run: Run) -> Prepared:
        """The run's model with its best weights."""


class CandidateModel:
    """The stage-one model, trained (or found) when its candidates are first asked for.

    With ``folds: k`` there are ``k`` more models, each trained without one fold of the users. Each gives the candidates
    for the training rows of the users that it has not seen. Validation and test rows always use the model of all users,
    as a user would be served.

    Args:
        whole: run of the model of all training users.
        folds: ``k``; 1 for no fold models.
        trainer: trains and finds the model of all users.
        fold_trainer: trains and finds the fold models, which are intermediate artefacts and kept elsewhere.
        watch: times the phase ``stage_one``.

    Attributes:
        key: key of the model of all users, known without training.
        folds: after :meth:`top_items`, the key and the training rows' hash of each fold model; empty without folds.

    Raises:
        UserError: ``folds`` with a model that knows a user only by an id.
    """

    def __init__(self, whole: Run, folds: int, trainer: Trainer, fold_trainer: Trainer, watch: Stopwatch) -> None:
        settings = whole.settings
        if folds > 1 and settings.method.kind != SEQUENTIAL:
            raise UserError(
                f"candidate_folds={folds}: {settings.method.name} knows a user only by an id and has nothing to say of "
                "users that it has not seen; choose a sequential stage_one_model."
            )
        self._watch, self.key = watch, whole.key
        self._models: dict[int, tuple[Trainer, Run]] = {WHOLE: (trainer, whole)}
        for fold in range(folds if folds > 1 else 0):
            self._models[fold] = fold_trainer, Run(settings.replaced(left_out=[fold, folds]), whole.location)
        self._whole: Prepared | None = None
        self.folds: list[dict[str, Any]] = []

    def untrained(self) -> int:
        """How many models still have to be trained."""
        return sum(not trainer.is_trained(run) for trainer, run in self._models.values())

    def top_items(self, rows: np.ndarray, k: int) -> np.ndarray:
        """``(len(rows), k)`` int64 item ids, best first, from the histories before ``rows``."""
        with self._watch("stage_one"):
            return self._top_items(rows, k)

    def _top_items(self, rows: np.ndarray, k: int) -> np.ndarray:
        trainer, run = self._models[WHOLE]
        if self._whole is None:
            self._whole = trainer.trained(run)
        if len(self._models) == 1:
            return best_items(self._whole, rows, k, trainer.bars)
        table, split = self._whole.dataset.table, self._whole.dataset.split
        fold = fold_of_users(table, split, len(self._models) - 1)[table.user[rows]]
        fold[~np.isin(rows, split.train_targets)] = WHOLE
        found = np.zeros((len(rows), min(k, self._whole.dataset.item_num - 1)), dtype=np.int64)
        self.folds = []
        for number, (trainer, run) in self._models.items():
            prepared = self._whole if number == WHOLE else trainer.trained(run)
            found[fold == number] = best_items(prepared, rows[fold == number], k, trainer.bars)
            if number != WHOLE:
                self.folds.append({"key": run.key, "train_rows": rows_digest(prepared.dataset.split.train_rows)})
        return found


def read_candidates(path: Path) -> tuple[dict[str, dict[int, str]], set[str]]:
    """The items of a ``.candidates`` table, as written there, by user and position, and its hashes of tested rows.

    A table made before there was a column ``tested_rows`` has no hash.

    Raises:
        UserError: the file is no such table, a position is no whole number, or a user's position is given twice.
    """
    names = ["user_id", "position", "items"]
    tested = ["tested_rows"] if any(column.name == "tested_rows" for column in read_header(path)) else []
    frame = read_table(path, [*names, *tested]).fillna("")
    lines: dict[str, dict[int, str]] = {}
    for user, position, items in zip(*(frame[name].astype(str) for name in names), strict=True):
        if not position.isdecimal():
            raise UserError(f"{path}: user {user} has the position {position!r}, which is no whole number.")
        if int(position) in lines.setdefault(user, {}):
            raise UserError(f"{path}: user {user} has the position {position} twice.")
        lines[user][int(position)] = items
    return lines, {digest for name in tested for digest in frame[name].astype(str).unique()}


class CandidateTable:
    """Candidates from a file, so that answers about them can be used elsewhere.

    A model that is trained again does not repeat its scores to the last bit, so its candidates may differ.

    Args:
        path: a ``.candidates`` table (``user_id``, ``position``, ``items``, ``tested_rows``), gzipped if its name ends
            in ``.gz``.
        sha256: of the file; the record has it in place of a candidate model's key.
        read: reads the dataset with its split when candidates are asked for.

    Attributes:
        key: identifies the table.
        folds: always empty.
    """

    def __init__(self, path: Path, sha256: str, read: Callable[[], Any]) -> None:
        self._path, self._read = path, read
        self.key = f"table-{sha256[:16]}"
        self.folds: list[dict[str, Any]] = []

    def untrained(self) -> int:
        """Always 0: nothing has to be trained."""
        return 0

    def top_items(self, rows: np.ndarray, k: int) -> np.ndarray:
        """``(len(rows), k)`` int64 item ids, best first, from the table.

        A training row that the table lacks gets the candidates of the user's last earlier row in the table: a table for
        answers with a stride need not hold rows that no question is about.

        Raises:
            UserError: as :func:`read_candidates`; or the table is of another split, or has no candidates for a row, an
                unknown item, another number of items, an item twice, or not all rows of validation and test.
        """
        dataset, (lines, of_split) = self._read(), read_candidates(self._path)
        table, split = dataset.table, dataset.split
        if of_split - {tested_digest(split)}:
            raise UserError(
                f"{self._path} is of other data or another split: other rows were held out when its model was trained, "
                "perhaps not those that are tested here; give the table of this dataset and protocol."
            )
        tested = np.isin(rows, np.concatenate([split.valid.end, split.test.end])).tolist()
        index = {token: number for number, token in enumerate(table.item_tokens.tolist()) if number}
        known = {user: sorted(own) for user, own in lines.items()}
        found = np.zeros((len(rows), min(k, table.n_items)), dtype=np.int64)
        exact = 0
        for place, row in enumerate(rows.tolist()):
            user, position = str(table.user_tokens[table.user[row]]), row - int(table.offsets[table.user[row]])
            own = known.get(user, [])
            after = bisect_right(own, position)
            chosen = [index.get(token, 0) for token in split_ids(lines[user][own[after - 1]])] if after else []
            if len(chosen) != found.shape[1] or not all(chosen):
                raise UserError(
                    f"{self._path} is not of these data or settings: user {user}, position {position} has "
                    f"{sum(map(bool, chosen))} of {found.shape[1]} candidates (n_candidates)."
                )
            if len({*chosen}) < len(chosen):
                raise UserError(f"{self._path}: user {user}, position {own[after - 1]} has an item twice.")
            if tested[place] and own[after - 1] != position:
                raise UserError(
                    f"{self._path} is not of this split: it has no candidates for user {user}, position {position}, "
                    "which is tested; give the table of this dataset and protocol."
                )
            exact += own[after - 1] == position
            found[place] = chosen
        if not of_split and exact == len(rows):  # with a stride, a table of another split lacks a tested position
            logger.warning(
                "%s does not say of which split it is: make sure that its model was not trained on rows tested here",
                self._path,
            )
        return found


@torch.no_grad()
def best_items(prepared: Prepared, rows: np.ndarray, k: int, bars: Bars) -> np.ndarray:
    """``(len(rows), k)`` int64, the items that a trained model scores highest after the histories before ``rows``.

    Under a global time split a history ends at the last cut before its row.
    """
    table = prepared.dataset.table
    user = np.asarray(table.user[rows], dtype=np.int64)
    starts = np.asarray(table.offsets)[user]
    ends = prepared.dataset.split.all_shown_until(rows)
    cases = Cases(user, starts, ends, np.arange(len(rows) + 1, dtype=np.int64), rows)
    n_items = prepared.dataset.item_num
    size = max(1, (int(prepared.config["score_block_mib"]) << 20) // (4 * n_items))
    loader = EvalLoader(prepared.device_table(), cases, min(size, 4096), prepared.sequential)
    score = full_scorer(prepared.model, loader.table, pair_batch=max(n_items, 1 << 16))
    found = np.zeros((len(rows), min(k, n_items - 1)), dtype=np.int64)
    for chosen, batch in bars(loader, "candidates"):
        scores = score(batch)
        scores[:, 0] = -torch.inf
        found[chosen] = scores.topk(found.shape[1], dim=1).indices.cpu().numpy()
    return found
