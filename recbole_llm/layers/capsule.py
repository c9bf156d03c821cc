"""Interest extraction: capsules by dynamic routing, and self-attention with several heads of scores."""

from __future__ import annotations

import torch
from torch import nn

from recbole_llm.layers.waits import at_hand


def squash(vectors: torch.Tensor) -> torch.Tensor:
    """``|s|^2 / (1 + |s|^2) * s / |s|``: keeps the direction and brings the length below one."""
    norm = vectors.square().sum(dim=-1, keepdim=True)
    return norm / (1.0 + norm) * vectors / torch.sqrt(norm + 1e-9)


class CapsuleRouting(nn.Module):
    """Behaviour-to-interest routing (MIND, CIKM 2019; ComiRec-DR, KDD 2020).

        u_{k,l} = W e_l;   b = 0;   repeat: c = softmax_l(b), s_k = sum_l c_{k,l} u_{k,l}, v_k = squash(s_k),
        b_{k,l} += u_{k,l} . v_k

    Gradients flow through the last round only.

    Args:
        size: ``d``.
        interests: ``K``.
        max_length: ``L``, for ``transform="position"`` and ``random_logits``.
        transform: ``shared`` one matrix (MIND), ``interest`` one for each interest, ``position`` one for each
            position and interest (ComiRec-DR's release).
        rounds: rounds of routing.
        random_logits: start from N(0, 1) instead of zero (MIND); drawn anew for each batch in training, one
            fixed table in evaluation, so that the same history always scores the same.
        mask_first: mask padding before the softmax. The releases mask it after, so short histories get smaller
            weights and the result depends on the padding.
    """

    evaluation_logits: torch.Tensor

    def __init__(
        self,
        size: int,
        interests: int,
        max_length: int,
        transform: str = "interest",
        rounds: int = 3,
        random_logits: bool = False,
        mask_first: bool = True,
    ) -> None:
        super().__init__()
        self.interests, self.rounds, self.transform = interests, rounds, transform
        self.random_logits, self.mask_first = random_logits, mask_first
        if random_logits:
            self.register_buffer("evaluation_logits", torch.randn(interests, max_length))
        if transform == "position":
            self.weight = nn.Parameter(torch.empty(max_length, interests * size, size))
        else:
            self.linear = nn.Linear(size, size * (interests if transform == "interest" else 1), bias=False)

    def _transformed(self, items: torch.Tensor) -> torch.Tensor:
        """``u`` ``(B, K, L, d)``, or ``(B, L, d)`` where all interests share one map."""
        batch, length, size = items.shape
        if self.transform == "position":
            made = torch.einsum("lod,bld->blo", self.weight[:length], items)
        else:
            made = self.linear(items)
        if self.transform == "shared":
            return made
        # Every round reads it, so it is laid out once for the products.
        return made.view(batch, length, self.interests, size).transpose(1, 2).contiguous()

    def _first_logits(self, items: torch.Tensor) -> torch.Tensor:
        batch, length, _ = items.shape
        if not self.random_logits:
            return items.new_zeros(batch, self.interests, length)
        if self.training:
            return torch.randn(batch, self.interests, length, device=items.device)
        return self.evaluation_logits[:, :length].expand(batch, -1, -1)

    def forward(self, items: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Interests ``(B, K, d)`` from item vectors ``(B, L, d)`` and ``(B, L)`` bool, true at items."""
        transformed = self._transformed(items)
        fixed = transformed.detach()
        logits = self._first_logits(items)
        visible = mask[:, None, :]
        interest = items.new_zeros(())
        for number in range(self.rounds):
            last = number == self.rounds - 1
            if self.mask_first:
                weights = logits.masked_fill(~visible, -torch.inf).softmax(dim=2)
            else:
                weights = logits.softmax(dim=2) * visible
            interest = squash(_weighted(weights, transformed if last else fixed))
            if not last:
                logits = logits + _agreement(fixed, interest)
        return interest


def _weighted(weights: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """``sum_l c_{k,l} u_{k,l}`` ``(B, K, d)``."""
    return weights @ made if made.dim() == 3 else (weights[:, :, None] @ made).squeeze(2)


def _agreement(made: torch.Tensor, interest: torch.Tensor) -> torch.Tensor:
    """``u_{k,l} . v_k`` ``(B, K, L)``."""
    return interest @ made.transpose(1, 2) if made.dim() == 3 else (made @ interest[:, :, :, None]).squeeze(3)


class SelfAttentiveInterests(nn.Module):
    """``A = softmax_L(W2 tanh(W1 (X + P)))``, ``V = A X`` (ComiRec-SA, KDD 2020, equations 6 and 7).

    Args:
        size: ``d``.
        interests: ``K``.
        max_length: ``L``, rows of the position table.
    """

    def __init__(self, size: int, interests: int, max_length: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.empty(1, max_length, size))
        self.inner = nn.Linear(size, 4 * size, bias=False)
        self.outer = nn.Linear(4 * size, interests, bias=False)

    def forward(self, items: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Interests ``(B, K, d)`` and attention ``(B, K, L)`` from ``(B, L, d)`` and ``(B, L)`` bool."""
        attention = self._scores(items, mask).transpose(1, 2).masked_fill(~mask[:, None, :], -torch.inf).softmax(dim=2)
        return attention @ items, attention

    def _scores(self, items: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``(B, L, K)``; arbitrary at padding, which is masked later."""
        placed = items + self.position[:, : items.shape[1]]
        if not at_hand(mask):
            return self._scored(placed)
        # A position's scores depend on no other position, and most of a padded batch is padding.
        real = self._scored(placed[mask])
        return real.new_zeros(*mask.shape, real.shape[1]).index_put((mask,), real)

    def _scored(self, placed: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.outer(torch.tanh(self.inner(placed)))
        return scores


def routing_regulariser(attention: torch.Tensor, lengths: torch.Tensor, size: int) -> torch.Tensor:
    """REMI's routing regularisation (RecSys 2023, equation 9): the variance of each interest's attention.

        C = (A - mean(A)) (A - mean(A))^T / d,   L = mean_b || diag(C_b) ||^2

    The release divides by the hidden size, as here, and sums over batches of 128; here the mean over the batch makes
    the weight independent of the batch size. The release's mean over positions runs over all ``L``; here it runs over
    the history's own positions, so that padding plays no part.

    Args:
        attention: ``(B, K, L)``, zero at padding.
        lengths: ``(B,)`` lengths of the histories.
        size: ``d``.
    """
    place = torch.arange(attention.shape[2], device=attention.device)
    real = (place < lengths[:, None])[:, None, :]
    mean = attention.sum(dim=2, keepdim=True) / lengths[:, None, None]
    variance = ((attention - mean) * real).square().sum(dim=2) / size
    return variance.square().sum(dim=1).mean()
