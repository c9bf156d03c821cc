"""``.itemtext``: for each item the ids of its texts in ``.text``."""

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


# What an item's vector is the mean of, where a model does not choose.
ITEM_COLUMNS = ("title_text", "categories_text", "brand_text")


class ItemTextIds:
    """Made for every method, since texts are what all features are made of; a missing text is an empty cell."""

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
    """k-means over the directions of titles and categories.

    RecBole's feature-aware models would turn a dense vector into a scalar times one embedding; a cluster's number is
    a token, and they learn an embedding for it.
    """

    name: ClassVar[str] = "codes"
    version: ClassVar[int] = 1
    prompts: ClassVar[tuple[str, ...]] = ()
    settings_keys: ClassVar[tuple[str, ...]] = ("n_codes",)
    files: ClassVar[tuple[str, ...]] = ("codes",)

    def build(self, context: Context) -> dict[str, Any]:
        """Write one line for each item; codes count from 0."""
        from sklearn.cluster import KMeans

        vectors = item_vectors(context)[1:]
        wanted = min(int(context.settings["n_codes"]), len(np.unique(vectors, axis=0)))
        codes = KMeans(wanted, n_init=3, max_iter=100, random_state=0).fit_predict(vectors)
        tokens = context.table.item_tokens[1:]
        context.folder.write("codes", CODE_COLUMNS, zip(tokens, codes.tolist(), strict=True))
        return {"coverage": round(context.items.named, 4), "codes": len(np.unique(codes))}
