"""Score items by the token sequences that an encoder-decoder generates: exact likelihoods, or a beam search."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

UNFOUND = -1e4  # score of items that a beam search did not return
BLOCK = {"cpu": 1 << 22, "cuda": 1 << 25}  # elements in one block of states or logits; a CPU's block fits its cache
_NUMBER = re.compile(r"\d+")


def exact_scores(
    t5: Any, encoded: torch.Tensor, mask: torch.Tensor, trie: ItemTrie, listed: torch.Tensor | None = None
) -> torch.Tensor:
    """``(B, N)`` log-likelihood of each item's whole token sequence; ``-inf`` for item 0.

    Args:
        t5: ``T5ForConditionalGeneration``.
        encoded: ``(B, T, d)`` encoder states.
        mask: ``(B, T)`` bool.
        trie: the items' sequences.
        listed: ``(B, C)`` the only items to score; all others get :data:`UNFOUND`.
    """
    block = BLOCK.get(encoded.device.type, BLOCK["cuda"])
    at_once, longest = max(1, block // t5.config.vocab_size), trie.ancestors.shape[1]
    prefixes = len(trie) if listed is None else listed.shape[1] * longest
    rows = max(1, block // (prefixes * longest * encoded.shape[2]))
    found = []
    for begin in range(0, len(encoded), rows):
        part, part_mask = encoded[begin : begin + rows], mask[begin : begin + rows]
        if listed is None:
            hidden = decode_tree(t5, part, part_mask, trie.prefixes)
            found.append(trie.score_items(hidden, t5.lm_head, at_once))
            continue
        items = listed[begin : begin + rows]
        hidden = decode_tree(t5, part, part_mask, trie.chains(items))
        scores = encoded.new_full((len(items), len(trie.sequences)), UNFOUND, dtype=torch.float32)
        scores.scatter_(1, items, trie.score_chains(hidden, items, t5.lm_head, at_once))
        scores[:, 0] = -torch.inf
        found.append(scores)
    return torch.cat(found)


def beam_scores(
    t5: Any,
    tokenizer: Any,
    encoded: torch.Tensor,
    mask: torch.Tensor,
    trie: ItemTrie,
    beams: int,
    item_of_number: dict[int, int] | None,
) -> torch.Tensor:
    """``(B, N)`` scores of the items that a beam search generates, :data:`UNFOUND` for all others.

    Args:
        t5, encoded, mask, trie: as for :func:`exact_scores`.
        tokenizer: decodes the generated text (free search).
        beams: width of the search, and number of sequences returned.
        item_of_number: for a free search, the item of each number. A text stands for the item of its first number, as
            in P5's family, and scores minus its place in the list. ``None`` restricts the search to valid items, which
            score their log-likelihoods.
    """
    from transformers.modeling_outputs import BaseModelOutput

    restricted = item_of_number is None
    options: dict[str, Any] = {"max_new_tokens": trie.ancestors.shape[1] if restricted else 49}
    if restricted:
        closing = [tokenizer.eos_token_id]
        options["prefix_allowed_tokens_fn"] = lambda row, prefix: trie.allowed_after(prefix[1:].tolist()) or closing
    written = t5.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
        attention_mask=mask.long(),
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        length_penalty=0.0 if restricted else 1.0,
        early_stopping=not restricted,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    scores = torch.full((len(encoded), len(trie.steps)), UNFOUND)
    if item_of_number is None:
        items = [trie.item_of(_until_end(line, tokenizer.eos_token_id)) for line in written.sequences[:, 1:].tolist()]
        values = written.sequences_scores.float().tolist()
    else:
        texts = tokenizer.batch_decode(written.sequences, skip_special_tokens=True)
        numbers = [_NUMBER.search(text) for text in texts]
        items = [item_of_number.get(int(number.group()), 0) if number else 0 for number in numbers]
        values = [-float(place % beams) for place in range(len(items))]
    for place, (item, value) in enumerate(zip(items, values, strict=True)):
        row = place // beams
        if item and value > float(scores[row, item]):
            scores[row, item] = value
    return scores.to(encoded.device)


def _until_end(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


class Prefixes(NamedTuple):
    """``M`` prefixes of token sequences; each sees only itself and its own shorter prefixes.

    Attributes:
        token: ``(M,)`` last token of each prefix, or ``(B, M)`` where each row has its own prefixes.
        depth: ``(M,)`` number of tokens before the last.
        ancestors: ``(M, D)`` indices among the ``M`` of a prefix's shorter prefixes, the shortest first, and of itself
            last; arbitrary after ``depth``.
    """

    token: torch.Tensor
    depth: torch.Tensor
    ancestors: torch.Tensor

    def visible(self) -> torch.Tensor:
        """``(M, D)`` bool: which entries of ``ancestors`` are real."""
        return torch.arange(self.ancestors.shape[1], device=self.depth.device) <= self.depth[:, None]


class ItemTrie(nn.Module):
    """Prefixes of the items' token sequences.

    Nodes are the distinct prefixes, the empty one first, parents before children; an item's last token (the end of
    sequence) needs no node. ``N`` items, ``M`` nodes, ``D`` tokens of the longest item.

    Args:
        sequences: tokens of each item, empty for item 0 (no item). No sequence may be a prefix of another, which an end
            token guarantees.
        start: token at the empty prefix.

    Attributes:
        token, depth, ancestors: of the nodes, see :class:`Prefixes`.
        sequences: ``(N, D)`` tokens of each item, -1 after its end.
        edge_node, edge_token: ``(E,)`` node that each edge leaves, and its token; grouped by node.
        steps: ``(N, D)`` edges of each item; ``E`` after its end.
        first_edge: ``(M + 1,)`` first edge of each node, then ``E``.
        edge_child, edge_item: ``(E,)`` where an edge leads: to a node (``M``: none), or to an item (0: none).
        path: ``(N, D)`` nodes that an item's edges leave; ``M`` after its end.
    """

    token: torch.Tensor
    depth: torch.Tensor
    ancestors: torch.Tensor
    sequences: torch.Tensor
    steps: torch.Tensor
    edge_node: torch.Tensor
    edge_token: torch.Tensor
    first_edge: torch.Tensor
    edge_child: torch.Tensor
    edge_item: torch.Tensor
    path: torch.Tensor

    def __init__(self, sequences: Sequence[Sequence[int]], start: int) -> None:
        super().__init__()
        if (
            any(not sequence for sequence in sequences[1:])
            or len({tuple(s) for s in sequences[1:]}) < len(sequences) - 1
        ):
            raise ValueError("the items' token sequences must be distinct and not empty")
        longest = max(map(len, sequences))
        number: dict[tuple[int, ...], int] = {(): 0}
        allowed: list[dict[int, None]] = [{}]
        for sequence in sequences:
            for place, token in enumerate(sequence):
                prefix = tuple(sequence[:place])
                if prefix not in number:
                    number[prefix] = len(number)
                    allowed.append({})
                allowed[number[prefix]][token] = None
        self._number = number
        self._allowed = [list(tokens) for tokens in allowed]
        edges = [(node, token) for node, tokens in enumerate(allowed) for token in tokens]
        counts = torch.tensor([len(tokens) for tokens in allowed])
        self._edge_begin = [0, *counts.cumsum(0).tolist()]
        edge_number = {edge: place for place, edge in enumerate(edges)}
        steps = torch.full((len(sequences), longest), len(edges), dtype=torch.int64)
        tokens = torch.full_like(steps, -1)
        for item, sequence in enumerate(sequences):
            tokens[item, : len(sequence)] = torch.tensor(list(sequence), dtype=torch.int64)
            for place, token in enumerate(sequence):
                steps[item, place] = edge_number[number[tuple(sequence[:place])], token]
        self._items = {tuple(sequence): item for item, sequence in enumerate(sequences) if sequence}
        depth = torch.tensor([len(prefix) for prefix in number])
        ancestors = torch.zeros((len(number), longest), dtype=torch.int64)
        for prefix, node in number.items():
            for place in range(len(prefix) + 1):
                ancestors[node, place] = number[prefix[:place]]
        edge_node, edge_token = torch.tensor(edges).T.contiguous()
        leads = torch.tensor([prefix[-1] if prefix else start for prefix in number])
        values = {"token": leads, "depth": depth, "ancestors": ancestors, "sequences": tokens, "steps": steps}
        values |= {"edge_node": edge_node, "edge_token": edge_token, "first_edge": torch.tensor(self._edge_begin)}
        prefixes = list(number)
        longer = [(*prefixes[node], token) for node, token in edges]
        values["edge_child"] = torch.tensor([number.get(prefix, len(number)) for prefix in longer])
        values["edge_item"] = torch.tensor([self._items.get(prefix, 0) for prefix in longer])
        values["path"] = torch.cat([edge_node, edge_node.new_tensor([len(number)])])[steps]
        for name, value in values.items():
            self.register_buffer(name, value, persistent=False)

    def __len__(self) -> int:
        return len(self.token)

    def allowed_after(self, prefix: Sequence[int]) -> list[int]:
        """Tokens that may follow a prefix; none after an item's end or outside the trie."""
        node = self._number.get(tuple(prefix))
        return [] if node is None else self._allowed[node]

    def item_of(self, tokens: Sequence[int]) -> int:
        """The item with exactly this token sequence; 0 if there is none."""
        return self._items.get(tuple(tokens), 0)

    @property
    def prefixes(self) -> Prefixes:
        """The nodes."""
        return Prefixes(self.token, self.depth, self.ancestors)

    def chains(self, items: torch.Tensor) -> Prefixes:
        """Prefixes of each row's items ``(B, C)``, not shared between items: ``M = C D``."""
        count, longest = items.shape[1], self.ancestors.shape[1]
        place = torch.arange(longest, device=items.device)
        start = self.token[:1].expand(len(self.sequences), 1)
        before = torch.cat([start, self.sequences[:, :-1].clamp(min=0)], dim=1)
        first = torch.arange(0, count * longest, longest, device=items.device)
        ancestors = first[:, None, None] + torch.minimum(place[:, None], place)
        return Prefixes(before[items].flatten(1), place.repeat(count), ancestors.flatten(0, 1))

    def score_items(
        self, hidden: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor], block: int
    ) -> torch.Tensor:
        """``(B, N)`` log-probability of each item's whole sequence; ``-inf`` for item 0.

        Args:
            hidden: ``(B, M, d)`` decoder states at the nodes.
            logits: from states ``(n, d)`` to logits ``(n, V)``.
            block: rows of logits held at once.
        """
        rows, nodes, _ = hidden.shape
        values = hidden.new_zeros((rows, len(self.edge_node)), dtype=torch.float32)
        per = max(1, block // rows)
        for begin in range(0, nodes, per):
            piece = logits(hidden[:, begin : begin + per].reshape(-1, hidden.shape[2])).float()
            piece = piece.log_softmax(dim=-1).view(rows, -1, piece.shape[-1])
            first, last = self._edge_begin[begin], self._edge_begin[min(begin + per, nodes)]
            values[:, first:last] = piece[:, self.edge_node[first:last] - begin, self.edge_token[first:last]]
        values = torch.cat([values, values.new_zeros(rows, 1)], dim=1)
        scores = values[:, self.steps[:, 0]]
        for place in range(1, self.steps.shape[1]):
            scores = scores + values[:, self.steps[:, place]]
        scores[:, 0] = -torch.inf
        return scores

    def score_chains(
        self, hidden: torch.Tensor, items: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor], block: int
    ) -> torch.Tensor:
        """``(B, C)`` log-probability of each listed item's whole sequence.

        Args:
            hidden: ``(B, C D, d)`` decoder states at the prefixes of :meth:`chains`.
            items: ``(B, C)``, none of them item 0.
            logits, block: as for :meth:`score_items`.
        """
        tokens = self.sequences[items]
        wanted, states = tokens.flatten(), hidden.flatten(0, 1)
        parts = zip(states.split(block), wanted.clamp(min=0).split(block), strict=True)
        found = torch.cat([logits(s).float().log_softmax(dim=-1).gather(1, w[:, None])[:, 0] for s, w in parts])
        return (found * (wanted >= 0)).view(tokens.shape).sum(dim=2)


def decode_tree(t5: Any, encoded: torch.Tensor, mask: torch.Tensor, prefixes: Prefixes) -> torch.Tensor:
    """Decoder states ``(B, M, d)`` at all prefixes, ready for the output layer.

    Args:
        t5: ``T5ForConditionalGeneration``.
        encoded: ``(B, T, d)`` encoder states.
        mask: ``(B, T)`` bool, true at tokens.
        prefixes: of a trie, or of listed items.
    """
    decoder = t5.decoder
    hidden = t5.get_input_embeddings()(prefixes.token).expand(len(encoded), -1, -1).to(encoded.dtype)
    ancestors = prefixes.ancestors
    bias = depth_bias(decoder.block[0].layer[0].SelfAttention, prefixes.depth, ancestors.shape[1])
    bias = bias.masked_fill(~prefixes.visible()[:, None, :], -torch.inf)
    for block in decoder.block:
        attention, cross, feed_forward = block.layer
        normed = attention.layer_norm(hidden)
        hidden = hidden + _to_ancestors(attention.SelfAttention, normed, ancestors, bias)
        normed = cross.layer_norm(hidden)
        hidden = hidden + _to_encoder(cross.EncDecAttention, normed, encoded, mask)
        hidden = feed_forward(hidden)
    return scaled(t5, decoder.final_layer_norm(hidden))


def scaled(t5: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Decoder states as the output layer expects them: T5 with tied embeddings scales them down."""
    wanted = getattr(t5.config, "scale_decoder_outputs", t5.config.tie_word_embeddings)
    return hidden * t5.model_dim**-0.5 if wanted else hidden


def depth_bias(attention: Any, depth: torch.Tensor, longest: int) -> torch.Tensor:
    """``(M, h, D)`` relative-position bias from each node to its ancestors at depths 0 to D - 1."""
    relative = torch.arange(longest, device=depth.device) - depth[:, None]
    bucket = attention._relative_position_bucket(
        relative,
        bidirectional=False,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    bias: torch.Tensor = attention.relative_attention_bias(bucket).transpose(1, 2)
    return bias


def heads_of(values: torch.Tensor, attention: Any) -> torch.Tensor:
    """``(..., d)`` split by head into ``(..., h, e)``."""
    return values.unflatten(-1, (attention.n_heads, -1))


def _to_ancestors(attention: Any, hidden: torch.Tensor, ancestors: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    query, key, value = (heads_of(layer(hidden), attention) for layer in (attention.q, attention.k, attention.v))
    # One ancestor at a time: products of single rows are too small for a matrix library.
    places = ancestors.unbind(1)
    scores = torch.stack([(query * key[:, place]).sum(dim=-1) for place in places], dim=-1) + bias  # (B, M, h, D)
    weights = scores.float().softmax(dim=-1).to(value.dtype)[..., None, :]
    mixed = weights[..., 0] * value[:, places[0]]  # (B, M, h, e)
    for number, place in enumerate(places[1:], start=1):
        mixed = torch.addcmul(mixed, weights[..., number], value[:, place])
    result: torch.Tensor = attention.o(mixed.flatten(2))
    return result


def _to_encoder(attention: Any, hidden: torch.Tensor, encoded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    query, key, value = (
        heads_of(layer(states), attention).transpose(1, 2)
        for layer, states in ((attention.q, hidden), (attention.k, encoded), (attention.v, encoded))
    )
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :], scale=1.0)
    result: torch.Tensor = attention.o(mixed.transpose(1, 2).flatten(2))
    return result
