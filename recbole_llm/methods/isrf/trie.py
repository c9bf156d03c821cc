"""A trie over the token sequences of items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn


class Prefixes(NamedTuple):
    """``M`` prefixes of token sequences, each of which sees its own beginnings alone.

    Attributes:
        token: ``(M,)``, or ``(B, M)`` where rows have their own: the last token of a prefix.
        depth: ``(M,)`` tokens of a prefix before the last.
        ancestors: ``(M, D)`` its beginnings, by their places among the ``M``, the shortest first and itself last;
            anything after ``depth``.
    """

    token: torch.Tensor
    depth: torch.Tensor
    ancestors: torch.Tensor

    def visible(self) -> torch.Tensor:
        """``(M, D)`` bool: which entries of ``ancestors`` are real."""
        return torch.arange(self.ancestors.shape[1], device=self.depth.device) <= self.depth[:, None]


class ItemTrie(nn.Module):
    """Prefixes of the items' token sequences.

    Nodes are the distinct prefixes, the empty one first, parents before children; an item's last token (the end of
    sequence) needs no node. ``N`` items, ``M`` nodes, ``D`` tokens of the longest item.

    Args:
        sequences: tokens of each item, that of item 0 (no item) empty. No sequence may be the beginning of another,
            which an end token sees to.
        start: token that stands at the empty prefix.

    Attributes:
        token, depth, ancestors: of the nodes, see :class:`Prefixes`.
        sequences: ``(N, D)`` tokens of each item, -1 after its end.
        edge_node, edge_token: ``(E,)`` node at which a token is chosen, and the token, node by node.
        steps: ``(N, D)`` edges of an item; ``E`` after its end.
    """

    token: torch.Tensor
    depth: torch.Tensor
    ancestors: torch.Tensor
    sequences: torch.Tensor
    steps: torch.Tensor
    edge_node: torch.Tensor
    edge_token: torch.Tensor

    def __init__(self, sequences: Sequence[Sequence[int]], start: int) -> None:
        super().__init__()
        if (
            any(not sequence for sequence in sequences[1:])
            or len({tuple(s) for s in sequences[1:]}) < len(sequences) - 1
        ):
            raise ValueError("the items' token sequences must be distinct and not empty")
        longest = max(map(len, sequences))
        number: dict[tuple[int, ...], int] = {(): 0}
        allowed: list[dict[int, None]] = [{}]
        for sequence in sequences:
            for place, token in enumerate(sequence):
                prefix = tuple(sequence[:place])
                if prefix not in number:
                    number[prefix] = len(number)
                    allowed.append({})
                allowed[number[prefix]][token] = None
        self._number = number
        self._allowed = [list(tokens) for tokens in allowed]
        edges = [(node, token) for node, tokens in enumerate(allowed) for token in tokens]
        counts = torch.tensor([len(tokens) for tokens in allowed])
        self._edge_begin = [0, *counts.cumsum(0).tolist()]
        edge_number = {edge: place for place, edge in enumerate(edges)}
        steps = torch.full((len(sequences), longest), len(edges), dtype=torch.int64)
        tokens = torch.full_like(steps, -1)
        for item, sequence in enumerate(sequences):
            tokens[item, : len(sequence)] = torch.tensor(list(sequence), dtype=torch.int64)
            for place, token in enumerate(sequence):
                steps[item, place] = edge_number[number[tuple(sequence[:place])], token]
        self._items = {tuple(sequence): item for item, sequence in enumerate(sequences) if sequence}
        depth = torch.tensor([len(prefix) for prefix in number])
        ancestors = torch.zeros((len(number), longest), dtype=torch.int64)
        for prefix, node in number.items():
            for place in range(len(prefix) + 1):
                ancestors[node, place] = number[prefix[:place]]
        edge_node, edge_token = torch.tensor(edges).T.contiguous()
        leads = torch.tensor([prefix[-1] if prefix else start for prefix in number])
        values = {"token": leads, "depth": depth, "ancestors": ancestors, "sequences": tokens, "steps": steps}
        values |= {"edge_node": edge_node, "edge_token": edge_token}
        for name, value in values.items():
            self.register_buffer(name, value, persistent=False)

    def __len__(self) -> int:
        return len(self.token)

    def allowed_after(self, prefix: Sequence[int]) -> list[int]:
        """Tokens that may follow a prefix; none after an item's end or outside the trie."""
        node = self._number.get(tuple(prefix))
        return [] if node is None else self._allowed[node]

    def item_of(self, tokens: Sequence[int]) -> int:
        """The item whose whole sequence some tokens are; 0 where there is none."""
        return self._items.get(tuple(tokens), 0)

    @property
    def prefixes(self) -> Prefixes:
        """The nodes."""
        return Prefixes(self.token, self.depth, self.ancestors)

    def chains(self, items: torch.Tensor) -> Prefixes:
        """The prefixes of a few items ``(B, C)`` a row, each item's by itself: ``M = C D``."""
        count, longest = items.shape[1], self.ancestors.shape[1]
        place = torch.arange(longest, device=items.device)
        start = self.token[:1].expand(len(self.sequences), 1)
        before = torch.cat([start, self.sequences[:, :-1].clamp(min=0)], dim=1)
        first = torch.arange(0, count * longest, longest, device=items.device)
        ancestors = first[:, None, None] + torch.minimum(place[:, None], place)
        return Prefixes(before[items].flatten(1), place.repeat(count), ancestors.flatten(0, 1))

    def score_items(
        self, hidden: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor], block: int
    ) -> torch.Tensor:
        """``(B, N)`` log-probability of each item's whole sequence; that of item 0 is ``-inf``.

        Args:
            hidden: ``(B, M, d)`` decoder states at the nodes.
            logits: from states ``(n, d)`` to logits ``(n, V)``.
            block: rows of logits held at once.
        """
        rows, nodes, _ = hidden.shape
        values = hidden.new_zeros((rows, len(self.edge_node)), dtype=torch.float32)
        per = max(1, block // rows)
        for begin in range(0, nodes, per):
            piece = logits(hidden[:, begin : begin + per].reshape(-1, hidden.shape[2])).float()
            piece = piece.log_softmax(dim=-1).view(rows, -1, piece.shape[-1])
            first, last = self._edge_begin[begin], self._edge_begin[min(begin + per, nodes)]
            values[:, first:last] = piece[:, self.edge_node[first:last] - begin, self.edge_token[first:last]]
        values = torch.cat([values, values.new_zeros(rows, 1)], dim=1)
        scores = values[:, self.steps[:, 0]]
        for place in range(1, self.steps.shape[1]):
            scores = scores + values[:, self.steps[:, place]]
        scores[:, 0] = -torch.inf
        return scores

    def score_chains(
        self, hidden: torch.Tensor, items: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor], block: int
    ) -> torch.Tensor:
        """``(B, C)`` log-probability of each listed item's whole sequence.

        Args:
            hidden: ``(B, C D, d)`` decoder states at the prefixes of :meth:`chains`.
            items: ``(B, C)``, none of them item 0.
            logits, block: as for :meth:`score_items`.
        """
        tokens = self.sequences[items]
        wanted, states = tokens.flatten(), hidden.flatten(0, 1)
        parts = zip(states.split(block), wanted.clamp(min=0).split(block), strict=True)
        found = torch.cat([logits(s).float().log_softmax(dim=-1).gather(1, w[:, None])[:, 0] for s, w in parts])
        return (found * (wanted >= 0)).view(tokens.shape).sum(dim=2)
