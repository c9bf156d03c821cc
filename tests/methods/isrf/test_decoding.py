"""Items as T5 outputs: the trie's decoder against transformers' own, and beam search against exact scores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from recbole_llm.methods.isrf import decoding as generative
from recbole_llm.methods.isrf.decoding import UNFOUND, ItemTrie, beam_scores, exact_scores

END = 1
# Item numbers of one to four tokens, some with common prefixes, one a prefix of others.
SEQUENCES = [[], [5, END], [5, 6, END], [5, 6, 7, END], [6, 5, END], [6, 6, END], [7, END], [7, 8, 5, END], [8, END]]


@pytest.fixture(scope="module", params=["relu", "gated-gelu"])
def t5(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=12,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj=request.param,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=END,
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture
def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1, 4:] = mask[3, 2:] = False
    return torch.randn(4, 6, 16), mask


class Tokenizer:
    eos_token_id = END

    @staticmethod
    def batch_decode(sequences: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        return ["".join(str(token) for token in line if token > 4) for line in sequences.tolist()]


@torch.no_grad()
def brute_force(t5: Any, encoded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(len(encoded), len(SEQUENCES))
    for item, sequence in enumerate(SEQUENCES[1:], start=1):
        labels = torch.tensor(sequence).repeat(len(encoded), 1)
        given = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=encoded)
        logits = t5(encoder_outputs=given, attention_mask=mask.long(), labels=labels).logits.log_softmax(-1)
        found[:, item] = logits.gather(2, labels[:, :, None]).sum((1, 2))
    return found


@torch.no_grad()
def test_exact_scores_equal_brute_force(t5: Any, prompts: tuple[torch.Tensor, torch.Tensor]) -> None:
    trie = ItemTrie(SEQUENCES, start=0)
    scores = exact_scores(t5, *prompts, trie)
    torch.testing.assert_close(scores[:, 1:], brute_force(t5, *prompts)[:, 1:], rtol=1e-4, atol=1e-4)
    assert bool((scores[:, 0] == -torch.inf).all())


@torch.no_grad()
@pytest.mark.parametrize("block", [1, 40, 1 << 20])
def test_exact_scores_do_not_depend_on_the_block(
    t5: Any, prompts: tuple[torch.Tensor, torch.Tensor], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trie = ItemTrie(SEQUENCES, start=0)
    whole = exact_scores(t5, *prompts, trie)
    monkeypatch.setitem(generative.BLOCK, "cpu", block)
    torch.testing.assert_close(exact_scores(t5, *prompts, trie), whole)


@torch.no_grad()
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_listed_items_score_as_among_all(
    t5: Any, prompts: tuple[torch.Tensor, torch.Tensor], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trie = ItemTrie(SEQUENCES, start=0)
    whole = exact_scores(t5, *prompts, trie)
    listed = torch.stack([torch.randperm(len(SEQUENCES) - 1)[:4] + 1 for _ in whole])
    monkeypatch.setitem(generative.BLOCK, "cpu", block)
    scores = exact_scores(t5, *prompts, trie, listed)
    torch.testing.assert_close(scores.gather(1, listed), whole.gather(1, listed))
    others = torch.ones_like(scores, dtype=torch.bool).scatter_(1, listed, False)
    others[:, 0] = False
    assert bool((scores[others] == UNFOUND).all())
    assert bool((scores[:, 0] == -torch.inf).all())


@torch.no_grad()
def test_a_restricted_beam_of_full_width_agrees_with_exact_scores(
    t5: Any, prompts: tuple[torch.Tensor, torch.Tensor]
) -> None:
    trie = ItemTrie(SEQUENCES, start=0)
    scores = beam_scores(t5, Tokenizer(), *prompts, trie, len(SEQUENCES) - 1, None)
    assert bool((scores[:, 1:] > UNFOUND).all())
    torch.testing.assert_close(scores[:, 1:], exact_scores(t5, *prompts, trie)[:, 1:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_free_beam_reads_numbers_and_leaves_the_rest_tied(
    t5: Any, prompts: tuple[torch.Tensor, torch.Tensor]
) -> None:
    trie = ItemTrie(SEQUENCES, start=0)
    numbers = {int("".join(map(str, s[:-1]))): item for item, s in enumerate(SEQUENCES) if item}
    scores = beam_scores(t5, Tokenizer(), *prompts, trie, 3, numbers)
    assert set(scores.unique().tolist()) <= {UNFOUND, 0.0, -1.0, -2.0}


def test_a_free_beam_s_scores_are_places_in_the_list_and_the_first_of_two_counts(
    prompts: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Two rows of three beams: one row has an item twice, the other a number that no item has."""
    lines = [[0, 5, END, 0], [0, 6, 5, END], [0, 5, END, 0], [0, 9, END, 0], [0, 7, END, 0], [0, 8, END, 0]]
    writer = SimpleNamespace(generate=lambda **_: SimpleNamespace(sequences=torch.tensor(lines)))
    numbers = {int("".join(map(str, s[:-1]))): item for item, s in enumerate(SEQUENCES) if item}
    encoded, mask = prompts
    scores = beam_scores(writer, Tokenizer(), encoded[:2], mask[:2], ItemTrie(SEQUENCES, start=0), 3, numbers)
    wanted = torch.full((2, len(SEQUENCES)), UNFOUND)
    wanted[0, numbers[5]], wanted[0, numbers[65]] = 0.0, -1.0
    wanted[1, numbers[7]], wanted[1, numbers[8]] = -1.0, -2.0
    assert torch.equal(scores, wanted)


def test_the_trie_holds_every_prefix_once_and_knows_its_ancestors() -> None:
    trie = ItemTrie(SEQUENCES, start=0)
    prefixes = {tuple(s[:k]) for s in SEQUENCES[1:] for k in range(len(s))}
    assert len(trie) == len(prefixes)
    assert sorted(trie.allowed_after([5, 6])) == [END, 7]
    assert trie.allowed_after([5, END]) == trie.allowed_after([9]) == []
    assert [trie.item_of(sequence) for sequence in SEQUENCES[1:]] == list(range(1, 9))
    assert trie.item_of([5, 6]) == 0
    for node in range(len(trie)):
        line = trie.ancestors[node][trie.prefixes.visible()[node]].tolist()
        assert line[0] == 0
        assert line[-1] == node
        assert [int(trie.depth[a]) for a in line] == list(range(len(line)))


def test_two_items_of_one_sequence_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        ItemTrie([[], [5, END], [5, END]], start=0)
