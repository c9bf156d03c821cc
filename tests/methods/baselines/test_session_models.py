"""TAGNN, GCE-GNN, SHARE and MSGIFSR against their papers' equations, computed session by session.

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
    """All test cases, with histories changed to repeat items and to traverse an edge in both directions."""
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
    """Check that scores of all items, scores of single items and the loss equal the reference's."""
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
    """Weights of all item pairs, by loops over the positions of the training sessions."""
    table, counts = prepared.dataset.table, Counter[tuple[int, int]]()
    rows = prepared.dataset.split.train_rows
    for user in np.unique(table.user[rows]):
        session = table.item[rows[table.user[rows] == user]].tolist()
        for i, one in enumerate(session):
            for j, other in enumerate(session):
                if i != j and abs(i - j) <= epsilon:
                    counts[one, other] += 1
    return counts


def test_windows_count_the_places_of_a_session_once(tiny: Path) -> None:
    """Consecutive windows overlap in all but one interaction."""
    windows = {"by": "user", "window": 4, "min_length": 2}
    more = {"protocol": "temporal_20", "sessions": windows, "n_neighbours": 47, "epsilon": 2}
    prepared = prepare("GCEGNN", **more, **SIZE)
    table, people = prepared.dataset.table, {}
    for row in prepared.dataset.split.train_rows:  # each interaction once
        person = str(table.user_tokens[table.user[row]]).rpartition("#")[0]
        people.setdefault(person, []).append(int(table.item[row]))
    counts = Counter[tuple[int, int]]()
    for items in people.values():
        for distance in (1, 2):
            for pair in zip(items, items[distance:], strict=False):
                counts.update([pair, pair[::-1]])
    model = prepared.model
    places = (model.weights > 0).nonzero().tolist()
    assert {(item, int(model.neighbours[item, n])): int(model.weights[item, n]) for item, n in places} == counts


class GCEGNNByHand:
    """The equations, with the neighbours that the model keeps; their weights are tested separately."""

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


@pytest.mark.parametrize("protocol", [{}, {"protocol": "user_split", "min_history": 3}], ids=str)
@pytest.mark.parametrize("epsilon", [1, 3])
def test_the_global_graph_counts_training_sessions_alone(tiny: Path, epsilon: int, protocol: dict[str, Any]) -> None:
    """It counts whole sessions, though the first items of each may be no examples."""
    prepared = prepare("GCEGNN", epsilon=epsilon, n_neighbours=64, **SIZE, **protocol)
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


# ---- SHARE --------------------------------------------------------------------------------------


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * weight + bias


def share(w: Weights, session: list[int], steps: int, window: int) -> list[float]:
    """Scores of all items for one session."""
    nodes = list(dict.fromkeys(session))
    edges = [
        [nodes.index(item) for item in dict.fromkeys(session[begin : begin + size])]
        for size in range(1, window + 2)
        for begin in range(len(session) - size + 1)
    ]
    first = n = w["item_embedding.weight"][nodes]
    root = np.sqrt(first.shape[1])
    for step in range(steps):
        keys = n @ w[f"steps.{step}.key.weight"].T
        values = n @ w[f"steps.{step}.value.weight"].T if step else n
        hyper = np.array([softmax(keys[edge] @ w[f"steps.{step}.context"] / root) @ values[edge] for edge in edges])
        back = hyper @ w[f"steps.{step}.edge_key.weight"].T
        n = (
            np.array(
                [
                    softmax(np.array([keys[t] @ back[j] / root for j in own])) @ hyper[own]
                    for t in range(len(nodes))
                    for own in [[j for j, edge in enumerate(edges) if t in edge]]
                ]
            )
            + first
        )
    states = n[[nodes.index(item) for item in session]]
    query = w["query.weight"] @ layer_norm(states[-1], w["norm_query.weight"], w["norm_query.bias"])
    attended = softmax(states @ w["key.weight"].T @ query / root) @ (states @ w["value.weight"].T)
    m = states[-1] + w["joined.weight"] @ attended
    inner = w["inner.weight"] @ layer_norm(m, w["norm_inner.weight"], w["norm_inner.bias"]) + w["inner.bias"]
    m = m + w["outer.weight"] @ np.maximum(inner, 0) + w["outer.bias"]
    return list(w["item_embedding.weight"] @ layer_norm(m, w["norm_last.weight"], w["norm_last.bias"]))


@pytest.mark.parametrize(("steps", "window"), [(1, 1), (2, 1), (2, 3)])
def test_share_is_its_papers_equations(tiny: Path, steps: int, window: int) -> None:
    prepared = prepare("SHARE", step=steps, window=window, **SIZE)
    check(prepared, lambda weights, session: share(weights, session, steps, window))


# ---- MSGIFSR ------------------------------------------------------------------------------------


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def gru(w: Weights, name: str, inputs: np.ndarray) -> np.ndarray:
    """The last state of a GRU that begins with zero."""
    size = inputs.shape[1]
    state = np.zeros(size)
    for x in inputs:
        of_x = w[f"{name}.weight_ih_l0"] @ x + w[f"{name}.bias_ih_l0"]
        of_state = w[f"{name}.weight_hh_l0"] @ state + w[f"{name}.bias_hh_l0"]
        r, z = sigmoid(of_x[:size] + of_state[:size]), sigmoid(of_x[size : 2 * size] + of_state[size : 2 * size])
        new = np.tanh(of_x[2 * size :] + r * of_state[2 * size :])
        state = (1 - z) * new + z * state
    return state


def msgifsr(w: Weights, session: list[int], order: int, heads: int, repeat: bool, scale: float = 12.0) -> list[float]:
    """Log-probabilities of all items for one session."""
    table, n, size = w["item_embedding.weight"], len(session), w["item_embedding.weight"].shape[1]
    levels = [
        [tuple(session[i : i + k]) for i in range(n - k + 1)] or [tuple((session + session[-1:] * k)[:k])]
        for k in range(1, order + 1)
    ]
    nodes = [list(dict.fromkeys(units)) for units in levels]

    def start(clicks: tuple[int, ...]) -> np.ndarray:
        vectors = table[list(clicks)]
        if len(clicks) == 1:
            return unit(vectors[0])
        return unit(0.5 * vectors.mean(0) + 0.5 * gru(w, f"in_order.{len(clicks) - 2}", vectors))

    x = [np.array([start(clicks) for clicks in own]) for own in nodes]
    edges: dict[tuple[int, int], set[tuple[int, int]]] = {}

    def walk(source: int, i: int, target: int, j: int) -> None:
        if i + source + 1 <= n and j + target + 1 <= n:
            ends = nodes[source].index(levels[source][i]), nodes[target].index(levels[target][j])
            edges.setdefault((source, target), set()).add(ends)

    for i in range(n):
        for k in range(order):
            walk(k, i, k, i + 1)
            if k:
                walk(0, i, k, i + 1)
                walk(k, i, 0, i + k + 1)

    def attention(name: str, source: int, target: int, pairs: set[tuple[int, int]]) -> np.ndarray:
        mapped = [(one @ w[f"{name}.map.weight"].T).reshape(len(one), heads, size) for one in (x[source], x[target])]
        out = (x[target] @ w[f"{name}.residual.weight"].T).reshape(-1, heads, size)
        for v in range(len(x[target])):
            own = [u for u, other in pairs if other == v]
            for h in range(heads if own else 0):
                left = [mapped[0][u, h] @ w[f"{name}.of_source"][h] for u in own]
                right = mapped[1][v, h] @ w[f"{name}.of_target"][h]
                out[v, h] += softmax(leaky(np.array(left) + right)) @ mapped[0][own, h]
        return out

    def direction(name: str, walked: dict[tuple[int, int], set[tuple[int, int]]]) -> list[np.ndarray]:
        found = []
        for k in range(order):
            total = attention(f"{name}.within.{k}", k, k, walked.get((k, k), set()))
            for other in range(1, order) if k == 0 else [0]:
                total = total + attention(f"{name}.between", other, k, walked.get((other, k), set()))
            found.append(total)
        return found

    against = {(t, s): {(v, u) for u, v in pairs} for (s, t), pairs in edges.items()}
    both = zip(direction("forwards", edges), direction("backwards", against), strict=True)
    h = [
        np.array([unit(state) for state in (one + other).max(axis=1) + x[k].mean(axis=0)])
        for k, (one, other) in enumerate(both)
    ]
    every = np.concatenate(h)
    total = np.zeros(len(table))
    weights = softmax(w["levels"])
    for k in range(order):
        last = h[k][nodes[k].index(levels[k][-1])]
        gate = sigmoid(every @ w[f"each.{k}.weight"].T + w[f"each.{k}.bias"] + w[f"newest.{k}.weight"] @ last)
        general = softmax(gate @ w[f"energy.{k}.weight"][0]) @ every
        z = unit(w["readout.weight"] @ np.concatenate([last, general]) + w["readout.bias"])
        logits = scale * np.array([-np.inf, *(z @ unit(item) for item in table[1:])])
        if repeat:
            inside = np.isin(np.arange(len(table)), session)
            inner = np.maximum(w["choice.0.weight"] @ z + w["choice.0.bias"], 0)
            phi = softmax(w["choice.2.weight"] @ inner)
            p = np.zeros(len(table))
            p[inside] = phi[0] * softmax(logits[inside])
            p[~inside] = phi[1] * softmax(logits[~inside])
        else:
            p = softmax(logits)
        total += weights[k] * p
    with np.errstate(divide="ignore"):
        return list(np.log(total))


@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize(("order", "heads"), [(1, 2), (2, 3), (3, 2)])
def test_msgifsr_is_its_papers_equations(tiny: Path, order: int, heads: int, repeat: bool) -> None:
    prepared = prepare("MSGIFSR", order=order, n_heads=heads, repeat_explore=repeat, **SIZE)
    check(prepared, lambda weights, session: msgifsr(weights, session, order, heads, repeat))
