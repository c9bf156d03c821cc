"""Item embeddings initialised from vectors instead of at random (``init: vectors``).

As in LLMInit (arXiv 2503.01814) and similar work, embeddings start as the first principal components of the items'
vectors and are then trained as usual. They are scaled to the standard deviation of the model's own initialisation, so
that nothing else has to change.
"""

from __future__ import annotations

import torch
from torch import nn

from recbole_llm.errors import UserError
from recbole_llm.layers.text_projection import pca


@torch.no_grad()
def start_from_vectors(model: nn.Module, vectors: torch.Tensor, known: torch.Tensor) -> None:
    """Write principal components of the vectors into ``model.item_embedding``.

    Items without a vector, and dimensions beyond the number of components, keep their random initialisation.

    Args:
        model: just built.
        vectors: ``(n_items, d_enc)``; row 0 is the padding item's.
        known: ``(n_items,)`` bool, which items have a vector.

    Raises:
        UserError: the model has no item embedding, or all known vectors are the same.
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
