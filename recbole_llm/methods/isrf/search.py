"""The best items of a trie without scoring most of them: branch and bound over the likelihoods of prefixes.

No item is more likely than any of its prefixes. So the rank of a target up to a depth ``K`` is exact once the target's
own path is scored and either every prefix at least as likely as the target is expanded or ``K`` items above the target
are found: no metric with a cut-off up to ``K`` looks further down. The encoder's keys and values are computed once per
row, and a prefix's keys and values once for all prefixes that begin with it. Each step expands the few most likely
prefixes of all rows together.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from recbole_llm.methods.isrf.decoding import UNFOUND, ItemTrie, depth_bias, heads_of, scaled

AT_ONCE = 8  # prefixes of a row expanded in one step; with more, some would turn out not to be needed
BLOCK = {"cpu": 1 << 24, "cuda": 1 << 29}  # elements that the states of one block of rows may hold
EXPECTED = 256  # expanded prefixes per row that the size of a block allows for


@torch.no_grad()
def best_scores(
    t5: Any,
    encoded: torch.Tensor,
    mask: torch.Tensor,
    trie: ItemTrie,
    depth: int,
    target: torch.Tensor,
    ranked: torch.Tensor | None = None,
    lists: bool = False,
) -> torch.Tensor:
    """``(B, N)`` log-likelihoods of the ranked items reached, :data:`UNFOUND` for others, ``-inf`` for item 0.

    The target is always reached. So are all ranked items that score higher than the target, or ``depth`` of them. With
    ``lists`` the best ``depth`` ranked items are reached, whatever the target.

    Args:
        t5: ``T5ForConditionalGeneration``.
        encoded: ``(B, T, d)`` encoder states.
        mask: ``(B, T)`` bool.
        trie: the items' sequences.
        depth: ``K``.
        target: ``(B,)`` item ids.
        ranked: ``(B, N)`` bool, which items the target is ranked among; all where ``None``.
        lists: whether the top ``depth`` items are wanted too.
    """
    config = t5.config
    row = (len(trie) + len(trie.sequences)) * 2 + config.num_decoder_layers * 2 * (
        EXPECTED * config.num_heads * config.d_kv + encoded.shape[1] * config.d_model
    )
    step = max(1, BLOCK.get(encoded.device.type, BLOCK["cuda"]) // row)
    found = []
    for begin in range(0, len(encoded), step):
        part = slice(begin, begin + step)
        chosen = None if ranked is None else ranked[part]
        search = _Search(t5, encoded[part], mask[part], trie, depth, target[part], chosen, lists)
        found.append(search.run())
    return torch.cat(found)


class _Search:
    """The search for one block of rows.

    Attributes:
        waiting: ``(B, M + 1)`` log-likelihood of prefixes that were reached but not expanded, else ``-inf``; the last
            column is a dummy for edges that lead to no node.
        found: ``(B, N)`` log-likelihood of ranked items that were reached, else :data:`UNFOUND`.
        reachable: ``(B, M + 1)`` bool, prefixes of ranked items; ``None`` where all items are ranked.
    """

    def __init__(
        self,
        t5: Any,
        encoded: torch.Tensor,
        mask: torch.Tensor,
        trie: ItemTrie,
        depth: int,
        target: torch.Tensor,
        ranked: torch.Tensor | None,
        lists: bool,
    ) -> None:
        self.trie, self.depth, self.lists, self.target = trie, depth, lists, target
        self.states = _States(t5, encoded, mask, trie)
        rows, nodes = len(encoded), len(trie)
        self.waiting = encoded.new_full((rows, nodes + 1), -torch.inf, dtype=torch.float32)
        self.waiting[:, 0] = 0.0
        self.found = encoded.new_full((rows, len(trie.sequences)), UNFOUND, dtype=torch.float32)
        self.path = trie.path[target]
        self.ranked, self.reachable = ranked, None
        if ranked is not None:
            self.ranked = ranked.scatter(1, target[:, None], True)
            self.ranked[:, 0] = False
            weight = self.ranked.to(torch.float32).repeat_interleave(trie.path.shape[1], dim=1)
            below = weight.new_zeros(rows, nodes + 1).index_add_(1, trie.path.flatten(), weight)
            self.reachable = below > 0
        self.rows = torch.arange(rows, device=encoded.device)
        self.result = self.found.clone()

    def run(self) -> torch.Tensor:
        """Expand until nothing that is left can change a rank up to the depth."""
        for step in range(self.path.shape[1]):  # the target's own path, and other likely prefixes
            self._expand(self.path[:, step])
        while True:
            bound, over = self._bound()
            self.waiting.masked_fill_(self.waiting < bound[:, None], -torch.inf)
            over |= self.waiting.amax(dim=1) == -torch.inf
            self.result[self.rows[over]] = self.found[over]
            if bool(over.all()):
                break
            if int(over.sum()) * 2 >= len(over):
                self._keep(~over)
            else:
                self.waiting.masked_fill_(over[:, None], -torch.inf)
            self._expand(None)
        self.result[:, 0] = -torch.inf
        return self.result

    def _bound(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(B,)`` lowest likelihood of a prefix that still matters, and ``(B,)`` bool: which rows are done."""
        own = self.found.gather(1, self.target[:, None])[:, 0]
        if self.lists:
            last = self.found.topk(min(self.depth, self.found.shape[1]), dim=1).values[:, -1]
            return last, torch.zeros_like(own, dtype=torch.bool)
        return own, (self.found > own[:, None]).sum(dim=1) >= self.depth

    def _keep(self, wanted: torch.Tensor) -> None:
        """Go on with the wanted rows; the others are done."""
        self.rows, self.target, self.path = self.rows[wanted], self.target[wanted], self.path[wanted]
        self.waiting, self.found = self.waiting[wanted], self.found[wanted]
        if self.ranked is not None and self.reachable is not None:
            self.ranked, self.reachable = self.ranked[wanted], self.reachable[wanted]
        self.states.keep(wanted)

    def _expand(self, wanted: torch.Tensor | None) -> None:
        """Expand the most likely waiting prefixes of each row, among them the node ``wanted`` ``(B,)``."""
        trie, nodes = self.trie, len(self.trie)
        order = self.waiting
        if wanted is not None:
            order = order.scatter(1, wanted[:, None], torch.inf)
            order[:, nodes] = -torch.inf
        most = int((order > -torch.inf).sum(dim=1).max())
        if not most:
            return
        best, node = order.topk(min(AT_ONCE, most), dim=1)
        real = best > -torch.inf
        node = node.masked_fill(~real, 0)  # the empty prefix once more, which changes nothing
        score = self.waiting.gather(1, node)
        self.waiting.scatter_(1, node.masked_fill(~real, nodes), -torch.inf)
        values = self.states.next_token(node)

        first = trie.first_edge[node]
        count = (trie.first_edge[node + 1] - first) * real
        place = torch.arange(int(count.max()), device=node.device)
        edge = (first[:, :, None] + place).clamp(max=len(trie.edge_token) - 1)
        exists = place < count[:, :, None]
        value = score[:, :, None] + values.gather(2, trie.edge_token[edge])
        child = trie.edge_child[edge].masked_fill(~exists, nodes).flatten(1)
        if self.reachable is not None:
            child = child.masked_fill(~self.reachable.gather(1, child), nodes)
        item = trie.edge_item[edge].masked_fill(~exists, 0).flatten(1)
        if self.ranked is not None:
            item = item.masked_fill(~self.ranked.gather(1, item), 0)
        self.waiting.scatter_(1, child, value.flatten(1))
        self.waiting[:, nodes] = -torch.inf
        self.found.scatter_(1, item, value.flatten(1))
        self.found[:, 0] = UNFOUND


class _States:
    """What the decoder keeps for a block: keys and values of the encoder and of the expanded prefixes."""

    def __init__(self, t5: Any, encoded: torch.Tensor, mask: torch.Tensor, trie: ItemTrie) -> None:
        self.t5, self.trie = t5, trie
        self.mask = mask[:, None, None, :]
        self.cross = []
        for block in t5.decoder.block:
            attention = block.layer[1].EncDecAttention
            made = (heads_of(layer(encoded), attention).transpose(1, 2) for layer in (attention.k, attention.v))
            self.cross.append(tuple(made))
        longest = trie.ancestors.shape[1]
        depths = torch.arange(longest, device=encoded.device)
        self.bias = depth_bias(t5.decoder.block[0].layer[0].SelfAttention, depths, longest)
        later = depths > depths[:, None]
        self.bias = self.bias.masked_fill(later[:, None, :], -torch.inf)
        self.slot = torch.zeros((len(encoded), len(trie)), dtype=torch.int64, device=encoded.device)
        self.own: list[list[torch.Tensor]] = [[] for _ in self.cross]
        self.used = 0

    def keep(self, wanted: torch.Tensor) -> None:
        """Go on with the wanted rows."""
        self.mask, self.slot = self.mask[wanted], self.slot[wanted]
        self.cross = [tuple(values[wanted] for values in pair) for pair in self.cross]
        self.own = [[values[wanted] for values in pair] for pair in self.own]

    def next_token(self, node: torch.Tensor) -> torch.Tensor:
        """``(B, m, V)`` log-probabilities after prefixes ``(B, m)``, whose shorter prefixes were expanded before."""
        t5, trie = self.t5, self.trie
        rows, count = node.shape
        self.slot.scatter_(1, node, self.used + torch.arange(count, device=node.device).expand(rows, -1))
        ancestors = self.slot.gather(1, trie.ancestors[node].flatten(1))
        bias = self.bias[trie.depth[node]]
        hidden = t5.get_input_embeddings()(trie.token[node])
        for number, block in enumerate(t5.decoder.block):
            attention, cross, feed_forward = block.layer
            normed = attention.layer_norm(hidden)
            hidden = hidden + self._to_ancestors(number, attention.SelfAttention, normed, ancestors, bias)
            normed = cross.layer_norm(hidden)
            hidden = hidden + self._to_encoder(number, cross.EncDecAttention, normed)
            hidden = feed_forward(hidden)
        self.used += count
        values: torch.Tensor = t5.lm_head(scaled(t5, t5.decoder.final_layer_norm(hidden)))
        return values.float().log_softmax(dim=-1)

    def _to_ancestors(
        self, number: int, attention: Any, hidden: torch.Tensor, ancestors: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        rows, count, _ = hidden.shape
        query = heads_of(attention.q(hidden), attention)
        gathered = []
        for place, layer in enumerate((attention.k, attention.v)):
            made = self._added(number, place, layer(hidden))
            # Select whole rows of one flat table: a gather along an axis would read an index for every element.
            first = torch.arange(rows, device=made.device) * made.shape[1]
            chosen = made.flatten(0, 1).index_select(0, (first[:, None] + ancestors).flatten())
            gathered.append(heads_of(chosen.view(rows, count, -1, made.shape[2]), attention))
        key, value = gathered  # (B, m, D, h, e)
        scores = (query[:, :, None] * key).sum(dim=-1).transpose(2, 3) + bias  # (B, m, h, D)
        weights = scores.float().softmax(dim=-1).to(value.dtype).transpose(2, 3)[..., None]
        result: torch.Tensor = attention.o((weights * value).sum(dim=2).flatten(2))
        return result

    def _added(self, number: int, place: int, values: torch.Tensor) -> torch.Tensor:
        """A layer's keys or values of all expanded prefixes, with the new ``values`` ``(B, m, d)`` added."""
        kept = self.own[number]
        if len(kept) <= place:
            kept.append(values.new_empty(len(values), EXPECTED // 4, values.shape[2]))
        end = self.used + values.shape[1]
        while end > kept[place].shape[1]:
            kept[place] = torch.cat([kept[place], torch.empty_like(kept[place])], dim=1)
        kept[place][:, self.used : end] = values
        return kept[place]

    def _to_encoder(self, number: int, attention: Any, hidden: torch.Tensor) -> torch.Tensor:
        query = heads_of(attention.q(hidden), attention).transpose(1, 2)
        key, value = self.cross[number]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask, scale=1.0)
        result: torch.Tensor = attention.o(mixed.transpose(1, 2).flatten(2))
        return result
