"""Rows of token pieces joined without gaps, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from recbole_llm.layers.waits import at_hand


class Packed(NamedTuple):
    """Joined pieces of ``B`` rows.

    Attributes:
        ids: ``(B, T)`` token ids, left-aligned, 0 after the end.
        piece: ``(B, T)`` number of the piece that a token comes from; the number of pieces after the end.
        mask: ``(B, T)`` bool, true at tokens.
        length: ``(B,)`` tokens of a row.
    """

    ids: torch.Tensor
    piece: torch.Tensor
    mask: torch.Tensor
    length: torch.Tensor


def pack(tokens: torch.Tensor, lengths: torch.Tensor, most: int | None = None) -> Packed:
    """Join the pieces of each row.

    Args:
        tokens: ``(B, S, W)`` token ids of ``S`` pieces per row.
        lengths: ``(B, S)`` number of tokens of each piece that count, 0 to ``W``.
        most: upper bound of a row's tokens, taken as ``T``. Where lengths are at hand, ``T`` is the longest row's.
    """
    rows, pieces, width = tokens.shape
    ends = lengths.cumsum(1)
    total = ends[:, -1]
    longest = int(total.max()) if at_hand(total) else pieces * width if most is None else most
    place = torch.arange(max(1, longest), device=tokens.device).expand(rows, -1).contiguous()
    piece = torch.searchsorted(ends, place, right=True)
    mask = place < total[:, None]
    inside = piece.clamp(max=pieces - 1)
    within = (place - (ends - lengths).gather(1, inside)).clamp(0, width - 1)
    ids = tokens.reshape(rows, -1).gather(1, inside * width + within)
    return Packed(ids.masked_fill(~mask, 0), piece, mask, total)


class TokenTable(nn.Module):
    """Token ids of numbered texts; if the numbers are ids, text 0 is that of the padding and empty.

    Args:
        texts: the tokens of each text, those of number 0 first.
        width: most tokens kept of a text.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor

    def __init__(self, texts: Sequence[Sequence[int]], width: int | None = None) -> None:
        super().__init__()
        longest = max(1, max(map(len, texts), default=1))
        width = min(longest, width) if width else longest
        tokens = torch.zeros(len(texts), width, dtype=torch.int32)
        lengths = torch.zeros(len(texts), dtype=torch.int64)
        for number, text in enumerate(texts):
            kept = torch.tensor(list(text[:width]), dtype=torch.int32)
            tokens[number, : len(kept)] = kept
            lengths[number] = len(kept)
        self.sizes = tuple(lengths.tolist())  # on the host
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("lengths", lengths, persistent=False)

    @property
    def width(self) -> int:
        """Most tokens of a text."""
        return self.tokens.shape[1]

    def forward(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``(..., W)`` and lengths ``(...)`` of some texts."""
        return self.tokens[numbers].long(), self.lengths[numbers]


def join_pieces(parts: Sequence[tuple[torch.Tensor, torch.Tensor]], most: int | None = None) -> Packed:
    """Join parts ``(B, S_i, W_i)`` with lengths ``(B, S_i)``, one after the other; ``most`` as for :func:`pack`."""
    width = max(tokens.shape[2] for tokens, _ in parts)
    if most is None:
        most = sum(tokens.shape[1] * tokens.shape[2] for tokens, _ in parts)
    padded = [nn.functional.pad(tokens, (0, width - tokens.shape[2])) for tokens, _ in parts]
    return pack(torch.cat(padded, dim=1), torch.cat([lengths for _, lengths in parts], dim=1), most)
