"""Prompts of user and item ids (P5, POD and their family), tokenised once and assembled on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from recbole_llm.layers.packing import TokenTable, join_pieces

Tokenise = Callable[[list[str]], list[list[int]]]
PLAIN = "{user} {items}"  # the only template of validation and test
SEQUENCE_TEMPLATES = (
    PLAIN,
    "Given the interactions of {user}: {items}, predict the next item.",
    "{user} has interacted with {items} one after another. What comes next?",
    "After {items}, which item will {user} choose?",
    "Here is the history of {user}: {items}. Recommend the next item.",
    "The items {items} were chosen by {user}, in this order. Continue.",
    "What would {user} like next, having taken {items}?",
    "Predict what follows {items} for {user}.",
)
DIRECT_TEMPLATES = (
    PLAIN,
    "Which item of the list would {user} choose? {items}",
    "Recommend to {user} one of {items}.",
    "Pick the item that suits {user} best from {items}.",
    "Among {items}, one will be chosen by {user}. Which?",
)


class IdPromptBatch(NamedTuple):
    """Prompts of ``B`` rows.

    Attributes:
        ids: ``(B, T)`` token ids.
        mask: ``(B, T)`` bool.
        ordinal: ``(B, T)`` 1 for the user's tokens, 2, 3, ... for the tokens of each item in turn, 0 for other tokens.
        node: ``(B, T)`` graph node of a token's id: ``u`` for users, ``n_users + i`` for items, 0 elsewhere.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    ordinal: torch.Tensor
    node: torch.Tensor


class IdPrompt(nn.Module):
    """``user_{u} item_{i1} item_{i2} ...`` and its paraphrases as token ids, with whole-word indices.

    Args:
        tokenise: from texts to token ids, without special tokens.
        users, items: tokens of each id, none for id 0; shared by the prompts of both tasks.
        templates: texts with ``{user}`` and ``{items}``, the plain one first.
    """

    def __init__(self, tokenise: Tokenise, users: TokenTable, items: TokenTable, templates: Sequence[str]) -> None:
        super().__init__()
        self.users, self.items = users, items
        self.n_users = len(users.lengths)
        pieces: list[str] = []
        self._orders: list[list[str]] = []
        for template in templates:
            order = []
            for part in template.replace("{", "\0{").replace("}", "}\0").split("\0"):
                if part in ("{user}", "{items}"):
                    order.append(part)
                elif part.strip():
                    order.append(str(len(pieces)))
                    pieces.append(part.strip())
            self._orders.append(order)
        self.fixed = TokenTable(tokenise(pieces) if pieces else [])

    def __len__(self) -> int:
        return len(self._orders)

    def forward(self, user: torch.Tensor, items: torch.Tensor, template: int = 0) -> IdPromptBatch:
        """The prompts of a batch.

        Args:
            user: ``(B,)`` user ids.
            items: ``(B, S)`` item ids; 0 is left out.
            template: number of the template.
        """
        rows = len(user)
        zero = user.new_zeros(rows, 1)
        parts, ordinals, nodes = [], [], []
        for name in self._orders[template]:
            if name == "{user}":
                parts.append(self.users(user[:, None]))
                ordinals.append(torch.ones_like(zero))
                nodes.append(user[:, None])
            elif name == "{items}":
                parts.append(self.items(items))
                ordinals.append((torch.arange(items.shape[1], device=items.device) + 2).expand(rows, -1))
                nodes.append(items + self.n_users)
            else:
                parts.append(self.fixed(torch.full_like(zero, int(name))))
                ordinals.append(zero)
                nodes.append(zero)
        packed = join_pieces(parts)
        ordinal, node = (torch.cat([*values, zero], dim=1).gather(1, packed.piece) for values in (ordinals, nodes))
        return IdPromptBatch(packed.ids, packed.mask, ordinal, node)
