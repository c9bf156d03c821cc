"""ISRF: Iterative Semantic Reasoning from Individual to Group Interests for Generative Recommendation with LLMs.

arXiv 2603.13934 (WWW 2026). T5 generates the number of the next item (sequential task) or of one of 100 candidates
(direct task); both tasks train one model in alternating batches. Symbols: ``d`` T5's dimension, ``Z`` item semantics,
``H`` explicit interests, ``G`` group interests, ``S`` similar users, ``P`` prompt vectors, ``W`` whole-word vectors.

     X = [P_task ; E_tok(x) + alpha W]                                                (1)
     A(z) = W2 (W1 z + b1) + b2,  Z = PCA(encoder(LLM features)), frozen              (2)
     H = mean_l (D^-1/2 A D^-1/2)^l [Q ; A(Z)]  on the user-item graph                (3, 4)
     W = H at the user or item that a token belongs to, a shared vector elsewhere     (5)
     S[u, v] = 1 for the k users with the most similar LLM profiles                   (6)
     G = mean_l (normalised S)^l Q'                                                   (7)
     direct batch:      L_align = InfoNCE(G[u], sg(H[u]))                             (8)
     sequential batch:  L_align = InfoNCE(G[u], m_u), m_u the mean of W over the items' tokens (9)
     L = L_text + weight * L_align

The reasoning about items and users (three prompts each) is in ``features.py``.

Deviates from the released code in:

- LLM prompts, profiles, the graph and the numbers of ids read no interactions but training ones (``item_numbers``).
  ``legacy_leaks: True`` gives the release: test items in profiles, a random 80 % of all interactions as the graph,
  numbers in order of appearance.
- Every valid item is scored exactly; validation scores only items that can rank above the target up to the largest
  cut-off (``decode``).
- alpha and sigma count in deviations of the token vectors and of ``A(Z)`` (``word_scale``). As released they fit a
  trained T5-small; in one from scratch they drown ``A(Z)`` in random user codes.
- Epochs are counted by interactions (``draws_per_interaction``).
- There is no explanation task, which needs reviews.
- Models are selected by the metric of their own task.
- Padding is left out of the loss, and all tokens except the items' out of ``m_u``.
- In sequential batches ``W`` is ``H``, as in the paper's (5) and (9); ``sequence_words: position`` gives the release's
  learned positions.
- The temperature is 0.2, since the paper states none; ``alignment: soft_targets`` gives the release's form.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import AbstractRecommender, GeneralRecommender, SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_llm.errors import UserError
from recbole_llm.layers.alignment import info_nce, soft_target_alignment
from recbole_llm.layers.packing import TokenTable
from recbole_llm.layers.propagation import SparseGraph, bipartite_adjacency, mean_of_layers
from recbole_llm.layers.text_projection import pca
from recbole_llm.lm.load import SEQ2SEQ, load_language_model
from recbole_llm.lm.masks import attention_mask
from recbole_llm.lm.tokenizer import tokens_of
from recbole_llm.methods.isrf.decoding import ItemTrie, beam_scores, exact_scores
from recbole_llm.methods.isrf.graphs import Adapter, similar_users_graph
from recbole_llm.methods.isrf.loader import AlternatingLoader
from recbole_llm.methods.isrf.numbers import (
    appearance_numbers,
    cooccurrence_vectors,
    path_numbers,
    random_numbers,
    trained_order,
)
from recbole_llm.methods.isrf.prompt import DIRECT_TEMPLATES, SEQUENCE_TEMPLATES, IdPrompt, IdPromptBatch
from recbole_llm.methods.isrf.search import best_scores
from recbole_llm.methods.isrf.settings import ISRFSettings

ITEM_COLUMNS = {"fused": "profile_text", "positive": "positive_text", "negative": "negative_text"}
USER_COLUMNS = {"fused": "preference_text", "positive": "positive_text", "negative": "negative_text"}
UNIFORM = 0.1  # bound of the initial prompt and position vectors, as in POD
LEGACY_GRAPH_SHARE = 0.8  # of all interactions, as the release splits its reviews


class ExplicitInterests(nn.Module):
    """``H``: LightGCN over the user-item graph, with adapted item semantics as item vectors (equations 2 to 4)."""

    unit: torch.Tensor
    gain: torch.Tensor

    def __init__(self, config: Any, dataset: Any, size: int) -> None:
        super().__init__()
        settings = ISRFSettings.of(config)
        self.layers = settings.graph_layers
        n_users, n_items = dataset.user_num, dataset.item_num
        self.relative = settings.word_scale == "relative"
        std = settings.graph_init_std
        self.users = nn.Parameter(torch.randn(n_users, size) * std)
        table = dataset.table
        rows = _graph_rows(settings, dataset, int(config["seed"]))
        pairs = np.asarray(table.user)[rows], np.asarray(table.item)[rows]
        adjacency = bipartite_adjacency(*pairs, n_users, n_items)
        self.graph = SparseGraph(adjacency, symmetric=True)
        semantics = _item_semantics(settings, dataset) if settings.item_semantics else None
        self.adapter: Adapter | None = None
        if semantics is None:
            self.items = nn.Parameter(torch.randn(n_items, size) * (1.0 if self.relative else std))
        else:
            if settings.adapter:
                self.adapter = Adapter(semantics.shape[1], size, settings.adapter_activation)
            else:
                semantics = F.pad(semantics[:, :size], (0, max(0, size - semantics.shape[1])))
            self.register_buffer("items", semantics, persistent=False)
        if self.relative:
            self.register_buffer("unit", torch.ones(()))  # scales the item vectors; gain scales the graph's output
            self.register_buffer("gain", torch.ones(()))
            with torch.no_grad():
                self.unit /= deviation(self.item_vectors()[1:])
                self.gain /= deviation(self.forward()[[*range(1, n_users), *range(n_users + 1, n_users + n_items)]])
        self.graph.to(config["device"])  # not earlier: the parameters are still on the host

    def item_vectors(self) -> torch.Tensor:
        """``A(Z)`` ``(n_items, d)`` or learned vectors; with relative scales, in units of their initial deviation."""
        items = self.adapter(self.items) if self.adapter is not None else self.items
        return items * self.unit if self.relative else items

    def forward(self) -> torch.Tensor:
        """``(n_users + n_items, d)``; row 0, which has no neighbours, is the vector of tokens outside ids."""
        mean = mean_of_layers(self.graph, torch.cat([self.users, self.item_vectors()]), self.layers)
        return mean * self.gain if self.relative else mean


def deviation(vectors: torch.Tensor) -> torch.Tensor:
    """Root mean square of vectors' entries after subtracting the mean vector, which tells none of them apart."""
    return (vectors - vectors.mean(dim=0)).square().mean().sqrt().clamp(min=1e-9)


class GroupInterests(nn.Module):
    """``G``: LightGCN over the graph of users with similar profiles (equations 6 and 7)."""

    def __init__(self, config: Any, dataset: Any, size: int) -> None:
        super().__init__()
        settings = ISRFSettings.of(config)
        self.layers = settings.user_graph_layers
        self.users = nn.Parameter(torch.randn(dataset.user_num, size) * settings.graph_init_std)
        features = dataset.semantics
        vectors, known = features.user_vectors(USER_COLUMNS[settings.user_text])
        graph = similar_users_graph(vectors, known, settings.similar_users, dataset.location.similar_users)
        self.graph = graph.to(config["device"])

    def forward(self) -> torch.Tensor:
        """``(n_users, d)``."""
        return mean_of_layers(self.graph, self.users, self.layers)


def _item_semantics(settings: ISRFSettings, dataset: Any) -> torch.Tensor | None:
    """``Z``, ``(N, min(pca_size, d_encoder, n))``: principal components of the items' texts; zero without a text."""
    features = dataset.semantics
    if features is None:
        return None
    vectors, known = features.item_vectors([ITEM_COLUMNS[settings.item_text]], suffix="itemprofile")
    reduced = pca(F.normalize(vectors[known], dim=1), settings.pca_size)
    table = torch.zeros(len(known), reduced.shape[1])
    table[known] = reduced
    return table


def _graph_rows(settings: ISRFSettings, dataset: Any, seed: int) -> np.ndarray:
    """Rows of the interactions in the graph: the training rows, or with ``legacy_leaks`` a random 80 % of all."""
    if not settings.legacy_leaks:
        return np.asarray(dataset.split.train_rows)
    generator = np.random.default_rng(seed)
    return np.flatnonzero(generator.random(len(dataset.table)) < LEGACY_GRAPH_SHARE)


def item_numbers(settings: ISRFSettings, dataset: Any) -> list[str]:
    """The number by which each item after the padding is written."""
    tokens = np.asarray(dataset.table.item_tokens)
    if settings.legacy_leaks:
        return appearance_numbers(tokens)
    if settings.item_numbers == "trained_order":
        return trained_order(dataset)
    if settings.item_numbers == "collaborative":
        return path_numbers(cooccurrence_vectors(dataset), tokens, settings.number_width)
    if settings.item_numbers == "semantic":
        semantics = _item_semantics(settings, dataset)
        assert semantics is not None  # the settings were checked
        return path_numbers(semantics[1:].numpy(), tokens, settings.number_width)
    return random_numbers(tokens)


class IterativeReasoning(nn.Module):
    """What ``ISRF`` and ``ISRFDirect`` share: the language model, both graphs, both tasks."""

    labels: torch.Tensor
    history_items: torch.Tensor
    offsets: torch.Tensor
    scale: torch.Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__()
        settings = ISRFSettings.of(config)
        lm = load_language_model(settings.lm, SEQ2SEQ, [*SEQUENCE_TEMPLATES, *DIRECT_TEMPLATES], settings.lm_scratch)
        self.label, self.lm, self.tokenizer = lm.label, lm.model, lm.tokenizer
        if not hasattr(self.lm, "encoder") or self.lm.config.model_type not in ("t5", "mt5"):
            raise UserError(f"--lm={settings.lm}: ISRF takes T5 models, not {self.lm.config.model_type}.")
        if settings.gradient_checkpointing:
            self.lm.gradient_checkpointing_enable()
        size = lm.hidden_size
        self._add_words(settings, dataset)

        scale = torch.tensor(settings.whole_word_scale)
        if settings.word_scale == "relative":
            scale = scale * self.lm.get_input_embeddings().weight.detach().float().std()
        self.register_buffer("scale", scale)  # from the initial weights, so checkpoints hold it
        self.prompt_vectors = nn.Parameter(torch.empty(2, settings.prompt_vectors, size).uniform_(-UNIFORM, UNIFORM))
        listed = 0 if config["candidates"] in (None, "all") else int(config["candidates"])
        longest = max(int(config["MAX_ITEM_LIST_LENGTH"]), settings.n_negatives + 1, listed + 1)
        self.positions = nn.Embedding(longest + 2, size)
        # With relative scales, learned positions start at deviation 1 like the word vectors of the graph.
        bound = 3.0**0.5 if settings.word_scale == "relative" else UNIFORM
        nn.init.uniform_(self.positions.weight, -bound, bound)
        self.explicit = ExplicitInterests(config, dataset, size) if settings.graph_words else None
        self.sequence_graph = self.explicit is not None and settings.sequence_words == "graph"

        self.alignment, self.temperature = settings.alignment, settings.alignment_temperature
        weights = {"sequence": settings.sequential_alignment, "direct": settings.direct_alignment}
        if dataset.semantics is None:
            weights = dict.fromkeys(weights, 0.0)
        if self.explicit is None:
            weights["direct"] = 0.0
        self.weights = weights
        self.group = GroupInterests(config, dataset, size) if any(weights.values()) else None

        self.decode, self.beams = settings.decode, settings.beams
        self.paraphrases = settings.paraphrases
        self.depth, self.lists = 0, False  # depth up to which ranks are wanted; 0: score all items
        self.masks_history = bool(config["mask_history"])
        table = dataset.table
        for name, values in (("history_items", table.item), ("offsets", table.offsets)):
            self.register_buffer(name, torch.from_numpy(np.array(values)).long(), persistent=False)

    def _add_words(self, settings: ISRFSettings, dataset: Any) -> None:
        """Make the prompts, the trie of item numbers and the decoder's labels."""
        user_tokens = np.asarray(dataset.table.user_tokens)
        users = appearance_numbers(user_tokens) if settings.legacy_leaks else random_numbers(user_tokens)
        items = item_numbers(settings, dataset)

        def tokenise(texts: list[str]) -> list[list[int]]:
            return tokens_of(self.tokenizer, texts)

        user_ids = TokenTable([[], *tokenise([f"user_{number}" for number in users])])
        item_ids = TokenTable([[], *tokenise([f"item_{number}" for number in items])])
        self.sequence_prompt = IdPrompt(tokenise, user_ids, item_ids, SEQUENCE_TEMPLATES)
        self.direct_prompt = IdPrompt(tokenise, user_ids, item_ids, DIRECT_TEMPLATES)
        end = int(self.tokenizer.eos_token_id)
        sequences = [[], *([*tokens, end] for tokens in tokenise(items))]
        self.trie = ItemTrie(sequences, int(self.lm.config.decoder_start_token_id))
        self.item_of_number = {int(number): item for item, number in enumerate(items, start=1)}
        labels = torch.full((len(sequences), max(map(len, sequences))), -100)
        for item, sequence in enumerate(sequences):
            labels[item, : len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
        self.register_buffer("labels", labels, persistent=False)

    # ---- prompts ---------------------------------------------------------------------------------

    def interests(self) -> torch.Tensor | None:
        """``H``, or ``None`` without the graph."""
        return self.explicit() if self.explicit is not None else None

    def words(self, prompt: IdPromptBatch, direct: bool, interests: torch.Tensor | None) -> torch.Tensor:
        """``W``, ``(B, T, d)``."""
        if interests is not None and (direct or self.sequence_graph):
            # Not by indexing, whose gradient is summed in an order that depends on threads.
            return F.embedding(prompt.node, interests)
        whole: torch.Tensor = self.positions(prompt.ordinal)
        return whole

    def embedded(self, prompt: IdPromptBatch, words: torch.Tensor, direct: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """``X`` ``(B, p + T, d)`` and its mask."""
        tokens = self.lm.get_input_embeddings()(prompt.ids) + self.scale * words
        vectors = self.prompt_vectors[int(direct)].expand(len(tokens), -1, -1).to(tokens.dtype)
        mask = torch.cat([prompt.mask.new_ones(vectors.shape[:2]), prompt.mask], dim=1)
        return torch.cat([vectors, tokens], dim=1), mask

    def prompt_of(self, user: torch.Tensor, items: torch.Tensor, direct: bool) -> IdPromptBatch:
        """The plain template, or with ``paraphrases`` a random template in training."""
        prompt = self.direct_prompt if direct else self.sequence_prompt
        template = int(torch.randint(len(prompt), (1,))) if self.training and self.paraphrases else 0
        batch: IdPromptBatch = prompt(user, items, template)
        return batch

    # ---- training --------------------------------------------------------------------------------

    def loss(
        self, user: torch.Tensor, items: torch.Tensor, target: torch.Tensor, direct: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Text loss and weighted alignment loss of a batch.

        Args:
            user: ``(B,)``.
            items: ``(B, S)`` history (0 padded) or candidates.
            target: ``(B,)``.
            direct: which task.
        """
        interests = self.interests()
        prompt = self.prompt_of(user, items, direct)
        words = self.words(prompt, direct, interests)
        inputs, mask = self.embedded(prompt, words, direct)
        seen = attention_mask(mask, inputs.dtype, causal=False)
        text = self.lm(inputs_embeds=inputs, attention_mask=seen, labels=self.labels[target]).loss
        weight = self.weights["direct" if direct else "sequence"]
        if self.group is None or not weight:
            return text, text.new_zeros(())
        group = F.embedding(user, self.group())
        if direct:
            assert interests is not None
            other = interests[user].detach()
        else:
            member = (prompt.ordinal > 1)[:, :, None].to(words.dtype)
            other = (words * member).sum(dim=1) / member.sum(dim=1)
        return text, weight * self.align(group.float(), other.float())

    def align(self, group: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Equations 8 and 9, or the release's form."""
        if self.alignment == "infonce":
            return info_nce(group, other, self.temperature)
        return soft_target_alignment(group, other)

    # ---- scoring ---------------------------------------------------------------------------------

    def scores(
        self,
        user: torch.Tensor,
        items: torch.Tensor,
        direct: bool,
        listed: torch.Tensor | None = None,
        target: torch.Tensor | None = None,
        position: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``(B, N)`` log-likelihoods of all items' numbers or of some items only, or the scores of a beam search.

        Args:
            user: ``(B,)``.
            items: ``(B, S)`` history (0 padded) or candidates.
            direct: which task.
            listed: ``(B, C)`` the only items to score.
            target, position: ``(B,)`` item whose rank is wanted, and its index in the user's whole history; with
                ``depth`` only items that can change its rank up to that depth are scored.
        """
        interests = self.interests()
        prompt = self.prompt_of(user, items, direct)
        inputs, mask = self.embedded(prompt, self.words(prompt, direct, interests), direct)
        seen = attention_mask(mask, inputs.dtype, causal=False)
        encoded = self.lm.encoder(inputs_embeds=inputs, attention_mask=seen).last_hidden_state
        if self.decode in ("exact", "bounded"):
            if not self.depth or target is None:
                return exact_scores(self.lm, encoded, mask, self.trie, listed)
            ranked = self.ranked(user, listed, position)
            return best_scores(self.lm, encoded, mask, self.trie, self.depth, target, ranked, self.lists)
        numbers = self.item_of_number if self.decode == "free" else None
        return beam_scores(self.lm, self.tokenizer, encoded, mask, self.trie, self.beams, numbers)

    def ranked(
        self, user: torch.Tensor, listed: torch.Tensor | None, position: torch.Tensor | None
    ) -> torch.Tensor | None:
        """``(B, N)`` bool, which items a target is ranked among; ``None`` for all of them."""
        size = (len(user), len(self.trie.sequences))
        if listed is not None:
            return torch.zeros(size, dtype=torch.bool, device=user.device).scatter_(1, listed, True)
        if not self.masks_history or position is None:
            return None
        place = torch.arange(int(position.max()), device=user.device)
        rows = (self.offsets[user][:, None] + place).clamp(max=len(self.history_items) - 1)
        seen = self.history_items[rows].masked_fill(place >= position[:, None], 0)
        return torch.ones(size, dtype=torch.bool, device=user.device).scatter_(1, seen, False)


class _BothTasks(AbstractRecommender):
    """What the two models share besides their core: both are trained on both tasks."""

    input_type = InputType.POINTWISE
    train_loader = AlternatingLoader

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.core = IterativeReasoning(config, dataset)
        self.language_model = self.core.label
        self.sequence_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]

    @property
    def bounded(self) -> bool:
        """Whether testing, like validation, looks no further than the largest cut-off."""
        return self.core.decode == "bounded"

    @contextmanager
    def to_depth(self, depth: int, lists: bool) -> Iterator[None]:
        """Score only items that can change ranks up to a depth, and with ``lists`` the top ``depth`` items."""
        self.core.depth, self.core.lists = depth, lists
        try:
            yield
        finally:
            self.core.depth, self.core.lists = 0, False

    def calculate_loss(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a batch of either task: text and alignment."""
        direct = "candidates" in interaction
        items = interaction["candidates" if direct else self.sequence_field]
        return self.core.loss(interaction[self.USER_ID], items, interaction[self.ITEM_ID], direct)

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]


class ISRF(_BothTasks, SequentialRecommender):
    """ISRF for the next item of a sequence; models are selected by the sequential task.

    Without ``graph_words`` and without alignments it is POD's T5, trained on both tasks.
    """

    reads_past_length = False

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, N)`` scores of all items."""
        listed = interaction["candidates"] if "candidates" in interaction else None  # noqa: SIM401 - no dict
        target, position = (interaction[name] if self.core.depth else None for name in (self.ITEM_ID, "position"))
        return self.core.scores(interaction[self.USER_ID], interaction[self.ITEM_SEQ], False, listed, target, position)


class ISRFDirect(_BothTasks, GeneralRecommender):
    """ISRF for the choice among 1 + 99 candidates, which the prompt lists; models are selected by the direct task."""

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, N)`` scores of all items, for a prompt that lists the batch's candidates.

        Raises:
            UserError: the batch has no candidates.
        """
        if "candidates" not in interaction:
            raise UserError("ISRFDirect chooses from lists: use a protocol with candidates (--protocol=direct_100).")
        listed, target = interaction["candidates"], interaction[self.ITEM_ID] if self.core.depth else None
        return self.core.scores(interaction[self.USER_ID], listed, True, listed, target)
