"""What type a setting takes, and which values: typed by its default, or by the tables here."""

from __future__ import annotations

import math
import re
from typing import Any

from recbole_llm.errors import UserError, did_you_mean

# Keys that default to null and what they take; the others take the type of their default.
OPTIONAL_TYPES: dict[str, type] = {
    "candidate_seed": int,
    "clip_grad_norm": dict,
    "dataloaders_save_path": str,
    "dataset_save_path": str,
    "llm_base_url": str,
    "llm_concurrency": int,
    "llm_model": str,
    "max_cost": float,
    "preset": str,
    "profiles": str,
    "max_requests": int,
    "seq_len": dict,
    "sessions": dict,
    "threshold": dict,
    "train_neg_sample_args": dict,
    "transform": str,
    "val_interval": dict,
}

CHOICES: dict[str, tuple[str, ...]] = {
    "engine": ("fast", "recbole"),
    "split": ("loo", "session", "user_split", "temporal", "published"),
    "semantics": ("llm", "offline", "shuffled", "random", "none"),
    "fill": ("none", "offline"),
    "backbone": ("SRGNN", "GCSAN", "TAGNN", "GCEGNN"),
    "align": ("kl", "contrastive", "infonce", "directau", "none"),  # LDMI's is a switch
    "profiles_by": ("title", "item_id"),
    "precision": ("fp32", "bf16"),
    "compile": ("none", "default", "reduce-overhead"),
    "learner": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"),
    "rm_dup_inter": ("first", "last"),
    "loss_type": ("BPR", "CE", "BCE", "NLL", "SoftmaxLoss"),
    # The multi-interest family and the text controls
    "routing_transform": ("position", "interest", "shared"),
    "ibim": ("REMI", "ComiRecSA", "ComiRecDR", "MIND", "SASRec", "GRU4Rec"),
    "clusters": ("llm", "items", "history"),
    "align_softmax": ("interest", "cluster"),
    "gate": ("sigmoid", "one", "zero"),
    "contrast": ("item", "real", "both", "none"),
    "clique_weighting": ("binary", "idf"),
    "covering": ("cliques", "items"),
    "covering_weight": ("frequency", "one"),
    "cluster_pooling": ("mean", "cls"),
    "text_proj": ("pca", "linear", "random"),
    "adaptor": ("linear", "mlp"),
}

# Lists and mappings that nothing works without; others may be null, as RecBole has it.
NEVER_NULL = ("lm_scratch", "stage_epochs", "topk")

# Words that stand beside whole numbers.
ALSO: dict[str, tuple[str, ...]] = {"candidates": ("all",)}

_DROPOUTS = (
    *("semantic_dropout", "dropout_prob", "hidden_dropout_prob", "attn_dropout_prob"),
    *("dropout_gcn", "dropout_local", "dropout_global"),
)

# Numbers that are of no use below or above one; RecBole, numpy and torch would say so late, and in other words.
AT_LEAST: dict[str, int] = {
    **dict.fromkeys(("train_batch_size", "eval_batch_size", "gradient_accumulation_steps", "nproc"), 1),
    **dict.fromkeys(("embedding_size", "hidden_size", "MAX_ITEM_LIST_LENGTH", "n_interests", "n_candidates"), 1),
    **dict.fromkeys(("candidate_folds", "candidates", "n_negatives", "samples_per_user", "beams", "n_heads"), 1),
    **dict.fromkeys(("routing_rounds", "interest_window", "clique_size", "synthesised_items", "exact_users"), 1),
    **dict.fromkeys(("synthesised_per_step", "exemplar_items", "max_text_interests", "text_size", "n_codes"), 1),
    **dict.fromkeys(("n_sampled", "epochs", "stopping_step", "seed", "stage_one_seed", "learning_rate"), 0),
    **dict.fromkeys(("weight_decay", "lr_decay_epochs", "lr_decay", "max_cost", "max_requests"), 0),
    # The five methods
    **dict.fromkeys(("profile_items", "pca_size", "intent_stride", "llm_concurrency", "encoder_max_length"), 1),
    **dict.fromkeys(("soft_tokens", "prompt_items", "title_tokens", "prompt_tokens", "prompt_vectors"), 0),
    **dict.fromkeys(("graph_layers", "user_graph_layers", "similar_users", "graph_init_std", "warmup_steps"), 0),
    **dict.fromkeys(("finetune_learning_rate", "lm_learning_rate", "label_power", "hard_negative_beta"), 0),
    **dict.fromkeys(("alignment_weight", "semantic_weight", "contrast_weight", "routing_weight", "sigma"), 0),
    **dict.fromkeys(("sequential_alignment", "direct_alignment", "covering_budget"), 0),
    # Session models and RecBole's Transformer
    **dict.fromkeys(("n_neighbours", "inner_size"), 1),
    **dict.fromkeys(("epsilon", "n_hops", "step", "initializer_range", "layer_norm_eps"), 0),
    **dict.fromkeys(_DROPOUTS, 0),
}
AT_MOST: dict[str, int] = {
    **dict.fromkeys(("seed", "stage_one_seed"), 2**32 - 1),
    **dict.fromkeys(_DROPOUTS, 1),
    **dict.fromkeys(("covering_share", "covering_budget"), 1),
}
ABOVE_ZERO = ("temperature", "alignment_temperature", "covering_share")

_WHOLE_NUMBER = re.compile(
    r"(_size|_num|_step|_steps|_layers|_layer|_heads|_head|_epochs|_length|_LENGTH|^n_.*|^num_.*)$"
    r"|^(epochs|seed|candidate_seed|stage_one_seed|step|k|topk|worker|nproc|epsilon|candidate_folds)$"
    r"|^(routing_rounds|interest_window|synthesised_items|exemplar_items|exact_users|max_text_interests)$"
    r"|^(soft_tokens|prompt_items|title_tokens|prompt_tokens|prompt_vectors|beams|profile_items)$"
    r"|^(similar_users|samples_per_user|intent_stride)$"
)


_TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list such as [5,10]",
    dict: "a mapping such as {a: 1}",
}


def _wanted_type(key: str, default: Any) -> type | None:
    """The type that ``key`` takes: that of its default; ``None`` where anything goes."""
    if default is None:
        return OPTIONAL_TYPES.get(key)
    if key in ALSO:
        return int
    if isinstance(default, bool):
        return bool
    if isinstance(default, int):
        # RecBole writes some real-valued settings as 1 or 0.
        return int if _WHOLE_NUMBER.search(key) else float
    return type(default) if type(default) in _TYPE_NAMES else None


def _convert(value: Any, wanted: type) -> Any:
    """``value`` as ``wanted``; raises ``TypeError`` where it is something else."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int and number and float(value).is_integer():
        return int(value)
    if wanted is float and number and math.isfinite(value):
        return value
    if wanted is str and (number or isinstance(value, str)):
        return str(value)
    if wanted is list and not isinstance(value, (dict, type(None))):
        return list(value) if isinstance(value, (list, tuple)) else [value]
    if isinstance(value, wanted) and wanted in (bool, dict):
        return value
    raise TypeError


def _may_be_null(key: str, default: Any) -> bool:
    """Whether ``key: ~`` says something: not where a number, a switch or a choice is wanted."""
    if default is None or key in OPTIONAL_TYPES or key in ALSO or key == "rm_dup_inter":
        return True
    return not (key in CHOICES or key in NEVER_NULL or isinstance(default, (bool, int, float)))


def coerce(key: str, value: Any, default: Any, where: str) -> Any:
    """``value`` as the type that ``key`` takes.

    Args:
        key: the setting's name.
        value: the parsed YAML value.
        default: the value of the layer below; its type is the type wanted.
        where: what to blame in the message, such as ``--epochs=abc`` or a file's name.

    Raises:
        UserError: the value is of another type, too small, too large or not among the choices.
    """
    if key in CHOICES and not isinstance(default, (bool, dict)) and not (value is None and _may_be_null(key, default)):
        if value not in CHOICES[key]:
            hint = did_you_mean(str(value), CHOICES[key])
            raise UserError(f"{where}: {key} is one of {', '.join(CHOICES[key])}; got {value!r}.{hint}")
        return value
    if value in ALSO.get(key, ()):
        return value
    wanted = _wanted_type(key, default)
    if wanted is None or (value is None and _may_be_null(key, default)):
        return value
    if key.endswith("_inter_num_interval") and isinstance(value, list):
        value = f"[{','.join(map(str, value))}]"  # what YAML makes of a closed interval
    try:
        taken = _convert(value, wanted)
    except TypeError:
        names = " or ".join((_TYPE_NAMES[wanted], *ALSO.get(key, ())))
        raise UserError(f"{where}: {key} takes {names} (default {default!r}), got {value!r}.") from None
    if key in AT_LEAST and isinstance(taken, (int, float)) and taken < AT_LEAST[key]:
        raise UserError(f"{where}: {key} is at least {AT_LEAST[key]}; got {value!r}.")
    if key in AT_MOST and isinstance(taken, (int, float)) and taken > AT_MOST[key]:
        raise UserError(f"{where}: {key} is at most {AT_MOST[key]}; got {value!r}.")
    if key in ABOVE_ZERO and isinstance(taken, (int, float)) and taken <= 0:
        raise UserError(f"{where}: {key} is above 0; got {value!r}.")
    return default if wanted is float and taken == default else taken  # 0 for 0.0 is the same run
