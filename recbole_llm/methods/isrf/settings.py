"""Settings of ISRF, shared by its two tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from recbole_llm.errors import UserError
from recbole_llm.evaluation.names import UNCUT_METRICS
from recbole_llm.settings.schema import ITEM, USER, SettingsModel, setting
from recbole_llm.utils.bounds import Amount, Count, Positive, Whole


class ISRFSettings(SettingsModel):
    """ISRF (arXiv 2603.13934)."""

    lm: str = setting("Language model: scratch, a folder, or a name such as google-t5/t5-small; T5 models only.")
    lm_scratch: dict[str, Any] = setting("Sizes of lm: scratch.")
    decode: Literal["exact", "bounded", "restricted", "free"] = setting(
        "exact scores every valid item at the test, bounded looks no further than the largest cut-off there either; "
        "restricted and free are beam searches (free as released)."
    )
    beams: Count = setting("Width of a beam search.")
    item_numbers: Literal["random", "trained_order", "collaborative", "semantic"] = setting(
        "Numbers of items: at random, by first training interaction, or paths through clusters of co-occurrence in "
        "training, or of their texts; legacy_leaks takes the release's.",
        before="random",
    )
    number_width: int = setting("Clusters of a level of such a path.", before=32, ge=2, lt=100)
    item_semantics: bool = setting("False puts random item vectors into the graph.")
    item_text: Literal["fused", "positive", "negative"] = setting(
        "Text of an item: fused, positive (vPos) or negative (vNeg)."
    )
    user_text: Literal["fused", "positive", "negative"] = setting(
        "Text of a user: fused, positive (uPos) or negative (uNeg)."
    )
    profile_items: Count = setting("Newest items in the questions about a user.")
    pca_size: Count = setting("Dimension of the frozen item semantics, at most that of the encoder.")
    adapter: bool = setting("False puts the frozen semantics into the graph as they are.")
    adapter_activation: Literal["none", "relu"] = setting("Activation of the adapter (none as released).")
    graph_words: bool = setting("Whole-word vectors from the graph; False takes learned positions everywhere.")
    sequence_words: Literal["graph", "position"] = setting(
        "Whole-word vectors of sequential prompts: from the graph (the paper), or positions (the release)."
    )
    word_scale: Literal["absolute", "relative"] = setting(
        "What alpha and sigma count in: absolute (as released, for a trained T5-small), or relative: in deviations of "
        "the token vectors, and of the adapted item semantics, at the start.",
        before="absolute",
    )
    whole_word_scale: float = setting("Scale alpha of whole-word vectors.")
    graph_layers: Whole = setting("Layers L of the user-item graph.")
    user_graph_layers: Whole = setting("Layers L of the graph of similar users.")
    graph_init_std: Amount = setting("Deviation sigma of initial user vectors.")
    similar_users: Whole = setting("Similar users k.")
    sequential_alignment: Amount = setting("Weight of the loss of equation 9; 0 turns it off.")
    direct_alignment: Amount = setting("Weight of the loss of equation 8; 0 turns it off.")
    alignment: Literal["infonce", "soft_targets"] = setting("Alignment loss: infonce, or soft_targets as released.")
    alignment_temperature: Positive = setting("Temperature tau of infonce.")
    prompt_vectors: Whole = setting("Prompt vectors p of each task.")
    paraphrases: bool = setting("A random wording of each training prompt.")
    n_negatives: Count = setting("Candidates of a direct training prompt besides the positive (released: 99).")
    curriculum: list[Any] = setting("Numbers of candidates that come before n_negatives, fewest first.", before=[])
    curriculum_batches: Count = setting("Direct batches with each number of the curriculum.", before=2000)
    samples_per_user: Count = setting("Draws from each user and task in an epoch (released: 1).")
    draws_per_interaction: Amount = setting(
        "Share of the training interactions that an epoch takes for each task, instead of draws by users; 0 for those.",
        before=0.0,
    )
    legacy_leaks: bool = setting("Profiles, graph and numbers as released, test items included.")
    loss_type: Literal["CE"] = setting("Training loss: the likelihood of the item's number.")
    gradient_checkpointing: bool = setting("Less memory for a third more time.")

    @property
    def graph_semantics(self) -> bool:
        """Whether the graph reads what the LLM says about the items."""
        return self.graph_words and self.item_semantics

    @property
    def reads_items(self) -> bool:
        """Whether the graph or the items' numbers read what the LLM says about the items."""
        return self.graph_semantics or (self.item_numbers == "semantic" and not self.legacy_leaks)

    @property
    def aligns(self) -> bool:
        """Whether a loss reads what the LLM says about the users; the direct one also needs the graph's vectors."""
        return bool(self.sequential_alignment) or (bool(self.direct_alignment) and self.graph_words)

    def reads(self, features: tuple[str, ...]) -> tuple[str, ...]:
        """Users' reasoning for the alignments; items' reasoning for its prompts, the graph and semantic numbers."""
        read = {"user_reasoning": self.aligns, "item_reasoning": self.aligns or self.reads_items}
        return tuple(name for name in features if read.get(name, True))

    def reads_vectors(self, features: tuple[str, ...], by_rule: bool) -> set[str]:
        """Item vectors for the graph and for semantic numbers, user vectors for the alignments."""
        items = {ITEM} if self.reads_items else set()
        return super().reads_vectors(features, by_rule) | items | ({USER} if self.aligns else set())

    def check(self, values: Mapping[str, Any]) -> None:
        """Check that decoding, numbers and curriculum have what they need.

        Raises:
            UserError: a restricted search with one beam, which has no scores to rank by; metrics without a cut-off with
                a bounded search; semantic numbers without texts; a curriculum that is not a list of whole numbers from
                1 on.
        """
        if self.decode == "bounded" and any(str(name).lower() in UNCUT_METRICS for name in values.get("metrics") or ()):
            raise UserError(
                "decode: bounded ranks only up to the largest cut-off, and GAUC has none: it needs decode: exact."
            )
        if self.item_numbers == "semantic" and values.get("semantics") == "none":
            raise UserError("item_numbers: semantic are made of the items' texts, which semantics: none leaves out.")
        if any(type(number) is not int or number < 1 for number in self.curriculum):
            raise UserError(f"curriculum: give whole numbers from 1 on, such as [9,29]; got {self.curriculum}.")
        if self.decode == "restricted" and self.beams < 2:
            raise UserError(f"decode: restricted searches with beams: 2 or more; got {self.beams}.")
