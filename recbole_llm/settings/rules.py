"""Rules between settings: one spelling for one thing, and what does not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.evaluation.names import LIST_METRICS, RANK_METRICS, needs_lists, parse_metric, sort_metrics
from recbole_llm.registry import SEQUENTIAL, TEXT_CODE, Method

# Settings of the text features: they tell two runs apart only for models that read such features.
SEMANTIC_KEYS = (
    *("llm", "llm_model", "semantics", "fill", "profiles", "profiles_by"),
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
