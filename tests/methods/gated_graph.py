"""Reference for the gated graph network of SR-GNN and TAGNN: one session, node by node, sharing no code with them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

Weights = dict[str, np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gated_graph(w: Weights, session: list[int], steps: int) -> np.ndarray:
    """Hidden states at the positions of a session after the gated graph network."""
    nodes = sorted(set(session))
    edges = {(nodes.index(a), nodes.index(b)) for a, b in pairwise(session)}
    h = w["item_embedding.weight"][nodes]
    into, out = np.zeros((len(nodes), len(nodes))), np.zeros((len(nodes), len(nodes)))
    for a, b in edges:
        into[b, a] = 1 / sum(target == b for _, target in edges)
        out[a, b] = 1 / sum(source == a for source, _ in edges)
    for _ in range(steps):
        received = np.concatenate(
            [
                into @ (h @ w["gnn.linear_edge_in.weight"].T + w["gnn.linear_edge_in.bias"]) + w["gnn.b_iah"],
                out @ (h @ w["gnn.linear_edge_out.weight"].T + w["gnn.linear_edge_out.bias"]) + w["gnn.b_ioh"],
            ],
            axis=1,
        )
        reset_i, update_i, new_i = np.split(received @ w["gnn.w_ih"].T + w["gnn.b_ih"], 3, axis=1)
        reset_h, update_h, new_h = np.split(h @ w["gnn.w_hh"].T + w["gnn.b_hh"], 3, axis=1)
        update = sigmoid(update_i + update_h)
        h = (1 - update) * h + update * np.tanh(new_i + sigmoid(reset_i + reset_h) * new_h)
    return h[[nodes.index(item) for item in session]]
