"""Losses that pull two views of the same users together."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_FAR = -1e4  # a logit that adds nothing to a softmax, in half precision too
_IGNORED = -100  # cross-entropy's own mark of a target that does not count


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


def info_nce(
    anchor: torch.Tensor, positive: torch.Tensor, temperature: float, counts: torch.Tensor | None = None
) -> torch.Tensor:
    """InfoNCE within a batch, one direction: row ``i`` of ``positive`` is the positive of row ``i`` of ``anchor``.

        -(1/B) sum_i log exp(cos(a_i, b_i) / tau) / sum_j exp(cos(a_i, b_j) / tau)

    Args:
        anchor, positive: ``(B, d)``.
        temperature: tau.
        counts: ``(B,)`` bool, the rows that count, as anchors and as negatives; ``None``: every one.
    """
    logits = F.normalize(anchor, dim=1) @ F.normalize(positive, dim=1).T / temperature
    answer = torch.arange(len(logits), device=logits.device)
    if counts is None:
        return F.cross_entropy(logits, answer)
    return cross_entropy_where(logits.masked_fill(~counts, _FAR), answer, counts)


def cross_entropy_where(logits: torch.Tensor, target: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, mean over the rows that count; zero if none does.

    Args:
        logits: ``(B, N)``.
        target: ``(B,)`` int64.
        counts: ``(B,)`` bool.
    """
    logits = logits.masked_fill(~counts[:, None], 0.0)  # NaN in rows that do not count must not flow back
    total = F.cross_entropy(logits, target.masked_fill(~counts, _IGNORED), ignore_index=_IGNORED, reduction="sum")
    return total / counts.sum().clamp(min=1)


def uniformity(vectors: torch.Tensor) -> torch.Tensor:
    """``log mean_{i<j} exp(-2 |u_i - u_j|^2)`` over the normalised rows of ``(B, d)``; zero for a single row.

    Wang and Isola (ICML 2020).
    """
    count = len(vectors)
    if count < 2:
        return vectors.new_zeros(())
    unit = F.normalize(vectors, dim=1)
    near = (4.0 * (unit @ unit.T) - 4.0).exp()  # |u - v|^2 = 2 - 2 u . v
    return ((near.sum() - near.diagonal().sum()) / (count * (count - 1))).log()


def direct_au(first: torch.Tensor, second: torch.Tensor, weight: float = 0.5) -> torch.Tensor:
    """Alignment and uniformity of two views (DirectAU, KDD 2022, as LLM-DMsRec's released code weighs them).

        mean_i |a_i - b_i|^2 + weight (uniformity(a) + uniformity(b)) / 2,  rows normalised

    Args:
        first, second: ``(B, d)``.
        weight: of the uniformity.
    """
    apart = (F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(dim=1).mean()
    return apart + weight * (uniformity(first) + uniformity(second)) / 2


def cosine_distance(first: torch.Tensor, second: torch.Tensor, counts: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of ``1 - cos`` over the rows of two ``(B, d)`` tensors, or over the rows in ``counts`` (``(B,)`` bool)."""
    apart = 1.0 - F.cosine_similarity(first, second, dim=1)
    return apart.mean() if counts is None else (apart * counts).sum() / counts.sum().clamp(min=1)


def soft_target_alignment(first: torch.Tensor, second: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """In-batch contrast whose targets are the similarities within both views (ISRF's released code).

        logits = X Y^T / tau,  T = softmax(tau (X X^T + Y Y^T) / 2)
        mean_b 1/2 [ CE(logits, T) + CE(logits^T, T^T) ],  CE(a, t) = -sum_j t_j log softmax(a)_j

    Without normalisation, and with gradients through the targets, as released.

    Args:
        first, second: ``(B, d)``, X and Y.
        temperature: tau.
    """
    logits = first @ second.T / temperature
    targets = (temperature * (first @ first.T + second @ second.T) / 2).softmax(dim=-1)
    forth = -(targets * logits.log_softmax(dim=-1)).sum(dim=1)
    back = -(targets.T * logits.T.log_softmax(dim=-1)).sum(dim=1)
    return ((forth + back) / 2).mean()
