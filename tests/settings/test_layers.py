"""Layers of settings: order, keys, identity, and messages about mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_llm.errors import UserError
from recbole_llm.methods.llmdmsrec.settings import LLMDMsRecSettings
from recbole_llm.registry import Method, find_method
from recbole_llm.settings.layers import check_grid_keys, layer_settings, parse_assignment, stage_one_settings
from recbole_llm.settings.schema import choices_of
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml
from tests.helpers import layered, layered_from_file

ROOT = Path(__file__).resolve().parents[2]


def refused(match, **overrides):
    with pytest.raises(UserError, match=match):
        layered(**overrides)


# ---- layers --------------------------------------------------------------------------------------


def test_a_preset_stands_over_the_model_s_file_and_under_the_user_s_values(tmp_path):
    assert layered("DUIP", preset="paper")["lm"] == "gpt2"
    assert layered("DUIP", preset="paper", lm="scratch")["lm"] == "scratch"
    assert layered_from_file(tmp_path, "preset: paper", "DUIP")["lm"] == "gpt2"
    assert layered("SASRec", preset="paper")["learning_rate"] == layered("SASRec")["learning_rate"]


def test_the_preset_of_a_backbone_lies_below_the_method_s_own_and_reaches_stage_one():
    settings = layered("LLMDMsRec", preset="paper", backbone="TAGNN", embedding_size=50)
    assert (settings["lr_decay_epochs"], settings["train_batch_size"], settings["embedding_size"]) == (3, 100, 50)
    stage_one = stage_one_settings(settings)
    assert (stage_one.method.name, stage_one["lr_decay_epochs"], stage_one["epochs"]) == ("GCEGNN", 3, 20)


@pytest.mark.parametrize(
    ("name", "message"),
    [("SRGN", r"there is no such model. Did you mean SRGNN\?"), ("LLMDMsRec", "it needs a candidate model itself")],
)
def test_a_model_of_stage_one_is_there_and_stands_alone(name, message):
    """Regression: a stage I model that needs stage I itself led to an endless lookup."""
    with pytest.raises(UserError, match=f"--stage_one_model={name}: {message}"):
        stage_one_settings(layered("LLMDMsRec", stage_one_model=name))


@pytest.mark.parametrize(
    "wanted",
    [
        {"lr_decay_epochs": 3},
        {"precision": "bf16"},
        {"gradient_accumulation_steps": 4},
        {"warmup_steps": 10},
        {"warmup_share": 0.1},
        {"min_epoch_steps": 100},
    ],
)
def test_recbole_s_own_loop_is_not_asked_for_what_it_does_not_know(wanted):
    assert layered("SASRec", engine="recbole")["engine"] == "recbole"
    refused("RecBole's own loop", engine="recbole", **wanted)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    refused("there is no such preset.*paper", model="DUIP", preset="papr")


def test_recbole_s_overall_file_is_the_lowest_layer():
    settings = layered()
    assert settings["learning_rate"] == 0.001
    assert settings.origin["learning_rate"] == "RecBole overall.yaml"


def test_recbole_s_model_file_gives_a_model_its_own_keys():
    settings = layered("SASRec")
    assert settings["n_layers"] == 2
    assert settings.origin["n_layers"] == "RecBole model/SASRec.yaml"


def test_our_overall_file_wins_over_recbole_s():
    settings = layered()
    assert settings["metric_decimal_place"] == 12
    assert settings.origin["metric_decimal_place"] == "properties/overall.yaml"


def test_the_protocol_wins_over_our_overall_file():
    settings = layered(protocol="loo")
    assert settings["valid_metric"] == "NDCG@10"
    assert settings.origin["valid_metric"] == "properties/protocol/loo.yaml"


def test_our_dataset_file_reaches_its_dataset_alone():
    assert layered(dataset="ml-100k").origin["MAX_ITEM_LIST_LENGTH"] == "properties/dataset/ml-100k.yaml"
    assert layered(dataset="tiny").origin["MAX_ITEM_LIST_LENGTH"].startswith("RecBole")


def test_our_model_file_wins_over_recbole_s():
    assert layered("Pop")["train_neg_sample_args"] is None
    assert layered("Pop").origin["train_neg_sample_args"] == "properties/model/Pop.yaml"


def test_a_config_file_wins_over_all_properties(tmp_path):
    settings = layered_from_file(tmp_path, "learning_rate: 0.5\n")
    assert settings["learning_rate"] == 0.5
    assert settings.origin["learning_rate"] == str(tmp_path / "mine.yaml")


def test_a_later_config_file_wins_over_an_earlier_one(tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 3\nn_layers: 5\n")
    (tmp_path / "b.yaml").write_text("epochs: 4\n")
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    settings = layer_settings(find_method("SASRec"), "tiny", config_files=files)
    assert (settings["epochs"], settings["n_layers"]) == (4, 5)


def test_the_command_line_wins_over_config_files(tmp_path):
    settings = layered_from_file(tmp_path, "epochs: 3\n", epochs=4)
    assert settings["epochs"] == 4
    assert settings.origin["epochs"] == "command line"


def test_two_runs_do_not_share_nested_values():
    layered(**{"eval_args.mode": "uni99"})
    assert layered()["eval_args"]["mode"] == "full"


def test_the_command_line_of_the_process_is_not_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--learning_rate=9", "--epochs=1"])
    settings = layered()
    assert (settings["learning_rate"], settings["epochs"]) == (0.001, 200)


def test_layering_imports_neither_torch_nor_recbole():
    code = (
        "import sys; from recbole_llm.registry import find_method; "
        "from recbole_llm.settings.layers import layer_settings; "
        "layer_settings(find_method('SASRec'), 'ml-100k'); print({'torch', 'recbole'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_an_unknown_protocol_is_answered_with_the_nearest():
    refused(r"--protocol=loa: there is no such protocol. Did you mean loo\?", protocol="loa")


@pytest.mark.parametrize("section", ["dataset", "llm", "model", "protocol"])
def test_every_file_of_properties_is_readable(section):
    assert property_names(section)
    for name in property_names(section):
        assert read_yaml(properties_folder() / section / f"{name}.yaml")


def test_data_path_is_the_user_s_alone():
    assert layered().data_path is None
    assert layered(data_path="/my/data").data_path == "/my/data"


def test_repeatable_follows_the_kind_of_model():
    assert layered("SASRec")["repeatable"] is True
    assert layered("BPR")["repeatable"] is False


# ---- keys ----------------------------------------------------------------------------------------


def test_a_dotted_key_reaches_into_a_mapping():
    settings = layered(**{"eval_args.mode": "uni99"})
    assert settings["eval_args"]["mode"] == "uni99"
    assert settings["eval_args"]["order"] == "TO"


def test_a_dotted_key_reaches_two_levels_down():
    assert layered(**{"eval_args.split.LS": "valid_only"})["eval_args"]["split"] == {"LS": "valid_only"}


def test_a_dotted_key_opens_a_mapping_that_is_null_by_default():
    settings = layered(**{"clip_grad_norm.max_norm": 5})
    assert settings["clip_grad_norm"] == {"max_norm": 5}
    assert "clip_grad_norm.max_norm" not in settings.values


def test_a_filter_is_written_with_a_dotted_key():
    key, value = parse_assignment("val_interval.rating=[3,inf)")
    assert layered(**{key: value})["val_interval"] == {"rating": "[3,inf)"}


def test_a_dotted_key_below_a_plain_value_is_refused():
    refused("--learning_rate.x=1: learning_rate is not a mapping and has no 'x'", **{"learning_rate.x": 1})


def test_a_key_with_a_model_s_name_reaches_that_model():
    assert layered("SASRec", **{"SASRec.n_layers": 3})["n_layers"] == 3


def test_a_key_with_a_model_s_name_passes_the_others_by():
    assert layered("SASRec", **{"BERT4Rec.n_layers": 3})["n_layers"] == 2
    assert layered("SASRec", **{"LLMDMsRec.sigma": 3}).get("sigma") is None


def test_a_key_with_a_model_s_name_may_be_dotted_further():
    settings = layered("SASRec", **{"SASRec.eval_args.mode": "uni99"})
    assert settings["eval_args"]["mode"] == "uni99"


def test_an_unknown_key_is_answered_with_the_nearest():
    refused(r"--learnin_rate=1: there is no setting 'learnin_rate'. Did you mean learning_rate", learnin_rate=1)


def test_a_key_of_other_models_is_answered_with_their_names():
    refused("SASRec has no setting 'sigma' .it belongs to LLMDMsRec", sigma=1)


def test_an_unknown_key_below_a_model_s_name_is_refused():
    refused("there is no setting 'n_layer'", **{"SASRec.n_layer": 3})


def test_keys_of_other_models_are_passed_by_where_the_caller_checks_them():
    method = find_method("SASRec")
    assert layer_settings(method, "tiny", overrides={"sigma": 1}, strict=False).get("sigma") is None


def test_keys_that_recbole_lists_without_a_default_are_known():
    assert layered(rm_dup_inter="first")["rm_dup_inter"] == "first"


def test_a_model_from_outside_may_have_any_key():
    method = Method("Mine", "own:Mine", "general")
    assert layer_settings(method, "tiny", overrides={"my_width": 3})["my_width"] == 3


@pytest.mark.parametrize("file", ["search/Free.yaml", "model/Another.yaml"])
def test_files_for_other_things_beside_a_model_from_outside_close_it_to_no_key(tmp_path, monkeypatch, file):
    module = f"free_{file[:5]}"
    (tmp_path / "properties" / file).parent.mkdir(parents=True)
    (tmp_path / "properties" / file).write_text("own_width: [8, 16]\n")
    (tmp_path / f"{module}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    free = Method("Free", f"{module}:Free", kind="sequential")
    assert layer_settings(free, "tiny", overrides={"own_width": 16})["own_width"] == 16
    (tmp_path / "properties" / "model").mkdir(exist_ok=True)
    (tmp_path / "properties" / "model" / "Free.yaml").write_text("own_width: 8\n")
    assert layer_settings(free, "tiny")["own_width"] == 8
    with pytest.raises(UserError, match=r"there is no setting 'own_widht'\. Did you mean own_width"):
        layer_settings(free, "tiny", overrides={"own_widht": 16})


def test_in_a_grid_a_key_must_belong_to_one_of_the_models():
    methods = [find_method("SASRec"), find_method("LLMDMsRec")]
    check_grid_keys(methods, "tiny", None, {"sigma": 0.1, "n_layers": 1})
    with pytest.raises(UserError, match="there is no setting 'sigmaa'"):
        check_grid_keys(methods, "tiny", None, {"sigmaa": 0.1})


# ---- backbones -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", choices_of(LLMDMsRecSettings.model_fields["backbone"]))
def test_a_method_has_the_settings_of_its_backbone(backbone):
    ours, plain = layered("LLMDMsRec", backbone=backbone), layered(backbone)
    own = set(read_yaml(properties_folder() / "model" / "LLMDMsRec.yaml"))
    shared = {key: value for key, value in plain.values.items() if key not in own and plain.origin.get(key)}
    shared = {key: value for key, value in shared.items() if "model/" in plain.origin[key]}
    assert shared
    assert {key: ours[key] for key in shared} == shared


def test_a_backbone_may_be_named_in_a_file_and_for_one_model(tmp_path):
    assert layered_from_file(tmp_path, "backbone: GCEGNN", "LLMDMsRec")["n_hops"] == 1
    assert layered_from_file(tmp_path, "backbone: GCEGNN", "LLMDMsRec", backbone="SRGNN").get("n_hops") is None
    assert layered("LLMDMsRec", backbone="SRGNN", **{"LLMDMsRec.backbone": "TAGNN"})["backbone"] == "TAGNN"


def test_an_unknown_backbone_is_refused_with_the_nearest():
    refused(r"backbone=GCEGN: backbone is one of .*Did you mean GCEGNN", model="LLMDMsRec", backbone="GCEGN")


def test_a_key_of_another_backbone_is_refused():
    refused("LLMDMsRec has no setting 'n_hops' .it belongs to GCEGNN", model="LLMDMsRec", n_hops=2)


def test_in_a_grid_keys_of_the_chosen_backbone_are_known(tmp_path):
    methods = [find_method("SASRec"), find_method("LLMDMsRec")]
    check_grid_keys(methods, "tiny", None, {"backbone": "GCEGNN", "n_hops": 2})
    check_grid_keys(methods, "tiny", None, {"LLMDMsRec.backbone": "GCEGNN", "LLMDMsRec.n_hops": 2})
    (tmp_path / "mine.yaml").write_text("backbone: GCEGNN")
    check_grid_keys(methods, "tiny", None, {"n_hops": 2}, [tmp_path / "mine.yaml"])
    with pytest.raises(UserError, match="n_hops"):
        check_grid_keys(methods, "tiny", None, {"n_hops": 2})


def test_the_prerequisite_that_a_file_names_takes_part(tmp_path):
    (tmp_path / "mine.yaml").write_text("stage_one_model: GRU4Rec")
    check_grid_keys([find_method("LLMDMsRec")], "tiny", None, {"GRU4Rec.epochs": 2}, [tmp_path / "mine.yaml"])
    with pytest.raises(UserError, match="GRU4Rec takes no part"):
        check_grid_keys([find_method("LLMDMsRec")], "tiny", None, {"GRU4Rec.epochs": 2})


def test_words_of_one_model_do_not_bind_the_switch_of_another():
    assert layered("LDMI", align=False)["align"] is False
    refused("align takes true or false", model="LDMI", align="kl")
    refused(r"align is one of kl, .*Did you mean infonce", model="LLMDMsRec", align="infonc")


def test_folds_are_a_whole_number():
    refused("candidate_folds takes a whole number", model="LLMDMsRec", candidate_folds=2.5)


def test_a_run_keeps_its_key_when_a_setting_came_later_and_is_not_used():
    settings = layered("LLMDMsRec")
    later = {"backbone", "align", "candidate_folds"}
    assert not later & set(settings.identity())
    for key, value in (("backbone", "TAGNN"), ("align", "directau"), ("candidate_folds", 2)):
        assert layered("LLMDMsRec", **{key: value}).identity()[key] == value


# ---- files ---------------------------------------------------------------------------------------


def test_an_empty_config_file_changes_nothing(tmp_path):
    assert layered_from_file(tmp_path, "# only a comment\n").identity() == layered().identity()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [1\n", "mine.yaml is not valid YAML"),
        ("- epochs\n", "mine.yaml: expected `key: value` lines, found a list"),
        ("just words\n", "mine.yaml: expected `key: value` lines, found a str"),
        ("epochs: 3\n\tlr: 4\n", "mine.yaml is not valid YAML"),
        ("1: 2\n", "mine.yaml: the key 1 is not text"),
        ("encoder: 2024-13-45\n", "mine.yaml is not valid YAML: month must be in"),
        ("encoder: !!int ''\n", "mine.yaml is not valid YAML"),
        (f"epochs: {'9' * 10_000}\n", "mine.yaml is not valid YAML"),
        (f"topk: {'[' * 10_000}\n", "mine.yaml is not valid YAML"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        layered_from_file(tmp_path, text)


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: No such file"):
        layer_settings(find_method("SASRec"), "tiny", config_files=[tmp_path / "nowhere.yaml"])


def test_a_config_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("encoder: café\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml is not valid YAML"):
        layer_settings(find_method("SASRec"), "tiny", config_files=[tmp_path / "latin.yaml"])


# ---- identity ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_path", "/elsewhere"),
        ("dataset_dir", "/elsewhere"),
        ("checkpoint_dir", "/elsewhere"),
        ("results_dir", "/elsewhere"),
        ("device", "cuda:1"),
        ("gpu_id", "3"),
        ("eval_batch_size", 17),
        ("show_progress", False),
        ("topk", [3]),
        ("metrics", ["Hit"]),
    ],
)
def test_what_cannot_change_a_number_is_no_part_of_the_identity(key, value):
    assert layered(**{key: value}).key() == layered().key()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 0.002),
        ("seed", 5),
        ("n_layers", 1),
        ("engine", "recbole"),
        ("mask_history", False),
        ("valid_metric", "Hit@5"),
        ("eval_args.mode", "uni99"),
        ("precision", "bf16"),
    ],
)
def test_what_can_change_a_number_is_part_of_the_identity(key, value):
    assert layered(**{key: value}).key() != layered().key()


def test_models_and_datasets_differ_in_identity():
    keys = {layered("SASRec").key(), layered("GRU4Rec").key(), layered("SASRec", dataset="other").key()}
    assert len(keys) == 3


def test_the_order_of_overrides_is_no_part_of_the_identity():
    assert layered(epochs=3, seed=4).key() == layered(seed=4, epochs=3).key()


def test_hashes_of_files_are_part_of_the_key():
    assert layered().key(files={"inter": "a"}) != layered().key(files={"inter": "b"})


def test_an_external_model_is_known_by_its_path():
    one = layer_settings(Method("Mine", "first:Mine", "general"), "tiny")
    other = layer_settings(Method("Mine", "second:Mine", "general"), "tiny")
    assert one.key() != other.key()


# ---- what follows from what ----------------------------------------------------------------------


def test_a_softmax_over_all_items_samples_no_negatives():
    assert layered("SASRec")["train_neg_sample_args"] is None
    assert layered("SASRec", loss_type="BPR")["train_neg_sample_args"]["sample_num"] == 1


@pytest.mark.parametrize("model", ["REMI", "EIMF"])
def test_hard_negatives_want_sampled_ones(model):
    with pytest.raises(UserError, match=r"hard_negative_beta=2\.0 weighs sampled negatives: give n_sampled"):
        layered(model, hard_negative_beta=2.0)
    assert layered(model, hard_negative_beta=2.0, n_sampled=10)["hard_negative_beta"] == 2.0


@pytest.mark.parametrize("model", ["LLMDMsRec", "TAGNN", "GCEGNN", "LDMI", "DUIP", "ISRF"])
def test_a_model_with_one_loss_refuses_another(model):
    with pytest.raises(UserError, match="loss_type is one of CE; got 'BPR'"):
        layered(model, loss_type="BPR")
    assert layered(model, **{"loss_type": "CE", "SASRec.loss_type": "BPR"})["loss_type"] == "CE"


def test_semantics_offline_and_llm_offline_are_one_thing():
    keys = {
        layered("LLMDMsRec", semantics="offline").key(),
        layered("LLMDMsRec", llm="offline").key(),
        layered("LLMDMsRec", semantics="llm", llm="offline").key(),
        layered("LLMDMsRec", semantics="offline", llm="openai").key(),
    }
    assert len(keys) == 1


def test_semantics_offline_is_its_name():
    assert layered("LLMDMsRec", llm="offline")["semantics"] == "offline"


def test_an_llm_is_not_the_offline_rule():
    settings = layered("LLMDMsRec", llm="openai")
    assert (settings["semantics"], settings["llm"]) == ("llm", "openai")


def test_a_control_keeps_its_source():
    settings = layered("LLMDMsRec", semantics="shuffled", llm="openai")
    assert (settings["semantics"], settings["llm"]) == ("shuffled", "openai")


def test_a_model_without_features_has_none_whatever_is_asked():
    keys = {layered("SASRec").key(), layered("SASRec", semantics="shuffled", llm="openai", encoder="other").key()}
    assert len(keys) == 1
    assert layered("SASRec", semantics="llm")["semantics"] == "none"


def test_a_prerequisite_has_a_seed_of_its_own():
    settings = [stage_one_settings(layered("LLMDMsRec", seed=seed)) for seed in (1, 2)]
    assert settings[0]["seed"] == settings[1]["seed"] == 2020
    assert settings[0].key() == settings[1].key()


def test_the_seed_of_a_prerequisite_can_be_set():
    assert stage_one_settings(layered("LLMDMsRec", stage_one_seed=7))["seed"] == 7


def test_a_key_of_the_row_of_a_prerequisite_s_model_leaves_the_prerequisite_alone():
    """Regression: the record said ``stage_one_seed: 2020`` although the candidates came from seed 7."""
    of_row = {"SRGNN.seed": 7, "SRGNN.engine": "recbole", "SRGNN.nproc": 2}
    stage_one = stage_one_settings(layered("LLMDMsRec", **of_row))
    assert (stage_one["seed"], stage_one["engine"], stage_one["nproc"]) == (2020, "fast", 1)
    assert stage_one.key() == stage_one_settings(layered("LLMDMsRec")).key()


@pytest.mark.parametrize(
    ("key", "value", "advice"),
    [("SRGNN.seed", 7, "give --stage_one_seed=7"), ("SRGNN.engine", "recbole", "leave it out, or add --model=SRGNN")],
)
def test_what_a_prerequisite_does_not_follow_is_refused_where_its_model_has_no_row(key, value, advice):
    with pytest.raises(UserError, match=f"SRGNN makes candidates here and takes no .* of its own; {advice}"):
        check_grid_keys([find_method("LLMDMsRec")], "tiny", None, {key: value})
    check_grid_keys([find_method("LLMDMsRec"), find_method("SRGNN")], "tiny", None, {key: value})


def test_a_prerequisite_is_the_model_that_the_setting_names():
    assert stage_one_settings(layered("LLMDMsRec")).method.name == "SRGNN"
    assert stage_one_settings(layered("LLMDMsRec", stage_one_model="GRU4Rec")).method.name == "GRU4Rec"


def test_the_user_s_keys_hold_for_a_prerequisite_too():
    settings = layered("LLMDMsRec", learning_rate=0.01, **{"LLMDMsRec.epochs": 3, "SRGNN.epochs": 5})
    stage_one = stage_one_settings(settings)
    assert (stage_one["learning_rate"], stage_one["epochs"]) == (0.01, 5)


def test_config_files_hold_for_a_prerequisite_too(tmp_path):
    assert stage_one_settings(layered_from_file(tmp_path, "epochs: 7\n", "LLMDMsRec"))["epochs"] == 7


def test_keys_of_the_method_do_not_tell_prerequisites_apart():
    one, other = (stage_one_settings(layered("LLMDMsRec", sigma=sigma)) for sigma in (0.1, 0.9))
    assert one.key() == other.key()


# ---- how a next item is trained --------------------------------------------------------------------


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "SASRecText"])
def test_training_at_every_position_and_other_losses_are_other_runs(model):
    usual = layered(model).key()
    changes = [{"train_targets": "all"}, {"objective": "gbce"}, {"n_negatives": 5}, {"log_q": True}]
    assert len({usual, *(layered(model, **change).key() for change in changes)}) == 5
    assert layered(model, train_targets="last", objective="softmax").key() == usual


@pytest.mark.parametrize("change", [{"train_targets": "all"}, {"objective": "bce"}])
def test_what_recbole_s_loop_does_not_know_is_refused_for_it(change):
    refused("RecBole's own loop .* does not know it", model="SASRec", engine="recbole", **change)


@pytest.mark.parametrize(
    ("model", "given", "name"),
    [
        ("SASRec", {"init": "vectors"}, "init: vectors"),
        ("LLMESR", {}, "LLMESR's item vectors"),
        ("EIMF", {}, "text_proj: pca"),
        ("ISRF", {}, "pca_size"),
    ],
)
def test_whitened_vectors_have_no_principal_components(model, given, name):
    refused(rf"whitening=zca: {model} takes principal components \({name}\)", model=model, whitening="zca", **given)
    layered(model, whitening="zca", semantics="none", **given)


@pytest.mark.parametrize("model", ["FDSA", "SASRecF", "LDMI"])
def test_whitening_is_refused_where_no_vectors_are_read(model):
    refused(f"whitening=zca: {model} reads clusters or interests", model=model, whitening="zca")


def test_whitened_vectors_may_be_read_whole():
    layered("SASRecText", whitening="zca")
    layered("EIMF", whitening="zca", text_proj="linear")
    layered("LDMI", whitening="zca", cluster_text=True)


def test_cosines_are_not_trained_by_a_pairwise_loss():
    """It would train inner products, although the ranking ignores the vectors' lengths."""
    refused("loss_type is one of CE; got 'BPR'", model="UniSRec", loss_type="BPR")


@pytest.mark.parametrize("change", [{"train_targets": "all"}, {"objective": "bce"}])
def test_a_pairwise_loss_has_one_target_and_its_own_negatives(change):
    refused("goes with loss_type: CE, not BPR", model="SASRec", loss_type="BPR", **change)


@pytest.mark.parametrize("change", [{"train_targets": "all"}, {"objective": "bce"}, {"n_negatives": 5}])
def test_a_method_trains_what_it_is_built_on_by_its_own_loss(change):
    refused("EIMF trains the model it is built on by its own loss", model="EIMF", backbone="SASRec", **change)
    refused("EIMF has no setting", model="EIMF", **change)


def test_a_method_on_sasrec_has_the_key_that_it_had():
    identity = layered("EIMF", backbone="SASRec").identity()
    assert not {"train_targets", "objective", "n_negatives", "calibration"} & set(identity)


def test_the_old_name_of_a_setting_is_taken_with_one_notice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="recbole_llm"):
        old, again = (layered("EIMF", ibim="MIND") for _ in range(2))
    assert old["backbone"] == again["backbone"] == "MIND"
    assert old.key() == layered("EIMF", backbone="MIND").key()
    assert len([message for message in caplog.messages if "ibim is now called backbone" in message]) == 1


def test_profiles_that_no_column_reads_are_refused():
    given = {"profiles": "p.jsonl", "text_columns": ["title_text"]}
    with pytest.raises(UserError, match=r"reads the columns title_text .*\[title_text,profile_text\]"):
        layered("SASRecText", **given)
    assert layered("SASRecText", **given | {"text_columns": ["title_text", "profile_text"]})["profiles"]
    assert layered("SASRecText", semantics="none", **given)
