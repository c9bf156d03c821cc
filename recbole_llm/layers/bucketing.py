"""Encode a batch of sequences in groups of similar length.

The batch, its loss and its gradient stay the same; only padding is saved. (Batches drawn by length would save as much
but bias the order in which a model sees its examples.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from recbole_llm.layers.waits import at_hand

MIN_ROWS = 128  # smaller groups cost more in calls than they save in padding
FEW_ROWS = 32  # smallest group in batches too small for two of MIN_ROWS; still twice as fast as one pass
MAX_GROUPS = 8
WORTH_IT = 0.85  # one pass if more than this share of the padded batch is real


def padded(encode: Callable[..., torch.Tensor], width: int) -> Callable[..., torch.Tensor]:
    """For :func:`by_length`, an ``encode`` that gives ``(b, l, d)``, padded with zeros to ``(b, width, d)``."""

    def encoded(item_seq: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return F.pad(encode(item_seq, *others), (0, 0, 0, width - item_seq.shape[1]))

    return encoded


def by_length(
    encode: Callable[..., torch.Tensor], item_seq: torch.Tensor, item_seq_len: torch.Tensor, *others: torch.Tensor
) -> torch.Tensor:
    """``encode(item_seq, item_seq_len, *others)`` with little padding; rows must not depend on one another.

    Args:
        encode: from ``(b, l)`` ids and ``(b,)`` lengths to ``(b, ...)``; must not look past a row's length.
        item_seq: ``(B, L)`` ids, left-aligned, 0 padded.
        item_seq_len: ``(B,)`` lengths.
        others: ``(B, L)`` columns beside the ids.

    On a GPU everything runs in one pass, which is faster than several small ones and needs no lengths on the host.
    """
    rows = len(item_seq)
    if not at_hand(item_seq):
        return encode(item_seq, item_seq_len, *others)
    least = MIN_ROWS if rows >= 2 * MIN_ROWS else FEW_ROWS
    longest = int(item_seq_len.max())
    if rows < 2 * least or float(item_seq_len.sum()) > WORTH_IT * rows * longest:
        return encode(item_seq[:, :longest], item_seq_len, *(other[:, :longest] for other in others))
    order = torch.argsort(item_seq_len, stable=True)
    groups = order.chunk(min(MAX_GROUPS, rows // least))
    parts = []
    for group in groups:
        lengths = item_seq_len[group]
        longest = int(lengths[-1])
        parts.append(encode(item_seq[group, :longest], lengths, *(other[group, :longest] for other in others)))
    back = torch.empty_like(order).scatter_(0, order, torch.arange(rows))
    return torch.cat(parts)[back]
