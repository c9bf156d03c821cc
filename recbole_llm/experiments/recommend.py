"""Top-N lists for users from a trained model."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_llm.data.loaders import EvalLoader
from recbole_llm.data.split import Cases
from recbole_llm.errors import UserError, check_choice, did_you_mean
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.features.lookup import find_feature
from recbole_llm.training.ranking import NOT_FINITE, autocast, full_scorer, mask_seen, rows_of_block

logger = logging.getLogger(__name__)

HISTORIES = ("all", "test", "valid")
MOST_AT_ONCE = 1024  # users whose items are scored together


@dataclass(frozen=True)
class Recommendation:
    """One user's list.

    Attributes:
        user: the user's token.
        items: tokens, best first.
        scores: the model's scores of them.
    """

    user: str
    items: list[str]
    scores: list[float]


def _reads_prefixes(run: Run) -> bool:
    """Whether the model reads features of single positions in a history, such as LLM-DMsRec's intents."""
    if run.settings["semantics"] == "none":
        return False
    features = map(find_feature, run.settings.method.features)
    return any(getattr(feature, "visible", "none") == "prefix" for feature in features)


class Recommender:
    """Recommends items to users with a model in memory.

    Args:
        prepared: a trained model with its data.
        mask_history: leave out the items of a user's history.
        history: what the model sees of a user: ``all`` known interactions, or those before the ``test`` or ``valid``
            target; with ``valid`` those before the test target if a user has no other.
    """

    def __init__(self, prepared: Prepared, mask_history: bool = True, history: str = "all") -> None:
        check_choice("--history", history, HISTORIES)
        self.prepared, self.mask_history = prepared, mask_history
        self._table = prepared.device_table()
        data = prepared.dataset.table
        self._index = {token: number for number, token in enumerate(data.user_tokens.tolist()) if number}
        self._tokens = data.item_tokens
        self._start = np.asarray(data.offsets)[:-1]
        self._end = np.asarray(data.offsets)[1:].copy()
        # Users without a validation target may have a test target, which "valid" must not show either.
        for phase in {"all": (), "test": ("test",), "valid": ("test", "valid")}[history]:
            cases = getattr(prepared.dataset.split, phase)
            self._end[cases.user] = cases.end

    @classmethod
    def trained(cls, run: Run, runner: Runner, **options: Any) -> Recommender:
        """The recommender of a run that was made before; if its weights are missing, it is trained again.

        Raises:
            UserError: there is no run with these settings.
        """
        if not (run.folder / "best.pt").is_file():
            if runner.finished(run) is None:
                raise UserError(f"{run.title()} has no checkpoint ({run.folder}); run it first with the same settings.")
            logger.warning("%s: the record is here, its weights are not: training again", run.title())
        if options.get("history", "all") == "all" and _reads_prefixes(run):
            logger.warning(
                "%s: what it reads was made for the places of histories, and there is nothing for what comes after "
                "them: it recommends without. --history=test has it.",
                run.title(),
            )
        return cls(runner.trained(run), **options)

    def ids(self, users: Sequence[str]) -> np.ndarray:
        """Ids of user tokens.

        Raises:
            UserError: the dataset does not have a token.
        """
        for user in users:
            if user not in self._index:
                raise UserError(f"--users: there is no user {user!r}.{did_you_mean(user, list(self._index)[:100_000])}")
        return np.array([self._index[user] for user in users], dtype=np.int64)

    def recommend(self, users: Sequence[str], k: int = 10) -> Iterator[Recommendation]:
        """Top ``k`` for each user, in the order given.

        Raises:
            UserError: the dataset does not have a user, or the model needs a history and a user has none.
        """
        ids = self.ids(users)
        empty = ids[self._start[ids] == self._end[ids]] if self.prepared.sequential else ids[:0]
        if len(empty):
            lone = self.prepared.dataset.table.user_tokens[empty[0]]
            raise UserError(f"user {lone!r} has no history that the model could start from.")
        table, split = self.prepared.dataset.table, self.prepared.dataset.split
        if self.prepared.by_user and (unknown := len(np.setdiff1d(ids, np.asarray(table.user)[split.train_rows]))):
            logger.warning(
                "users are known by their ids, and %s no training interaction: such a list says nothing about its user",
                "one of them has" if unknown == 1 else f"{unknown:,} of them have",
            )
        return self._lists(ids, k)

    def _lists(self, ids: np.ndarray, k: int) -> Iterator[Recommendation]:
        config, n_items = self.prepared.config, self.prepared.dataset.item_num
        at_once = rows_of_block(MOST_AT_ONCE, n_items, int(config["score_block_mib"]), torch.device(config["device"]))
        for begin in range(0, len(ids), at_once):
            part = ids[begin : begin + at_once]
            items, scores = self.top_items(part, k)
            for user, line, values in zip(part, items, scores, strict=True):
                listed = values > -np.inf
                yield Recommendation(
                    str(self.prepared.dataset.table.user_tokens[user]),
                    self._tokens[line[listed]].tolist(),
                    values[listed].tolist(),
                )

    def top_items(self, users: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """``(len(users), k)`` item ids and scores, best first; ``-inf`` where fewer items are left.

        Raises:
            UserError: a score is not a number.
        """
        start, end = self._start[users], self._end[users]
        cases = Cases(users, start, end, np.arange(len(users) + 1), np.maximum(end - 1, start))
        n_items = self.prepared.dataset.item_num
        loader = EvalLoader(self._table, cases, len(users), self.prepared.sequential)
        score = full_scorer(self.prepared.model, self._table, pair_batch=max(n_items, 1 << 16))
        self.prepared.model.eval()
        with torch.no_grad(), autocast(self.prepared.config):
            scores = score(loader.batch(np.arange(len(users))))
            scores[:, 0] = -torch.inf
            if self.mask_history:
                mask_seen(scores, self._table.item, start, end)
            if bool(scores.isnan().any()):  # the list would be cut short
                raise UserError(NOT_FINITE)
            best = scores.topk(min(k, n_items - 1), dim=1)
        return best.indices.cpu().numpy(), best.values.float().cpu().numpy()


def users_of(given: str | Path | Sequence[str], recommender: Recommender) -> list[str]:
    """The users that ``--users`` names: ``all``, a name, a file with one name a line, names with commas, or a list.

    Raises:
        UserError: the file is not UTF-8 text, or no user is named.
    """
    given = str(given) if isinstance(given, Path) else given
    if not isinstance(given, str):
        if not isinstance(given, Iterable):
            raise UserError(f"--users={given}: give names, a file with one a line, or all.")
        return [str(user) for user in given]
    known = [str(user) for user in recommender.prepared.dataset.table.user_tokens[1:]]
    if given == "all":
        return known
    there = set(known)
    names = [given] if given in there else given.split(",")
    if os.path.isfile(given):  # noqa: PTH113 - Path.is_file fails if the names together are too long for a file's
        try:
            names = Path(given).read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"--users={given}: the file is not UTF-8 text ({error}); save it as UTF-8.") from error
    # Blanks and commas may belong to a name; an unknown name is tried without the blanks around it.
    named = [name if name in there else name.strip() for name in names]
    if not any(named):
        raise UserError(f"--users={given}: it names no user; give names, a file with one a line, or all.")
    return [name for name in named if name]
