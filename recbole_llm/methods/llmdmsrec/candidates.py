"""``.candidates``: the items that a pretrained model would show next (LLM-DMsRec, stage I)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from recbole_llm.data.atomic import Column, join_ids, read_table, split_ids
from recbole_llm.errors import UserError
from recbole_llm.features.feature import Context
from recbole_llm.features.visible import PREFIX

COLUMNS = (Column("user_id", "token"), Column("position", "token"), Column("items", "token_seq"))


class Candidates:
    """The top ``n_candidates`` items before every row that anything is predicted at.

    The paper does not take the session's own items out: they are what makes explicit intents possible. With
    ``candidate_folds: k`` the candidates of a training row come from a model that has not seen the row's user, so
    that the target is among them about as often as it will be at test; in the paper it has seen the very row.
    """

    name: ClassVar[str] = "candidates"
    version: ClassVar[int] = 1
    prompts: ClassVar[tuple[str, ...]] = ()
    settings_keys: ClassVar[tuple[str, ...]] = ("n_candidates", "candidate_folds", "MAX_ITEM_LIST_LENGTH")
    files: ClassVar[tuple[str, ...]] = ("candidates",)
    visible: ClassVar[str] = PREFIX

    def build(self, context: Context) -> dict[str, Any]:
        """Rank with the stage-one model and write item tokens, best first."""
        if context.stage_one is None:
            raise UserError("candidates need a stage-one model (stage_one_model).")
        rows = context.target_rows()
        items = context.stage_one.top_items(rows, int(context.settings["n_candidates"]))
        tokens = np.asarray(context.table.item_tokens)
        users = context.table.user_tokens[context.table.user[rows]]
        positions = rows - np.asarray(context.table.offsets)[context.table.user[rows]]
        context.folder.write(
            "candidates",
            COLUMNS,
            (
                (user, position, join_ids(tokens[line].tolist()))
                for user, position, line in zip(users, positions, items, strict=True)
            ),
        )
        hits = (items == np.asarray(context.table.item[rows])[:, None]).any(1)
        parts = {"train": context.split.train_targets, "valid": context.split.valid.end, "test": context.split.test.end}
        share = {name: round(float(hits[np.searchsorted(rows, part)].mean()), 4) for name, part in parts.items()}
        folds = {"folds": context.stage_one.folds} if context.stage_one.folds else {}
        return {"stage_one": context.stage_one.key, "coverage": 1.0, "target_among_candidates": share, **folds}


def read_candidates(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """The rows and their candidates ``(n, k)`` as item ids, from the file."""
    frame = read_table(context.folder.file("candidates"))
    index = {token: number for number, token in enumerate(context.table.item_tokens.tolist())}
    user_index = {token: number for number, token in enumerate(context.table.user_tokens.tolist())}
    users = np.array([user_index[user] for user in frame["user_id"].astype(str)])
    rows = np.asarray(context.table.offsets)[users] + frame["position"].astype(np.int64).to_numpy()
    items = np.array([[index[token] for token in split_ids(line)] for line in frame["items"]], dtype=np.int64)
    return rows, items
