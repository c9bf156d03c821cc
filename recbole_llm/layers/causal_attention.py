"""Causal attention; RecBole's post-norm transformer encoder, computing only what a next-item model reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_llm.layers.dropout import dropout


def heads_of(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """``(B, L, H)`` to ``(B, heads, L, H / heads)``."""
    batch, length, size = projected.shape
    return projected.view(batch, length, heads, size // heads).transpose(1, 2)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, p: float, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention ``(B, heads, Q, d)``.

    On a CPU, torch has no fused kernel for attention with dropout and draws its mask slowly, so it is done here.

    Args:
        query: ``(B, heads, Q, d)``.
        key, value: ``(B, heads, L, d)``.
        p: dropout of the weights.
        visible: bool, positions that are seen, broadcast to ``(B, heads, Q, L)``; ``None``: those up to the query's.
    """
    if not p or query.device.type != "cpu":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, dropout_p=p, is_causal=visible is None
        )
    if visible is None:
        visible = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return dropout(scores.masked_fill_(~visible, float("-inf")).softmax(-1), p) @ value


class SelfAttention(nn.Module):
    """Causal softmax attention with several heads, without norm and residual.

    Args:
        size: ``d``.
        heads: number of heads.
        dropout: of attention weights.
    """

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, L, d)`` to ``(B, L, d)``; a position sees itself and those before it."""
        query, key, value = (heads_of(part(x), self.heads) for part in (self.query, self.key, self.value))
        seen = attend(query, key, value, self.dropout if self.training else 0.0)
        return self.out(seen.transpose(1, 2).reshape(x.shape))


def _weight_dropout(module: Any) -> float:
    return float(module.attn_dropout.p) if module.training else 0.0


def _gelu_of(feed_forward: Any) -> Any:
    """The activation; RecBole's ``gelu`` is the exact one, for which torch has a kernel."""
    activation = feed_forward.intermediate_act_fn
    return F.gelu if getattr(activation, "__name__", "") == "gelu" else activation


def _feed_forward(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    inner = module.dense_2(_gelu_of(module)(module.dense_1(hidden)))
    return module.LayerNorm(module.dropout(inner) + hidden)


def _attention(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Causal self-attention of every position."""
    heads = module.num_attention_heads
    query, key, value = (heads_of(part(hidden), heads) for part in (module.query, module.key, module.value))
    context = attend(query, key, value, _weight_dropout(module))
    context = context.transpose(1, 2).reshape(hidden.shape)
    return module.LayerNorm(module.out_dropout(module.dense(context)) + hidden)


def _last_attention(module: Any, hidden: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Attention of one position per row, ``(B, H)``; keys after it are masked."""
    heads, (batch, length, size) = module.num_attention_heads, hidden.shape
    row = torch.arange(batch, device=hidden.device)
    query_input = hidden[row, last]
    query = module.query(query_input).view(batch, heads, 1, size // heads)
    visible = torch.arange(length, device=hidden.device) <= last[:, None]
    key, value = (heads_of(part(hidden), heads) for part in (module.key, module.value))
    seen = attend(query, key, value, _weight_dropout(module), visible[:, None, None, :])
    context = seen.reshape(batch, size)
    return module.LayerNorm(module.out_dropout(module.dense(context)) + query_input)


def encode_all(layers: Iterable[nn.Module], hidden: torch.Tensor) -> torch.Tensor:
    """Output of RecBole's ``TransformerEncoder`` at every position, ``(B, L, H)``; padding comes after the items.

    Args:
        layers: ``TransformerEncoder.layer``, or some of it.
        hidden: ``(B, L, H)`` inputs, left-aligned.
    """
    layer: Any
    for layer in layers:
        hidden = _feed_forward(layer.feed_forward, _attention(layer.multi_head_attention, hidden))
    return hidden


def encode_last(layers: nn.ModuleList, hidden: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Output of RecBole's ``TransformerEncoder`` at one position of each row.

    The last layer computes keys and values of all positions, and everything else for one position. Positions past
    ``last`` hold other numbers than RecBole's; nothing reads them.

    Args:
        layers: ``TransformerEncoder.layer``.
        hidden: ``(B, L, H)`` inputs, left-aligned.
        last: ``(B,)`` int64 position wanted; everything up to it is visible.

    Returns:
        ``(B, H)``.
    """
    hidden = encode_all(list(layers)[:-1], hidden)
    final: Any = layers[-1]
    return _feed_forward(final.feed_forward, _last_attention(final.multi_head_attention, hidden, last))
