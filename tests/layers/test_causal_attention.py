"""Computing only the last position of RecBole's transformer encoder."""

from __future__ import annotations

import pytest
import torch
from recbole.model.layers import TransformerEncoder

from recbole_llm.layers.causal_attention import encode_last

ROWS, LENGTH, SIZE = 9, 7, 16


def encoder(n_layers=2, n_heads=2, activation="gelu", dropout=0.0, epsilon=1e-12):
    torch.manual_seed(4)
    return TransformerEncoder(n_layers, n_heads, SIZE, 24, dropout, dropout, activation, epsilon)


def inputs():
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(ROWS, LENGTH, SIZE, generator=generator)
    return hidden, torch.tensor([0, 1, 2, 3, 4, 5, 6, 6, 0])


def causal_mask(last):
    """RecBole's extended attention mask of a unidirectional model."""
    visible = torch.arange(LENGTH) <= last[:, None]
    mask = visible[:, None, None, :] & torch.ones(LENGTH, LENGTH).tril().bool()
    return torch.where(mask, 0.0, -10000.0)


def recbole_s(module, hidden, last):
    output = module(hidden, causal_mask(last), output_all_encoded_layers=True)[-1]
    return output[torch.arange(len(last)), last]


def gradients(function, module, hidden, last):
    module.zero_grad()
    hidden = hidden.clone().requires_grad_()
    output = function(module, hidden, last)
    output.square().sum().backward()
    return output.detach(), hidden.grad, [parameter.grad.clone() for parameter in module.parameters()]


def ours(module, hidden, last):
    return encode_last(module.layer, hidden, last)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("n_heads", [1, 4])
@pytest.mark.parametrize("activation", ["gelu", "relu", "swish", "tanh"])
def test_output_and_gradients_are_recbole_s(n_layers, n_heads, activation):
    module, (hidden, last) = encoder(n_layers, n_heads, activation), inputs()
    one, other = (gradients(function, module, hidden, last) for function in (ours, recbole_s))
    assert torch.allclose(one[0], other[0], atol=1e-5)
    assert torch.allclose(one[1], other[1], atol=1e-4)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(one[2], other[2], strict=True))


def test_what_follows_the_last_position_changes_nothing():
    module, (hidden, last) = encoder(), inputs()
    changed = torch.where(torch.arange(LENGTH)[None, :, None] > last[:, None, None], 9.0, hidden)
    assert torch.allclose(ours(module, hidden, last), ours(module, changed, last), atol=1e-6)


def test_what_precedes_the_last_position_matters():
    module, (hidden, last) = encoder(), inputs()
    changed = hidden.clone()
    changed[:, 0] += 1.0
    assert not torch.allclose(ours(module, hidden, last)[3:7], ours(module, changed, last)[3:7], atol=1e-3)


def test_evaluation_drops_nothing():
    module, (hidden, last) = encoder(dropout=0.5).eval(), inputs()
    assert torch.allclose(ours(module, hidden, last), recbole_s(module, hidden, last), atol=1e-5)


def test_training_drops_at_random():
    module, (hidden, last) = encoder(dropout=0.5).train(), inputs()
    assert not torch.allclose(ours(module, hidden, last), ours(module, hidden, last))


def test_dropout_keeps_the_expectation():
    torch.manual_seed(6)
    module = encoder(n_layers=1, dropout=0.0)
    module.layer[0].multi_head_attention.attn_dropout.p = 0.5
    hidden, last = inputs()
    attention = module.layer[0].multi_head_attention
    attention.LayerNorm = torch.nn.Identity()  # makes outputs linear in the attention weights, so means are comparable
    from recbole_llm.layers.causal_attention import _attention, _last_attention

    for part in (_attention, lambda m, h: _last_attention(m, h, last)):
        with torch.no_grad():
            expected = part(attention.eval(), hidden)
            drawn = torch.stack([part(attention.train(), hidden) for _ in range(4000)])
        error = (drawn.mean(0) - expected).abs() / (drawn.std(0) / 4000**0.5 + 1e-9)
        assert drawn.std(0).max() > 1e-3
        assert error.max() < 6
