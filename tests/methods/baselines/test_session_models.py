"""TAGNN (arXiv 2005.02844) and GCE-GNN (arXiv 2106.05081) against their equations, session by session.

The references here work on one session at a time, node by node and item by item; they share no code with the models.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.experiments.prepared import Prepared
from recbole_llm.training.loaders import training_loader
from tests.helpers import prepare
from tests.methods.gated_graph import Weights, gated_graph, sigmoid

SIZE = {"embedding_size": 4, "epochs": 1, "MAX_ITEM_LIST_LENGTH": 6}


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def leaky(x: Any, slope: float = 0.2) -> Any:
    return np.where(x > 0, x, slope * x)


def weights_of(model: Any) -> Weights:
    return {name: value.detach().double().numpy() for name, value in model.named_parameters()}


def sessions_of(batch: Any) -> list[list[int]]:
    return [
        row[:length].tolist() for row, length in zip(batch["item_id_list"], batch["item_length"].tolist(), strict=True)
    ]


def cases(prepared: Prepared) -> Any:
    """All test cases, with histories made to repeat items and to walk an edge both ways."""
    batch = prepared.eval_loader("test").batch(np.arange(len(prepared.dataset.split.test)))
    items, lengths = batch["item_id_list"].clone(), batch["item_length"]
    for row, length in enumerate(lengths.tolist()):
        if length >= 4 and row % 3:
            items[row, 2] = items[row, 0]
        if length >= 6 and row % 3 == 2:
            items[row, 5] = items[row, 4]
    batch["item_id_list"] = items
    return batch


def check(prepared: Prepared, reference: Any) -> None:
    """Scores of all items, scores of single items and the loss are the reference's."""
    model, batch = prepared.model.double().eval(), cases(prepared)
    weights = weights_of(model)
    wanted = np.array([reference(weights, session) for session in sessions_of(batch)])
    with torch.no_grad():
        np.testing.assert_allclose(model.full_sort_predict(batch).numpy(), wanted, rtol=1e-9, atol=1e-12)
        target = batch["item_id"].numpy()
        own = wanted[np.arange(len(wanted)), target]
        np.testing.assert_allclose(model.predict(batch).numpy(), own, rtol=1e-9, atol=1e-12)
        loss = np.log(np.exp(wanted).sum(axis=1)) - own
        assert float(model.calculate_loss(batch)) == pytest.approx(loss.mean(), rel=1e-6)


# ---- TAGNN --------------------------------------------------------------------------------------


def tagnn(w: Weights, session: list[int], steps: int = 1) -> list[float]:
    """Scores of all items for one session."""
    v = gated_graph(w, session, steps)
    local = v[-1]
    energy = [
        w["query.weight"][0]
        @ sigmoid(w["last.weight"] @ local + w["last.bias"] + w["each.weight"] @ state + w["each.bias"])
        for state in v
    ]
    general = softmax(np.array(energy)) @ v
    fixed = w["readout.weight"] @ np.concatenate([general, local]) + w["readout.bias"]
    scores = []
    for item in w["item_embedding.weight"]:
        beta = softmax(np.array([item @ (w["target.weight"] @ state) for state in v]))
        scores.append((fixed + beta @ v) @ item)
    return scores


@pytest.mark.parametrize("steps", [1, 2])
def test_tagnn_is_its_papers_equations(tiny: Path, steps: int) -> None:
    prepared = prepare("TAGNN", step=steps, **SIZE)
    check(prepared, lambda weights, session: tagnn(weights, session, steps))


# ---- GCE-GNN ------------------------------------------------------------------------------------


def global_graph(prepared: Prepared, epsilon: int) -> Counter[tuple[int, int]]:
    """Weights of all pairs of items, place by place over the training sessions."""
    table, counts = prepared.dataset.table, Counter[tuple[int, int]]()
    rows = prepared.dataset.split.train_rows
    for user in np.unique(table.user[rows]):
        session = table.item[rows[table.user[rows] == user]].tolist()
        for i, one in enumerate(session):
            for j, other in enumerate(session):
                if i != j and abs(i - j) <= epsilon:
                    counts[one, other] += 1
    return counts


class GCEGNNByHand:
    """The equations, with the neighbours that the model keeps (their weights are checked apart)."""

    def __init__(self, model: Any, hops: int) -> None:
        self.neighbours = [
            [(int(j), float(x)) for j, x in zip(line, weights, strict=True) if x > 0]
            for line, weights in zip(model.neighbours, model.weights, strict=True)
        ]
        self.hops = hops

    def far(self, w: Weights, item: int, s: np.ndarray, hop: int) -> np.ndarray:
        """``h^g`` of an item after some hops."""
        if hop == 0:
            return w["item_embedding.weight"][item]
        name = f"hops.{hop - 1}"
        own, near = self.far(w, item, s, hop - 1), np.zeros(len(s))
        if self.neighbours[item]:
            vectors = [self.far(w, other, s, hop - 1) for other, _ in self.neighbours[item]]
            energy = [
                w[f"{name}.q_1.weight"][0] @ leaky(w[f"{name}.w_1.weight"] @ np.concatenate([s * vector, [weight]]))
                for vector, (_, weight) in zip(vectors, self.neighbours[item], strict=True)
            ]
            near = softmax(np.array(energy)) @ np.array(vectors)
        return np.maximum(w[f"{name}.w_2.weight"] @ np.concatenate([own, near]), 0)

    @staticmethod
    def near(w: Weights, session: list[int], item: int) -> np.ndarray:
        """``h^s`` of an item in its session."""
        steps, e = set(pairwise(session)), w["item_embedding.weight"]
        energy, vectors = [], []
        for other in sorted(set(session)):
            kinds = [other == item, (item, other) in steps, (other, item) in steps]
            if not any(kinds):
                continue
            relation = 0 if kinds[0] else 3 if kinds[1] and kinds[2] else 1 if kinds[1] else 2
            energy.append(leaky(w["relation"][relation] @ (e[item] * e[other])))
            vectors.append(e[other])
        return softmax(np.array(energy)) @ np.array(vectors)

    def __call__(self, w: Weights, session: list[int]) -> np.ndarray:
        """Scores of all items for one session."""
        e = w["item_embedding.weight"]
        s = e[session].mean(axis=0)
        h = np.array([self.far(w, item, s, self.hops) + self.near(w, session, item) for item in session])
        whole, total = h.mean(axis=0), np.zeros(len(s))
        for place, vector in enumerate(h):
            position = w["position_embedding.weight"][len(session) - 1 - place]
            z = np.tanh(w["w_3.weight"] @ np.concatenate([vector, position]) + w["w_3.bias"])
            gate = sigmoid(w["w_4.weight"] @ z + w["w_4.bias"] + w["w_5.weight"] @ whole)
            total += (w["q_2.weight"][0] @ gate) * vector
        return e @ total


@pytest.mark.parametrize(("hops", "neighbours"), [(1, 12), (2, 3), (0, 12)])
def test_gcegnn_is_its_papers_equations(tiny: Path, hops: int, neighbours: int) -> None:
    prepared = prepare("GCEGNN", n_hops=hops, n_neighbours=neighbours, **SIZE)
    check(prepared, GCEGNNByHand(prepared.model, hops))


@pytest.mark.parametrize(
    ("dropout", "level"), [("dropout_gcn", "far"), ("dropout_global", "far"), ("dropout_local", "near")]
)
def test_dropout_of_everything_leaves_the_other_level(tiny: Path, dropout: str, level: str) -> None:
    none = {"dropout_gcn": 0.0, "dropout_local": 0.0, "dropout_global": 0.0}
    prepared = prepare("GCEGNN", **SIZE, **{**none, dropout: 1.0})
    model, batch = prepared.model.double().train(), cases(prepared)
    by_hand = GCEGNNByHand(model, 1)
    setattr(by_hand, level, lambda w, *_: np.zeros(4))
    wanted = np.array([by_hand(weights_of(model), session) for session in sessions_of(batch)])
    with torch.no_grad():
        np.testing.assert_allclose(model.full_sort_predict(batch).numpy(), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("epsilon", [1, 3])
def test_the_global_graph_counts_training_sessions_alone(tiny: Path, epsilon: int) -> None:
    prepared = prepare("GCEGNN", epsilon=epsilon, n_neighbours=64, **SIZE)
    model = prepared.model
    found = {
        (item, int(other)): int(weight)
        for item, line in enumerate(model.neighbours)
        for other, weight in zip(line, model.weights[item], strict=True)
        if weight
    }
    assert found == global_graph(prepared, epsilon)


def test_items_without_neighbours_have_finite_scores(tiny: Path) -> None:
    prepared = prepare("GCEGNN", **SIZE)
    prepared.model.weights.zero_()
    prepared.model.neighbours.zero_()
    check(prepared, GCEGNNByHand(prepared.model, 1))


def test_the_global_graph_is_no_part_of_a_checkpoint(tiny: Path) -> None:
    assert not {"neighbours", "weights"} & set(prepare("GCEGNN", **SIZE).model.state_dict())


@pytest.mark.parametrize("name", ["TAGNN", "GCEGNN"])
def test_gradients_reach_every_parameter(tiny: Path, name: str) -> None:
    prepared = prepare(name, epochs=1)
    loader, _ = training_loader(prepared)
    prepared.model.train().calculate_loss(next(iter(loader))).backward()
    for parameter, value in prepared.model.named_parameters():
        assert value.grad is not None, parameter
        assert float(value.grad.abs().sum()) > 0, parameter
