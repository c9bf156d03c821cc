"""``.synuser``: synthesised users and their interests (LDMI, user-crowd level)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from recbole_llm.data.atomic import Column
from recbole_llm.features.feature import Context
from recbole_llm.features.offline import PROMPT, partitions
from recbole_llm.features.visible import TRAINING, training_lists
from recbole_llm.methods.ldmi.cliques import clique_items, disjoint, nearest_users, user_item_matrix
from recbole_llm.methods.ldmi.covering import max_coverage

COLUMNS = (
    Column("synuser_id", "token"),
    Column("position", "token"),
    Column("item_id", "token"),
    Column("interest_id", "token"),
)


class SynthesisedUsers:
    """Cliques of users as one user each, chosen so that few of them hold most of what all users do.

    A clique is a user and the ``clique_size - 1`` nearest others by their training items. With
    ``covering: cliques`` the fewest cliques are chosen greedily whose items reach ``covering_share`` of the training
    interactions (``covering_weight: frequency``) or of the items (``one``), but at most ``covering_budget`` of the
    users. With ``covering: items``, the other reading of the paper, cliques are disjoint, all of them count, and
    coverage is what chooses the items inside each.
    """

    name: ClassVar[str] = "synuser"
    version: ClassVar[int] = 1
    prompts: ClassVar[tuple[str, ...]] = (PROMPT,)
    settings_keys: ClassVar[tuple[str, ...]] = (
        "clique_size",
        "clique_weighting",
        "synthesised_items",
        "covering",
        "covering_weight",
        "covering_share",
        "covering_budget",
    )
    files: ClassVar[tuple[str, ...]] = ("synuser",)
    needs: ClassVar[tuple[str, ...]] = ()  # stated, so that one batch asks for it and for what stands before it
    visible: ClassVar[str] = TRAINING

    def build(self, context: Context) -> dict[str, Any]:
        """Write one line for each item of a synthesised user that has an interest."""
        facts: dict[str, Any] = {}
        lists = synthesised_lists(context, facts)
        written = context.folder.write("synuser", COLUMNS, _rows(context, lists, facts))
        return {"coverage": round(written / max(1, sum(map(len, lists))), 4), "synthesised": len(lists), **facts}


def synthesised_lists(context: Context, facts: dict[str, Any]) -> list[np.ndarray]:
    """Items of each synthesised user, oldest first; what they cover is added to ``facts``."""
    settings = context.settings
    users, offsets, items = training_lists(context.table, context.split)
    matrix = user_item_matrix(offsets, items, context.table.n_items, str(settings["clique_weighting"]))
    near = nearest_users(matrix, int(settings["clique_size"]) - 1, context.progress)
    cliques = np.concatenate([np.arange(len(users))[:, None], near], axis=1)
    if settings["covering"] == "items":
        cliques = disjoint(cliques)
    ends, flat = clique_items(cliques, offsets, items, int(settings["synthesised_items"]))
    chosen = list(range(len(cliques)))
    frequency = np.bincount(items, minlength=context.table.n_items + 1).astype(np.float64)
    if settings["covering"] == "cliques":
        weights = frequency if settings["covering_weight"] == "frequency" else (frequency > 0).astype(np.float64)
        budget = max(1, int(len(users) * float(settings["covering_budget"])))
        chosen = max_coverage(ends, flat, weights, budget, float(settings["covering_share"]))
    lists = [flat[ends[number] : ends[number + 1]] for number in chosen]
    held = np.unique(np.concatenate(lists))
    facts["items_covered"] = round(len(held) / max(1, int((frequency > 0).sum())), 4)
    facts["interactions_covered"] = round(float(frequency[held].sum() / frequency.sum()), 4)
    return lists


def _rows(context: Context, lists: list[np.ndarray], facts: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    tokens = context.table.item_tokens
    found = partitions(context, enumerate(lists), "interests of synthesised users", facts)
    for number, interests in found:
        for label, interest in enumerate(interests):
            for place in interest.places:
                yield number, place, tokens[lists[number][place]], label
