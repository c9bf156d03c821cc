"""The offline rule: divide lists of items into named groups by their sentence vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from recbole_llm.features.feature import Context
from recbole_llm.features.items import ItemTexts
from recbole_llm.settings.schema import ITEM

# Mean cosine distance above which two groups stay apart. With MiniLM, 8 products of one user fall into 3 or 4 groups,
# 60 films into 12.
DISTANCE = 0.4


@dataclass(frozen=True)
class Interest:
    """A named group of positions in a list of items.

    Attributes:
        name: in the LLM's words, or a category or title of an item.
        places: indices into the list, ascending.
    """

    name: str
    places: list[int]


def item_vectors(context: Context) -> np.ndarray:
    """``(n_items + 1, d)`` unit vectors: the mean direction of each item's title and categories; row 0 is zero.

    If items have vectors made elsewhere, those are normalised instead.
    """
    if ITEM in context.given:
        given, _ = context.given[ITEM].aligned(context.table.item_tokens.tolist())
        return given / np.maximum(np.linalg.norm(given, axis=1, keepdims=True), 1e-9)
    texts, vectors = context.folder.texts, context.encode()
    found = np.zeros((len(context.items.title), vectors.shape[1]), dtype=np.float32)
    for column in (context.items.title, context.items.categories):
        ids = np.array([texts.add(text) if text else -1 for text in column])
        chosen = vectors[np.maximum(ids, 0)] * (ids >= 0)[:, None]
        found += chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-9)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


class Grouping:
    """Agglomerative clusters (average linkage, cosine) of the items' text vectors, cut at a distance."""

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
        """The categories, or else the title, of the most central item of a group."""
        vectors = self.vectors[items]
        middle = int(items[int(np.argmax(vectors @ vectors.mean(axis=0)))])
        return self.items.categories[middle] or self.items.title[middle]
