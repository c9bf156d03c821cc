"""Item embeddings that start from vectors instead of at random (``init: vectors``).

LLMInit and its like (arXiv 2503.01814): the first principal components of the items' vectors, then learned as any
embedding is. They are scaled to the deviation of the model's own start, so that nothing else has to change.
"""

from __future__ import annotations

import torch
from torch import nn

from recbole_llm.errors import UserError
from recbole_llm.layers.text_projection import pca


@torch.no_grad()
def start_from_vectors(model: nn.Module, vectors: torch.Tensor, known: torch.Tensor) -> None:
    """Put principal components into ``model.item_embedding``; items without a vector keep their random start.

    So do dimensions beyond those that the vectors span.

    Args:
        model: just built.
        vectors: ``(n_items, d_enc)``, row 0 that of the padding item.
        known: ``(n_items,)`` bool, which items have one.

    Raises:
        UserError: the model has no embedding of items, or its vectors are all the same.
    """
    embedding = getattr(model, "item_embedding", None)
    if not isinstance(embedding, nn.Embedding) or embedding.num_embeddings < len(vectors):
        raise UserError(f"init: vectors: {type(model).__name__} has no embeddings of items that could start from them.")
    weight = embedding.weight
    found = vectors[known]
    if bool((found == found[:1]).all()):
        raise UserError(f"init: vectors: all {len(found):,} known vectors are the same, so items cannot start by them.")
    components = pca(found, embedding.embedding_dim)
    components = components * (weight[1 : len(vectors)].std().cpu() / components.std())
    weight[known.nonzero()[:, 0].to(weight.device), : components.shape[1]] = components.to(weight.device)
