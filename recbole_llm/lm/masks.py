"""Attention masks in a form that transformers' language models use without reading the values."""

from __future__ import annotations

import torch

from recbole_llm.layers.waits import at_hand


def attention_mask(mask: torch.Tensor, dtype: torch.dtype, causal: bool) -> torch.Tensor:
    """The argument ``attention_mask`` for tokens to be read.

    For the usual mask, transformers checks whether all tokens are real, which waits for a GPU. For a mask that is added
    to the scores, it checks nothing.

    Args:
        mask: ``(B, T)`` bool, true at tokens.
        dtype: of the scores.
        causal: whether tokens see no later ones.

    Returns:
        ``(B, T)`` int64 where values are at hand, else the added mask ``(B, 1, T or 1, T)``.
    """
    if at_hand(mask):
        return mask.long()
    visible = mask[:, None, None, :]
    if causal:
        length = mask.shape[1]
        visible = visible & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    added = torch.zeros(visible.shape, dtype=dtype, device=mask.device)
    return added.masked_fill(~visible, torch.finfo(dtype).min)
