"""Scores by session vectors that depend on the item to score (TAGNN, SIGIR 2020), in bounded memory.

For session ``b`` with states ``h_l`` and keys ``k_l``, and for item ``i``:

    beta_il = softmax_l(k_l . e_i)
    score_i = (z + sum_l beta_il h_l) . e_i = z . e_i + sum_l beta_il (h_l . e_i)

The second form needs no vector for each pair of session and item, only two matrices ``(B, L, N)``. They are made for
some sessions at a time and, with a very large catalogue, for some items at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

# Elements in one (b, L, n) matrix; a handful of such matrices exist at once.
_ON_CPU = 1 << 19
_ON_GPU = 1 << 27


class Attended(NamedTuple):
    """What scores attend to.

    Attributes:
        states: ``(B, L, d)``, h.
        keys: ``(B, L, d)``, k.
        lengths: ``(B,)`` number of states of each session; later ones are ignored.
    """

    states: torch.Tensor
    keys: torch.Tensor
    lengths: torch.Tensor

    def rows(self, chosen: torch.Tensor, width: int) -> Attended:
        """Some sessions, cut to ``width`` states."""
        return Attended(self.states[chosen, :width], self.keys[chosen, :width], self.lengths[chosen])

    def to(self, dtype: torch.dtype) -> Attended:
        """The same with another dtype."""
        return Attended(self.states.to(dtype), self.keys.to(dtype), self.lengths)

    def padding(self) -> torch.Tensor:
        """``(B, L)`` bool, true where a session has no state."""
        return torch.arange(self.states.shape[1], device=self.lengths.device) >= self.lengths[:, None]


def score_items(z: torch.Tensor, session: Attended, items: torch.Tensor) -> torch.Tensor:
    """``(B,)`` scores of one item for each session.

    Args:
        z: ``(B, d)``.
        session: what is attended to.
        items: ``(B, d)`` item vectors.
    """
    logits = torch.einsum("bld,bd->bl", session.keys, items).masked_fill(session.padding(), -torch.inf)
    worth = torch.einsum("bld,bd->bl", session.states, items)
    return (z * items).sum(dim=1) + (logits.softmax(dim=1) * worth).sum(dim=1)


@torch.no_grad()
def score_all(z: torch.Tensor, session: Attended, weight: torch.Tensor, limit: int = 0) -> torch.Tensor:
    """``(B, N)`` scores of all items, without a gradient.

    Args:
        z: ``(B, d)``.
        session: what is attended to.
        weight: ``(N, d)`` item vectors.
        limit: elements in one of the matrices; 0 for the device's default.
    """
    scores = weight.new_empty(len(z), len(weight))
    z, session = z.to(weight.dtype), session.to(weight.dtype)
    with torch.autocast(z.device.type, enabled=False):
        for rows, part in _pieces(session, len(weight), limit):
            scores[rows] = torch.cat([_block(z[rows], part, each)[0] for each in _chunks(weight, part, limit)], dim=1)
    return scores


def attended_cross_entropy(
    z: torch.Tensor, session: Attended, weight: torch.Tensor, target: torch.Tensor, limit: int = 0
) -> torch.Tensor:
    """Cross-entropy over the scores of all items, mean over the batch, with gradients computed in the same pass.

    Args:
        z: ``(B, d)``.
        session: what is attended to.
        weight: ``(N, d)`` item vectors.
        target: ``(B,)`` int64.
        limit: elements in one of the matrices; 0 for the device's default.
    """
    z, session = z.to(weight.dtype), session.to(weight.dtype)
    with torch.autocast(z.device.type, enabled=False):
        loss: torch.Tensor = _AttendedCrossEntropy.apply(z, *session, weight, target, limit)
    return loss


class _AttendedCrossEntropy(torch.autograd.Function):
    """Loss and gradients piece by piece, so that nothing needs to be kept for the backward pass but the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        states: torch.Tensor,
        keys: torch.Tensor,
        lengths: torch.Tensor,
        weight: torch.Tensor,
        target: torch.Tensor,
        limit: int,
    ) -> torch.Tensor:
        session = Attended(states, keys, lengths)
        grads = [torch.empty_like(z), torch.zeros_like(states), torch.zeros_like(keys), torch.zeros_like(weight)]
        loss = z.new_zeros((), dtype=torch.float64)
        for rows, part in _pieces(session, len(weight), limit):
            loss += _piece(z[rows], part, weight, target[rows], limit, rows, grads)
        ctx.count = len(z)
        ctx.save_for_backward(*grads)
        return (loss / len(z)).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        grad_z, grad_states, grad_keys, grad_weight = (each * (grad / ctx.count) for each in ctx.saved_tensors)
        return grad_z, grad_states, grad_keys, None, grad_weight, None, None


def _pieces(session: Attended, n_items: int, limit: int) -> Iterator[tuple[torch.Tensor, Attended]]:
    """Row numbers of some sessions and their states, as many as keep their matrices within the limit.

    On a CPU sessions of similar length come together, cut to the longest of them. On a GPU they do not, since their
    lengths would have to be fetched.
    """
    count, width = session.states.shape[:2]
    limit, on_cpu = limit or _limit(session), session.states.device.type == "cpu"
    order = session.lengths.argsort(stable=True) if on_cpu else torch.arange(count, device=session.lengths.device)
    longest = session.lengths[order].tolist() if on_cpu else [width] * count
    begin = 0
    while begin < count:
        end = begin + 1
        while end < count and (end + 1 - begin) * longest[end] * n_items <= limit:
            end += 1
        rows = order[begin:end]
        yield rows, session.rows(rows, longest[end - 1])
        begin = end


def _limit(session: Attended) -> int:
    return _ON_CPU if session.states.device.type == "cpu" else _ON_GPU


def _chunks(weight: torch.Tensor, session: Attended, limit: int) -> tuple[torch.Tensor, ...]:
    """The item vectors in as many parts as the limit requires, mostly one."""
    rows, width = session.states.shape[:2]
    return weight.split(max(1, (limit or _limit(session)) // (rows * width)))


def _block(z: torch.Tensor, session: Attended, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores ``(b, n)``, beta ``(b, L, n)`` and h . e ``(b, L, n)``."""
    beta = (session.keys @ weight.T).masked_fill_(session.padding()[:, :, None], -torch.inf).softmax(dim=1)
    worth = session.states @ weight.T
    return z @ weight.T + (beta * worth).sum(dim=1), beta, worth


def _piece(
    z: torch.Tensor,
    session: Attended,
    weight: torch.Tensor,
    target: torch.Tensor,
    limit: int,
    rows: torch.Tensor,
    grads: list[torch.Tensor],
) -> torch.Tensor:
    """Sum of the losses of some sessions; their gradients are added to ``grads``.

    With ``s`` the scores, ``p = softmax(s) - onehot(target)`` their gradient, and ``t`` the attended part of ``s``:
    the gradient of ``h . e`` is ``beta p``, that of ``k . e`` is ``beta p (h . e - t)``.
    """
    chunks = _chunks(weight, session, limit)
    kept = _block(z, session, weight) if len(chunks) == 1 else None  # several would not fit, so they are made twice
    scores = kept[0] if kept else torch.cat([_block(z, session, each)[0] for each in chunks], dim=1)
    loss = F.cross_entropy(scores, target, reduction="sum").double()
    outer = scores.softmax(dim=1)
    outer.scatter_add_(1, target[:, None], outer.new_full((1, 1), -1.0).expand(len(z), 1))
    grad_z, grad_states, grad_keys, grad_weight = grads
    width, size = session.states.shape[1:]
    grad_z[rows] = outer @ weight
    grad_weight.addmm_(outer.T, z)
    begin = 0
    for each in chunks:
        part = slice(begin, begin + len(each))
        own, (total, beta, worth) = outer[:, part], kept or _block(z, session, each)
        to_states = beta.mul_(own[:, None])
        to_keys = worth.sub_((total - z @ each.T)[:, None]).mul_(to_states)
        grad_states[rows, :width] += to_states @ each
        grad_keys[rows, :width] += to_keys @ each
        flat = (-1, len(each))
        grad_weight[part].addmm_(to_states.reshape(flat).T, session.states.reshape(-1, size))
        grad_weight[part].addmm_(to_keys.reshape(flat).T, session.keys.reshape(-1, size))
        begin += len(each)
    return loss
