"""Session graphs in tensor code, which RecBole's SRGNN and GCSAN build in a Python loop per batch."""

from __future__ import annotations

import torch

N_RELATIONS = 4  # relations of `edge_relations`, besides 0 for no edge


def session_edges(item_seq: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The directed graph of consecutive items of each session (SR-GNN, AAAI 2019, section 3.2).

    Nodes are the distinct ids of a row in ascending order; in a padded row the padding id is a node without edges. An
    edge counts once, however often it is walked.

    Args:
        item_seq: ``(B, L)`` item ids, left-aligned, 0 padded.

    Returns:
        ``alias_inputs`` ``(B, L)`` int64, the node of each position;
        ``edges`` ``(B, L, L)`` float, 1 at ``[source, target]``;
        ``items`` ``(B, L)`` int64, the item of each node, 0 padded;
        ``mask`` ``(B, L)`` bool, true at items.
    """
    batch, length = item_seq.shape
    device = item_seq.device
    ascending, order = item_seq.sort(dim=1)
    new = torch.ones_like(ascending, dtype=torch.bool)
    new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    node = new.cumsum(1) - 1
    alias_inputs = torch.empty_like(item_seq).scatter_(1, order, node)
    items = torch.zeros_like(item_seq).scatter_(1, node, ascending)
    mask = item_seq > 0

    # Edges of padded positions go to one spare cell, so that no boolean indexing (and no wait for the device) is
    # needed.
    source, target = alias_inputs[:, :-1], alias_inputs[:, 1:]
    cell = torch.where(mask[:, 1:], source * length + target, length * length)
    edges = torch.zeros(batch, length * length + 1, device=device)
    edges.scatter_(1, cell, 1.0)
    return alias_inputs, edges[:, :-1].view(batch, length, length), items, mask


def session_graph(item_seq: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The graph of :func:`session_edges` with normalised edges; equal to ``SRGNN._get_slice``.

    Returns:
        ``alias_inputs``, as there;
        ``A`` ``(B, L, 2L)`` float, edges into each node normalised by its in-degree, then edges out of each
        node by its out-degree;
        ``items`` and ``mask``, as there.
    """
    alias_inputs, edges, items, mask = session_edges(item_seq)
    into = edges.transpose(1, 2) / edges.sum(1).clamp_(min=1.0)[:, :, None]
    out = edges / edges.sum(2).clamp_(min=1.0)[:, :, None]
    return alias_inputs, torch.cat([into, out], dim=2), items, mask


def edge_relations(edges: torch.Tensor) -> torch.Tensor:
    """Relation of each node to each other node (GCE-GNN, SIGIR 2020, section 3.1).

    Args:
        edges: ``(B, L, L)``, 1 at ``[source, target]``.

    Returns:
        ``(B, L, L)`` int64 at ``[i, j]``: 1 self, 2 out (``i`` to ``j`` alone), 3 in (``j`` to ``i`` alone),
        4 in-out (both), 0 no edge. Every node has an edge to itself.
    """
    out = edges > 0
    into = out.transpose(1, 2)
    relations = 2 * out.long() + 3 * into.long() - (out & into).long()
    itself = torch.eye(edges.shape[1], dtype=torch.bool, device=edges.device)
    return relations.masked_fill(itself, 1)
