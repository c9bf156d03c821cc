"""Rules between settings: one spelling for each meaning, and combinations that are refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recbole_llm.errors import UserError, check_known, did_you_mean
from recbole_llm.evaluation.names import (
    LIST_METRICS,
    RANK_METRICS,
    UNCUT_METRICS,
    needs_lists,
    parse_metric,
    sort_metrics,
)
from recbole_llm.llm.address import check_store_address
from recbole_llm.llm.endpoint import is_own_file
from recbole_llm.registry import SEQUENTIAL, TEXT_CODE, Method, methods
from recbole_llm.settings.core import CoreSettings, NextItemSettings
from recbole_llm.settings.definitions import settings_class
from recbole_llm.settings.schema import (
    ITEM,
    USER,
    Role,
    SettingsModel,
    before_of,
    plain_of,
    role_of,
    vectors_of_texts,
)
from recbole_llm.utils.yaml import property_names

logger = logging.getLogger(__name__)

# Settings of the text features: they tell two runs apart only for models that read such features.
SEMANTIC_KEYS = (
    *(name for name, field in CoreSettings.model_fields.items() if role_of(field) is Role.SEMANTIC),
    "profiles",
)
# RecBole's settings that this harness does not follow: the only value that they may have, and what replaces them.
_NOT_FOLLOWED: dict[str, tuple[Any, str]] = {
    "save_dataset": (False, "what is read is kept under dataset/NAME/cache/ anyway, and nothing is pickled"),
    "dataset_save_path": (None, "what is read is kept under dataset/NAME/cache/ anyway, and nothing is pickled"),
    "save_dataloaders": (False, "batches are made from what is kept under dataset/NAME/cache/, and nothing is pickled"),
    "dataloaders_save_path": (None, "batches are made from what is kept under dataset/NAME/cache/, nothing is pickled"),
    "valid_metric_bigger": (True, "every metric that may choose an epoch is better when it is higher"),
}
# The same for settings that only our own loop does not follow.
_NOT_OF_OUR_LOOP: dict[str, tuple[Any, str]] = {
    "enable_amp": (False, "our loop takes --precision=bf16 instead"),
    "enable_scaler": (False, "our loop takes --precision=bf16, which needs no scaler"),
    "log_wandb": (False, "--track=wandb sends finished runs, --tensorboard=True writes curves; records have both"),
    "metric_decimal_place": (12, "our loop never rounds before it compares"),
}
# Settings that only change what is printed or the speed: they are ignored with a warning.
_PASSED_OVER = {
    "worker": "batches are gathered on the device, without loading processes",
    "show_progress": "--quiet leaves out the bars",
    "state": "--quiet and --verbose choose what is said",
    "loss_decimal_place": "losses are written in full",
}


def _of_loop(owner: type[SettingsModel] | None) -> dict[str, Any]:
    """Settings of what our loop does beyond RecBole's, with the value that switches it off."""
    fields = owner.model_fields if owner is not None else {}
    return {name: plain_of(field) for name, field in fields.items() if role_of(field) is Role.LOOP}


OF_OUR_LOOP = _of_loop(CoreSettings)
CANDIDATE_SEED = 2020  # if a protocol that ranks all items is given a number of candidates
_CLIPPING = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")  # what torch.nn.utils.clip_grad_norm_ takes


def with_vectors(method: Method, values: Mapping[str, Any]) -> Method:
    """The registry row of a model whose item embeddings start from vectors: it reads the items' texts, too.

    Raises:
        UserError: it is not a sequential model.
    """
    if method.kind != SEQUENTIAL:
        raise UserError(
            f"init=vectors needs a sequential model, and {method.name} is not one; in a grid give it to one of them "
            "(--SASRec.init=vectors)."
        )
    alone = not method.features or (method.text == "codes" and not reads_codes(values))
    features = tuple(dict.fromkeys((*(() if alone else method.features), "itemtext")))
    return replace(method, features=features, text="text" if alone else method.text)


def settle(method: Method, values: dict[str, Any]) -> None:
    """Bring the settings of a run to the spelling that its record has, in place.

    Raises:
        UserError: settings that the method does not take, or that contradict each other.
    """
    settle_each(method, values)
    if (owner := settings_class(method)) is not None:
        owner.of(values).check(values)
    _check_backbone(method, values)
    _one_semantics(method, values)
    _check_whitening(method, values)
    _check_engine(method, values)
    _check_source(values)
    _check_split(values)
    if values.get("refit") and values.get("lists"):
        raise UserError("refit: lists that were made elsewhere are not trained here.")
    if values.get("candidates") not in (None, "all") and values.get("candidate_seed") is None:
        values["candidate_seed"] = CANDIDATE_SEED


def settle_each(method: Method, values: dict[str, Any]) -> None:
    """The part of :func:`settle` that looks at one setting at a time, independently of the others, in place.

    Raises:
        UserError: a setting that is wrong by itself.
    """
    _check_layers(method, values)
    _settle_separator(values)
    _name_times(values)
    _check_cut_offs(values)
    _sort_metrics(values)
    _check_clipping(values.get("clip_grad_norm") or {})


def leave_negatives_out(method: Method, values: dict[str, Any]) -> None:
    """Drop RecBole's default negative sampling for a softmax over all items, with which RecBole refuses it."""
    if method.kind == SEQUENTIAL and values.get("loss_type") == "CE":
        values["train_neg_sample_args"] = None


def _check_layers(method: Method, values: Mapping[str, Any]) -> None:
    """Graph models may have no layers; RecBole's sequential ones need the output of a last layer."""
    for key in ("n_layers", "num_layers"):
        if method.kind == SEQUENTIAL and values.get(key) is not None and values[key] < 1:
            raise UserError(f"{key}={values[key]}: {method.name} has at least one layer.")


def _check_engine(method: Method, values: Mapping[str, Any]) -> None:
    """RecBole's own loop would ignore a setting that it does not know, though the record would name it."""
    if values.get("engine") != "recbole":
        return
    for key, plain in (OF_OUR_LOOP | _of_loop(settings_class(method))).items():
        if values.get(key) not in (plain, None):
            raise UserError(f"{key}={values[key]}: RecBole's own loop (engine: recbole) does not know it.")


def _check_backbone(method: Method, values: Mapping[str, Any]) -> None:
    """A method built on another model trains it with the method's own loss, at the last position."""
    if methods().get(method.settings_of, method).backbone is None:
        return
    for name, field in NextItemSettings.model_fields.items():
        if values.get(name, before_of(field)) != before_of(field):
            raise UserError(f"{name}={values[name]}: {method.name} trains the model it is built on by its own loss.")


def check_followed(method: Method, values: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse settings that would be ignored, but recorded as if they were followed, in a result row of their own.

    These are settings that RecBole follows and this harness does not, and options of another loss than the run's.

    Args:
        method: the model.
        values: the settings of a run.
        own: the settings of the same run without the user's, except for a preset.

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
    _check_loss(method, values, own)
    named = values.get("benchmark_filename")
    part = next((part for part in ("train", "valid", "test") if values.get(part)), None)
    if part and named != own.get("benchmark_filename"):
        raise UserError(
            f"benchmark_filename={named} names the files of the parts, and so does --{part}: leave one of the two out."
        )
    if (values.get("unload_col") or {}).get("inter"):
        raise UserError("unload_col.inter: leave these columns out of load_col.inter, which names what is read.")
    for key, (only, instead) in {**_NOT_FOLLOWED, **({} if theirs else _NOT_OF_OUR_LOOP)}.items():
        if key in values and values[key] != only:
            raise UserError(f"{key}={values[key]} is not supported here: {instead}.")
    for key, instead in {} if theirs else _PASSED_OVER.items():
        if key in values and values[key] != own.get(key):
            logger.warning("%s=%s is ignored: %s", key, values[key], instead)


def _check_loss(method: Method, values: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a user's options that the loss does not read; in defaults and presets they are allowed."""
    owner = settings_class(method)
    if owner is None or not issubclass(owner, NextItemSettings):
        return
    for name, why in owner.of(values).not_followed(values.get("loss_type")).items():
        if values.get(name) != own.get(name):
            raise UserError(
                f"{name}={values[name]}: it {why}. Leave it out for {method.name}; in a grid give it to a model "
                f"that reads it (--MODEL.{name}=...)."
            )


def _settle_separator(values: dict[str, Any]) -> None:
    """Check that it is one character; ``tab``, or a backslash and ``t``, is the tab, which is hard to type."""
    given = values.get("field_separator", "\t")
    separator = {"\\t": "\t", "tab": "\t"}.get(given, given)
    if len(separator) != 1 or separator in '"\n\r:' or not separator.isascii():  # files are parted byte by byte
        raise UserError(
            f"field_separator={given!r}: give one character of ASCII, such as ',' or '\\t' for the tab; YAML reads "
            "some as something else, so write --field_separator='\"|\"'."
        )
    values["field_separator"] = separator


def _name_times(values: dict[str, Any]) -> None:
    """Add the times to ``load_col``: they are read whether it names them or not, so both are one run."""
    load, time = values.get("load_col") or {}, values.get("TIME_FIELD")
    named = load.get("inter")
    if time and isinstance(named, list) and time not in named:
        values["load_col"] = {**load, "inter": [*named, time]}


def _check_cut_offs(values: Mapping[str, Any]) -> None:
    cut_offs = values.get("topk", [10])
    if not cut_offs or any(type(cut_off) is not int or cut_off < 1 for cut_off in cut_offs):
        raise UserError(f"topk={cut_offs}: give cut-offs, whole numbers from 1 on, such as [5,10].")


def _check_clipping(given: Mapping[str, Any]) -> None:
    for key in given:
        check_known(f"clip_grad_norm: there is no {key!r}", key, _CLIPPING)
    limit = given.get("max_norm")
    if given and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0):
        raise UserError(
            f"clip_grad_norm: give the largest norm as a number above 0, such as {{max_norm: 5}}; got {limit!r}."
        )


def _one_semantics(method: Method, values: dict[str, Any]) -> None:
    """Use one spelling for each meaning, so that the same run is never done twice.

    ``--semantics=offline`` and ``--llm=offline`` both mean the offline rule. A model without semantic features gets
    ``none``, whatever was asked for, and one that only reads texts gets its own value (``Method.text``).
    """
    if not reads_any(method, values):
        for key in SEMANTIC_KEYS:
            value = before_of(CoreSettings.model_fields[key])
            values[key] = None if value is ... else value
        values["semantics"] = "none"
    elif method.text and values["semantics"] != "none":
        values["llm"] = "offline"  # no question is asked
        if values["semantics"] in ("llm", "offline"):
            values["semantics"] = method.text
    elif values["semantics"] == "offline":
        values["llm"] = "offline"
    elif values["semantics"] == "llm" and values["llm"] == "offline":
        values["semantics"] = "offline"
    if values["llm"] == "offline":
        values["answer_share"] = 1.0  # nothing is asked
    if values["semantics"] == "none":
        values["answer_share"] = 1.0
        values["titles"] = "real"
    _check_titles(values)
    _check_profiles(method, values)


def _check_whitening(method: Method, values: Mapping[str, Any]) -> None:
    """Whitening is for models that read whole vectors.

    After ZCA all directions have the same variance, so the first principal components are almost arbitrary.

    Raises:
        UserError: the model would read principal components of whitened vectors, or reads no vectors at all.
    """
    if values.get("whitening") != "zca" or values["semantics"] == "none":
        return
    labels_alone = "LDMI" in (method.name, method.settings_of) and not values.get("cluster_text")
    if method.text == "codes" or labels_alone:
        raise UserError(
            f"whitening=zca: {method.name} reads clusters or interests that were made before any whitening, and no "
            "vectors. Leave --whitening out for it."
        )
    reader = {
        "init: vectors": values.get("init") == "vectors",
        "LLMESR's item vectors": "LLMESR" in (method.name, method.settings_of),
        "text_proj: pca": values.get("text_proj") == "pca",
        "pca_size": values.get("pca_size") is not None,
    }
    for name in (name for name, reads in reader.items() if reads):
        raise UserError(
            f"whitening=zca: {method.name} takes principal components ({name}), and whitened vectors have none that "
            "stand out: what is kept would be almost arbitrary. Leave --whitening out for it."
        )


def _check_titles(values: dict[str, Any]) -> None:
    """Texts and vectors made from the real titles would reveal what invented titles hide.

    Raises:
        UserError: profiles or vectors are given together with invented titles.
    """
    if values.get("titles") in (None, "real"):
        values["titles_seed"] = before_of(CoreSettings.model_fields["titles_seed"])  # not used
        return
    for key in ("profiles", "vectors"):
        if values.get(key):
            raise UserError(
                f"--titles={values['titles']}: what --{key} brings was made of the real titles and tells them; leave "
                "one of the two out."
            )


def _check_profiles(method: Method, values: Mapping[str, Any]) -> None:
    """A model that does not read the profiles' column would train as without profiles, but under another key.

    Raises:
        UserError: there are profiles, and the model's ``text_columns`` do not include ``profile_text``.
    """
    columns = values.get("text_columns") if values["semantics"] != "none" else None
    if values.get("profiles") and columns and "profile_text" not in columns:
        raise UserError(
            f"--profiles: {method.name} reads the columns {', '.join(columns)} (text_columns), and not profile_text, "
            f'which the profiles fill. Give "--text_columns=[{",".join([*columns, "profile_text"])}]", or leave '
            "--profiles out."
        )


def features_read(method: Method, values: Mapping[str, Any]) -> tuple[str, ...]:
    """The features of a method that its model reads under these settings; no others are asked for.

    A class from outside may read any feature in its row.
    """
    owner = None if method.is_external else settings_class(method)
    return method.features if owner is None else owner.of(values).reads(method.features)


def reads_any(method: Method, values: Mapping[str, Any]) -> bool:
    """Whether a model reads semantic features if it gets any."""
    return bool(method.features) and (method.text != "codes" or reads_codes(values))


def vectors_read(method: Method, values: Mapping[str, Any]) -> set[str]:
    """Which given vectors (``item_id``, ``user_id``) a model reads under these settings, if it has semantics.

    A class from outside may read both.
    """
    if not reads_any(method, values):
        return set()
    if method.is_external:
        return {ITEM, USER}
    owner = settings_class(method)
    by_rule = "offline" in (values["llm"], values["fill"])
    of_texts = vectors_of_texts(method.features)
    found = of_texts if owner is None else owner.of(values).reads_vectors(method.features, by_rule)
    return found | ({ITEM} if values.get("init") == "vectors" else set())


# Settings that only one kind of split reads; any other would ignore them.
_OF_SPLIT = {
    "gts": ("valid_from", "test_from", "targets"),
    "parts": ("train", "valid", "test", "benchmark_filename"),
}


def _check_split(values: Mapping[str, Any]) -> None:
    if values.get("split") == "parts" and values.get("sessions"):
        raise UserError("sessions: own parts are taken as they are; cut the files into sessions instead.")
    for split, keys in _OF_SPLIT.items():
        for key in keys:
            if values.get(key) is not None and values.get("split") != split:
                protocol = values.get("protocol")
                raise UserError(
                    f"{key}={values[key]}: --protocol={protocol} does not read it; it is for split: {split}."
                )


def _check_source(values: Mapping[str, Any]) -> None:
    source = values.get("llm")
    if source is not None and not is_own_file(str(source)):
        check_known(f"--llm={source}: there is no such source", source, ["offline", *property_names("llm")])
    if values.get("answers"):
        check_store_address(str(values["answers"]))


def reads_codes(values: Mapping[str, Any]) -> bool:
    """Whether a RecBole model reads the clusters of item texts among its item features."""
    named = [*(values.get("selected_features") or []), values.get("item_attribute")]
    return TEXT_CODE in named


def _sort_metrics(values: dict[str, Any]) -> None:
    """Move metrics that need whole lists from ``metrics``, where RecBole has them, to ``list_metrics``.

    Raises:
        UserError: a metric is not known, is in the wrong list, or cannot choose a model.
    """
    others, listed = sort_metrics(values.get("metrics") or ())
    for name in others:
        if name.lower() not in RANK_METRICS | UNCUT_METRICS:
            there = [*RANK_METRICS.values(), *UNCUT_METRICS.values(), *LIST_METRICS.values()]
            raise UserError(f"metrics takes {', '.join(there)}; got {name!r}.{did_you_mean(name, there)}")
    wrong, wanted = sort_metrics(values.get("list_metrics") or ())
    if wrong:
        known = LIST_METRICS.values()
        raise UserError(f"list_metrics takes {', '.join(known)}; got {wrong[0]!r}.{did_you_mean(wrong[0], known)}")
    chosen = str(values.get("valid_metric", "NDCG@10"))
    if parse_metric(chosen)[1] < 1 or needs_lists(chosen):
        raise UserError(f"valid_metric={chosen}: choose one of {', '.join(RANK_METRICS.values())} with a cut-off.")
    values["metrics"] = others or [RANK_METRICS[parse_metric(chosen)[0]]]
    values["list_metrics"] = list(dict.fromkeys([*listed, *wanted]))
