"""Hard prompts from item titles, which are tokenised once and assembled on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from recbole_llm.layers.packing import Packed, TokenTable, join_pieces

Tokenise = Callable[[list[str]], list[list[int]]]
BEFORE, AFTER = "Session so far:", " The next item is"
OFFERED, ASKED = " Candidates:", " The number of the next item is"


class TitlePrompt(nn.Module):
    """``Session so far: {title_1}; ...; {title_t}. The next item is`` as token ids.

    Args:
        titles: text of each item, item 0 first.
        tokenise: from texts to token ids, without special tokens.
        title_tokens: most tokens kept of a title.
        max_items: most titles in a prompt, the last ones of the history.
        max_tokens: most title tokens in a prompt; the oldest titles are left out first, the newest always stays.
        end: id of the token that ends a text.
        labels: names of the candidates (head ``index``); empty for other heads.
    """

    def __init__(
        self,
        titles: Sequence[str],
        tokenise: Tokenise,
        title_tokens: int,
        max_items: int,
        max_tokens: int,
        end: int,
        labels: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.max_items, self.max_tokens = max_items, max_tokens
        bare = [
            tokens[:title_tokens] if title else []
            for tokens, title in zip(tokenise([" " + title for title in titles]), titles, strict=True)
        ]
        semicolon, self.full_stop = (tokens[-1] for tokens in tokenise([";", "."]))
        self.session = TokenTable([[*tokens, semicolon] if tokens else [] for tokens in bare])
        self.continuation = TokenTable([[*tokens, end] if tokens else [] for tokens in bare])
        self.fixed = TokenTable(tokenise([BEFORE, AFTER, OFFERED, ASKED]))
        self.labels = TokenTable(tokenise([f" {label}." for label in labels])) if labels else None

    def longest(self, history: int, offered: int = 0, continued: bool = False) -> int:
        """Most tokens that a prompt can have.

        Args:
            history: items of the longest history.
            offered: number of candidates listed.
            continued: whether a title ends the prompt.
        """
        title = self.session.width
        titles = min(min(self.max_items, history) * title, max(self.max_tokens, title))
        labels = sum(self.labels.sizes[:offered]) if self.labels is not None else 0
        before, after, listing, asked = self.fixed.sizes
        around = before + (listing + asked if offered else after)
        return around + titles + labels + offered * title + (self.continuation.width if continued else 0)

    def history(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``(B, S, W)`` and lengths ``(B, S)`` of the last titles of each history, oldest first."""
        width = min(self.max_items, item_seq.shape[1])
        place = (item_seq_len - width).clamp(min=0)[:, None] + torch.arange(width, device=item_seq.device)
        recent = item_seq.gather(1, place.clamp(max=item_seq.shape[1] - 1))
        recent = recent.masked_fill(place >= item_seq_len[:, None], 0)
        tokens, lengths = self.session(recent)
        from_the_end = lengths.flip(1).cumsum(1).flip(1)
        newest = place == item_seq_len[:, None] - 1
        lengths = lengths * ((from_the_end <= self.max_tokens) | newest)
        closing = newest[:, :, None] & (torch.arange(tokens.shape[2], device=tokens.device) == lengths[:, :, None] - 1)
        return tokens.masked_fill(closing, self.full_stop), lengths

    def _constant(self, number: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, length = self.fixed(torch.full((rows, 1), number, device=self.fixed.tokens.device))
        return tokens, length

    def forward(
        self,
        item_seq: torch.Tensor,
        item_seq_len: torch.Tensor,
        continuation: torch.Tensor | None = None,
        candidates: torch.Tensor | None = None,
    ) -> Packed:
        """The prompts of a batch.

        Args:
            item_seq: ``(B, L)`` item ids, left-aligned.
            item_seq_len: ``(B,)``.
            continuation: ``(B,)`` items whose titles end the prompt; they are its last piece.
            candidates: ``(B, c)`` items to list, each after its label.
        """
        rows = len(item_seq)
        parts = [self._constant(0, rows), self.history(item_seq, item_seq_len)]
        if candidates is None:
            parts.append(self._constant(1, rows))
        else:
            parts += [self._constant(2, rows), self._listed(candidates), self._constant(3, rows)]
        if continuation is not None:
            parts.append(self.continuation(continuation[:, None]))
        offered = 0 if candidates is None else candidates.shape[1]
        return join_pieces(parts, self.longest(item_seq.shape[1], offered, continuation is not None))

    def _listed(self, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`` 1. title;`` of each candidate: labels and titles in turn."""
        assert self.labels is not None
        rows, count = candidates.shape
        numbers = torch.arange(count, device=candidates.device).expand(rows, -1)
        labels, titles = self.labels(numbers), self.session(candidates)
        width = max(labels[0].shape[2], titles[0].shape[2])
        tokens = torch.stack([nn.functional.pad(t, (0, width - t.shape[2])) for t, _ in (labels, titles)], dim=2)
        lengths = torch.stack([labels[1], titles[1]], dim=2)
        return tokens.view(rows, 2 * count, width), lengths.view(rows, 2 * count)
