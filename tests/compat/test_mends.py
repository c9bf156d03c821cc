"""Each RecBole fix, tested by what fails without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import dok_matrix

from recbole_llm.compat import mends as compat
from recbole_llm.training.loaders import recbole_loaders
from tests.data.build import write_rows
from tests.helpers import make_run, prepare, write_tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _mended():
    compat.apply()


def python(code, folder="."):
    """Run code in a fresh interpreter; returns the words of its standard output."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


RUN_POP = """
import sys, torch
from recbole_llm.experiments.runner import Runner
from tests.helpers import make_run, runner
runner().run(make_run("Pop"))
import recbole.model.sequential_recommender.sasrec
product = torch.full((1 << 20,), 1e-30) * 1e-10  # large enough for every thread to have a share
print(torch.is_anomaly_enabled(), int(product.view(torch.int32).count_nonzero()), *sys.modules)
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """Facts of a process that trained a model: anomaly detection, number of denormals, loaded modules."""
    folder = tmp_path_factory.mktemp("process")
    write_tiny(folder / "dataset" / "tiny")
    anomaly, denormals, *modules = python(RUN_POP, folder)
    return {"anomaly": anomaly, "denormals": int(denormals), "modules": set(modules)}


# ---- numpy, scipy, pandas ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("float_", np.float64),
        ("complex_", np.complex128),
        ("unicode_", np.str_),
        ("float", float),
        ("int", int),
        ("bool", np.bool_),
        ("long", np.int_),
    ],
)
def test_names_that_numpy_dropped_are_there(name, kind):
    assert np.dtype(getattr(np, name)) == np.dtype(kind)


def test_names_that_numpy_has_are_left_alone():
    before = python("import numpy; print(numpy.bool_.__name__, numpy.long.__name__)")
    code = "from recbole_llm.compat import mends; mends.restore_numpy_aliases(); import numpy"
    assert python(f"{code}; print(numpy.bool_.__name__, numpy.long.__name__)") == before


def test_a_dok_matrix_is_filled_from_a_dictionary():
    matrix = dok_matrix((2, 3), dtype=np.float32)
    matrix._update({(0, 1): 1.0, (1, 2): 4.0})
    assert matrix.toarray().tolist() == [[0, 1, 0], [0, 0, 4]]


def test_recbole_s_own_graph_models_build_their_matrix(tiny):
    matrix = prepare("LightGCN", engine="recbole").model.norm_adj_matrix
    assert matrix.shape == (81 + 49, 81 + 49)


def test_lengths_of_lists_are_counted_row_by_row():
    assert pd.Series([[1, 2], [3], []]).agg(len).tolist() == [2, 1, 0]
    assert pd.Series([np.arange(3), np.arange(1)]).agg(len).tolist() == [3, 1]


def test_other_aggregates_are_pandas_own():
    assert pd.Series([1, 2, 4]).agg("sum") == 7
    assert pd.Series([1, 2, 4]).agg(["min", "max"]).tolist() == [1, 4]
    assert pd.Series([[1], [2, 3]]).agg(np.concatenate).tolist() == [1, 2, 3]


# ---- anomaly detection ---------------------------------------------------------------------------


def test_importing_sequential_models_leaves_anomaly_detection_off(process):
    assert process["anomaly"] == "False"
    assert "recbole.model.sequential_recommender.sine" in process["modules"]


def test_anomaly_detection_that_the_user_wants_stays_on():
    on = "import torch; torch.autograd.set_detect_anomaly(True)"
    code = f"{on}; from recbole_llm.compat import mends; mends.apply(); print(torch.is_anomaly_enabled())"
    assert python(code) == ["True"]


# ---- denormals -----------------------------------------------------------------------------------


def test_no_thread_computes_with_numbers_too_small_to_be_fast(process):
    assert process["denormals"] == 0


# ---- reading -------------------------------------------------------------------------------------

HEADER = "item_id:token\ttags:token_seq\tbrand:token\tprice:float\tsizes:float_seq"
ITEMS = [
    ("a", "red blue", "X", 1.0, "1 2.5"),
    ("b", "", "", "", ""),
    ("c", "blue", "Y", 3.0, "7"),
]


@pytest.fixture
def with_gaps(workspace):
    """RecBole's own ``Dataset``, from files with missing cells in columns of every type."""
    from recbole.data.dataset import Dataset

    from recbole_llm.compat.config import BenchConfig

    folder = workspace / "dataset" / "gaps"
    rows = [(user, item, n) for user in "uvw" for n, item in enumerate("abc")]
    write_rows(folder / "gaps.inter", rows)
    write_rows(folder / "gaps.item", ITEMS, HEADER)
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": [name.split(":")[0] for name in HEADER.split()]}
    run = make_run("BPR", "gaps", load_col=columns)
    return Dataset(BenchConfig(run.settings, run.settings.method.load(), run.location.folder, run.location.stem))


def row(dataset, item):
    feat = dataset.item_feat
    return feat[feat["item_id"] == dataset.token2id("item_id", item)].iloc[0]


def test_missing_sequences_are_empty(with_gaps):
    assert len(row(with_gaps, "b")["tags"]) == len(row(with_gaps, "b")["sizes"]) == 0


def test_sequences_beside_missing_ones_are_read(with_gaps):
    tags = with_gaps.id2token("tags", row(with_gaps, "a")["tags"]).tolist()
    assert tags == ["red", "blue"]
    assert row(with_gaps, "a")["sizes"].tolist() == [1.0, 2.5]


def test_a_missing_token_is_the_padding_id(with_gaps):
    assert row(with_gaps, "b")["brand"] == 0
    assert with_gaps.id2token("brand", int(row(with_gaps, "c")["brand"])) == "Y"


def test_a_missing_number_is_the_mean(with_gaps):
    assert row(with_gaps, "b")["price"] == 2.0


def test_no_tensor_holds_what_a_gap_used_to_become(with_gaps):
    with_gaps._change_feat_format()
    for name in ("tags", "brand", "price", "sizes"):
        values = with_gaps.item_feat[name]
        assert torch.isfinite(values.double()).all(), name
        assert values.min() >= 0, name
    assert with_gaps.item_feat["brand"].dtype == with_gaps.item_feat["tags"].dtype == torch.int64


def test_files_are_read_by_the_c_parser(tmp_path):
    import recbole.data.dataset.dataset as module

    path = write_rows(tmp_path / "x.item", [("a", 1.5)], "item_id:token\tprice:float")
    # Only the C parser has this option; pandas refuses it with the Python parser.
    frame = module.pd.read_csv(path, delimiter="\t", engine="python", low_memory=False)
    assert frame.to_numpy().tolist() == [["a", 1.5]]


def test_a_separator_of_several_characters_keeps_the_python_parser(tmp_path):
    import recbole.data.dataset.dataset as module

    (tmp_path / "x").write_text("a::b\n1::2\n")
    assert module.pd.read_csv(tmp_path / "x", delimiter="::", engine="python").to_numpy().tolist() == [[1, 2]]


def test_the_rest_of_pandas_is_pandas(tmp_path):
    import recbole.data.dataset.dataset as module

    assert module.pd.DataFrame is pd.DataFrame
    assert module.pd.merge is pd.merge


def test_tensors_are_made_without_a_warning_of_undefined_behaviour(with_gaps):
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with_gaps._change_feat_format()
    finally:
        torch.set_warn_always(False)
    assert [str(one.message) for one in seen if "not writable" in str(one.message)] == []


def test_tensors_share_no_memory_with_the_frame(with_gaps):
    frame = with_gaps.inter_feat.copy()
    before = frame["user_id"].tolist()
    with_gaps._dataframe_to_interaction(frame)["user_id"].zero_()
    assert frame["user_id"].tolist() == before


# ---- RecBole's own trainer -----------------------------------------------------------------------


@pytest.fixture
def recbole_trainer(tiny):
    """Makes RecBole's trainer for a model, with RecBole's loaders."""

    def make(model, evaluated=None, **overrides):
        from recbole.utils import get_trainer

        prepared = prepare(model, engine="recbole", epochs=1, **overrides)
        if evaluated:
            prepared.config["metrics"] = evaluated  # list metrics have a setting of their own
        loaders = recbole_loaders(prepared.config, prepared.dataset)
        return get_trainer(prepared.config["MODEL_TYPE"], model)(prepared.config, prepared.model), loaders

    return make


@pytest.mark.parametrize("model", ["GRU4Rec", "ItemKNN", "EASE", "MultiVAE"])
def test_recbole_s_trainer_loads_the_checkpoint_it_saved(recbole_trainer, model):
    trainer, (train, valid, test) = recbole_trainer(model)
    trainer.fit(train, valid, verbose=False, saved=True)
    before = trainer.evaluate(test, load_best_model=False)
    assert trainer.evaluate(test, load_best_model=True) == before


def test_recbole_s_trainer_resumes_from_its_checkpoint(recbole_trainer, tmp_path):
    trainer, (train, valid, _) = recbole_trainer("SASRec")
    trainer.fit(train, valid, verbose=False, saved=True)
    saved = trainer.saved_model_file
    other, _ = recbole_trainer("SASRec", seed=9)
    other.resume_checkpoint(saved)
    assert other.start_epoch == 1
    for one, two in zip(trainer.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_recbole_s_checkpoints_hold_the_names_of_model_and_dataset_alone(recbole_trainer):
    trainer, _ = recbole_trainer("SASRec")
    trainer._save_checkpoint(0, verbose=False)
    state = torch.load(trainer.saved_model_file, weights_only=True)
    assert state["config"] == {"model": "SASRec", "dataset": "tiny"}
    assert set(state["state_dict"]) == set(trainer.model.state_dict())


def test_torch_s_own_save_is_left_alone(tmp_path):
    torch.save({"config": {"a": 1}}, tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt") == {"config": {"a": 1}}


def test_recbole_s_trainer_opens_no_tensorboard_log(recbole_trainer):
    trainer, (train, valid, _) = recbole_trainer("BPR")
    trainer.fit(train, valid, verbose=False, saved=False)
    assert not Path("log_tensorboard").exists()


COUNTING = ["NDCG", "ItemCoverage", "AveragePopularity", "GiniIndex", "TailPercentage", "ShannonEntropy"]


def test_metrics_that_count_can_be_evaluated_twice(recbole_trainer):
    trainer, (train, valid, test) = recbole_trainer("BPR", COUNTING, topk=[5], valid_metric="NDCG@5")
    trainer.fit(train, valid, verbose=False, saved=False)
    first = trainer.evaluate(test, load_best_model=False)
    assert trainer.evaluate(test, load_best_model=False) == first
    assert len(first) == 6


# ---- Pop -----------------------------------------------------------------------------------------


def test_pop_counts_every_interaction(tiny):
    from recbole.data.interaction import Interaction

    model = prepare("Pop").model
    model.calculate_loss(Interaction({"item_id": torch.tensor([3, 3, 3, 5, 3])}))
    model.calculate_loss(Interaction({"item_id": torch.tensor([5, 7])}))
    assert model.item_cnt[:, 0].tolist() == [0, 0, 0, 4, 0, 2, 0, 1, *[0] * 41]
    assert model.max_cnt.item() == 4


def test_pop_ranks_by_training_counts(tiny):
    prepared = prepare("Pop")
    from recbole_llm.training.loaders import training_loader

    for batch in training_loader(prepared)[0]:
        prepared.model.calculate_loss(batch)
    table, rows = prepared.dataset.table, prepared.dataset.split.train_rows
    assert prepared.model.item_cnt[:, 0].tolist() == np.bincount(table.item[rows], minlength=49).tolist()


# ---- ItemKNN -------------------------------------------------------------------------------------


def test_itemknn_scores_as_recbole_does_and_keeps_no_scores(tiny):
    model = prepare("ItemKNN", k=5, shrink=3).model
    kept = model.interaction_matrix.dot(model.w.tocsc()).tolil()  # RecBole's
    users, items = torch.tensor([3, 1, 8, 3]), torch.tensor([2, 9, 40, 7])
    batch = {"user_id": users, "item_id": items}
    assert np.array_equal(model.full_sort_predict(batch).numpy(), kept[users.numpy(), :].toarray().ravel())
    assert model.predict(batch).tolist() == [kept[pair] for pair in zip(users.tolist(), items.tolist(), strict=True)]
    assert model.w.nnz <= 5 * model.n_items
    assert not any(
        getattr(value, "shape", ()) == kept.shape for name, value in vars(model).items() if name != "interaction_matrix"
    )


# ---- the whole -----------------------------------------------------------------------------------


def mends():
    """Everything that the fixes replace in other packages."""
    import recbole.data.dataset.dataset as dataset
    import recbole.trainer.trainer as trainer
    from recbole.evaluator.collector import Collector
    from recbole.model.general_recommender import ItemKNN, Pop

    return [
        pd.Series.agg,
        dok_matrix._update,
        dataset.pd,
        dataset.Dataset._fill_nan,
        dataset.Dataset._dataframe_to_interaction,
        trainer.torch,
        trainer.get_tensorboard,
        Collector.get_data_struct,
        Pop.calculate_loss,
        ItemKNN.full_sort_predict,
    ]


def test_mending_twice_is_mending_once():
    before = mends()
    compat.apply()
    assert all(one is other for one, other in zip(before, mends(), strict=True))


def test_no_mend_is_laid_over_itself(monkeypatch):
    import recbole.data.dataset.dataset as dataset
    import recbole.trainer.trainer as trainer

    monkeypatch.setattr(compat, "_applied", False)
    compat.apply()
    assert dataset.pd._pandas is pd
    assert trainer.torch._torch is torch
    assert pd.Series([[1, 2], [3]]).agg(len).tolist() == [2, 1]


def test_neither_quick_start_nor_ray_is_ever_imported(process):
    assert "recbole.trainer" in process["modules"]
    assert not {name for name in process["modules"] if re.match(r"recbole\.quick_start|ray(\.|$)", name)}
