"""Which training loader a model gets."""

from __future__ import annotations

import pytest
from recbole.data.dataloader import KnowledgeBasedDataLoader, TrainDataLoader

from recbole_llm.data.loader import TrainLoader, UserLoader
from recbole_llm.engine.loaders import recbole_loaders, training_loader
from tests.data.build import write_rows
from tests.helpers import cell_of, prepare, runner


@pytest.mark.parametrize("model", ["SASRec", "BPR", "LightGCN", "BERT4Rec", "FM", "Pop"])
def test_most_models_get_our_loader(tiny, model):
    loader, note = training_loader(prepare(model))
    assert (type(loader), note) == (TrainLoader, "")


@pytest.mark.parametrize("model", ["MultiVAE", "MultiDAE", "RecVAE"])
def test_autoencoders_get_users(tiny, model):
    loader, note = training_loader(prepare(model))
    assert (type(loader), note) == (UserLoader, "")


def test_dynamic_negative_sampling_keeps_recbole_s_loader(tiny):
    dynamic = {"distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": 3}
    loader, note = training_loader(prepare("BPR", train_neg_sample_args=dynamic))
    assert (type(loader), note) == (TrainDataLoader, "RecBole's own training loader")


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
    record = runner().run(cell_of(model, epochs=1, **knowledge))
    assert 0 < record.metrics["hit@20"].value <= 1
    assert "RecBole's own training loader" in record.notes
