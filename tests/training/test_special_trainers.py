"""Models with a trainer of their own in RecBole, and their pretraining."""

from __future__ import annotations

import pytest
import torch
from recbole.model.general_recommender import NCL

from recbole_llm.errors import UserError
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.registry import find_method
from recbole_llm.training import trainer
from tests.helpers import StopAt, make_run, runner
from tests.training.trained import SMALL, StoppedError

SPECIAL = ["RecVAE", "MultiVAE", "EASE", "ItemKNN", "Pop", "BERT4Rec", "SLIMElastic", "ENMF", "LINE", "SGL", "SHAN"]


@pytest.mark.parametrize("model", SPECIAL)
def test_a_model_with_ways_of_its_own_runs(tiny, model):
    record = runner().run(make_run(model, epochs=1, **SMALL.get(model, {})))
    assert record.status == "ok"
    assert record.epochs == 1
    assert 0 < record.metrics["hit@20"].value <= 1


PRETRAINED = {
    "S3Rec": {
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "categories"]},
        "item_attribute": "categories",
        "hidden_size": 16,
        "inner_size": 24,
        "n_layers": 1,
    },
    "RaCT": {"metrics_k": 20},
}


EXTENDED = {
    **{name: SMALL.get(name, {}) for name in ("MultiVAE", "RecVAE", "CDAE", "ENMF", "DiffRec")},
    **{name: {"pretrain_epochs": 1, **options} for name, options in PRETRAINED.items()},
}


@pytest.mark.parametrize("model", EXTENDED)
def test_a_class_that_extends_a_model_is_trained_as_it_is(tiny, monkeypatch, model):
    """Regression: RecBole finds loaders and trainers by the name, so the same class under another had other numbers."""
    base = find_method(model).load()
    (tiny / f"own_{model}.py").write_text(
        f"from {base.__module__} import {model}\nclass Mine({model}):\n  pass\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tiny))
    known, own = (runner().run(make_run(name, **EXTENDED[model])) for name in (model, f"own_{model}:Mine"))
    assert [entry["loss"] for entry in own.curve] == [entry["loss"] for entry in known.curve]
    assert own.metrics == known.metrics


def test_ract_says_how_many_items_it_needs(tiny):
    """Regression: after its pretraining, it ended in torch's words on sizes that differ."""
    with pytest.raises(UserError, match=r"metrics_k=100: RaCT .* tiny has \d\d: give --metrics_k=\d\d or less"):
        runner().run(make_run("RaCT", epochs=1, pretrain_epochs=1))


def test_ease_says_that_its_tables_do_not_fit(tiny, monkeypatch):
    """Regression: with 100,000 items it took all memory, and the system ended the process without a word."""
    monkeypatch.setattr("recbole_llm.experiments.runner.free_memory_mib", lambda on_gpu: [0.02])
    with pytest.raises(UserError, match=r"EASE inverts a table of all pairs of items: \d\d items take 0.0 GiB"):
        runner().run(make_run("EASE"))
    assert runner().run(make_run("ItemKNN")).status == "ok"


@pytest.mark.parametrize("model", PRETRAINED)
def test_pretraining_can_be_left_out(tiny, model):
    record = runner().run(make_run(model, epochs=1, pretrain_epochs=0, **PRETRAINED[model]))
    assert (record.status, record.epochs) == ("ok", 1)


@pytest.mark.parametrize("model", PRETRAINED)
def test_pretraining_runs_and_keeps_what_it_learnt(training, model):
    made = training(model, pretrain_epochs=2, **PRETRAINED[model]).fit()
    last = {name: value.clone() for name, value in made.prepared.model.state_dict().items()}
    made.trainer.restore_best()
    assert all(torch.equal(value, last[name]) for name, value in made.prepared.model.state_dict().items())


@pytest.mark.parametrize("stopped_in", [2, 4, 6])  # each stage has 3 epochs
@pytest.mark.parametrize("model", PRETRAINED)
def test_a_killed_pretraining_goes_on(tiny, saved_each_epoch, monkeypatch, model, stopped_in):
    def run(folder):
        return make_run(model, pretrain_epochs=3, epochs=3, checkpoint_dir=folder, **PRETRAINED[model])

    epoch = trainer.BenchTrainer._train_epoch
    begun = []

    def counted(self, *args, **kwargs):
        begun.append(1)
        if len(begun) == stop:
            raise StoppedError
        return epoch(self, *args, **kwargs)

    monkeypatch.setattr(trainer.BenchTrainer, "_train_epoch", counted)
    stop = 0
    whole = runner("whole").run(run("whole"))
    needed = len(begun)
    begun.clear()
    stop = stopped_in
    with pytest.raises(StoppedError):
        runner("broken").run(run("broken"))
    stop = 0
    again = runner("broken").run(run("broken"))
    assert len(begun) == needed + 1  # only the interrupted epoch is repeated
    assert again.metrics == whole.metrics
    begun.clear()
    runner("broken", force=True).run(run("broken"))
    assert len(begun) == needed


@pytest.mark.parametrize("stopped_in", [2, 3])
def test_prototypes_of_ncl_are_found_anew_every_m_step_epochs(tiny, saved_each_epoch, monkeypatch, stopped_in):
    """Also after a kill between two E-steps, whose prototypes come from weights that are gone."""

    def run(folder):
        return make_run("NCL", epochs=4, num_clusters=4, m_step=2, warm_up_step=1, checkpoint_dir=folder)

    found, step = [], NCL.e_step
    monkeypatch.setattr(NCL, "e_step", lambda self: (found.append(1), step(self)))
    whole = runner("whole").run(run("whole"))
    assert len(found) == 2
    assert [len(entry["loss"]) for entry in whole.curve] == [2, 3, 3, 3]
    with pytest.raises(KeyboardInterrupt):
        Runner(ResultStore("broken"), StopAt(f"epoch {stopped_in}")).run(run("broken"))
    again = runner("broken").run(run("broken"))
    assert [[*entry["loss"]] for entry in again.curve] == [[*entry["loss"]] for entry in whole.curve]
    assert again.metrics == whole.metrics


def test_more_prototypes_than_users_or_items_are_refused(tiny):
    with pytest.raises(UserError, match=r"num_clusters=1000: NCL finds .* room for \d+\. Give fewer, such as"):
        runner().run(make_run("NCL"))


def test_the_special_trainer_of_a_model_stands_on_ours(training):
    made = training("RecVAE")
    assert type(made.trainer).__name__ == "RecVAETrainer"
    assert isinstance(made.trainer, trainer.BenchTrainer)


def test_a_model_that_only_counts_has_one_epoch(training):
    assert len(training("ItemKNN", epochs=9).fit().trainer.curve) == 1
