"""Lists of items divided into named interests: by an LLM, or by a rule from sentence vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from recbole_llm.features.answers import AnswerError, InterestGroups
from recbole_llm.features.feature import Context
from recbole_llm.features.items import ItemTexts
from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.questions import ask
from recbole_llm.llm.client import Script

PROMPT = "ldmi_interests"
# Mean cosine distance from which two groups stay apart. With MiniLM, 8 products of one user fall into 3 or 4 groups,
# 60 films into 12.
DISTANCE = 0.4


@dataclass(frozen=True)
class Interest:
    """A named group of a list's places.

    Attributes:
        name: in the words of the LLM, or of the items.
        places: indices into the list, ascending.
    """

    name: str
    places: list[int]


Lists = Iterable[tuple[Any, np.ndarray]]


def partitions(
    context: Context, lists: Lists, title: str, facts: dict[str, Any]
) -> Iterator[tuple[Any, list[Interest]]]:
    """Interests of each list of items, in order; a list without a usable answer has none.

    Args:
        context: where to ask, or by which rule.
        lists: keys and item ids; keys are taken one by one.
        title: of the progress bar.
        facts: how many lists were asked about, and how many the rule had to fill, is added here.
    """
    if context.endpoint is None:
        groups = Grouping(context)
        for key, items in context.progress(list(lists), title):
            yield key, groups.interests(items)
        return
    yield from _asked(context, dict(lists), title, facts)


# ---- the offline rule ---------------------------------------------------------------------------


def item_vectors(context: Context) -> np.ndarray:
    """``(n_items + 1, d)`` directions of the items' titles and categories, mean of both; row 0 is zero."""
    texts, vectors = context.folder.texts, context.encode()
    found = np.zeros((len(context.items.title), vectors.shape[1]), dtype=np.float32)
    for column in (context.items.title, context.items.categories):
        ids = np.array([texts.add(text) if text else -1 for text in column])
        chosen = vectors[np.maximum(ids, 0)] * (ids >= 0)[:, None]
        found += chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-9)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


class Grouping:
    """Agglomerative clusters (average linkage, cosine) of the items' text vectors; how many, the data says."""

    def __init__(self, context: Context) -> None:
        self.items: ItemTexts = context.items
        self.vectors = item_vectors(context)

    def interests(self, items: np.ndarray) -> list[Interest]:
        """The groups of a list of item ids, in the order of their first items."""
        labels = self.labels(items)
        return [
            Interest(self.name(items[labels == label]), np.flatnonzero(labels == label).tolist())
            for label in dict.fromkeys(labels.tolist())
        ]

    def labels(self, items: np.ndarray) -> np.ndarray:
        """``(n,)`` cluster numbers of a list of item ids."""
        if len(items) < 2:
            return np.ones(len(items), dtype=np.int64)
        vectors = self.vectors[items]
        upper = np.triu_indices(len(items), 1)
        distances = np.clip(1.0 - (vectors @ vectors.T)[upper], 0.0, 2.0)
        found: np.ndarray = fcluster(linkage(distances, "average"), DISTANCE, "distance")
        return found

    def name(self, items: np.ndarray) -> str:
        """The categories, or else the title, of the item in the middle of a group."""
        vectors = self.vectors[items]
        middle = int(items[int(np.argmax(vectors @ vectors.mean(axis=0)))])
        return self.items.categories[middle] or self.items.title[middle]


# ---- asking -------------------------------------------------------------------------------------


def _asked(
    context: Context, lists: dict[Any, np.ndarray], title: str, facts: dict[str, Any]
) -> Iterator[tuple[Any, list[Interest]]]:
    prompt = load_prompt(PROMPT)

    def script(key: Any, counts: Counter[str]) -> Script:
        items = lists[key]
        data = {str(number): context.items.title[item] for number, item in enumerate(items.tolist(), start=1)}

        def parse(answer: Any) -> list[Interest]:
            return read_groups(answer, len(items), counts)

        return (yield from ask(prompt, data, parse, counts))

    facts["asked"] = len(lists)
    groups = Grouping(context) if context.fills else None
    for key, found in context.answer_all(lists, script, title):
        if found is None and groups is not None:
            found = groups.interests(lists[key])
            facts["filled"] = facts.get("filled", 0) + 1
        yield key, found or []


def read_groups(answer: InterestGroups, size: int, counts: Counter[str]) -> list[Interest]:
    """The interests of an answer about ``size`` numbered items.

    An item that is listed twice stays in its first group; numbers that no item has are left out and counted;
    items that no group has belong to no interest.

    Raises:
        AnswerError: no group holds an item.
    """
    taken: set[int] = set()
    found = []
    for group in answer.interests:
        places = []
        for number in group.items:
            if not 1 <= number <= size:
                counts["no_such_item"] += 1
            elif number in taken:
                counts["listed_twice"] += 1
            else:
                taken.add(number)
                places.append(number - 1)
        if places:
            found.append(Interest(group.name, sorted(places)))
    counts["omitted"] += size - len(taken)
    if not found:
        raise AnswerError(f"interests: put the items 1 to {size} into groups, by their numbers")
    return found
