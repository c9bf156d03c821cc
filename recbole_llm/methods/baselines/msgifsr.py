"""MSGIFSR: Learning Multi-granularity Consecutive User Intent Unit for Session-based Recommendation.

WSDM 2022, arXiv 2112.13197. A unit of level ``k`` is ``k`` consecutive clicks; equal units are one node. For a session
of ``n`` clicks and levels 1 to ``K = order``, in the paper's order:

     x_k(i) = 1/2 mean(v_i .. v_{i+k-1}) + 1/2 GRU_k(v_i .. v_{i+k-1}),  x_1 = v, each of length one
     edges: unit i to unit i + 1 of its level; click i to the unit that begins after it; a unit to the click after it
     GAT_r(v) = sum_u alpha_uv W_r x_u + R_r x_v,  alpha_uv = softmax_u LeakyReLU(a_r . W_r x_u + b_r . W_r x_v)
     h_k = max over heads of sum_r GAT_r, r the relations along and against the edges, + mean of the level's x_k
     l_k = h_k of the last unit,  g_k = sum_u softmax_u(q_k . sigmoid(U_k h_u + V_k l_k)) h_u,  u of all levels
     z_k = W [l_k ; g_k] + b,   logits = scale cos(z_k, v)
     p_k = phi_1 softmax(logits of the session's items) + phi_2 softmax(the others'),  phi = softmax(MLP(z_k))
     p = sum_k softmax(a)_k p_k,   L = -log p(target)

Deviates from the release in: a session shorter than ``k`` has one unit of level ``k``, padded with its last click (the
release takes ``k`` times the item with the smallest id); item embeddings have no maximum norm, since only cosines
compare them; a relation without an edge in the whole batch still adds its ``R_r x_v``, so a session's scores do not
depend on its batch. LLM-DMsRec's release aligns the intents with ``g_1`` and ``l_1`` and fuses nothing
(``fusion: False``); fused, ``z_k = W [l_k ; g_k ; x' ; y'] + b``.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from recbole_llm.layers.bucketing import by_length
from recbole_llm.layers.dropout import Dropout
from recbole_llm.methods.baselines.session import Session, SessionModel
from recbole_llm.methods.baselines.settings import MSGIFSRSettings

NOWHERE = -1e9  # logit of padding; an infinite one has no gradient


class Units:
    """The units of a batch of sessions and the edges between them.

    A unit's node is the first position at which it begins; other positions are no nodes.

    Args:
        item_seq: ``(B, L)`` item ids, left-aligned, 0 padded.
        lengths: ``(B,)``.
        order: ``K``.

    Attributes:
        node: for each level ``(B, L)`` int64, the node of the unit that begins at a position.
        real: for each level ``(B, L)`` bool, positions that are nodes.
        last: for each level ``(B,)`` node of the last unit.
    """

    def __init__(self, item_seq: torch.Tensor, lengths: torch.Tensor, order: int) -> None:
        width, device = item_seq.shape[1], item_seq.device
        self.place, self.lengths, self.width = torch.arange(width, device=device), lengths, width
        self.clicks = []  # positions of a unit's clicks, the last click repeated where a session is too short
        self.node, self.real, self.last = [], [], []
        equal = torch.ones(1, width, width, dtype=torch.bool, device=device)
        for level in range(order):
            position = torch.minimum(self.place + level, lengths[:, None] - 1)
            self.clicks.append(position)
            item = item_seq.gather(1, position)
            equal = equal & (item[:, :, None] == item[:, None, :])
            whole = (self.place + level < lengths[:, None]) | (self.place == 0)
            first = equal.int().argmax(dim=2)
            self.node.append(first)
            self.real.append(whole & (first == self.place))
            final = (lengths - 1 - level).clamp(min=0)
            self.last.append(first.gather(1, final[:, None])[:, 0])

    def edges(self, source: int, target: int) -> torch.Tensor:
        """``(B, L, L)`` bool at ``[source node, target node]``, between levels counted from 0.

        Edges go within a level from each unit to the next, from a click to the unit that begins after it, and from a
        unit to the click after it.
        """
        step = source + 1 if source > target else 1
        longest = max(source, target) if source != target else source
        count = self.width - step
        begin, end = self.node[source][:, :count], self.node[target][:, step : step + count]
        exists = self.place[:count] + 1 + longest < self.lengths[:, None]
        spare = self.width * self.width
        cell = torch.where(exists, begin * self.width + end, spare)
        found = torch.zeros(len(cell), spare + 1, dtype=torch.bool, device=cell.device)
        found.scatter_(1, cell, True)
        return found[:, :-1].view(-1, self.width, self.width)


class GraphAttention(nn.Module):
    """One relation, or several that share their weights: attention over edges, with a residual map.

    Args:
        size: ``d``.
        heads: ``H``.
        dropout: on attentions and inputs.
    """

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.map = nn.Linear(size, heads * size, bias=False)
        self.residual = nn.Linear(size, heads * size, bias=False)
        self.of_source, self.of_target = (nn.Parameter(torch.empty(heads, size)) for _ in range(2))
        self.dropout = Dropout(dropout)

    def mapped(self, vectors: torch.Tensor) -> torch.Tensor:
        """``W x``, ``(B, H, L, d)`` of ``(B, L, d)``."""
        return self.map(self.dropout(vectors)).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, source: torch.Tensor, target: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """``(B, H, T, d)`` attended vectors at the targets.

        Args:
            source, target: ``(B, H, S, d)`` and ``(B, H, T, d)``, mapped.
            edges: ``(B, S, T)`` bool.
        """
        near = (source * self.of_source[:, None]).sum(-1)[..., None]
        energy = near + (target * self.of_target[:, None]).sum(-1)[:, :, None]
        allowed = edges[:, None]
        share = F.leaky_relu(energy, 0.2).masked_fill(~allowed, -1e9).softmax(dim=2) * allowed
        arrived: torch.Tensor = self.dropout(share).transpose(2, 3) @ source
        return arrived

    def kept(self, vectors: torch.Tensor) -> torch.Tensor:
        """``R x``, ``(B, H, L, d)`` of ``(B, L, d)``."""
        return self.residual(vectors).unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Direction(nn.Module):
    """Graph attention along all edges or against them: one layer per level, and one for edges between levels."""

    def __init__(self, size: int, order: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.within = nn.ModuleList(GraphAttention(size, heads, dropout) for _ in range(order))
        self.between = GraphAttention(size, heads, dropout)

    def forward(self, vectors: list[torch.Tensor], units: Units, reverse: bool) -> list[torch.Tensor]:
        """For each level ``(B, H, L, d)``."""

        def edges(source: int, target: int) -> torch.Tensor:
            return units.edges(target, source).transpose(1, 2) if reverse else units.edges(source, target)

        found = []
        crossing = [self.between.mapped(one) for one in vectors]
        for level, own in enumerate(vectors):
            layer = cast(GraphAttention, self.within[level])
            mapped = layer.mapped(own)
            total = layer(mapped, mapped, edges(level, level)) + layer.kept(own)
            others = range(1, len(vectors)) if level == 0 else [0]
            for other in others:
                total = total + self.between(crossing[other], crossing[level], edges(other, level))
                total = total + self.between.kept(own)
            found.append(total)
        return found


class MSGIFSR(SessionModel):
    """Units of several clicks in one graph.

    Settings: ``embedding_size`` ``d``, ``order`` ``K``, ``n_heads`` ``H``, ``dropout_prob``, ``logit_scale``,
    ``repeat_explore`` (without it, one softmax over all items).
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = MSGIFSRSettings.of(config)
        size, self.order = settings.embedding_size, settings.order
        self.scale, self.repeat_explore = settings.logit_scale, settings.repeat_explore
        dropout = settings.dropout_prob
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        self.in_order = nn.ModuleList(nn.GRU(size, size, batch_first=True) for _ in range(self.order - 1))
        self.forwards = Direction(size, self.order, settings.n_heads, dropout)
        self.backwards = Direction(size, self.order, settings.n_heads, dropout)
        self.each = nn.ModuleList(nn.Linear(size, size) for _ in range(self.order))
        self.newest = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(self.order))
        self.energy = nn.ModuleList(nn.Linear(size, 1, bias=False) for _ in range(self.order))
        self.readout = nn.Linear(2 * size, size)
        self.choice = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2, bias=False))
        self.dropout = Dropout(dropout)
        bound = 1.0 / math.sqrt(size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        weights = torch.zeros(self.order)
        weights[0] = 1.0
        self.levels = nn.Parameter(weights)
        with torch.no_grad():
            self.item_embedding.weight[0].zero_()

    def units_of(self, item_seq: torch.Tensor, units: Units) -> list[torch.Tensor]:
        """``x_k`` ``(B, L, d)`` of each level, of length one."""
        clicks = self.dropout(self.item_embedding(item_seq))
        found = [F.normalize(clicks, dim=2)]
        rows, width, size = clicks.shape
        for level in range(1, self.order):
            places = torch.stack(units.clicks[: level + 1], dim=2).flatten(1)  # (B, L k)
            parts = clicks.gather(1, places[:, :, None].expand(-1, -1, size)).view(rows * width, level + 1, size)
            _, final = self.in_order[level - 1](parts)
            found.append(F.normalize((parts.mean(dim=1) + final[0]).view(rows, width, size) / 2, dim=2))
        return found

    def encode(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> Session:
        """``[l_k ; g_k]`` ``(B, K, 2 d)``."""
        vectors = by_length(self._vectors, item_seq, item_seq_len)
        newest, whole = vectors[:, 0].chunk(2, dim=1)
        return Session(vectors, structural=(whole, newest), items=item_seq)

    def _vectors(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        units = Units(item_seq, item_seq_len, self.order)
        vectors = self.units_of(item_seq, units)
        along, against = self.forwards(vectors, units, False), self.backwards(vectors, units, True)
        states = []
        for level, own in enumerate(vectors):
            real = units.real[level][:, :, None]
            mean = (own * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)
            states.append(F.normalize((along[level] + against[level]).amax(dim=1) + mean, dim=2))
        rows = torch.arange(len(item_seq), device=item_seq.device)
        last = [states[level][rows, units.last[level]] for level in range(self.order)]
        every, real = torch.cat(states, dim=1), torch.cat(units.real, dim=1)
        joined = []
        for level, newest in enumerate(last):
            gate = torch.sigmoid(self.each[level](every) + self.newest[level](newest)[:, None])
            share = self.energy[level](gate)[:, :, 0].masked_fill(~real, -torch.inf).softmax(dim=1)
            joined.append(torch.cat([newest, (share[:, None] @ every)[:, 0]], dim=1))
        return torch.stack(joined, dim=1)

    def log_probabilities(self, z: torch.Tensor, session: Session) -> torch.Tensor:
        """``log p`` ``(B, N)``; ``-inf`` for padding."""
        assert session.items is not None
        with torch.autocast(z.device.type, enabled=False):
            return self._log_probabilities(z.to(self.item_embedding.weight.dtype), session.items)

    def _log_probabilities(self, z: torch.Tensor, session: torch.Tensor) -> torch.Tensor:
        items, z = F.normalize(self.item_embedding.weight, dim=1), F.normalize(z, dim=2)
        logits = self.scale * (z @ items.T)
        logits[:, :, 0] = NOWHERE
        if self.repeat_explore:
            seen = torch.zeros(len(z), self.n_items, dtype=torch.bool, device=z.device).scatter_(1, session, True)
            seen[:, 0] = False
            choice = self.choice(z).log_softmax(dim=2)
            inside = logits.masked_fill(~seen[:, None], -torch.inf).log_softmax(dim=2) + choice[:, :, :1]
            outside = logits.masked_fill(seen[:, None], -torch.inf).log_softmax(dim=2) + choice[:, :, 1:]
            logits = torch.where(seen[:, None], inside, outside)
        else:
            logits = logits.log_softmax(dim=2)
        found = torch.logsumexp(logits + self.levels.log_softmax(dim=0)[:, None], dim=1)
        return F.pad(found[:, 1:], (1, 0), value=-torch.inf)

    def loss(self, z: torch.Tensor, session: Session, target: torch.Tensor) -> torch.Tensor:
        """``-log p`` of the targets."""
        return -self.log_probabilities(z, session).gather(1, target[:, None]).mean()

    def scores(self, z: torch.Tensor, session: Session) -> torch.Tensor:
        """``(B, N)`` log-probabilities."""
        return self.log_probabilities(z, session)

    def score(self, z: torch.Tensor, session: Session, items: torch.Tensor) -> torch.Tensor:
        """``(B,)`` log-probabilities of one item each."""
        return self.log_probabilities(z, session).gather(1, items[:, None])[:, 0]
