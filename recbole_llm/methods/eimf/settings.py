"""Settings of EIMF, and of the behavioural modules (IBIM) that it may be built on."""

from __future__ import annotations

from typing import Literal

from recbole_llm.methods.baselines.settings import MINDSettings, REMISettings
from recbole_llm.settings.core import Dropout
from recbole_llm.settings.schema import ITEM, setting
from recbole_llm.utils.bounds import Amount, Count, Positive


class EIMFSettings(REMISettings, MINDSettings):
    """EIMF (arXiv 2411.09410)."""

    backbone: Literal["REMI", "ComiRecSA", "ComiRecDR", "MIND", "SASRec", "GRU4Rec"] = setting(
        "Behavioural module (IBIM).", keyed_as="ibim"
    )
    esim: bool = setting("The semantic module (ESIM); off leaves the behavioural module alone.")
    alignment_weight: Amount = setting("Weight of L_align; 0 turns it off.")
    semantic_weight: Amount = setting("Weight of the semantic prediction; 0 turns it off.")
    temperature: Positive = setting("Temperature tau of the alignment.")
    text_size: Count = setting("Dimension d_t of projected text vectors.")
    text_proj: Literal["pca", "linear", "random"] = setting(
        "Projection of text vectors; random is noise in place of text, as released."
    )
    text_trainable: bool = setting("Learn the table of text vectors too, as released.")
    max_text_interests: Count = setting("Interests of an exemplar that are kept.")
    cluster_pooling: Literal["mean", "cls"] = setting(
        "Pooling of the vectors that users are clustered by (cls as released)."
    )
    cluster_preference: float = setting(
        "Below zero: Affinity Propagation's preference (the paper: -10, with BERT); above: times the median similarity."
    )
    exact_users: Count = setting("Users up to which Affinity Propagation is exact.")
    exemplar_items: Count = setting("Last items of an exemplar that its question shows.")
    # SASRec and GRU4Rec as behavioural modules
    n_layers: Count = setting("Layers of SASRec.")
    n_heads: Count = setting("Attention heads of SASRec.")
    hidden_size: Count = setting("Hidden dimension of SASRec or GRU4Rec.")
    inner_size: Count = setting("Feed-forward dimension of SASRec.")
    hidden_dropout_prob: Dropout = setting("Dropout of SASRec's layers.")
    attn_dropout_prob: Dropout = setting("Dropout of SASRec's attention.")
    hidden_act: Literal["gelu", "relu", "swish", "tanh", "sigmoid"] = setting("Activation of SASRec's layers.")
    layer_norm_eps: Amount = setting("Epsilon of SASRec's layer normalisation.")
    initializer_range: Amount = setting("Deviation of SASRec's initial weights.")
    num_layers: Count = setting("Layers of GRU4Rec.")
    dropout_prob: Dropout = setting("Dropout of GRU4Rec.")

    @property
    def taught(self) -> bool:
        """Whether the semantic module teaches the behavioural one."""
        return self.esim and bool(self.alignment_weight or self.semantic_weight)

    def reads(self, features: tuple[str, ...]) -> tuple[str, ...]:
        """No features where the semantic module is off or both of its losses have weight 0."""
        return features if self.taught else ()

    def reads_vectors(self, features: tuple[str, ...], by_rule: bool) -> set[str]:
        """Item vectors too, where the offline rule groups the items."""
        return super().reads_vectors(features, by_rule) | ({ITEM} if by_rule and self.reads(features) else set())
