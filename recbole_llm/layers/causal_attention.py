"""RecBole's post-norm transformer encoder, computing only what a next-item model reads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from recbole_llm.layers.dropout import dropout


def _heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """``(B, L, H)`` to ``(B, heads, L, H / heads)``."""
    batch, length, size = projected.shape
    return projected.view(batch, length, heads, size // heads).transpose(1, 2)


def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention ``(B, heads, Q, d)`` to the positions that ``visible`` (broadcast) allows; without it, causal.

    With dropout torch has no fused kernel on a CPU, and draws its mask slowly.
    """
    p = module.attn_dropout.p if module.training else 0.0
    if not p or query.device.type != "cpu":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, dropout_p=p, is_causal=visible is None
        )
    if visible is None:
        visible = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return dropout(scores.masked_fill_(~visible, float("-inf")).softmax(-1), p) @ value


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
    context = _attend(
        module,
        _heads(module.query(hidden), heads),
        _heads(module.key(hidden), heads),
        _heads(module.value(hidden), heads),
    )
    context = context.transpose(1, 2).reshape(hidden.shape)
    return module.LayerNorm(module.out_dropout(module.dense(context)) + hidden)


def _last_attention(module: Any, hidden: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Attention of one position a row, ``(B, H)``; keys after it are masked."""
    heads, (batch, length, size) = module.num_attention_heads, hidden.shape
    row = torch.arange(batch, device=hidden.device)
    query_input = hidden[row, last]
    query = module.query(query_input).view(batch, heads, 1, size // heads)
    visible = torch.arange(length, device=hidden.device) <= last[:, None]
    context = _attend(
        module, query, _heads(module.key(hidden), heads), _heads(module.value(hidden), heads), visible[:, None, None, :]
    ).reshape(batch, size)
    return module.LayerNorm(module.out_dropout(module.dense(context)) + query_input)


def encode_last(layers: nn.ModuleList, hidden: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Output of RecBole's ``TransformerEncoder`` at one position of each row.

    The last layer computes keys and values of all positions, and everything else of one. Positions past
    ``last`` hold other numbers than RecBole's; nothing reads them.

    Args:
        layers: ``TransformerEncoder.layer``.
        hidden: ``(B, L, H)`` inputs, left-aligned.
        last: ``(B,)`` int64 position wanted; everything up to it is visible.

    Returns:
        ``(B, H)``.
    """
    for layer in list(layers)[:-1]:
        hidden = _feed_forward(layer.feed_forward, _attention(layer.multi_head_attention, hidden))
    final: Any = layers[-1]
    return _feed_forward(final.feed_forward, _last_attention(final.multi_head_attention, hidden, last))
