"""Which training loader a model gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.dataloader import KnowledgeBasedDataLoader, TrainDataLoader

from recbole_llm.data.loaders import SequenceLoader, TrainLoader, UserLoader
from recbole_llm.errors import UserError
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.training.loaders import loader_state, recbole_loaders, restore_loader, training_loader
from tests.data.build import write_rows
from tests.helpers import StopAt, make_run, prepare, runner

DYNAMIC = {"distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": 3}


@pytest.mark.parametrize("model", ["SASRec", "BPR", "LightGCN", "BERT4Rec", "FM", "Pop"])
def test_most_models_get_our_loader(tiny, model):
    loader, note = training_loader(prepare(model))
    assert (type(loader), note) == (TrainLoader, "")


@pytest.mark.parametrize("model", ["MultiVAE", "MultiDAE", "RecVAE"])
def test_autoencoders_get_users(tiny, model):
    loader, note = training_loader(prepare(model))
    assert (type(loader), note) == (UserLoader, "")


def test_dynamic_negative_sampling_keeps_recbole_s_loader(tiny):
    loader, note = training_loader(prepare("BPR", train_neg_sample_args=DYNAMIC))
    assert (type(loader), note) == (TrainDataLoader, "RecBole's own training loader")


def test_batches_of_recbole_s_loader_are_not_said_to_be_halved(tiny):
    with pytest.raises(UserError, match=r"min_epoch_steps=9999: an epoch of BPR has \d+ steps, .* cannot be halved"):
        training_loader(prepare("BPR", train_neg_sample_args=DYNAMIC, min_epoch_steps=9999))
    training_loader(prepare("BPR", train_neg_sample_args=DYNAMIC, min_epoch_steps=1))


@pytest.mark.parametrize("model", ["NeuMF", "DIN"])
@pytest.mark.parametrize("engine", ["fast", "recbole"])
def test_a_model_of_labels_is_not_left_without_them(tiny, model, engine):
    prepared = prepare(model, train_neg_sample_args=None, engine=engine)
    with pytest.raises(UserError, match=f"{model} learns to tell what a user has .* give it, such as"):
        training_loader(prepared)


OWN = """
from recbole.model.general_recommender import NeuMF
from recbole.model.sequential_recommender import GRU4Rec
from recbole.utils import InputType

class Labelled(NeuMF):
    def calculate_loss(self, interaction):
        return self.loss(self.forward(interaction["user_id"], interaction["item_id"]), interaction["label"])

class Unlabelled(GRU4Rec):
    input_type = InputType.POINTWISE
"""
SAMPLED = {"distribution": "uniform", "sample_num": 1}


def test_a_model_that_takes_negatives_for_items_that_users_have_is_refused(tiny, workspace, monkeypatch):
    """Regression: a softmax over all items learnt to predict the sampled ones too, and nothing said so."""
    (workspace / "own_unlabelled.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(workspace))
    run = make_run("own_unlabelled:Unlabelled", epochs=1, loss_type="CE", train_neg_sample_args=SAMPLED)
    with pytest.raises(UserError, match=r"half of the items .* column 'label' .* --train_neg_sample_args=~"):
        runner().run(run)
    assert runner().run(make_run("own_unlabelled:Unlabelled", epochs=1, train_neg_sample_args=None)).status == "ok"
    for model in ("own_unlabelled:Labelled", "EASE"):
        assert runner().run(make_run(model, epochs=1, train_neg_sample_args=SAMPLED)).status == "ok"


def test_labels_of_a_file_need_not_be_read(tiny):
    """Regression: a column of labels without sampled negatives was taken for theirs."""
    rated = {"threshold": {"rating": 3}, "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}}
    assert runner().run(make_run("Pop", **rated)).status == "ok"


def test_a_model_that_counts_needs_no_labels(tiny):
    assert training_loader(prepare("Pop", train_neg_sample_args=None))[0].negatives == 0


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "SASRecText"])
def test_some_models_learn_from_every_position(tiny, model):
    loader, note = training_loader(prepare(model, train_targets="all"))
    assert (type(loader), note) == (SequenceLoader, "")


def test_a_class_that_is_no_model_is_refused(tiny, workspace, monkeypatch):
    (workspace / "own_helper.py").write_text("class Helper:\n  pass\n")
    monkeypatch.syspath_prepend(str(workspace))
    with pytest.raises(UserError, match=r"--model=own_helper:Helper is no model: a model extends one of RecBole's"):
        prepare("own_helper:Helper")


def test_a_class_from_outside_that_reads_one_position_is_not_trained_at_every_one(tiny, workspace):
    (workspace / "own_last.py").write_text(
        "from recbole.model.sequential_recommender import SASRec\nclass Mine(SASRec):\n  pass\n"
    )
    with pytest.raises(UserError, match="train_targets: all: Mine learns from one position"):
        training_loader(prepare("own_last:Mine", train_targets="all"))


def test_recbole_s_engine_gets_recbole_s_loader(tiny):
    loader, note = training_loader(prepare("SASRec", engine="recbole"))
    assert (type(loader), note) == (TrainDataLoader, "")


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_recbole_s_loaders_hold_our_split(tiny, model):
    prepared = prepare(model, engine="recbole")
    split = prepared.dataset.split
    parts = recbole_loaders(prepared.config, prepared.dataset)
    sizes = [len(part._dataset.inter_feat) for part in parts]
    trained = len(split.train_targets) if prepared.sequential else len(split.train_rows)
    assert sizes == [trained, len(split.valid), len(split.test)]


@pytest.fixture
def knowledge(tiny):
    """The dataset with a small knowledge graph: each item and its brand."""
    rows = [(f"e{item}", "made_by", f"brand{item % 5}") for item in range(48)]
    write_rows(tiny / "tiny.kg", rows, "head_id:token\trelation_id:token\ttail_id:token")
    write_rows(tiny / "tiny.link", [(f"i{item}", f"e{item}") for item in range(48)], "item_id:token\tentity_id:token")
    columns = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
    return {"load_col": {"inter": ["user_id", "item_id", "timestamp"], **columns}}


def test_knowledge_graphs_keep_recbole_s_loader(knowledge):
    loader, note = training_loader(prepare("CFKG", **knowledge))
    assert (type(loader), note) == (KnowledgeBasedDataLoader, "RecBole's own training loader")


@pytest.mark.parametrize("model", ["CFKG", "CKE", "MKR"])
def test_knowledge_aware_models_run(knowledge, model):
    record = runner().run(make_run(model, epochs=1, **knowledge))
    assert 0 < record.metrics["hit@20"].value <= 1
    assert "RecBole's own training loader" in record.notes


@pytest.mark.parametrize("model", ["CFKG", "CKE"])
def test_a_knowledge_aware_training_that_is_interrupted_ends_as_if_it_never_was(knowledge, monkeypatch, model):
    whole = runner("whole").run(make_run(model, epochs=4, checkpoint_dir="whole", **knowledge))
    run = make_run(model, epochs=4, **knowledge)
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        Runner(ResultStore("results"), StopAt("epoch 3")).run(run)
    found = runner().run(run)
    losses = [np.array([entry["loss"] for entry in record.curve]) for record in (found, whole)]
    assert np.array_equal(*losses)
    assert found.metrics == whole.metrics


def test_the_state_of_recbole_s_loader_is_that_of_its_shuffle(tiny):
    loaders = [training_loader(prepare("BPR", train_neg_sample_args=DYNAMIC))[0] for _ in range(2)]
    loaders[0].generator.manual_seed(5)
    restore_loader(loaders[1], loader_state(loaders[0]))
    assert loaders[0].generator.get_state().equal(loaders[1].generator.get_state())


def test_a_loader_without_a_state_has_none(tiny):
    assert loader_state([]) == {}
    restore_loader([], {})


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "GRU4Rec"])
def test_dynamic_negatives_train(tiny, model):
    options = {"train_neg_sample_args": DYNAMIC, **({"loss_type": "BPR"} if model == "GRU4Rec" else {})}
    record = runner().run(make_run(model, epochs=2, **options))
    assert record.status == "ok"
    assert all(entry["loss"] > 0 for entry in record.curve)


def test_dynamic_negatives_are_the_candidates_that_the_model_scores_best(tiny):
    prepared = prepare("BPR", train_neg_sample_args={**DYNAMIC, "candidate_num": 40})
    prepared.model.predict = lambda interaction: interaction["item_id"].float()
    negatives = torch.cat([batch["neg_item_id"] for batch in training_loader(prepared)[0]])
    assert negatives.min() > 48 / 2  # the best of 40 draws from 48 items


def test_dynamic_negatives_serve_models_with_a_loop_of_recbole_s(knowledge):
    record = runner().run(make_run("CKE", epochs=1, train_neg_sample_args=DYNAMIC, **knowledge))
    assert record.status == "ok"
