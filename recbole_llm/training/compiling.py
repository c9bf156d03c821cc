"""``compile``: torch.compile over the layers of a model, by a key."""

from __future__ import annotations

from torch import nn

# A look-up gains nothing, and torch does not trace recurrent layers.
_LEFT_OUT = (nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.Dropout, nn.LayerNorm)


def compile_layers(model: nn.Module, mode: str) -> list[str]:
    """Compile the layers that stand directly in ``model``, in place; parameters and their names stay.

    Whole models are not compiled: between their layers they group rows by length and read sizes back, which
    would break the graph. Shapes vary from batch to batch, so they are dynamic.

    Args:
        model: whose children are compiled, those with parameters of their own.
        mode: ``default``, or ``reduce-overhead`` (CUDA graphs on a GPU).

    Returns:
        Names of the compiled layers.
    """
    chosen = {
        name: layer
        for name, layer in model.named_children()
        if not isinstance(layer, _LEFT_OUT) and any(True for _ in layer.parameters())
    }
    for layer in chosen.values():
        layer.compile(dynamic=True, mode=mode)
    return list(chosen)
