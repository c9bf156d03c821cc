"""LLM-DMsRec (arXiv 2507.20147) over SR-GNN against the paper's equations, row by row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.experiments.prepared import Prepared
from recbole_llm.methods.llmdmsrec.features import INTENT_COLUMNS
from recbole_llm.methods.llmdmsrec.model import ALIGNMENTS, LLMDMsRec
from tests.helpers import prepare
from tests.methods.gated_graph import Weights, gated_graph, sigmoid


def with_intents(prepared: Prepared, rows: list[tuple[str, int, list[int], list[int]]]) -> Any:
    """A new model that reads hand-written intents."""
    features = prepared.dataset.semantics
    features.folder.write("intent", INTENT_COLUMNS, rows)
    torch.manual_seed(1)
    return LLMDMsRec(prepared.config, prepared.train_part)


def first_cases(prepared: Prepared, count: int) -> tuple[Any, list[tuple[str, int]]]:
    """A batch of test cases, and the (user, position) keys of its rows."""
    loader = prepared.eval_loader("test")
    chosen = np.arange(count)
    table, cases = prepared.dataset.table, loader.cases
    users = cases.user[chosen]
    keys = zip(table.user_tokens[users].tolist(), (cases.end[chosen] - table.offsets[users]).tolist(), strict=True)
    return loader.batch(chosen), list(keys)


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total + 1e-8 for value in values]


def divergence(p: list[float], q: list[float]) -> float:
    """``KL(softmax(p) || softmax(q))``, with 1e-8 added to both as in the released code."""
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(softmax(p), softmax(q), strict=True))


def structural_intent(weights: Weights, session: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """``g`` and ``h_t`` of SR-GNN (AAAI 2019) for one session."""
    states = gated_graph(weights, session, steps=1)
    last = states[-1]
    query = last @ weights["linear_one.weight"].T + weights["linear_one.bias"]
    keys = states @ weights["linear_two.weight"].T + weights["linear_two.bias"]
    alpha = sigmoid(query + keys) @ weights["linear_three.weight"].T
    return (alpha * states).sum(axis=0), last


class ByHand:
    """The paper's equations for one row of a batch, from the model's weights."""

    def __init__(self, prepared: Prepared, model: Any, batch: Any, row: int, explicit: list[int], latent: list[int]):
        weights = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
        backbone = {name.removeprefix("backbone."): value for name, value in weights.items()}
        backbone["item_embedding.weight"] = model.item_embedding.weight.detach().double().numpy()
        session = batch["item_id_list"][row][: int(batch["item_length"][row])].tolist()
        texts = prepared.dataset.semantics.text_vectors().double().numpy()
        self.g, self.last = structural_intent(backbone, session)
        w, b = weights["project.weight"], weights["project.bias"]
        self.x = texts[explicit or latent].mean(axis=0) @ w.T + b
        self.y = texts[latent or explicit].mean(axis=0) @ w.T + b
        joined = np.concatenate([self.g, self.last, self.x, self.y])
        self.z = weights["readout.weight"] @ joined + weights["readout.bias"]
        self.scores = backbone["item_embedding.weight"] @ self.z
        target = int(batch["item_id"][row])
        self.cross_entropy = math.log(np.exp(self.scores).sum()) - self.scores[target]
        self.alignment = sum(divergence(self.g.tolist(), v.tolist()) for v in (self.x, self.y))


@pytest.fixture
def small(featured: Path) -> Prepared:
    """A four-dimensional model without dropout."""
    return prepare("LLMDMsRec", epochs=1, embedding_size=4, semantic_dropout=0.0, sigma=0.3)


LISTS = [([0, 3], [5]), ([1], [2, 7, 9]), ([4], []), ([], [6, 8])]


def by_hand(small: Prepared) -> tuple[Any, Any, list[ByHand]]:
    """A model with hand-written intents, a batch, and the equations' values for its rows."""
    batch, keys = first_cases(small, len(LISTS))
    rows = [(*key, *lists) for key, lists in zip(keys, LISTS, strict=True)]
    model = with_intents(small, rows)
    return model, batch, [ByHand(small, model, batch, row, *lists) for row, lists in enumerate(LISTS)]


def test_z_is_the_papers(small: Prepared) -> None:
    model, batch, wanted = by_hand(small)
    z, *_ = model.eval().forward(batch)
    np.testing.assert_allclose(z.detach().numpy(), [case.z for case in wanted], rtol=1e-4, atol=1e-6)


def test_scores_are_z_times_the_item_embeddings(small: Prepared) -> None:
    model, batch, wanted = by_hand(small)
    scores = model.eval().full_sort_predict(batch)
    np.testing.assert_allclose(scores.detach().numpy(), [case.scores for case in wanted], rtol=1e-4, atol=1e-6)


def test_the_alignment_is_the_papers(small: Prepared) -> None:
    model, batch, wanted = by_hand(small)
    *_, alignment = model.train().forward(batch)
    assert float(alignment) == pytest.approx(np.mean([case.alignment for case in wanted]), rel=1e-3)
    assert float(alignment) > 0


def test_the_loss_is_cross_entropy_plus_sigma_times_the_alignment(small: Prepared) -> None:
    model, batch, wanted = by_hand(small)
    loss = model.train().calculate_loss(batch)
    expected = np.mean([case.cross_entropy + 0.3 * case.alignment for case in wanted])
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_alignment_is_no_part_of_scoring(small: Prepared) -> None:
    model, batch, _ = by_hand(small)
    assert float(model.eval().forward(batch)[2]) == 0.0


def test_dropout_is_on_the_texts_before_their_projection(small: Prepared) -> None:
    model, batch, _ = by_hand(small)
    model.train().semantic_dropout.p = 1.0
    for projected in model.intents(batch)[:2]:
        torch.testing.assert_close(projected, model.project.bias.expand(len(LISTS), -1))


# ---- empty sets ---------------------------------------------------------------------------------


def test_an_empty_set_takes_the_others_vector(small: Prepared) -> None:
    model, batch, _ = by_hand(small)
    x, y, _ = model.eval().intents(batch)
    same = [bool(torch.equal(a, b)) for a, b in zip(x, y, strict=True)]
    assert same == [False, False, True, True]


def test_without_any_intent_both_vectors_are_zero(small: Prepared) -> None:
    batch, keys = first_cases(small, 2)
    model = with_intents(small, [(*keys[0], [1], [2])])
    x, y, known = model.eval().intents(batch)
    assert known.tolist() == [True, False]
    assert not x[1].any() and not y[1].any()
    assert x[0].any()


@pytest.mark.parametrize("align", ["kl", "contrastive", "infonce", "directau"])
def test_prefixes_without_any_intent_take_no_part_in_the_alignment(small: Prepared, align: str) -> None:
    batch, keys = first_cases(small, 3)
    model = with_intents(small, [(*keys[0], [1], [2]), (*keys[2], [3], [4])]).train()
    model.semantic_dropout.p, model.align = 0.0, ALIGNMENTS[align]
    _, session, found = model.forward(batch)
    g, (x, y, _) = session.vectors[:, : model.size], model.intents(batch)
    of_two = sum(ALIGNMENTS[align](g[[0, 2]], one[[0, 2]]) for one in (x, y))
    torch.testing.assert_close(found, of_two)
    nobody = with_intents(small, []).train()
    assert float(nobody.forward(batch)[2]) == 0.0
