"""``.interest``: each user's history divided into interests (LDMI, user-individual level)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from recbole_llm.data.atomic import Column
from recbole_llm.features.feature import Context
from recbole_llm.features.offline import PROMPT, partitions
from recbole_llm.features.visible import TRAINING, visible_ends
from recbole_llm.utils.text import match_form

COLUMNS = (
    Column("user_id", "token"),
    Column("position", "token"),
    Column("interest_id", "token"),
    Column("interest_text", "token"),
)


class Interests:
    """An interest for each interaction that may be shown; long histories are divided window by window.

    Interests of one user's windows that have the same name are one interest.
    """

    name: ClassVar[str] = "interest"
    version: ClassVar[int] = 1
    prompts: ClassVar[tuple[str, ...]] = (PROMPT,)
    settings_keys: ClassVar[tuple[str, ...]] = ("interest_window",)
    files: ClassVar[tuple[str, ...]] = ("interest",)
    visible: ClassVar[str] = TRAINING

    def build(self, context: Context) -> dict[str, Any]:
        """Write one line for each interaction that has an interest."""
        facts: dict[str, Any] = {}
        ends = visible_ends(context.table, context.split)
        written = context.folder.write("interest", COLUMNS, _rows(context, ends, facts))
        visible = int((ends - np.asarray(context.table.offsets)).sum())
        return {"coverage": round(written / max(1, visible), 4), "visible": visible, **facts}


def windows(begin: int, end: int, longest: int) -> list[tuple[int, int]]:
    """``begin:end`` cut into parts of nearly equal length, none longer than ``longest``."""
    cuts = np.linspace(begin, end, -(-(end - begin) // longest) + 1).round().astype(int).tolist()
    return list(pairwise(cuts))


def _rows(context: Context, ends: np.ndarray, facts: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    table, texts = context.table, context.folder.texts
    offsets, items = np.asarray(table.offsets), np.asarray(table.item)
    longest = max(1, int(context.settings["interest_window"]))
    parts = (
        ((user, first, last), items[first:last])
        for user in range(1, table.n_users + 1)
        for first, last in windows(int(offsets[user]), int(ends[user]), longest)
    )
    numbers: dict[str, int] = {}
    owner = 0
    for (user, first, _), interests in partitions(context, parts, "interests of histories", facts):
        if user != owner:
            numbers, owner = {}, user
        for interest in interests:
            number = numbers.setdefault(match_form(interest.name), len(numbers))
            text = texts.add(interest.name)
            for place in interest.places:
                yield table.user_tokens[user], first + place - int(offsets[user]), number, text


class InterestGroup(BaseModel):
    """LDMI: one interest."""

    model_config = ConfigDict(extra="ignore")

    name: Phrase
    items: list[int] = Field(description="numbers of the items", json_schema_extra=at_most(100))


class InterestGroups(BaseModel):
    """LDMI: a history divided into interests."""

    model_config = ConfigDict(extra="ignore")

    interests: list[InterestGroup] = Field(min_length=1, json_schema_extra=at_most(30))


