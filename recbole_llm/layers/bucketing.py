"""Encode a batch of sequences in groups of similar length.

The batch, its loss and its gradient stay what they are; only padding is saved. (Batches drawn by length
would save as much and bias the order in which a model sees its examples.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch

MIN_ROWS = 128  # smaller groups cost more in calls than they save in padding,
FEW_ROWS = 32  # but in a batch that makes no two of that size they are twice as fast as one pass
MAX_GROUPS = 8
WORTH_IT = 0.85  # one pass when this share of the padded batch is real


def by_length(
    encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], item_seq: torch.Tensor, item_seq_len: torch.Tensor
) -> torch.Tensor:
    """``encode(item_seq, item_seq_len)`` with little padding; rows must not depend on one another.

    Args:
        encode: from ``(b, l)`` ids and ``(b,)`` lengths to ``(b, ...)``; must not look past a row's length.
        item_seq: ``(B, L)`` ids, left-aligned, 0 padded.
        item_seq_len: ``(B,)`` lengths.

    On a GPU one pass is faster than several small ones, and lengths would have to be fetched from it.
    """
    rows, width = item_seq.shape
    if item_seq.device.type != "cpu":
        return encode(item_seq, item_seq_len)
    least = MIN_ROWS if rows >= 2 * MIN_ROWS else FEW_ROWS
    longest = int(item_seq_len.max())
    if rows < 2 * least or float(item_seq_len.sum()) > WORTH_IT * rows * longest:
        return encode(item_seq[:, :longest] if longest < width else item_seq, item_seq_len)
    order = torch.argsort(item_seq_len, stable=True)
    groups = order.chunk(min(MAX_GROUPS, rows // least))
    parts = []
    for group in groups:
        lengths = item_seq_len[group]
        parts.append(encode(item_seq[group, : int(lengths[-1])], lengths))
    back = torch.empty_like(order).scatter_(0, order, torch.arange(rows))
    return torch.cat(parts)[back]
