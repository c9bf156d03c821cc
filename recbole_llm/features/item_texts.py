"""``.itemtext``, the ids of each item's texts in ``.text``, and ``.codes``, the items' clusters by text."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from recbole_llm.data.atomic import Column
from recbole_llm.features.feature import Context
from recbole_llm.features.offline import item_vectors

TEXT_COLUMNS = (
    Column("item_id", "token"),
    Column("title_text", "token"),
    Column("categories_text", "token"),
    Column("brand_text", "token"),
    Column("description_text", "token"),
    Column("profile_text", "token"),
)


# The texts whose vectors are averaged to an item's vector, unless a model chooses others.
ITEM_COLUMNS = ("title_text", "categories_text", "brand_text")


class ItemTextIds:
    """Text ids of each item, made for every method since all features build on texts; a missing text is empty."""

    name: ClassVar[str] = "itemtext"
    version: ClassVar[int] = 2
    prompts: ClassVar[tuple[str, ...]] = ()
    settings_keys: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ("itemtext",)

    def build(self, context: Context) -> dict[str, Any]:
        """Write one line for each item."""
        folder, items = context.folder, context.items

        def cell(text: str) -> str:
            return str(folder.texts.add(text)) if text else ""

        profiles = items.profile or [""] * len(items.title)
        rows = []
        for number, token in enumerate(context.table.item_tokens):
            if number:
                parts = (items.title[number], items.categories[number], items.brand[number], items.description[number])
                rows.append((token, *map(cell, (*parts, profiles[number]))))
        folder.write("itemtext", TEXT_COLUMNS, rows)
        facts = {"profiles": round(sum(map(bool, profiles)) / max(1, len(rows)), 4)} if items.profile else {}
        return {"titles_from": items.source, "coverage": round(items.named, 4), **facts}


CODE_COLUMNS = (Column("item_id", "token"), Column("code", "token"))


class TextCodes:
    """k-means clusters of items by the direction of their title and category vectors.

    RecBole's feature-aware models would reduce a dense vector to a scalar times one embedding. A cluster's number is
    a token, for which they learn an embedding.
    """

    name: ClassVar[str] = "codes"
    version: ClassVar[int] = 1
    prompts: ClassVar[tuple[str, ...]] = ()
    settings_keys: ClassVar[tuple[str, ...]] = ("n_codes",)
    files: ClassVar[tuple[str, ...]] = ("codes",)

    def build(self, context: Context) -> dict[str, Any]:
        """Write one line for each item; codes start at 0."""
        from sklearn.cluster import KMeans

        vectors = item_vectors(context)[1:]
        wanted = min(int(context.settings["n_codes"]), len(np.unique(vectors, axis=0)))
        codes = KMeans(wanted, n_init=3, max_iter=100, random_state=0).fit_predict(vectors)
        tokens = context.table.item_tokens[1:]
        context.folder.write("codes", CODE_COLUMNS, zip(tokens, codes.tolist(), strict=True))
        return {"coverage": round(context.items.named, 4), "codes": len(np.unique(codes))}
