"""Types of settings: what is accepted, how it is converted, and messages about mistakes."""

from __future__ import annotations

import pytest

from recbole_llm.data.split import SPLITS
from recbole_llm.errors import UserError
from recbole_llm.settings.core import CoreSettings
from recbole_llm.settings.layers import parse_assignment
from recbole_llm.settings.schema import choices_of
from tests.helpers import layered, layered_from_file, make_run


def refused(match, **overrides):
    with pytest.raises(UserError, match=match):
        layered(**overrides)


# ---- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("learning_rate=1e-5", 1e-5),
        ("learning_rate=1E-5", 1e-5),
        ("learning_rate=-2.5e+3", -2500.0),
        ("learning_rate=.5e2", 50.0),
        ("epochs=30", 30),
        ("topk=[5, 10]", [5, 10]),
        ("shuffle=false", False),
        ("clip_grad_norm={max_norm: 5}", {"max_norm": 5}),
        ("transform=~", None),
        ("encoder=my/model", "my/model"),
        ("encoder=a=b", "a=b"),
        ("user_inter_num_interval=[5,inf)", "[5,inf)"),
        (" epochs =3", 3),
    ],
)
def test_values_are_read_as_yaml(text, value):
    assert parse_assignment(text)[1] == value
    assert type(parse_assignment(text)[1]) is type(value)


def test_the_key_of_an_assignment_stands_before_the_first_equals_sign():
    assert parse_assignment("encoder=a=b")[0] == "encoder"


def test_scientific_notation_in_a_file_is_a_number(tmp_path):
    assert layered_from_file(tmp_path, "learning_rate: 1e-5\n")["learning_rate"] == 1e-5


EXPRESSION = "__import__('os').getcwd()"


def test_an_expression_stays_text():
    assert parse_assignment(f"encoder={EXPRESSION}") == ("encoder", EXPRESSION)
    assert layered("LLMDMsRec", encoder=EXPRESSION)["encoder"] == EXPRESSION


def test_an_expression_is_no_number():
    refused("learning_rate takes a number", learning_rate=EXPRESSION)
    refused("epochs takes a whole number", epochs="1+1")


@pytest.mark.parametrize("text", ["2024-13-45", "0b_", "[" * 10_000])
def test_what_yaml_stumbles_over_is_text(text):
    assert parse_assignment(f"encoder={text}") == ("encoder", text)


def test_a_yaml_tag_runs_no_code(tmp_path):
    with pytest.raises(UserError, match="not valid YAML"):
        layered_from_file(tmp_path, "encoder: !!python/object/apply:os.getcwd []\n")


@pytest.mark.parametrize(("given", "stored"), [(20, 20), (20.0, 20)])
def test_a_whole_number_is_stored_as_int(given, stored):
    value = layered(epochs=given)["epochs"]
    assert value == stored
    assert type(value) is int


@pytest.mark.parametrize("key", ["learning_rate", "interest_scale", "clip_grad_norm.max_norm"])
def test_a_number_is_one_run_however_it_is_written(key):
    given = {"clip_grad_norm": {"max_norm": 1.0, "norm_type": 2}} if "." in key else {}
    whole, pointed = (make_run("ComiRecDR", "ml-100k", **given, **{key: value}) for value in (8, 8.0))
    assert whole.key == pointed.key
    assert whole.title() == pointed.title()


@pytest.mark.parametrize("bad", ["abc", 1.5, True, [1], float("inf")])
def test_a_whole_number_is_wanted_where_the_default_is_one(bad):
    refused("epochs takes a whole number", epochs=bad)


@pytest.mark.parametrize("bad", ["abc", True, {"a": 1}, 10**400])
def test_a_number_is_wanted_where_the_default_is_one(bad):
    refused("learning_rate takes a number", learning_rate=bad)


@pytest.mark.parametrize("bad", ["yes please", 1, 0])
def test_true_or_false_is_wanted_where_the_default_is_one(bad):
    refused("shuffle takes true or false", shuffle=bad)


def test_a_number_written_whole_is_fine_for_a_real_setting():
    assert layered(weight_decay=1)["weight_decay"] == 1


@pytest.mark.parametrize(("model", "key"), [("SASRec", "weight_decay"), ("SimpleX", "negative_weight")])
def test_a_default_written_as_another_kind_of_number_is_the_same_run(model, key):
    default = layered(model)[key]
    other = int(default) if isinstance(default, float) else float(default)
    assert layered(model, **{key: other}).key() == layered(model).key()


def test_a_single_value_becomes_a_list_where_a_list_is_wanted():
    assert layered(topk=10)["topk"] == [10]
    assert layered(metrics="NDCG")["metrics"] == ["NDCG"]


@pytest.mark.parametrize("value", ["[5,10", "5,[10"])
def test_a_list_whose_bracket_is_missing_is_a_user_error(value):
    refused("give cut-offs, whole numbers from 1 on", topk=value)


def test_a_closed_interval_may_be_written_as_the_list_that_yaml_reads():
    assert layered(user_inter_num_interval=[5, 20])["user_inter_num_interval"] == "[5,20]"


@pytest.mark.parametrize("value", ["both", False])
def test_repeats_are_kept_by_one_of_two_rules(value):
    refused("rm_dup_inter is one of first, last", rm_dup_inter=value)


def test_a_mapping_is_wanted_where_the_default_is_one():
    refused("eval_args takes a mapping", eval_args="full")


def test_a_number_is_fine_where_text_is_wanted():
    assert layered(checkpoint_dir=7)["checkpoint_dir"] == "7"


def test_null_is_taken_where_it_says_something():
    assert layered("DUIP", clip_grad_norm=None)["clip_grad_norm"] is None
    assert layered("Pop", load_col=None)["load_col"] is None
    refused("learning_rate takes a number", learning_rate=None)
    refused("gate is one of sigmoid, one, zero; got None", model="LDMI", gate=None)
    refused("stage_epochs takes a list", model="DUIP", stage_epochs=None)


@pytest.mark.parametrize(
    ("key", "bad", "message"),
    [
        ("engine", "fats", r"engine is one of fast, recbole; got 'fats'. Did you mean fast\?"),
        ("semantics", "lmm", r"semantics is one of .* Did you mean llm\?"),
        ("precision", "fp16", "precision is one of fp32, bf16"),
        ("learner", 3, "learner is one of"),
    ],
)
def test_a_choice_must_be_among_the_choices(key, bad, message):
    refused(message, model="LLMDMsRec", **{key: bad})


@pytest.mark.parametrize(
    ("model", "key", "least"),
    [("SASRec", "train_batch_size", 1), ("LDMI", "n_interests", 1), ("ISRF", "n_negatives", 1), ("BPR", "epochs", 0)],
)
def test_a_size_below_its_least_is_refused(model, key, least):
    refused(f"--{key}={least - 1}: {key} is at least {least}; got {least - 1}", model=model, **{key: least - 1})
    assert layered(model, **{key: least})[key] == least


@pytest.mark.parametrize(
    ("model", "key"),
    [
        *[("LDMI", key) for key in ("interest_window", "clique_size", "synthesised_items", "synthesised_per_step")],
        *[("EIMF", key) for key in ("exemplar_items", "exact_users", "max_text_interests", "text_size")],
        *[("ISRF", key) for key in ("profile_items", "pca_size", "beams", "samples_per_user")],
        *[("ComiRecDR", "routing_rounds"), ("SASRecF", "n_codes"), ("LLMDMsRec", "intent_stride")],
        *[("GCEGNN", "n_neighbours"), ("SASRecText", "inner_size")],
    ],
)
def test_sizes_of_features_are_whole_and_at_least_one(model, key):
    """Regression: ``interest_window`` 0 asked about single items, ``exemplar_items`` 0 about empty histories."""
    refused(f"{key} is at least 1; got 0", model=model, **{key: 0})
    refused(f"{key} takes a whole number", model=model, **{key: 2.5})


@pytest.mark.parametrize(
    ("model", "key"),
    [
        *[("DUIP", key) for key in ("soft_tokens", "prompt_items", "title_tokens", "prompt_tokens", "warmup_steps")],
        *[("ISRF", key) for key in ("graph_layers", "user_graph_layers", "similar_users", "prompt_vectors")],
        *[("LDMI", "max_requests"), ("GCEGNN", "epsilon"), ("GCEGNN", "n_hops"), ("TAGNN", "step")],
    ],
)
def test_counts_are_whole_and_not_negative(model, key):
    refused(f"{key} is at least 0; got -1", model=model, **{key: -1})
    refused(f"{key} takes a whole number", model=model, **{key: 1.5})
    assert layered(model, **{key: 0})[key] == 0


@pytest.mark.parametrize(
    ("model", "key"),
    [
        *[("DUIP", key) for key in ("finetune_learning_rate", "lm_learning_rate")],
        *[("EIMF", key) for key in ("alignment_weight", "semantic_weight", "routing_weight")],
        *[("ISRF", key) for key in ("sequential_alignment", "direct_alignment", "graph_init_std")],
        *[("LDMI", "contrast_weight"), ("LDMI", "max_cost"), ("LLMDMsRec", "sigma")],
        *[("SASRecText", key) for key in ("initializer_range", "layer_norm_eps")],
    ],
)
def test_weights_and_rates_are_not_negative(model, key):
    """Regression: a negative weight disabled or reversed its loss, and the run got a row of its own."""
    refused(f"{key} is at least 0; got -1", model=model, **{key: -1})
    refused(f"{key} takes a number .*, got nan", model=model, **{key: float("nan")})


@pytest.mark.parametrize(("model", "key"), [("EIMF", "temperature"), ("ISRF", "alignment_temperature")])
def test_a_temperature_is_above_zero(model, key):
    """Regression: scores were divided by a temperature of zero, and the loss was not a number."""
    for value in (0, -1):
        refused(f"--{key}={value}: {key} is above 0; got {value}", model=model, **{key: value})
    refused(f"{key} takes a number", model=model, **{key: float("inf")})


@pytest.mark.parametrize(
    ("model", "key"),
    [
        *[("DUIP", "dropout_prob"), ("LLMDMsRec", "semantic_dropout")],
        *[("GCEGNN", key) for key in ("dropout_gcn", "dropout_local", "dropout_global")],
    ],
)
def test_a_share_is_between_zero_and_one(model, key):
    refused(f"{key} is at most 1; got 1.5", model=model, **{key: 1.5})
    refused(f"{key} is at least 0; got -1", model=model, **{key: -1})
    refused("covering_share is above 0; got 0", model="LDMI", covering_share=0)


def test_any_protocol_takes_a_number_of_candidates_and_a_seed_for_them():
    for protocol in ("loo", "temporal_20"):
        settings = layered(protocol=protocol, candidates=99, candidate_seed=7)
        assert (settings["candidates"], settings["candidate_seed"]) == (99, 7)
    assert layered(protocol="loo", candidates=99)["candidate_seed"] == 2020
    assert layered(protocol="loo").get("candidate_seed") is None
    assert layered(protocol="temporal_20", candidates="all")["candidates"] == "all"


def test_every_split_is_a_choice():
    # Ready-made parts need no split rule, so SPLITS has no entry for them.
    assert set(choices_of(CoreSettings.model_fields["split"])) == {*SPLITS, "parts"}
    assert layered(**{"eval_args.split": {"LS": "test_only"}})["eval_args"]["split"] == {"LS": "test_only"}


def test_a_graph_model_may_do_without_layers():
    assert layered("LightGCN", n_layers=0)["n_layers"] == 0
    refused("num_layers=0: GRU4Rec has at least one layer", model="GRU4Rec", num_layers=0)


@pytest.mark.parametrize("model", ["SASRec", "EIMF"])
def test_an_activation_is_one_that_recbole_s_layers_have(model):
    refused("hidden_act is one of gelu, relu, swish, tanh, sigmoid; got 'silu'", model=model, hidden_act="silu")
    assert layered(model, hidden_act="swish")["hidden_act"] == "swish"


@pytest.mark.parametrize(
    "value", [{"norm_type": 2}, {"max_norm": "much"}, {"max_norm": True}, {"max_norm": -1}, {"max_norm": 0}]
)
def test_clipping_needs_its_largest_norm(value):
    refused("clip_grad_norm: give the largest norm as a number", clip_grad_norm=value)
    assert layered(clip_grad_norm={"max_norm": 5, "norm_type": 2})["clip_grad_norm"] == {"max_norm": 5, "norm_type": 2}


def test_keys_that_default_to_null_have_a_type():
    refused("clip_grad_norm takes a mapping", clip_grad_norm=5)


def test_the_message_names_the_file_and_the_key(tmp_path):
    with pytest.raises(UserError, match=r"mine\.yaml, epochs: epochs takes a whole number \(default 200\), got 'x'"):
        layered_from_file(tmp_path, "epochs: x\n")
