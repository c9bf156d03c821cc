"""Item embeddings that are initialised from vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.layers.text_projection import pca
from recbole_llm.registry import find_method
from recbole_llm.reporting.grouping import kind_of
from tests.features.test_vectors import IDS, as_npy, matrix_of
from tests.helpers import layered, make_run, prepare, runner

SMALL: dict[str, Any] = {"hidden_size": 16, "inner_size": 24, "n_layers": 1}


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "NARM", "eSASRec", "BERT4Rec"])
def test_embeddings_are_the_principal_components_at_the_scale_of_the_model(tiny: Path, model: str) -> None:
    known = {"hidden_size", "inner_size", "n_layers"} & set(layered(model).values)
    sizes = {key: SMALL[key] for key in known} | (
        {"embedding_size": 16} if "embedding_size" in layered(model).values else {}
    )
    as_npy(Path("v.npy"), matrix_of(size=20)[:40], IDS[:40])
    plain = prepare(model, **sizes).model.item_embedding.weight
    prepared = prepare(model, init="vectors", vectors=["v.npy"], **sizes)
    weight = prepared.model.item_embedding.weight
    tokens = prepared.dataset.table.item_tokens.tolist()
    rows = [number for number, token in enumerate(tokens) if token in IDS[:40]]
    others = [number for number in range(len(plain)) if number not in rows]
    assert torch.equal(weight[others], plain[others])
    components = pca(torch.from_numpy(np.stack([matrix_of(size=20)[IDS.index(tokens[row])] for row in rows])), 16)
    ratio = weight[rows] / components
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(weight[rows].std(), plain[1 : len(tokens)].std(), rtol=1e-4, atol=1e-4)
    assert weight.requires_grad


def test_dimensions_that_the_vectors_do_not_span_stay_at_random(tiny: Path) -> None:
    as_npy(Path("v.npy"), matrix_of(size=6))
    plain = prepare("SASRec", **SMALL).model.item_embedding.weight
    weight = prepare("SASRec", init="vectors", vectors=["v.npy"], **SMALL).model.item_embedding.weight
    assert torch.equal(weight[:, 6:], plain[:, 6:])
    assert not torch.isclose(weight[1:, :6], plain[1:, :6]).any(dim=0).all()


def test_vectors_that_are_all_the_same_are_refused(tiny: Path) -> None:
    as_npy(Path("v.npy"), np.eye(49, 6, k=-48), [*IDS, "elsewhere"])
    with pytest.raises(UserError, match=r"init: vectors: all .* known vectors are the same"):
        prepare("SASRec", init="vectors", vectors=["v.npy"], **SMALL)


def test_nothing_else_of_the_start_changes(tiny: Path) -> None:
    plain, started = prepare("SASRec", **SMALL).model, prepare("SASRec", init="vectors", **SMALL).model
    other = dict(started.named_parameters())
    same = [name for name, parameter in plain.named_parameters() if torch.equal(parameter, other[name])]
    assert set(other) - set(same) == {"item_embedding.weight"}


def test_a_row_says_that_it_read_texts(tiny: Path) -> None:
    record = runner().run(make_run("SASRec", init="vectors", epochs=1, **SMALL))
    assert (record.semantics, record.label, kind_of(record)) == ("text", "SASRec (text)", "control")
    assert record.key != make_run("SASRec", epochs=1, **SMALL).key
    none = make_run("SASRec", init="vectors", semantics="none", epochs=1, **SMALL)
    assert runner().run(none).metrics == runner().run(make_run("SASRec", epochs=1, **SMALL)).metrics


def test_a_method_keeps_its_own_features_beside_the_texts() -> None:
    assert layered("EIMF", init="vectors").method.features == (*find_method("EIMF").features, "itemtext")
    settings = layered("SASRecF", init="vectors", selected_features=["class"])
    assert (settings.method.features, settings["semantics"]) == (("itemtext",), "text")


@pytest.mark.parametrize("model", ["Pop", "BPR", "LightGCN"])
def test_it_is_for_sequential_models(model: str) -> None:
    with pytest.raises(UserError, match=f"init=vectors needs a sequential model, and {model} is not one"):
        layered(model, init="vectors")


@pytest.mark.parametrize("model", ["SASRecText", "MarkovChain"])
def test_a_model_without_embeddings_of_items_is_refused(tiny: Path, model: str) -> None:
    with pytest.raises(UserError, match=f"{model} has no embeddings of items"):
        prepare(model, init="vectors")
