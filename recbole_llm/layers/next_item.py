"""Next-item losses: over all items, or over the target and a few sampled items.

For states ``h`` ``(M, d)``, item vectors ``e`` ``(N, d)``, a target ``t`` and ``n`` negatives ``j``, ``s_i = h . e_i``:

     softmax           -log exp(s_t) / sum_i exp(s_i),  over all items
     sampled_softmax   -log exp(s_t) / (exp(s_t) + sum_j exp(s_j - c_j))
     bce               -1/(n + 1) [log sigmoid(s_t) + sum_j log(1 - sigmoid(s_j))]
     gbce              -1/(n + 1) [beta log sigmoid(s_t) + sum_j log(1 - sigmoid(s_j))]

With the correction ``c_j = log(n q_j)``, where ``q`` are the probabilities of drawing the items; the sum is then an
unbiased estimate of the sum over all other items (Bengio and Senecal, 2008). Without it ``c_j = 0``. gBCE is the loss
of gSASRec (RecSys 2023, arXiv 2308.07192), with the share ``alpha = n / (N - 1)`` of the other items and the
calibration ``tau``:

     beta = alpha (tau (1 - 1 / alpha) + 1 / alpha)

``tau = 0`` gives ``bce``, ``tau = 1`` calibrated scores. A negative that is the row's own target does not count.

Memory besides parameters and gradients: ``softmax`` holds a few rows of ``N`` scores (at least 16) on a CPU and two
matrices ``(M, N)`` elsewhere; the others hold ``(M, n)`` scores and a piece of the negatives' vectors.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from recbole_llm.layers.cross_entropy import linear_cross_entropy
from recbole_llm.layers.waits import at_hand

# A batch holds the target of each position under TARGETS, 0 where there is none. Where values are not at hand, it also
# holds the flat positions of the targets under PLACES.
TARGETS = "next_items"
PLACES = "next_places"
Objective = Literal["softmax", "sampled_softmax", "bce", "gbce"]

# Elements in one piece of gathered item vectors.
_ON_CPU = 1 << 19
_ON_GPU = 1 << 26


def places_of(targets: torch.Tensor, count: int) -> torch.Tensor:
    """Flat positions ``(count,)`` of targets ``(B, L)`` among ``B L``: in order, then some without a target.

    Args:
        targets: 0 where there is none.
        count: at least the number of targets, at most the number of positions.
    """
    return (targets == 0).flatten().to(torch.uint8).argsort(stable=True)[:count]


def at_targets(states: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The states that have a target, ``(M, d)``, and those targets ``(M,)``.

    If the batch has ``PLACES``, these may include a few positions without a target, whose target is 0.

    Args:
        states: ``(B, L, d)``, one per position.
        batch: with ``TARGETS``, ``(B, L)`` item ids, 0 where there is none.
    """
    targets = batch[TARGETS]
    if PLACES in batch:
        places = batch[PLACES]
        return states.flatten(0, 1)[places], targets.flatten()[places]
    real = targets > 0
    return states[real], targets[real]


class _GatheredScores(torch.autograd.Function):
    """``h_m . e_j`` for the negatives ``j`` of each row, gathered piece by piece in both passes."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight, negatives)
        scores = hidden.new_empty(negatives.shape)
        for part in _pieces(negatives, weight):
            torch.bmm(weight[negatives[part]], hidden[part, :, None], out=scores[part, :, None])
        return scores

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, negatives = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for part in _pieces(negatives, weight):
            vectors, share = weight[negatives[part]], grad[part]
            torch.bmm(share[:, None], vectors, out=grad_hidden[part, None])
            if grad_weight is not None:
                outer = share[:, :, None] * hidden[part, None]
                grad_weight.index_add_(0, negatives[part].flatten(), outer.flatten(0, 1))
        return grad_hidden, grad_weight, None


def _pieces(negatives: torch.Tensor, weight: torch.Tensor) -> list[slice]:
    limit = _ON_CPU if weight.device.type == "cpu" else _ON_GPU
    rows = max(1, limit // (negatives.shape[1] * weight.shape[1]))
    return [slice(begin, begin + rows) for begin in range(0, len(negatives), rows)]


def scores_of_negatives(hidden: torch.Tensor, weight: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """``(M, n)`` scores of drawn items.

    Args:
        hidden: ``(M, d)``.
        weight: ``(N, d)``.
        negatives: ``(n,)`` shared by all rows, or ``(M, n)`` per row.
    """
    if negatives.dim() == 1:
        return hidden @ weight[negatives].T
    with torch.autocast(hidden.device.type, enabled=False):
        scores: torch.Tensor = _GatheredScores.apply(hidden.to(weight.dtype), weight, negatives)
    return scores


def sampled_softmax(
    positive: torch.Tensor,
    negative: torch.Tensor,
    hit: torch.Tensor,
    correction: torch.Tensor | float = 0.0,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax over the target and drawn items, mean over the rows.

    Args:
        positive: ``(M,)`` scores of the targets.
        negative: ``(M, n)`` scores of the drawn items.
        hit: ``(M, n)`` bool, whether the drawn item is the row's target.
        correction: ``c``, ``(n,)`` or ``(M, n)``.
        counts: ``(M,)`` bool, the rows that the mean is over; ``None``: every one.
    """
    others = (negative - correction).masked_fill(hit, -torch.inf)
    logits = torch.cat([positive[:, None], others], dim=1).float()
    first = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    return F.cross_entropy(logits, first if counts is None else first.masked_fill(~counts, -100))


def generalised_bce(
    positive: torch.Tensor,
    negative: torch.Tensor,
    hit: torch.Tensor,
    beta: float = 1.0,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Binary cross-entropy with the positive probability to the power ``beta``, mean over the rows.

    Args:
        positive, negative, hit, counts: as for :func:`sampled_softmax`.
        beta: 1 gives the usual loss.
    """
    others = F.logsigmoid(-negative.float()).masked_fill(hit, 0.0).sum(dim=1)
    losses = -((beta * F.logsigmoid(positive.float()) + others) / (negative.shape[1] + 1))
    return losses.mean() if counts is None else (losses * counts).sum() / counts.sum().clamp(min=1)


def gbce_beta(n_negatives: int, n_items: int, calibration: float) -> float:
    """``beta`` of gBCE; ``n_items`` does not count the padding item."""
    alpha = min(1.0, n_negatives / max(1, n_items - 1))
    return alpha * (calibration * (1.0 - 1.0 / alpha) + 1.0 / alpha)


class NextItemLoss(nn.Module):
    """The next-item loss of an objective.

    Negatives are drawn with replacement among all items by torch's own generator, whose state checkpoints hold.

    Args:
        objective: see the module.
        n_items: ``N``, the padding item counted.
        n_negatives: ``n``.
        shared: one draw of negatives for all rows instead of one for each row.
        counts: ``(n_items,)`` weights with which items are drawn; ``None``: equal weights.
        log_q: correct a sampled softmax.
        calibration: ``tau`` of gBCE.
    """

    cumulative: torch.Tensor | None
    log_chance: torch.Tensor | None

    def __init__(
        self,
        objective: Objective,
        n_items: int,
        n_negatives: int,
        shared: bool,
        counts: torch.Tensor | None = None,
        log_q: bool = False,
        calibration: float = 0.0,
    ) -> None:
        super().__init__()
        self.objective, self.n_items, self.n_negatives, self.shared = objective, n_items, n_negatives, shared
        self.log_q = log_q
        self.beta = gbce_beta(n_negatives, n_items - 1, calibration) if objective == "gbce" else 1.0
        cumulative, log_chance = None, None
        if counts is not None and objective != "softmax":
            weights = counts.double().clone()
            weights[0] = 0.0
            weights /= weights.sum()
            cumulative, log_chance = weights.cumsum(0), weights.log().float()
        self.register_buffer("cumulative", cumulative, persistent=False)
        self.register_buffer("log_chance", log_chance, persistent=False)

    def draw(self, rows: int, device: torch.device) -> torch.Tensor:
        """Ids of negatives: ``(n,)`` where they are shared, else ``(rows, n)``."""
        shape = (self.n_negatives,) if self.shared else (rows, self.n_negatives)
        if self.cumulative is None:
            return torch.randint(1, self.n_items, shape, device=device)
        places = torch.rand(shape, dtype=torch.float64, device=device)
        return torch.searchsorted(self.cumulative, places, right=True).clamp_(1, self.n_items - 1)

    def correction(self, negatives: torch.Tensor) -> torch.Tensor | float:
        """``c = log(n q)`` of drawn items; 0 without the correction."""
        if not self.log_q:
            return 0.0
        if self.log_chance is None:
            return math.log(self.n_negatives / (self.n_items - 1))
        return self.log_chance[negatives] + math.log(self.n_negatives)

    def forward(self, hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss, mean over the rows.

        Args:
            hidden: ``(M, d)``.
            weight: ``(n_items, d)``.
            target: ``(M,)`` int64; rows with the padding item, if any, do not count (:func:`at_targets`).
        """
        if self.objective == "softmax":
            return linear_cross_entropy(hidden, weight, target, ignored=0)
        counts = None if at_hand(target) else target > 0
        negatives = self.draw(len(target), target.device)
        positive = (hidden * weight[target]).sum(dim=1)
        negative = scores_of_negatives(hidden, weight, negatives)
        hit = negatives == target[:, None]
        if self.objective == "sampled_softmax":
            return sampled_softmax(positive, negative, hit, self.correction(negatives), counts)
        return generalised_bce(positive, negative, hit, self.beta, counts)
