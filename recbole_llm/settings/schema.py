"""What type a setting takes, and which values: typed by its default, or by the tables here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.evaluation.names import LIST_METRICS, RANK_METRICS, needs_lists, parse_metric, sort_metrics
from recbole_llm.registry import SEQUENTIAL, TEXT_CODE, Method

# Keys that default to null and what they take; the others take the type of their default.
OPTIONAL_TYPES: dict[str, type] = {
    "candidate_seed": int,
    "clip_grad_norm": dict,
    "dataloaders_save_path": str,
    "dataset_save_path": str,
    "llm_base_url": str,
    "llm_concurrency": int,
    "llm_max_tokens": int,
    "llm_model": str,
    "llm_price_in": float,
    "llm_price_out": float,
    "llm_reasoning_effort": str,
    "llm_temperature": float,
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
    **{"llm_max_tokens": 1, **dict.fromkeys(("llm_price_in", "llm_price_out", "llm_temperature"), 0)},
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


# Settings of the text features: they tell two runs apart only for models that read such features.
SEMANTIC_KEYS = (
    *("llm", "llm_model", "llm_temperature", "llm_max_tokens", "llm_reasoning_effort"),
    *("semantics", "fill", "profiles", "profiles_by"),
    *("encoder", "encoder_max_length", "stage_one_seed"),
)
CANDIDATE_SEED = 2020  # where a protocol that ranks all items is given a number of candidates
# What our loop does beyond RecBole's, and the value that leaves it out.
OF_OUR_LOOP = {"precision": "fp32", "compile": "none", "gradient_accumulation_steps": 1, "lr_decay_epochs": 0}
_ACTIVATIONS = ("gelu", "relu", "swish", "tanh", "sigmoid")  # recbole/model/layers.py, FeedForward.get_hidden_act
_CLIPPING = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")  # what torch.nn.utils.clip_grad_norm_ takes


def settle(method: Method, values: dict[str, Any]) -> None:
    """Bring the settings of a run to the spelling that its record has, in place.

    Raises:
        UserError: settings that the method has not, or that contradict each other.
    """
    settle_each(method, values)
    _check_negatives(values)
    _one_semantics(method, values)
    _check_engine(values)
    if values.get("candidates") not in (None, "all") and values.get("candidate_seed") is None:
        values["candidate_seed"] = CANDIDATE_SEED


def settle_each(method: Method, values: dict[str, Any]) -> None:
    """The part of :func:`settle` that looks at one setting at a time, whatever stands beside it, in place.

    Raises:
        UserError: a setting that is wrong by itself.
    """
    _check_loss(method, values)
    _check_layers(method, values)
    _check_activation(method, values)
    _check_cut_offs(values)
    _sort_metrics(values)
    _check_clipping(values.get("clip_grad_norm") or {})


def leave_negatives_out(method: Method, values: dict[str, Any]) -> None:
    """RecBole refuses negative sampling together with a softmax over all items; nobody has asked for it."""
    if method.kind == SEQUENTIAL and values.get("loss_type") == "CE":
        values["train_neg_sample_args"] = None


def _check_loss(method: Method, values: Mapping[str, Any]) -> None:
    loss = values.get("loss_type")
    if loss is not None and method.losses and loss not in method.losses:
        raise UserError(
            f"loss_type={loss}: {method.name} trains with {', '.join(method.losses)} alone; where it is meant for "
            f"another model, name that one: --SASRec.loss_type={loss}."
        )


def _check_layers(method: Method, values: Mapping[str, Any]) -> None:
    """Graph models may do without layers; RecBole's sequential ones take the output of the last of them."""
    for key in ("n_layers", "num_layers"):
        if method.kind == SEQUENTIAL and values.get(key) is not None and values[key] < 1:
            raise UserError(f"{key}={values[key]}: {method.name} has at least one layer.")


def _check_activation(method: Method, values: Mapping[str, Any]) -> None:
    """RecBole's Transformer layers look it up among these, and say nothing else of another one."""
    given = values.get("hidden_act")
    if not (method.is_external or given is None or given in _ACTIVATIONS):
        hint = did_you_mean(str(given), _ACTIVATIONS)
        raise UserError(f"hidden_act={given}: use one of {', '.join(_ACTIVATIONS)}.{hint}")


def _check_negatives(values: Mapping[str, Any]) -> None:
    """A softmax over all items would pass over the weight, and the record would say otherwise."""
    if values.get("hard_negative_beta") and not values.get("n_sampled"):
        raise UserError(
            f"hard_negative_beta={values['hard_negative_beta']} weighs sampled negatives: give n_sampled too "
            "(REMI's release: 1280)."
        )


def _check_engine(values: Mapping[str, Any]) -> None:
    """RecBole's own loop would pass over what it does not know, and the record would say otherwise."""
    if values.get("engine") != "recbole":
        return
    for key, plain in OF_OUR_LOOP.items():
        if values.get(key) not in (plain, None):
            raise UserError(f"{key}={values[key]}: RecBole's own loop (engine: recbole) does not know it.")


def check_followed(values: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse what RecBole follows and this harness would pass over: the record would say that it was followed.

    Args:
        values: the settings of a run.
        own: those of the same run without what the user gave.

    Raises:
        UserError: such a setting.
    """
    theirs = values["engine"] == "recbole"
    ours = own.get("eval_args") or {}
    for key, value in (values.get("eval_args") or {}).items():
        if key == "mode" and isinstance(value, dict) and len({*map(str, value.values())}) == 1:
            value = next(iter(value.values()))  # the same for validation and test
        if value != ours.get(key) and not (theirs and key in ("mode", "group_by")):
            raise UserError(
                f"eval_args.{key}={value}: the protocol says what trains, what tests and what is ranked. Choose "
                "another (recbole-llm list protocols), give --candidates=99 for sampled candidates, or write a file "
                "of your own into properties/protocol/."
            )
    if values.get("benchmark_filename"):
        raise UserError("benchmark_filename: ready parts are not read; the protocol splits one .inter file.")
    if (values.get("unload_col") or {}).get("inter"):
        raise UserError("unload_col.inter: leave these columns out of load_col.inter, which names what is read.")
    if values.get("enable_amp") and not theirs:
        raise UserError("enable_amp: our loop takes --precision=bf16 instead.")


def _check_cut_offs(values: Mapping[str, Any]) -> None:
    cut_offs = values.get("topk", [10])
    if not cut_offs or any(type(cut_off) is not int or cut_off < 1 for cut_off in cut_offs):
        raise UserError(f"topk={cut_offs}: give cut-offs, whole numbers from 1 on, such as [5,10].")


def _check_clipping(given: Mapping[str, Any]) -> None:
    for key in given:
        if key not in _CLIPPING:
            hint = did_you_mean(str(key), _CLIPPING)
            raise UserError(f"clip_grad_norm: there is no {key!r}.{hint} Known: {', '.join(_CLIPPING)}.")
    limit = given.get("max_norm")
    if given and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0):
        raise UserError(
            f"clip_grad_norm: give the largest norm as a number above 0, such as {{max_norm: 5}}; got {limit!r}."
        )


def _one_semantics(method: Method, values: dict[str, Any]) -> None:
    """One spelling for one thing, so that the same run is never done twice.

    ``--semantics=offline`` and ``--llm=offline`` both mean the offline rule; a model without semantic
    features has none whatever was asked for; one that reads texts alone has those.
    """
    if not method.features or (method.text == "codes" and not reads_codes(values)):
        for key in SEMANTIC_KEYS:
            values[key] = None
        values["semantics"] = "none"
    elif method.text and values["semantics"] != "none":
        values["llm"] = "offline"  # nobody is asked
        if values["semantics"] in ("llm", "offline"):
            values["semantics"] = method.text
    elif values["semantics"] == "offline":
        values["llm"] = "offline"
    elif values["semantics"] == "llm" and values["llm"] == "offline":
        values["semantics"] = "offline"


def features_read(method: Method, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of a method's features that its model reads under these settings; nobody is asked for the others.

    A class from outside may read whatever its row states.
    """
    unread = set() if method.is_external else _unread(method.name, values)
    return tuple(name for name in method.features if name not in unread)


def _unread(name: str, values: Mapping[str, Any]) -> set[str]:
    """Features of a model whose parts that read them are switched off."""
    if name == "LDMI":
        aligns = values["align"] and values["gate"] != "zero"
        contrasts = values["contrast_weight"] and values["contrast"] != "none"
        return {*(() if aligns else ("interest",)), *(() if contrasts else ("synuser",))}
    if name == "EIMF":
        taught = values["esim"] and (values["alignment_weight"] or values["semantic_weight"])
        return set() if taught else {"exemplar"}
    if name == "LLMDMsRec":
        aligned = values["sigma"] and values["align"] != "none"
        return set() if values["fusion"] or aligned else {"candidates", "intent"}
    if name in ("ISRF", "ISRFDirect"):
        direct = values["direct_alignment"] and values["graph_words"]  # which aligns with the graph's vectors
        if values["sequential_alignment"] or direct:
            return set()  # a question about a user shows what the answers say of the items
        graph = values["graph_words"] and values["item_semantics"]
        return {"user_reasoning"} if graph else {"user_reasoning", "item_reasoning"}
    return set()


def reads_codes(values: Mapping[str, Any]) -> bool:
    """Whether a model of RecBole is to read the clusters of item texts among its item features."""
    named = [*(values.get("selected_features") or []), values.get("item_attribute")]
    return TEXT_CODE in named


def _sort_metrics(values: dict[str, Any]) -> None:
    """Metrics that need whole lists leave ``metrics``, where RecBole has them, for ``list_metrics``.

    Raises:
        UserError: ``list_metrics`` holds something else, or a model is to be selected by such a metric.
    """
    others, listed = sort_metrics(values.get("metrics") or ())
    wrong, wanted = sort_metrics(values.get("list_metrics") or ())
    if wrong:
        known = LIST_METRICS.values()
        raise UserError(f"list_metrics takes {', '.join(known)}; got {wrong[0]!r}.{did_you_mean(wrong[0], known)}")
    chosen = str(values.get("valid_metric", "NDCG@10"))
    if parse_metric(chosen)[1] < 1 or needs_lists(chosen):
        raise UserError(f"valid_metric={chosen}: choose one of {', '.join(RANK_METRICS.values())} with a cut-off.")
    values["metrics"] = others or [RANK_METRICS[parse_metric(chosen)[0]]]
    values["list_metrics"] = list(dict.fromkeys([*listed, *wanted]))
