"""Settings of DUIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from recbole_llm.errors import UserError
from recbole_llm.settings.core import Dropout
from recbole_llm.settings.schema import SettingsModel, setting
from recbole_llm.utils.bounds import Amount, Count, Whole
from recbole_llm.utils.text import counted


class DUIPSettings(SettingsModel):
    """DUIP (arXiv 2501.10871)."""

    lm: str = setting("Language model: scratch, a folder, a .gguf file, or a name such as gpt2.")
    lm_scratch: dict[str, Any] = setting("Sizes of lm: scratch.")
    head: Literal["item", "lm", "index"] = setting(
        "What is scored: all items in one pass, the likelihood of titles (lm), or numbers of a list (index)."
    )
    use_lm: bool = setting("False leaves the LSTM alone, with the same head.")
    freeze_lm: bool = setting("Leave the second stage out.")
    soft_tokens: Whole = setting("Length n_p of the soft prompt; 0 leaves the language model alone.")
    soft_prompt: Literal["mlp", "linear"] = setting("Map f from the LSTM's state to the soft prompt.")
    text_in_lstm: bool = setting("Let the LSTM read title vectors beside ids.")
    prompt_items: Whole = setting("Titles in the hard prompt, the last ones.")
    title_tokens: Whole = setting("Tokens of a title.")
    prompt_tokens: Whole = setting("Tokens of all titles of a prompt.")
    prompt_categories: bool = setting("Categories in brackets after the title.")
    cold_in_softmax: bool = setting(
        "Head item: items of no training row are among those that a target is chosen from.", before=True
    )
    embedding_size: Count = setting("Dimension d of item vectors.")
    hidden_size: Count = setting("Dimension d_h of the LSTM.")
    num_layers: Count = setting("Layers of the LSTM.")
    dropout_prob: Dropout = setting("Dropout.")
    loss_type: Literal["CE"] = setting("Training loss: a softmax over items.")
    finetune_learning_rate: Amount = setting("Second stage: learning rate of all but the language model.")
    lm_learning_rate: Amount = setting("Second stage: learning rate of the language model.")
    stage_epochs: list[Any] = setting("Most epochs of each stage; their sum is that of a model with one.")
    gradient_checkpointing: bool = setting("Less memory for a third more time.")

    def unread(self, epochs: int | None) -> dict[str, str]:
        """Settings of a second stage, or of a language model, that does not run."""
        second = ("finetune_learning_rate", "lm_learning_rate")
        if not self.use_lm:
            return dict.fromkeys((*second, "soft_tokens", "soft_prompt"), "is of the language model (use_lm: False)")
        if self.freeze_lm:
            return dict.fromkeys(second, "is of the second stage (freeze_lm: True)")
        if epochs is not None and epochs <= self.stage_epochs[0]:
            first = counted(self.stage_epochs[0], "epoch")
            text = f"is of the second stage, which begins after {first}: give trials more"
            return dict.fromkeys(second, text)
        return {}

    def check(self, values: Mapping[str, Any]) -> None:
        """Check that the head has what it reads, and that something is left to train.

        Raises:
            UserError: a head lacks the language model, the titles or the candidates that it needs, or everything is
                frozen.
        """
        if self.head != "item" and not self.use_lm:
            raise UserError(f"head: {self.head} reads the language model; use_lm: False takes head: item.")
        if self.head != "item" and self.title_tokens < 1:
            raise UserError(f"head: {self.head} tells items apart by their titles: give title_tokens: 1 or more.")
        if self.head == "index" and values.get("candidates") in (None, "all"):
            raise UserError("head: index lists candidates: use a protocol that has them (--protocol=temporal_20).")
        if self.freeze_lm and self.use_lm and not self.soft_tokens and self.head != "item":
            raise UserError(
                f"freeze_lm: True with soft_tokens: 0 and head: {self.head} leaves nothing to train: "
                "take head: item, or soft_tokens above 0."
            )
