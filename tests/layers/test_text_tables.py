"""Dimension reduction of text vectors, and item embeddings made from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_llm.layers import text_projection
from recbole_llm.layers.text_projection import ProjectedTexts, pca, zca
from recbole_llm.methods.baselines.sasrectext import TextItemEmbedding

VECTORS = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))


def test_principal_components_are_those_of_scikit_learn() -> None:
    expected = torch.from_numpy(PCA(5, svd_solver="full").fit_transform(VECTORS.numpy()))
    found = pca(VECTORS, 5)
    torch.testing.assert_close(found.abs(), expected.abs(), rtol=1e-3, atol=1e-4)


def test_the_largest_entry_of_each_axis_is_positive() -> None:
    """The sign of a component is arbitrary, and libraries differ in it."""
    centred = VECTORS - VECTORS.mean(dim=0)
    axes = torch.linalg.lstsq(centred, pca(VECTORS, 12)).solution.T
    torch.testing.assert_close(axes @ axes.T, torch.eye(12), rtol=1e-3, atol=1e-3)
    assert bool((axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)) > 0).all())


class LargestDouble(TorchDispatchMode):
    """Notes the most rows of a tensor in double precision."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(each, torch.Tensor) and each.dtype == torch.float64 and each.dim() == 2:
                self.rows = max(self.rows, len(each))
        return found


@pytest.mark.parametrize("project", [lambda vectors: pca(vectors, 5), zca])
def test_blocks_of_vectors_give_what_all_at_once_give(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(500, 12, generator=torch.Generator().manual_seed(1)) + 0.5
    whole = project(vectors)
    monkeypatch.setattr(text_projection, "BLOCK", 30)
    with LargestDouble() as largest:
        torch.testing.assert_close(project(vectors), whole, rtol=1e-6, atol=1e-6)
    assert largest.rows <= 2 * 30


def test_fewer_texts_than_components_give_fewer() -> None:
    assert pca(VECTORS[:4], 10).shape == (4, 4)


@pytest.mark.parametrize(
    ("projection", "trainable", "learned"),
    [
        ("pca", False, 0),
        ("pca", True, 30 * 5),
        ("linear", False, 12 * 5 + 5),
        ("linear", True, 30 * 12 + 12 * 5 + 5),
        ("random", True, 30 * 5),
    ],
)
def test_what_is_learned_is_what_is_said(projection: str, trainable: bool, learned: int) -> None:
    module = ProjectedTexts(VECTORS, 5, projection, trainable)
    assert sum(p.numel() for p in module.parameters()) == learned
    assert module(torch.tensor([3, 3, 1])).shape == (3, 5)
    torch.testing.assert_close(module()[4], module(torch.tensor([4]))[0])


def test_noise_is_kept_with_the_weights_and_text_is_not() -> None:
    assert list(ProjectedTexts(VECTORS, 5, "random").state_dict()) == ["table"]
    assert not ProjectedTexts(VECTORS, 5, "pca").state_dict()


def test_an_unknown_projection_is_refused() -> None:
    with pytest.raises(ValueError, match="text_proj"):
        ProjectedTexts(VECTORS, 5, "umap")


@pytest.mark.parametrize("adaptor", ["linear", "mlp"])
@pytest.mark.parametrize("with_ids", [False, True])
def test_text_embeddings_stand_where_id_embeddings_do(adaptor: str, with_ids: bool) -> None:
    module = TextItemEmbedding(VECTORS, 4, adaptor, with_ids, 0.02)
    ids = torch.tensor([[1, 2, 0], [5, 0, 0]])
    torch.testing.assert_close(module(ids), module.weight[ids])
    assert not module.weight[0].any()
    assert isinstance(module.ids, nn.Embedding) == with_ids
    assert "texts" not in module.state_dict()


def test_the_table_is_made_once_inside_and_anew_outside() -> None:
    module = TextItemEmbedding(VECTORS, 4, "mlp", False, 0.02)
    with module.made_once():
        first = module.weight
        assert module.weight is first
    assert module.weight is not first
    torch.testing.assert_close(module.weight, first)
