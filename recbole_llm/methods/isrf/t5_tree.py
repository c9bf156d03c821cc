"""T5's decoder over many prefixes at once, with the weights of a transformers model.

Every prefix attends to its own beginnings alone, so that in a trie what items share is computed once; cross-attention's
keys and values are made once a row instead of once a prefix. For scoring: without dropout, in evaluation mode.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from recbole_llm.methods.isrf.trie import Prefixes


def decode_tree(t5: Any, encoded: torch.Tensor, mask: torch.Tensor, prefixes: Prefixes) -> torch.Tensor:
    """Decoder states ``(B, M, d)`` at all prefixes, ready for the output layer.

    Args:
        t5: ``T5ForConditionalGeneration``.
        encoded: ``(B, T, d)`` encoder states.
        mask: ``(B, T)`` bool, true at tokens.
        prefixes: of a trie, or of listed items.
    """
    decoder = t5.decoder
    hidden = t5.get_input_embeddings()(prefixes.token).expand(len(encoded), -1, -1).to(encoded.dtype)
    ancestors = prefixes.ancestors
    bias = _depth_bias(decoder.block[0].layer[0].SelfAttention, prefixes.depth, ancestors.shape[1])
    bias = bias.masked_fill(~prefixes.visible()[:, None, :], -torch.inf)
    for block in decoder.block:
        attention, cross, feed_forward = block.layer
        normed = attention.layer_norm(hidden)
        hidden = hidden + _to_ancestors(attention.SelfAttention, normed, ancestors, bias)
        normed = cross.layer_norm(hidden)
        hidden = hidden + _to_encoder(cross.EncDecAttention, normed, encoded, mask)
        hidden = feed_forward(hidden)
    return scaled(t5, decoder.final_layer_norm(hidden))


def scaled(t5: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Decoder states as the output layer takes them: T5 with tied embeddings scales them down."""
    wanted = getattr(t5.config, "scale_decoder_outputs", t5.config.tie_word_embeddings)
    return hidden * t5.model_dim**-0.5 if wanted else hidden


def _depth_bias(attention: Any, depth: torch.Tensor, longest: int) -> torch.Tensor:
    """``(M, heads, D)`` relative-position bias from a node to its ancestors, which stand at depths 0 to D - 1."""
    relative = torch.arange(longest, device=depth.device) - depth[:, None]
    bucket = attention._relative_position_bucket(
        relative,
        bidirectional=False,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    bias: torch.Tensor = attention.relative_attention_bias(bucket).transpose(1, 2)
    return bias


def _heads(values: torch.Tensor, attention: Any) -> torch.Tensor:
    return values.unflatten(-1, (attention.n_heads, -1))


def _to_ancestors(attention: Any, hidden: torch.Tensor, ancestors: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    query, key, value = (_heads(layer(hidden), attention) for layer in (attention.q, attention.k, attention.v))
    # One ancestor at a time: products of single rows are no work for a matrix library.
    places = ancestors.unbind(1)
    scores = torch.stack([(query * key[:, place]).sum(dim=-1) for place in places], dim=-1) + bias  # (B, M, h, D)
    weights = scores.float().softmax(dim=-1).to(value.dtype)[..., None, :]
    mixed = weights[..., 0] * value[:, places[0]]  # (B, M, h, e)
    for number, place in enumerate(places[1:], start=1):
        mixed = torch.addcmul(mixed, weights[..., number], value[:, place])
    result: torch.Tensor = attention.o(mixed.flatten(2))
    return result


def _to_encoder(attention: Any, hidden: torch.Tensor, encoded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    query, key, value = (
        _heads(layer(states), attention).transpose(1, 2)
        for layer, states in ((attention.q, hidden), (attention.k, encoded), (attention.v, encoded))
    )
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :], scale=1.0)
    result: torch.Tensor = attention.o(mixed.transpose(1, 2).flatten(2))
    return result
