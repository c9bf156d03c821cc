"""Items as what an encoder-decoder writes: the likelihood of every item, or a beam search for some."""

from __future__ import annotations

import re
from typing import Any

import torch

from recbole_llm.methods.isrf.t5_tree import decode_tree
from recbole_llm.methods.isrf.trie import ItemTrie

DECODES = ("exact", "restricted", "free")
UNFOUND = -1e4  # score of items that a beam search did not return
BLOCK = {"cpu": 1 << 22, "cuda": 1 << 25}  # numbers that one block of states or logits may hold; a CPU's fits its cache
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
        listed: ``(B, C)`` the only items that are asked for; all others get :data:`UNFOUND`.
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
    """``(B, N)`` scores of the items that a beam search writes, :data:`UNFOUND` for all others.

    Args:
        t5, encoded, mask, trie: as for :func:`exact_scores`.
        tokenizer: reads what was written (free search).
        beams: width of the search; as many sequences are returned.
        item_of_number: for a free search, item by the first number of the text, as P5's family reads it; scores are
            minus the place in the list. ``None`` restricts the search to valid items; scores are log-likelihoods.
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
