"""Settings of the baselines; the five methods that are built on them extend these classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from recbole_llm.errors import UserError
from recbole_llm.settings.core import Dropout, NextItemSettings
from recbole_llm.settings.schema import USER, Role, SettingsModel, setting
from recbole_llm.utils.bounds import Amount, Count, Positive, Whole


class SoftmaxSettings(SettingsModel):
    """Settings shared by models that train by a softmax over items."""

    embedding_size: Count = setting("Dimension d of item vectors.")
    loss_type: Literal["CE"] = setting("Training loss: a softmax over items.")


class MultiInterestSettings(SoftmaxSettings):
    """Settings shared by the multi-interest family (ComiRec, REMI)."""

    n_interests: Count = setting("Number K of interests.")
    n_sampled: Whole = setting("Negatives of a sampled softmax; 0 takes all items (REMI's release: 1280).")
    hard_negative_beta: Amount = setting("Weight of hard sampled negatives (REMI, equation 7); 0 turns it off.")

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuse a weight of hard negatives that a softmax over all items would ignore but the record would list.

        Raises:
            UserError: such a weight without sampled negatives.
        """
        if self.hard_negative_beta and not self.n_sampled:
            raise UserError(
                f"hard_negative_beta={self.hard_negative_beta} weighs sampled negatives: give n_sampled too "
                "(REMI's release: 1280)."
            )


class CapsuleSettings(MultiInterestSettings):
    """Settings shared by models with capsule routing (ComiRec-DR, MIND, LDMI)."""

    routing_rounds: Count = setting("Rounds of dynamic routing.")
    routing_transform: Literal["position", "interest", "shared"] = setting(
        "Map of items to interests: one a position (ComiRec-DR's), one an interest, or a shared one (MIND's)."
    )
    mask_first: bool = setting("Leave padding out before the softmax over the history; False as released.")
    interest_scale: Positive = setting(
        "Longest length of a capsule: the squash presses it below 1, as released, and this factor stretches it.",
        before=1.0,
    )


class ComiRecDRSettings(CapsuleSettings):
    """ComiRec-DR (arXiv 2005.09347)."""


class ComiRecSASettings(MultiInterestSettings):
    """ComiRec-SA (arXiv 2005.09347)."""


class MINDSettings(CapsuleSettings):
    """MIND (arXiv 1904.08030)."""

    relu_layers: bool = setting("Two linear layers on each capsule, with a ReLU between.")
    label_power: Amount = setting("Power p of label-aware attention; 0 picks the nearest interest.")
    adaptive_interests: bool = setting("Fewer interests for short histories.")


class REMISettings(MultiInterestSettings):
    """REMI (arXiv 2302.14532)."""

    routing_weight: Amount = setting("Weight lambda of the routing regularisation; 0 gives ComiRec-SA.")


class TAGNNSettings(SoftmaxSettings):
    """TAGNN (arXiv 2005.02844)."""

    step: Whole = setting("Layers of the gated graph network.")


class GCEGNNSettings(SoftmaxSettings):
    """GCE-GNN (arXiv 2106.05081)."""

    epsilon: Whole = setting("Places of a session that are at most this far apart are neighbours (global graph).")
    n_neighbours: Count = setting("Neighbours that an item keeps on the global graph.")
    n_hops: Whole = setting("Steps on the global graph; the cost grows with n_neighbours to this power.")
    leaky_slope: float = setting("Slope of LeakyReLU.")
    dropout_gcn: Dropout = setting("Dropout on an item and the mean of its neighbours.")
    dropout_local: Dropout = setting("Dropout on the session level.")
    dropout_global: Dropout = setting("Dropout on the global level.")


class SHARESettings(SoftmaxSettings):
    """SHARE (arXiv 2112.14266)."""

    step: int = setting("Steps of hypergraph attention.", ge=1, le=2)
    window: Count = setting("Most clicks between the first and the last of a hyperedge.")
    dropout_prob: Dropout = setting("Dropout on attentions and states.")


class MSGIFSRSettings(SoftmaxSettings):
    """MSGIFSR (arXiv 2112.13197)."""

    order: int = setting("Clicks K of the longest intent unit.", ge=1, le=8)
    n_heads: Count = setting("Heads of the graph attention.")
    dropout_prob: Dropout = setting("Dropout on units and attentions.")
    logit_scale: Positive = setting("Factor of the cosines of a session and the items.")
    repeat_explore: bool = setting("Give items of the session and the others a softmax each, and weigh the two.")


class PopRecentSettings(SettingsModel):
    """PopRecent (arXiv 2005.13829)."""

    days: list[int] = setting("Numbers of days that are tried, one an epoch; 0 counts all the time before.")


class PopUserSettings(SettingsModel):
    """PopUser (arXiv 1511.06939) has no settings."""


class MarkovChainSettings(SettingsModel):
    """MarkovChain (arXiv 1803.09587)."""

    smoothing: Amount = setting("Interactions by popularity that are added to the transitions of each item.")


class ListsSettings(SettingsModel):
    """Lists made elsewhere."""

    lists: str | None = setting("File of lists made elsewhere: user_id, item_id, and rank or score.", Role.FOLDER)
    list_name: str | None = setting("What the row is called; the file's name where it is null.")


_Weighting = Literal["div", "linear", "quadratic", "log", "same"]


class VSKNNSettings(SettingsModel):
    """V-SKNN (arXiv 1803.09587)."""

    k: Count = setting("Nearest sessions.")
    sample_size: Whole = setting("Newest sessions among which these are; 0 for all.")
    weighting: _Weighting = setting("How items of the session count by their place.")
    score_weighting: _Weighting = setting("How a neighbour counts by the place of the newest item that it shares.")


class SequenceSettings(NextItemSettings):
    """Settings shared by our own sequential models."""

    loss_type: Literal["CE"] = setting("A loss of single targets; objective says which.")
    hidden_size: Count = setting("Dimension d of item vectors and states.")
    n_layers: Count = setting("Layers.")
    n_heads: Count = setting("Attention heads, of d / n_heads numbers each.")
    hidden_dropout_prob: Dropout = setting("Dropout of the layers.")
    attn_dropout_prob: Dropout = setting("Dropout of attention weights.")
    initializer_range: Amount = setting("Deviation of initial embeddings.")

    def check(self, values: Mapping[str, Any]) -> None:
        """Check that ``n_heads`` divides ``hidden_size``.

        Raises:
            UserError: it does not.
        """
        super().check(values)
        if self.hidden_size % self.n_heads:
            raise UserError(f"hidden_size={self.hidden_size} is no multiple of n_heads={self.n_heads}.")


class ESASRecSettings(SequenceSettings):
    """eSASRec (arXiv 2508.06450)."""

    inner_size: Count = setting("Width of the feed-forward layers.")


class GSASRecSettings(SequenceSettings):
    """gSASRec (arXiv 2308.07192)."""


class HSTUSettings(SequenceSettings):
    """HSTU (arXiv 2402.17152)."""

    temperature: Positive = setting("Temperature of the cosine scores.")
    position_bias: bool = setting("Bias attention by relative place.")
    time_bias: bool = setting("Bias attention by the time between two items.")
    time_buckets: Count = setting("Buckets of that time, by its logarithm.")


class SASRecTextSettings(NextItemSettings):
    """SASRecText: SASRec (arXiv 1808.09781) over frozen text vectors; the Transformer's settings are RecBole's."""

    text_columns: list[str] = setting("Columns of .itemtext whose vectors are averaged.", Role.NUMBERS)
    adaptor: Literal["linear", "mlp"] = setting("Map from text vectors to item vectors.")
    with_ids: bool = setting("Add learned item vectors.")


class UniSRecSettings(NextItemSettings):
    """UniSRec (arXiv 2206.05941); the Transformer's settings are RecBole's."""

    loss_type: Literal["CE"] = setting("A loss of single targets; a pairwise one would not train the cosines.")
    text_columns: list[str] = setting("Columns of .itemtext whose vectors are averaged.", Role.NUMBERS)
    n_experts: Count = setting("Experts of the adaptor.")
    adaptor_dropout: Dropout = setting("Dropout on text vectors before an expert.")
    with_ids: bool = setting("Add learned item vectors (transductive).")
    temperature: Positive = setting("Temperature of the cosine scores.")


class AlphaRecSettings(SettingsModel):
    """AlphaRec (arXiv 2407.05441)."""

    text_columns: list[str] = setting("Columns of .itemtext whose vectors are averaged.", Role.NUMBERS)
    embedding_size: Count = setting("Dimension of the mapped vectors.")
    n_layers: Whole = setting("Steps on the user-item graph.")
    temperature: Positive = setting("Temperature of the contrast.")
    n_negatives: Count = setting("Items that are drawn for each target.")
    shared_negatives: bool = setting("Draw negatives once for a batch instead of once for each target.")


class LLMESRSettings(SequenceSettings):
    """LLM-ESR (arXiv 2405.20646)."""

    text_columns: list[str] = setting("Columns of .itemtext whose vectors are averaged.", Role.NUMBERS)
    inner_size: Count = setting("Width of the feed-forward layers.")
    cross_attention: bool = setting("Let each view be asked by the other.")
    distillation_weight: Amount = setting("Weight of the distance to similar users; 0 turns it off.")
    similar_users: Count = setting("Users that teach a user.")

    def reads_vectors(self, features: tuple[str, ...], by_rule: bool) -> set[str]:
        """User vectors too, if users learn from similar users."""
        return super().reads_vectors(features, by_rule) | ({USER} if self.distillation_weight else set())
