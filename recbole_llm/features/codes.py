"""``.codes``: the cluster of each item's text, for models that read item features as tokens."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from recbole_llm.data.atomic import Column
from recbole_llm.features.feature import Context
from recbole_llm.features.offline import item_vectors

COLUMNS = (Column("item_id", "token"), Column("code", "token"))


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
        context.folder.write("codes", COLUMNS, zip(tokens, codes.tolist(), strict=True))
        return {"coverage": round(context.items.named, 4), "codes": len(np.unique(codes))}
