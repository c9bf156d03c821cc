"""Settings of LLM-DMsRec. Its backbone's settings apply underneath, so that the two can be compared."""

from __future__ import annotations

from typing import Literal

from recbole_llm.settings.core import Dropout
from recbole_llm.settings.schema import Role, SettingsModel, setting
from recbole_llm.utils.bounds import Amount, Count


class SRGNNEnsembleSettings(SettingsModel):
    """Several SR-GNNs (arXiv 1811.00855) whose scores are summed."""

    members: Count = setting("SR-GNNs that are trained side by side.")


class LLMDMsRecSettings(SettingsModel):
    """LLM-DMsRec (arXiv 2507.20147)."""

    loss_type: Literal["CE"] = setting("Training loss: a softmax over items.")
    backbone: Literal["SRGNN", "GCSAN", "TAGNN", "GCEGNN", "SHARE", "MSGIFSR"] = setting(
        "Session model that the intents enter.", before="SRGNN"
    )
    sigma: Amount = setting("Weight sigma of the alignment loss; 0 turns it off.")
    align: Literal["kl", "contrastive", "infonce", "directau", "none"] = setting(
        "Alignment loss: kl (the paper), contrastive (in-batch, tau 0.5), infonce (tau 0.07, as released), directau, "
        "or none.",
        before="kl",
    )
    fusion: bool = setting("Let the intents enter the session vector.")
    semantic_dropout: Dropout = setting("Dropout q on the text vectors.")
    stage_one_model: str = setting("Candidate model: the LLM chooses among its top items.")
    n_candidates: Count = setting("Candidates in a question.")
    candidate_folds: Count = setting(
        "1: one candidate model for all; k > 1: training candidates come from models without that user.", before=1
    )
    offline_latent: Literal["ranked", "nearest"] = setting(
        "Latent intents by rule: the other candidates that rank first, or those nearest in meaning to the last item, "
        "whatever their rank.",
        before="ranked",
    )
    legacy_match: bool = setting(
        "Count all intents of an answer but the first as latent, as the released code does.", before=False
    )
    intent_stride: Count = setting(
        "Ask for every k-th prefix of a user and for validation and test positions; the others use the last one asked."
    )
    candidate_table: str | None = setting(
        "Table of candidates made elsewhere (.candidates), in the place of a candidate model.", Role.FOLDER, before=None
    )

    def reads(self, features: tuple[str, ...]) -> tuple[str, ...]:
        """No features where the intents neither enter the session vector nor are aligned with it."""
        aligned = self.sigma and self.align != "none"
        return features if self.fusion or aligned else ()
