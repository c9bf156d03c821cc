"""Settings of LDMI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from recbole_llm.errors import UserError
from recbole_llm.methods.baselines.settings import ComiRecDRSettings
from recbole_llm.settings.schema import ITEM, setting
from recbole_llm.utils.bounds import Amount, Count, Positive, Share


class LDMISettings(ComiRecDRSettings):
    """LDMI (arXiv 2507.10917), on ComiRec-DR."""

    align: bool = setting("Align the LLM's clusters with the interests.")
    clusters: Literal["llm", "items", "history"] = setting(
        "Clusters of a history: the LLM's, or as a control each item its own (items) or one of all (history)."
    )
    align_softmax: Literal["interest", "cluster"] = setting(
        "Share each cluster out among interests, or (cluster) ordinary cross-attention."
    )
    gate: Literal["sigmoid", "one", "zero"] = setting("How much of the clusters enters an interest.")
    cluster_scale: Literal["matched", "own"] = setting(
        "Length of the clusters' term: a learned factor that starts at the interests' own length (matched), or that of "
        "LayerNorm, sqrt(d), which drowns them (own).",
        before="own",
    )
    cluster_text: bool = setting("Add the vector of a cluster's name.")
    contrast: Literal["item", "real", "both", "none"] = setting(
        "Contrast over synthesised users: L_A, L_B, both, none."
    )
    contrast_weight: Amount = setting("Weight lambda of the contrast; 0 turns it off.")
    temperature: Positive = setting("Temperature tau of the contrast.")
    synthesised_per_step: Count = setting("Synthesised users in a step.")
    interest_window: Count = setting("Items in one question; longer histories are divided part by part.")
    clique_size: Count = setting("Users of a clique: one and the nearest others.")
    clique_weighting: Literal["binary", "idf"] = setting("Weights of items in the cosine of two users.")
    synthesised_items: Count = setting("Items of a synthesised user.")
    covering: Literal["cliques", "items"] = setting(
        "Choose cliques that cover most, or take all disjoint cliques and choose their items."
    )
    covering_weight: Literal["frequency", "one"] = setting("An item counts its interactions, or once.")
    covering_share: float = setting("Share of the weight that is enough to cover.", gt=0, le=1)
    covering_budget: Share = setting("Most synthesised users, as a share of the users.")

    @property
    def aligns(self) -> bool:
        """Whether clusters enter the interests."""
        return self.align and self.gate != "zero"

    @property
    def contrasts(self) -> bool:
        """Whether synthesised users teach the interests."""
        return bool(self.contrast_weight) and self.contrast != "none"

    def reads(self, features: tuple[str, ...]) -> tuple[str, ...]:
        """``interest`` for the alignment, ``synuser`` for the contrast."""
        read = {"interest": self.aligns, "synuser": self.contrasts}
        return tuple(name for name in features if read.get(name, True))

    def reads_vectors(self, features: tuple[str, ...], by_rule: bool) -> set[str]:
        """Item vectors too, where the offline rule groups the items."""
        return super().reads_vectors(features, by_rule) | ({ITEM} if by_rule and self.reads(features) else set())

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuse cluster names to the controls: the names are the LLM's.

        Raises:
            UserError: ``cluster_text`` with clusters that are not the LLM's.
        """
        super().check(values)
        if self.cluster_text and self.clusters != "llm":
            raise UserError(
                f"cluster_text needs clusters: llm; clusters: {self.clusters} have no names. Leave one of the two out."
            )
