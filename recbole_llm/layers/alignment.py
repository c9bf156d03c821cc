"""Losses that draw two views of the same users together."""

from __future__ import annotations

import torch


def kl_alignment(structural: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
    """``KL(softmax(structural) || softmax(semantic))`` over the feature dimension, mean over the batch.

    LLM-DMsRec (arXiv 2507.20147), L_info; gradients flow to both sides. Features near zero make the
    value tiny, so the released code's 1e-8 is kept.

    Args:
        structural, semantic: ``(B, d)``.
    """
    p = structural.softmax(dim=1) + 1e-8
    q = semantic.softmax(dim=1) + 1e-8
    return (p * (p.log() - q.log())).sum(dim=1).mean()
