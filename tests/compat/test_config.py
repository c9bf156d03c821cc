"""RecBole's configuration is built only from our settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from recbole_llm.compat.config import BenchConfig, gpu_number, resolve_device
from recbole_llm.errors import UserError
from tests.helpers import layered, make_run


@pytest.fixture
def config_of(tiny):
    def make(model="SASRec", **overrides):
        run = make_run(model, **overrides)
        return BenchConfig(run.settings, run.settings.method.load(), run.location.folder, run.location.stem)

    return make


# ---- devices -------------------------------------------------------------------------------------


def test_auto_takes_a_gpu_where_there_is_one():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_auto_takes_no_gpu_where_the_user_wants_none():
    assert resolve_device("auto", use_gpu=False) == torch.device("cpu")


def test_a_device_that_is_named_is_taken():
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"--device=cuda:99: .*CUDA device"):
        resolve_device("cuda:99")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cpu cuda"])
def test_a_word_that_is_no_device_is_refused(name):
    with pytest.raises(UserError, match=f"--device={name}: use auto, cpu, cuda or cuda:N"):
        resolve_device(name)


@pytest.mark.parametrize(("given", "number"), [("0", 0), (1, 1), ("3", 3), ("", None), (None, None)])
def test_the_gpu_is_the_one_of_gpu_id(given, number):
    assert gpu_number(given) == number


@pytest.mark.parametrize("given", ["", None])
def test_no_gpu_is_the_cpu(given):
    assert resolve_device("auto", gpu_id=given) == torch.device("cpu")


@pytest.mark.parametrize("given", ["0,1", [0, 1], "cuda:1", -1, "first"])
def test_a_gpu_that_is_no_number_is_refused(given):
    with pytest.raises(UserError, match=r"give the number of one GPU.*--nproc"):
        resolve_device("auto", gpu_id=given)


def test_auto_takes_the_gpu_of_that_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("auto", gpu_id="2") == torch.device("cuda:2")
    assert resolve_device("cpu", gpu_id="2") == torch.device("cpu")
    with pytest.raises(UserError, match="there are 3 CUDA devices"):
        resolve_device("auto", gpu_id=3)


# ---- what RecBole sees ---------------------------------------------------------------------------


def test_settings_arrive_as_they_are(config_of):
    config = config_of(learning_rate=0.01, hidden_size=32)
    assert (config["learning_rate"], config["hidden_size"], config["n_layers"]) == (0.01, 32, 2)


def test_the_command_line_of_the_process_is_not_read(config_of, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--learning_rate=9", "--gpu_id=3"])
    assert config_of()["learning_rate"] == 0.001


def test_text_is_not_evaluated(config_of):
    assert config_of(checkpoint_dir="[1, 2][0]")["checkpoint_dir"] == "[1, 2][0]"


def test_the_choice_of_gpus_in_the_environment_is_left_alone(config_of, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    config_of(device="cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def test_the_device_is_ours(config_of):
    config = config_of(device="cpu")
    assert config["device"] == torch.device("cpu")
    assert config["use_gpu"] is False


def test_the_data_lie_where_the_catalogue_found_them(config_of, tiny):
    config = config_of()
    assert config["data_path"] == str(tiny.relative_to(tiny.parent.parent))
    assert config["dataset"] == "tiny"


def test_ml_100k_is_read_from_our_own_folder(workspace):
    run = make_run("Pop", "ml-100k")
    config = BenchConfig(run.settings, run.settings.method.load(), run.location.folder, run.location.stem)
    assert config["data_path"] == str(Path("dataset/ml-100k"))


def test_the_model_is_known_by_its_class(config_of):
    config = config_of("SASRec")
    assert config["model"] == "SASRec"
    assert config["MODEL_TYPE"].name == "SEQUENTIAL"


def test_the_input_type_follows_the_loss(config_of):
    assert config_of("SASRec")["MODEL_INPUT_TYPE"].name == "POINTWISE"
    assert config_of("SASRec", loss_type="BPR")["MODEL_INPUT_TYPE"].name == "PAIRWISE"
    assert config_of("BPR")["MODEL_INPUT_TYPE"].name == "PAIRWISE"


def test_arguments_of_negative_sampling_that_are_not_given_are_filled_in(config_of):
    arguments = config_of("BPR", train_neg_sample_args={"sample_num": 3, "distribution": "uniform"})
    assert arguments["train_neg_sample_args"] == {
        "sample_num": 3,
        "distribution": "uniform",
        "alpha": 1.0,
        "dynamic": False,
        "candidate_num": 0,
    }


def test_no_negative_sampling_is_spelt_as_recbole_spells_it(config_of):
    assert config_of("SASRec")["train_neg_sample_args"]["distribution"] == "none"


def test_a_class_from_outside_has_its_own_settings(tiny, monkeypatch):
    (tiny.parent.parent / "own_sasrec.py").write_text(
        "from recbole.model.sequential_recommender import SASRec\nclass Mine(SASRec):\n  pass\n"
    )
    monkeypatch.syspath_prepend(str(tiny.parent.parent))
    run = make_run("own_sasrec:Mine", my_width=7, loss_type="CE")
    config = BenchConfig(run.settings, run.settings.method.load(), run.location.folder, run.location.stem)
    assert config["my_width"] == 7


@pytest.mark.parametrize(("base", "name"), [("sequential_recommender:SASRec", "SASRec"), ("loss:BPRLoss", "Mine")])
def test_recbole_knows_a_class_from_outside_by_the_model_that_it_extends(tiny, monkeypatch, base, name):
    module, _, parent = base.partition(":")
    folder = tiny.parent.parent
    (folder / f"own_{parent}.py").write_text(
        f"from recbole.model.{module} import {parent}\nfrom recbole.utils import ModelType\n"
        f"class Mine({parent}):\n  type = ModelType.SEQUENTIAL\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    run = make_run(f"own_{parent}:Mine", loss_type="CE")
    config = BenchConfig(run.settings, run.settings.method.load(), run.location.folder, run.location.stem)
    assert config["model"] == name


@pytest.mark.parametrize("value", ["abc", 0, 1.5, [5, -1], [], [True]])
def test_cut_offs_are_whole_numbers_from_one_on(value):
    with pytest.raises(UserError, match=r"topk=.*: give cut-offs, whole numbers from 1 on"):
        layered(topk=value)
    assert layered(topk=3)["topk"] == [3]


@pytest.mark.parametrize(("model", "more"), [("BPR", {}), ("SASRec", {"loss_type": "BPR"})])
def test_a_model_of_pairs_is_not_left_without_negatives(config_of, model, more):
    with pytest.raises(UserError, match=f"--model={model} learns from .*: give train_neg_sample_args, such as"):
        config_of(model, train_neg_sample_args=None, **more)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"repeatable": False}, "--model=SASRec: Sequential models currently only support repeatable"),
        ({"train_neg_sample_args": {"sample_num": 1}}, "should be None when the loss_type is CE"),
        ({"eval_args.mode": "fulll"}, r"the mode \[fulll\] in eval_args is not supported"),
    ],
)
def test_what_recbole_refuses_is_a_user_error(config_of, overrides, message):
    with pytest.raises(UserError, match=message):
        config_of(**overrides)
