"""DUIP: Dynamic User Intent Prediction with large language models (arXiv 2501.10871).

An LSTM reads the session, and its last state becomes the soft prompt of a causal language model. A hard prompt lists
the titles, and the language model's last state ranks the items. Symbols: ``t`` session length, ``h_t`` the LSTM's last
state, ``f`` the map from it to ``n_p`` soft tokens, ``o`` the language model's last state, ``s_i`` the frozen vector of
item ``i``'s title.

     x_t = [E_id(i_t) ; W_txt s_{i_t}],   h_t = LSTM(x_1 .. x_t)
     P = scale * LayerNorm(f(h_t))                           f: one linear layer, or two with GELU between
     X = [P ; wte("Session so far: title_1; ...; title_t. The next item is")]
     o = LM(X)_last,   P(y | P) = softmax_y((W_o o) . E_out[y] + b_y),   E_out[i] = W_txt' s_i + E_id(i)
     L = -log P(target | P)

Training has two stages. In the first the language model is frozen and the rest trains at ``learning_rate``. In the
second everything trains, the language model at ``lm_learning_rate`` and the rest at ``finetune_learning_rate``.
Gradients reach the LSTM through the language model in both.

The paper leaves f, the prompts, the candidates and all sizes open, and has no code. Everything except the LSTM's
equations, ``P = f(h_t)`` and ``y = argmax P(y | P)`` is reconstructed. The head ``item`` (above) ranks all items in one
pass; ``lm`` scores each candidate by the likelihood of its title; ``index`` lists candidates and reads the logits of
their numbers. Dropout applies to ``x_t`` and ``h_t``. Items without a training row keep their text but lose ``E_id``
and ``b``. They are left out of the training softmax, which would lower their scores only because they are never a
target (``cold_in_softmax: True`` puts them in). Without titles, prompts call items by random numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_llm.data.interactions import hash_ranks
from recbole_llm.errors import UserError
from recbole_llm.layers.cross_entropy import linear_cross_entropy
from recbole_llm.layers.packing import Packed
from recbole_llm.layers.waits import at_hand
from recbole_llm.lm.load import CAUSAL, load_language_model
from recbole_llm.lm.masks import attention_mask
from recbole_llm.lm.tokenizer import tokens_of
from recbole_llm.methods.duip.prompt import AFTER, ASKED, BEFORE, OFFERED, TitlePrompt
from recbole_llm.methods.duip.settings import DUIPSettings

UNLISTED = -1e4  # score of items outside the candidates, for heads that score candidates only
PASSED_OVER = -100  # label after a title's end, which cross-entropy ignores
PAIRS = 4096  # pairs of prompt and title in one pass of the language model (head `lm`)


class SoftPrompt(nn.Module):
    """``P = scale * LayerNorm(f(h))``, ``(B, d_h)`` to ``(B, n_p, d)``; the learned scale starts at ``scale``."""

    def __init__(self, size: int, count: int, dim: int, form: str, scale: float) -> None:
        super().__init__()
        self.count, self.dim = count, dim
        if form == "linear":
            self.f: nn.Module = nn.Linear(size, count * dim)
        else:
            self.f = nn.Sequential(nn.Linear(size, dim), nn.GELU(), nn.Linear(dim, count * dim))
        self.norm = nn.LayerNorm(dim)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """``P`` ``(B, n_p, d)`` from states ``(B, d_h)``."""
        tokens: torch.Tensor = self.norm(self.f(state).view(-1, self.count, self.dim)) * self.scale
        return tokens


class DUIP(SequentialRecommender):
    """LSTM intent, soft and hard prompt, causal language model.

    Without ``use_lm`` it is the LSTM alone with the same head; with ``soft_tokens: 0`` the language model alone.
    """

    reads_past_length = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = DUIPSettings.of(config)
        self.head, self.use_lm = settings.head, settings.use_lm
        self.soft_tokens = settings.soft_tokens if self.use_lm else 0
        self.rates = [float(config[k]) for k in ("learning_rate", "finetune_learning_rate", "lm_learning_rate")]
        self.stages = self._stages(settings)
        self.stage = 0
        size, hidden = settings.embedding_size, settings.hidden_size

        titles, vectors = self._texts(settings, dataset)
        self.item_embedding = nn.Embedding(self.n_items, size, padding_idx=0)
        nn.init.normal_(self.item_embedding.weight, std=0.02)
        seen = torch.zeros(self.n_items, 1)
        seen[dataset.table.item[dataset.split.train_rows]] = 1.0
        self.register_buffer("seen", seen, persistent=False)
        trained = seen[:, 0] > 0
        self.leaves_cold_out = not settings.cold_in_softmax
        self.register_buffer("trained_items", trained.nonzero()[:, 0], persistent=False)
        self.register_buffer("trained_place", trained.cumsum(0) - 1, persistent=False)
        self.register_buffer("text_vectors", vectors, persistent=False)
        self.text_out = nn.Linear(vectors.shape[1], size, bias=False) if vectors is not None else None

        if self.soft_tokens or not self.use_lm:
            text = vectors if settings.text_in_lstm else None
            self.text_in = nn.Linear(text.shape[1], size, bias=False) if text is not None else None
            self.dropout = nn.Dropout(settings.dropout_prob)
            layers = settings.num_layers
            self.lstm = nn.LSTM(size * (1 if text is None else 2), hidden, layers, batch_first=True)
        width = hidden
        if self.use_lm:
            width = self._add_language_model(
                settings, int(config["candidates"]) if self.head == "index" else 0, titles, hidden
            )
        else:
            self.language_model = "no language model"
        if self.head == "item":
            self.readout = nn.Linear(width, size)
            self.item_bias = nn.Parameter(torch.zeros(self.n_items))

    def _stages(self, settings: DUIPSettings) -> tuple[str, ...]:
        """Stages of the training; the frozen one is left out where only the language model has weights to learn."""
        if self.use_lm and not self.soft_tokens and self.head != "item":
            return ("finetuned",)
        return ("frozen",) if settings.freeze_lm or not self.use_lm else ("frozen", "finetuned")

    def _texts(self, settings: DUIPSettings, dataset: Any) -> tuple[list[str], torch.Tensor | None]:
        """Prompt text of each item, and frozen title vectors ``(N, d_enc)`` (row 0 zero; ``None`` without features)."""
        features = dataset.semantics
        if features is None:
            ranks = hash_ranks(np.asarray(dataset.table.item_tokens)).tolist()
            return ["", *(f"item {rank + 1}" for rank in ranks)], None
        titles = features.shown_texts("title_text")
        if settings.prompt_categories:
            categories = features.shown_texts("categories_text")
            titles = [f"{t} ({c})" if c else t for t, c in zip(titles, categories, strict=True)]
        return titles, F.normalize(features.item_vectors(["title_text"])[0], dim=1)

    def _add_language_model(self, settings: DUIPSettings, negatives: int, titles: list[str], hidden: int) -> int:
        fixed = [BEFORE, AFTER, OFFERED, ASKED, ".;"]
        lm = load_language_model(settings.lm, CAUSAL, [*titles, *fixed], settings.lm_scratch)
        self.language_model = lm.label
        self.lm = lm.model
        if settings.gradient_checkpointing:
            self.lm.gradient_checkpointing_enable()
        words = self.lm.get_input_embeddings().weight
        self.n_offered = negatives + 1 if self.head == "index" else 0
        labels = [str(number + 1) for number in range(self.n_offered)]
        first = [tokens[-1] for tokens in tokens_of(lm.tokenizer, [f" {label}" for label in labels])]
        if len(set(first)) < len(first):  # two numbers with the same last token, such as 1 and 11
            raise UserError(f"head: index: {lm.label} has no single token for each of the numbers to {self.n_offered}.")
        self.register_buffer("label_tokens", torch.tensor(first, dtype=torch.int64), persistent=False)
        self.prompt = TitlePrompt(
            titles,
            lambda texts: tokens_of(lm.tokenizer, texts),
            title_tokens=settings.title_tokens,
            max_items=settings.prompt_items,
            max_tokens=settings.prompt_tokens,
            end=int(lm.tokenizer.eos_token_id),
            labels=labels,
        )
        self._check_length(lm.label)
        if self.soft_tokens:
            scale = float(words.detach().float().std())
            self.soft = SoftPrompt(hidden, self.soft_tokens, lm.hidden_size, settings.soft_prompt, scale)
        return lm.hidden_size

    def _check_length(self, label: str) -> None:
        """Refuse prompts longer than the language model reads, before it fails in the middle of an epoch."""
        limit = getattr(self.lm.config, "max_position_embeddings", None)
        longest = self.soft_tokens + self.prompt.longest(self.max_seq_length, self.n_offered, self.head == "lm")
        if limit is not None and longest > limit:
            raise UserError(
                f"prompts of up to {longest} tokens, and {label} reads {limit}: lower title_tokens, prompt_items, "
                "prompt_tokens or, with head: index, the protocol's candidates."
            )

    # ---- stages ----------------------------------------------------------------------------------

    def enter_stage(self, stage: int) -> list[dict[str, Any]]:
        """Freeze or unfreeze the language model; returns the parameter groups of the stage."""
        own = [p for name, p in self.named_parameters() if not name.startswith("lm.")]
        if not self.use_lm:
            return [{"params": own, "lr": self.rates[0]}]
        frozen = self.stages[stage] == "frozen"
        for parameter in self.lm.parameters():
            parameter.requires_grad_(not frozen)
        if frozen:
            return [{"params": own, "lr": self.rates[0]}]
        return [{"params": own, "lr": self.rates[1]}, {"params": list(self.lm.parameters()), "lr": self.rates[2]}]

    # ---- forward ---------------------------------------------------------------------------------

    def item_table(self) -> torch.Tensor:
        """``E_out``, ``(N, d)``."""
        table = self.item_embedding.weight * self.seen
        return table if self.text_out is None else table + self.text_out(self.text_vectors)

    def intent(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``h_t``, ``(B, d_h)``."""
        x = self.item_embedding(item_seq) * self.seen[item_seq]
        if self.text_in is not None:
            x = torch.cat([x, self.text_in(self.text_vectors[item_seq])], dim=2)
        states, _ = self.lstm(self.dropout(x))
        last: torch.Tensor = states[torch.arange(len(states), device=states.device), item_seq_len - 1]
        return self.dropout(last)

    def read(self, prompt: Packed, state: torch.Tensor | None) -> torch.Tensor:
        """States ``(B, T, d)`` of the language model at the prompt's tokens, without those of the soft tokens."""
        words = self.lm.get_input_embeddings()(prompt.ids)
        mask = prompt.mask
        if state is not None:
            soft = self.soft(state).to(words.dtype)
            words = torch.cat([soft, words], dim=1)
            mask = torch.cat([mask.new_ones(soft.shape[:2]), mask], dim=1)
        seen = attention_mask(mask, words.dtype, causal=True)
        read = self.lm.base_model(inputs_embeds=words, attention_mask=seen, use_cache=False)
        return read.last_hidden_state[:, self.soft_tokens :]

    def _state(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor | None:
        return self.intent(item_seq, item_seq_len) if self.soft_tokens or not self.use_lm else None

    @staticmethod
    def _last(states: torch.Tensor, prompt: Packed) -> torch.Tensor:
        return states[torch.arange(len(states), device=states.device), prompt.length - 1]

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """``W_o o``, ``(B, d)``, which the head ``item`` compares with the items."""
        state = self._state(item_seq, item_seq_len)
        if self.use_lm:
            prompt = self.prompt(item_seq, item_seq_len)
            state = self._last(self.read(prompt, state), prompt)
        output: torch.Tensor = self.readout(state)
        return output

    # ---- heads -----------------------------------------------------------------------------------

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Cross-entropy over the trained items, over the title's tokens, or over the listed candidates."""
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        target = interaction[self.POS_ITEM_ID]
        if self.head == "item":
            output, table = self._with_bias(self.forward(item_seq, length))
            if self.leaves_cold_out:
                table, target = table[self.trained_items], self.trained_place[target]
            return linear_cross_entropy(output, table, target)
        state = self._state(item_seq, length)
        if self.head == "lm":
            return -self._likelihood(item_seq, length, state, target).mean()
        offered = torch.randint(1, self.n_items, (len(target), self.n_offered), device=target.device)
        place = torch.randint(0, self.n_offered, (len(target), 1), device=target.device)
        offered = torch.where(offered == target[:, None], offered % (self.n_items - 1) + 1, offered)
        offered.scatter_(1, place, target[:, None])
        return F.cross_entropy(self._choice(item_seq, length, state, offered), place[:, 0])

    def _with_bias(self, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Output and item table with one more dimension, which adds each trained item's bias to the dot product."""
        ones, bias = output.new_ones(len(output), 1), self.item_bias[:, None] * self.seen
        return torch.cat([output, ones], dim=1), torch.cat([self.item_table(), bias], dim=1)

    def _likelihood(
        self, item_seq: torch.Tensor, length: torch.Tensor, state: torch.Tensor | None, items: torch.Tensor
    ) -> torch.Tensor:
        """``(B,)`` mean log-likelihood of each title's tokens, the end token included, after its prompt."""
        prompt = self.prompt(item_seq, length, continuation=items)
        states = self.read(prompt, state)
        title, size = self.prompt.continuation(items)
        number = torch.arange(title.shape[1], device=title.device)
        inside = number < size[:, None]
        place = (prompt.length - size - 1)[:, None] + number  # of the token before, whose state predicts it
        owner = torch.arange(len(items), device=items.device)[:, None].expand_as(title)
        if at_hand(inside):  # no logits past a title's end; elsewhere the loss ignores them
            title, place, owner = title[inside], place[inside], owner[inside]
        else:
            title, place = title.masked_fill(~inside, PASSED_OVER), place.clamp(max=states.shape[1] - 1)
        logits = self.lm.get_output_embeddings()(states[owner, place]).flatten(0, -2)
        loss = F.cross_entropy(logits.float(), title.flatten(), reduction="none", ignore_index=PASSED_OVER)
        total = loss.new_zeros(len(items)).index_add_(0, owner.flatten(), loss)
        return -total / size.clamp(min=1)

    def _choice(
        self, item_seq: torch.Tensor, length: torch.Tensor, state: torch.Tensor | None, offered: torch.Tensor
    ) -> torch.Tensor:
        """``(B, c)`` logits of the candidates' numbers."""
        prompt = self.prompt(item_seq, length, candidates=offered)
        logits = self.lm.get_output_embeddings()(self._last(self.read(prompt, state), prompt))
        return logits.float()[:, self.label_tokens]

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """``(B, N)`` scores; heads ``lm`` and ``index`` score the batch's candidates, ``lm`` without any all items."""
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        if self.head == "item":
            output, table = self._with_bias(self.forward(item_seq, length))
            return output @ table.T
        listed = interaction["candidates"] if "candidates" in interaction else None  # noqa: SIM401 - no dict
        state = self._state(item_seq, length)
        if self.head == "index":
            if listed is None or listed.shape[1] != self.n_offered:
                raise UserError(f"head: index ranks lists of {self.n_offered} candidates, and these cases have none.")
            values = self._choice(item_seq, length, state, listed)
        else:
            if listed is None:
                listed = torch.arange(self.n_items, device=item_seq.device).expand(len(item_seq), -1)
            values = self._score_titles(item_seq, length, state, listed)
        scores = torch.full((len(item_seq), self.n_items), UNLISTED, device=item_seq.device)
        return scores.scatter_(1, listed, values.float())

    def _score_titles(
        self, item_seq: torch.Tensor, length: torch.Tensor, state: torch.Tensor | None, items: torch.Tensor
    ) -> torch.Tensor:
        rows, count = items.shape
        owner = torch.arange(rows, device=items.device).repeat_interleave(count)
        found = []
        for part, wanted in zip(owner.split(PAIRS), items.reshape(-1).split(PAIRS), strict=True):
            found.append(self._likelihood(item_seq[part], length[part], None if state is None else state[part], wanted))
        return torch.cat(found).view(rows, count)

    def predict(self, interaction: Any) -> torch.Tensor:
        """``(B,)`` scores of the batch's items."""
        item_seq, length, items = (interaction[k] for k in (self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.ITEM_ID))
        if self.head == "lm":
            return self._likelihood(item_seq, length, self._state(item_seq, length), items)
        return self.full_sort_predict(interaction).gather(1, items[:, None])[:, 0]
