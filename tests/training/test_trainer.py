"""The training loop: repeatable and resumable, and it keeps the best weights."""

from __future__ import annotations

import sys

import pytest
import torch
from recbole.model.general_recommender import NCL
from torch.utils._pytree import tree_map

from recbole_llm.data.loaders import EvalLoader
from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import summarise
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.registry import find_method
from recbole_llm.training import checkpoint, trainer
from recbole_llm.training.choice import make_trainer
from recbole_llm.training.loaders import training_loader
from recbole_llm.training.ranking import rank_cases
from tests.helpers import StopAt, make_run, prepare, runner

SMALL = {
    "SASRec": {"hidden_size": 16, "inner_size": 24, "n_layers": 1},
    "BERT4Rec": {"hidden_size": 16, "inner_size": 24, "n_layers": 1},
    "GRU4Rec": {"hidden_size": 16, "embedding_size": 16},
    "RecVAE": {"hidden_dimension": 16, "latent_dimension": 8},
    "DiffRec": {"dims_dnn": [16], "history_num_per_term": 2, "train_batch_size": 16},
    "MultiVAE": {"mlp_hidden_size": [16], "latent_dimension": 8, "total_anneal_steps": 10},
}


class Training:
    """A model, its trainer and its loaders, with a checkpoint folder."""

    def __init__(self, model, folder, **overrides):
        self.prepared = prepare(model, **{"epochs": 4, **SMALL.get(model, {}), **overrides})
        self.trainer = make_trainer(self.prepared.config, self.prepared.model)
        self.trainer.place(folder)
        self.train_data, _ = training_loader(self.prepared)
        self.valid_data = self.loader("valid")

    def loader(self, phase):
        cases = getattr(self.prepared.dataset.split, phase)
        return EvalLoader(self.prepared.device_table(), cases, 1024, self.prepared.sequential)

    def fit(self):
        self.trainer.fit(self.train_data, self.valid_data, verbose=False)
        return self

    def numbers(self):
        """Everything that a repeated training must reproduce: losses, validation, weights."""
        curve = [{key: value for key, value in entry.items() if key != "seconds"} for entry in self.trainer.curve]
        weights = {name: value.numpy().tobytes() for name, value in self.prepared.model.state_dict().items()}
        return curve, self.trainer.best_epoch, self.trainer.best_valid_score, weights


@pytest.fixture
def training(tiny, tmp_path):
    def make(model="SASRec", folder="run", **overrides):
        return Training(model, tmp_path / folder, **overrides)

    return make


# ---- repeatable ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_the_same_seed_gives_the_same_numbers(training, model):
    one, two = (training(model, folder).fit().numbers() for folder in ("a", "b"))
    assert one == two


def test_another_seed_gives_other_numbers(training):
    one, two = (training(folder=str(seed), seed=seed).fit().numbers() for seed in (1, 2))
    assert one != two


def test_training_lowers_the_loss(training):
    curve = training(epochs=6).fit().trainer.curve
    assert curve[-1]["loss"] < curve[0]["loss"]


# ---- steps -----------------------------------------------------------------------------------------


def test_rates_rise_from_zero_over_the_warm_up(training):
    run = training(epochs=3, learning_rate=0.01, warmup_steps=3)
    found = []
    run.trainer.optimizer.register_step_post_hook(lambda optimizer, *_: found.append(optimizer.param_groups[0]["lr"]))
    run.fit()
    assert found[:4] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01])
    assert set(found[3:]) == {0.01}


def rates_of(made):
    """A list that will record the learning rate of each step."""
    found = []
    made.trainer.optimizer.register_step_post_hook(lambda optimizer, *_: found.append(optimizer.param_groups[0]["lr"]))
    return found


def test_a_share_of_warm_up_counts_steps_and_not_the_batches_in_them(training):
    options = {"gradient_accumulation_steps": 3, "train_batch_size": 64}
    made = training(epochs=2, learning_rate=0.01, warmup_share=0.5, **options)
    found, steps = rates_of(made), -(-len(made.train_data) // 3)
    assert 1 < steps < len(made.train_data)
    made.fit()
    assert found == pytest.approx([0.01 * min(1.0, (number + 1) / steps) for number in range(2 * steps)])


def test_a_refit_warms_up_as_long_as_the_training_that_chose_its_epochs(training):
    made = training(epochs=6, learning_rate=0.01, warmup_share=0.5)
    found, steps = rates_of(made), len(made.train_data)
    made.trainer.follow([4])
    made.trainer.fit(made.train_data, None, verbose=False)
    assert found == pytest.approx([0.01 * min(1.0, (number + 1) / (3 * steps)) for number in range(4 * steps)])


def test_an_epoch_of_few_steps_is_warned_of(training, caplog):
    training(epochs=1).fit()
    assert "an epoch of SASRec has only 4 steps" in caplog.text
    caplog.clear()
    training("Pop", epochs=1).fit()
    assert "has only" not in caplog.text


def test_batches_are_halved_until_an_epoch_has_the_steps_that_it_is_to_have(training):
    loader, note = training_loader(training(train_batch_size=512, min_epoch_steps=9).prepared)
    examples = len(loader.rows)
    assert (loader.step, len(loader)) == (32, -(-examples // 32))
    assert -(-examples // 64) < 9 <= len(loader)
    assert note == "batches of 32 for 512, so that an epoch has 9 steps"
    assert sum(len(batch) for batch in loader) == examples


# ---- interrupted and resumed ---------------------------------------------------------------------


class StoppedError(Exception):
    """The training was interrupted."""


def stop_after(epochs):
    def on_epoch(epoch, score):
        if epoch + 1 == epochs:
            raise StoppedError

    return on_epoch


RESUMED = ["SASRec", "BERT4Rec", "GRU4Rec", "BPR", "LightGCN", "SGL", "MultiVAE", "RecVAE", "DiffRec", "LINE"]


@pytest.fixture
def saved_each_epoch(monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", -1.0)


@pytest.mark.parametrize("model", RESUMED)
def test_interrupted_and_resumed_training_equals_uninterrupted(training, saved_each_epoch, model):
    whole = training(model, "whole", epochs=5).fit()
    first = training(model, "broken", epochs=5)
    first.trainer.on_epoch = stop_after(4)
    with pytest.raises(StoppedError):
        first.fit()
    second = training(model, "broken", epochs=5)
    assert second.trainer.resume(second.train_data)
    assert second.trainer.start_epoch == 3
    second.fit()
    assert second.numbers() == whole.numbers()


OWN = """
import numpy as np
import torch
from recbole.model.general_recommender import BPR


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, loss):
        self.calls += 1
        return loss * (1 + self.calls % 5)


class Curriculum(BPR):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.warm, self.queue, self.seen = True, [], {}
        self.bank, self.table, self.counting = torch.zeros(3), np.zeros(3), Counting()

    def calculate_loss(self, interaction):
        self.queue.append(len(self.queue))
        self.seen[str(len(self.queue) % 3)] = len(self.queue)
        self.warm = len(self.queue) < 5
        self.bank = self.bank + 1
        self.table += 1
        factor = len(self.queue) + self.seen["1"] + float(self.bank.sum()) + self.table.sum()
        return self.counting(super().calculate_loss(interaction) * (0.5 if self.warm else float(factor) / 30))


class Drawing(BPR):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.generator = np.random.default_rng(1)

    def calculate_loss(self, interaction):
        return super().calculate_loss(interaction) * self.generator.random()
"""


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    (tmp_path / "own_state.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_state", None)


def test_what_a_users_model_changes_beside_its_weights_is_resumed(training, own_models, saved_each_epoch):
    options = {"epochs": 4, "embedding_size": 8}
    whole = training("own_state:Curriculum", "whole", **options).fit()
    first = training("own_state:Curriculum", "broken", **options)
    first.trainer.on_epoch = stop_after(3)
    with pytest.raises(StoppedError):
        first.fit()
    second = training("own_state:Curriculum", "broken", **options)
    assert second.trainer.resume(second.train_data)
    assert second.fit().numbers() == whole.numbers()


class OnDevice(torch.Tensor):
    """A tensor as it is loaded to a GPU, until it is moved to the host."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_tensors_that_a_users_model_has_on_the_host_come_back_there(training, own_models, monkeypatch, tmp_path):
    """Regression: those in lists and dicts came back on the device."""
    made = training("own_state:Curriculum", embedding_size=8)
    model, made.trainer._loader = made.prepared.model, made.train_data
    model.queue, model.bank = [torch.ones(2), 3], torch.ones(2)
    model.seen = {"none": [4], "some": [torch.ones(2), [torch.ones(2)]], "there": torch.ones(2, device="meta")}
    made.trainer._save_last(0, over=False)
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    state["own"] = tree_map(lambda x: x.as_subclass(OnDevice) if torch.is_tensor(x) else x, state["own"])
    monkeypatch.setattr(made.trainer, "resumable", lambda: state)
    assert made.trainer.resume(made.train_data)
    some = model.seen["some"]
    assert {type(x) for x in (model.queue[0], model.bank, some[0], some[1][0])} == {torch.Tensor}
    assert type(model.seen["there"]) is OnDevice
    assert (model.queue[1], model.seen["none"]) == (3, [4])


def test_a_users_model_whose_state_cannot_be_kept_begins_anew(training, own_models, saved_each_epoch, caplog):
    options = {"epochs": 3, "embedding_size": 8}
    whole = training("own_state:Drawing", "whole", **options).fit()
    assert caplog.text.count("Drawing changes its attribute generator in training") == 1
    first = training("own_state:Drawing", "broken", **options)
    first.trainer.on_epoch = stop_after(2)
    with pytest.raises(StoppedError):
        first.fit()
    second = training("own_state:Drawing", "broken", **options)
    assert not second.trainer.resume(second.train_data)
    assert second.fit().numbers() == whole.numbers()


def test_a_warm_up_goes_on_where_it_was_interrupted(training, saved_each_epoch):
    options = {"epochs": 4, "warmup_share": 0.8}
    whole = training(folder="whole", **options).fit()
    killed = training(folder="parts", **options)
    killed.trainer.on_epoch = stop_after(2)
    with pytest.raises(StoppedError):
        killed.fit()
    again = training(folder="parts", **options)
    assert again.trainer.resume(again.train_data)
    assert again.fit().numbers() == whole.numbers()


def test_a_learning_rate_schedule_goes_on_where_it_was(training, saved_each_epoch):
    def scheduled(folder, stop=None):
        made = training(folder=folder, epochs=5)
        made.trainer.schedule = torch.optim.lr_scheduler.StepLR(made.trainer.optimizer, step_size=2, gamma=0.1)

        def on_epoch(epoch, score):
            made.trainer.schedule.step()
            if epoch + 1 == stop:
                raise StoppedError

        made.trainer.on_epoch = on_epoch
        return made

    whole = scheduled("whole").fit()
    first = scheduled("broken", stop=4)
    with pytest.raises(StoppedError):
        first.fit()
    second = scheduled("broken")
    assert second.trainer.resume(second.train_data)
    assert second.trainer.schedule.last_epoch == 3
    assert second.fit().numbers() == whole.numbers()
    assert second.trainer.optimizer.param_groups[0]["lr"] == whole.trainer.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("model", ["SASRec", "RecVAE"])
def test_learning_rates_fall_by_the_epoch_and_go_on_falling_after_a_resume(training, saved_each_epoch, model):
    options = {"epochs": 5, "lr_decay_epochs": 2, "lr_decay": 0.5, "learning_rate": 0.01}

    def rates(made):
        return {group["lr"] for one in made.trainer._optimizers().values() for group in one.param_groups}

    whole = training(model, "whole", **options)
    seen = []
    whole.trainer.on_epoch = lambda epoch, score: seen.append(rates(whole))
    whole.fit()
    assert seen == [{0.01}, {0.01}, {0.005}, {0.005}, {0.0025}]
    first = training(model, "broken", **options)
    first.trainer.on_epoch = stop_after(4)
    with pytest.raises(StoppedError):
        first.fit()
    second = training(model, "broken", **options)
    assert second.trainer.resume(second.train_data)
    assert second.fit().numbers() == whole.numbers()
    assert rates(second) == {0.0025}
    assert training(model, "plain", epochs=5, learning_rate=0.01).fit().numbers() != whole.numbers()


def test_training_that_stops_within_an_epoch_resumes_before_it(training, saved_each_epoch):
    whole = training(folder="whole").fit()
    first = training(folder="broken", train_batch_size=128)
    batches = 0

    def until(items, title):
        nonlocal batches
        for item in items:
            batches += 1
            if batches > 3 * len(first.train_data):
                raise KeyboardInterrupt
            yield item

    first.trainer.progress = until
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = training(folder="broken")
    assert second.trainer.resume(second.train_data)
    assert 0 < second.trainer.start_epoch < 4
    assert second.fit().numbers() == whole.numbers()


def test_early_stopping_goes_on_counting_after_a_resume(training, saved_each_epoch):
    options = {"epochs": 40, "stopping_step": 2, "learning_rate": 0.05}
    whole = training(folder="whole", **options).fit()
    first = training(folder="broken", **options)
    first.trainer.on_epoch = stop_after(len(whole.trainer.curve) - 1)
    with pytest.raises(StoppedError):
        first.fit()
    second = training(folder="broken", **options)
    second.trainer.resume(second.train_data)
    assert second.fit().numbers() == whole.numbers()


def killed_after_better_epochs(training, monkeypatch, tmp_path, kills=1):
    """Kill a training whose ``last.pt`` is from its second epoch and whose best weights are from a later one."""
    for kill in range(kills):
        killed = training(epochs=25, learning_rate=0.005)
        assert killed.trainer.resume(killed.train_data) == (kill > 0)

        def on_epoch(epoch, score, killed=killed):
            monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", -1.0 if epoch < 2 else float("inf"))
            if killed.trainer.best_epoch > 3:
                raise StoppedError

        killed.trainer.on_epoch = on_epoch
        with pytest.raises(StoppedError):
            killed.fit()
    last, best = (checkpoint.load(tmp_path / "run" / name) for name in ("last.pt", "best_so_far.pt"))
    assert last["stopping"][-1] <= 2 < best["epoch"]
    return last


@pytest.mark.parametrize("kills", [1, 2])
def test_weights_and_best_epoch_stay_together_where_lost_epochs_do_not_repeat(training, monkeypatch, tmp_path, kills):
    last = killed_after_better_epochs(training, monkeypatch, tmp_path, kills)
    again = training(epochs=4, learning_rate=0.005)
    assert again.trainer.resume(again.train_data)
    with monkeypatch.context() as patch:
        patch.setattr(again.trainer, "_valid_epoch", lambda _: (0.0, {"ndcg@10": 0.0}))  # simulates worse epochs
        again.fit()
    again.trainer.restore_best()
    assert again.trainer.best_epoch == last["stopping"][-1]
    found = again.trainer.evaluate(again.valid_data, load_best_model=False)
    assert found == again.trainer.best_valid_result == last["best_valid_result"]
    again.trainer.keep()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["best.pt"]


def test_where_lost_epochs_repeat_training_ends_as_if_it_was_not_killed(training, monkeypatch, tmp_path):
    whole = training(folder="whole", epochs=25, learning_rate=0.005).fit()
    killed_after_better_epochs(training, monkeypatch, tmp_path)
    again = training(epochs=25, learning_rate=0.005)
    assert again.trainer.resume(again.train_data)
    assert again.fit().numbers() == whole.numbers()
    again.trainer.restore_best()
    whole.trainer.restore_best()
    assert again.numbers() == whole.numbers()


def test_a_kill_while_better_weights_are_written_loses_none_that_count(training, monkeypatch, tmp_path):
    last = killed_after_better_epochs(training, monkeypatch, tmp_path)
    (tmp_path / "run" / "best_so_far.pt").unlink()
    again = training(epochs=last["next_epoch"], learning_rate=0.005)
    assert again.trainer.resume(again.train_data)
    again.fit().trainer.restore_best()
    found = again.trainer.evaluate(again.valid_data, load_best_model=False)
    assert found == last["best_valid_result"]


def test_training_begins_anew_where_only_weights_of_lost_epochs_are_left(training, monkeypatch, tmp_path, caplog):
    killed_after_better_epochs(training, monkeypatch, tmp_path)
    (tmp_path / "run" / "best_of_last.pt").unlink()  # older versions did not write this file
    again = training(epochs=25, learning_rate=0.005)
    assert not again.trainer.resume(again.train_data)
    assert "is without its best weights; training begins anew" in caplog.text


def test_without_a_checkpoint_there_is_nothing_to_resume(training):
    made = training()
    assert made.trainer.resume(made.train_data) is False
    assert made.trainer.start_epoch == 0


def test_a_training_that_is_over_is_not_gone_on_with(training):
    """This includes a training that early stopping has ended; its best weights count."""
    options = {"epochs": 40, "stopping_step": 2, "learning_rate": 0.05}
    whole = training(**options).fit()
    assert len(whole.trainer.curve) < 40
    again = training(**options)
    assert again.trainer.resume(again.train_data)
    again.fit()
    for made in (whole, again):
        made.trainer.restore_best()
    assert again.numbers() == whole.numbers()
    assert again.trainer.seconds == whole.trainer.seconds


def test_finished_training_leaves_no_resumable_checkpoint(training, saved_each_epoch, tmp_path):
    training().fit().trainer.keep()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["best.pt"]


def test_a_run_that_was_interrupted_goes_on_by_itself(tiny, saved_each_epoch, monkeypatch):
    whole = runner("whole").run(make_run("SASRec", epochs=4, checkpoint_dir="whole"))
    run = make_run("SASRec", epochs=4, checkpoint_dir="broken")
    monkeypatch.setattr(trainer.BenchTrainer, "on_epoch", staticmethod(stop_after(3)))
    with pytest.raises(StoppedError):
        runner("broken").run(run)
    monkeypatch.undo()
    monkeypatch.chdir(tiny.parent.parent)
    again = runner("broken").run(run)
    assert {name: metric.value for name, metric in again.metrics.items()} == {
        name: metric.value for name, metric in whole.metrics.items()
    }
    assert len(again.curve) == 4


# ---- the best weights ----------------------------------------------------------------------------


def test_the_best_weights_by_validation_are_restored(training):
    made = training(epochs=25, learning_rate=0.05).fit()
    assert made.trainer.best_epoch < len(made.trainer.curve)
    last = made.trainer.evaluate(made.valid_data, load_best_model=False)
    made.trainer.restore_best()
    best = made.trainer.evaluate(made.valid_data, load_best_model=False)
    assert best == made.trainer.best_valid_result
    assert best["ndcg@10"] > last["ndcg@10"]


def test_a_run_is_tested_with_its_best_weights(tiny):
    run = make_run("SASRec", epochs=25, learning_rate=0.05, stopping_step=3, **SMALL["SASRec"])
    record = runner().run(run)
    assert record.best_epoch < record.epochs
    prepared = runner().trained(run)
    ranks = rank_cases(prepared.model, prepared.eval_loader("test"), mask_history=True)
    assert record.metrics["ndcg@10"].value == pytest.approx(summarise(ranks, ["NDCG"], [10])["ndcg@10"])


def test_the_best_epoch_is_the_best_of_the_curve(training):
    made = training(epochs=12, learning_rate=0.02).fit()
    scores = [entry["valid"]["ndcg@10"] for entry in made.trainer.curve]
    assert scores[made.trainer.best_epoch - 1] == max(scores)
    assert made.trainer.best_valid_score == pytest.approx(max(scores), abs=1e-6)


def test_a_checkpoint_of_the_best_weights_loads_safely(training, tmp_path):
    training().fit()
    state = torch.load(tmp_path / "run" / "best_so_far.pt", weights_only=True)
    assert set(state) == {"epoch", "score", "state_dict", "other_parameter"}


def test_a_resumable_checkpoint_loads_safely(training, saved_each_epoch, tmp_path):
    made = training()
    made.trainer.on_epoch = stop_after(3)
    with pytest.raises(StoppedError):
        made.fit()
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["next_epoch"] == 2


class Foreign:
    """An object of an unknown class, as a foreign checkpoint may hold."""


@pytest.mark.parametrize("name", ["best_so_far.pt", "last.pt"])
def test_a_checkpoint_with_a_foreign_object_is_refused(training, tmp_path, name):
    made = training()
    (tmp_path / "run").mkdir(exist_ok=True)
    torch.save({"state_dict": Foreign()}, tmp_path / "run" / name)
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        if name == "best_so_far.pt":
            made.trainer.restore_best()
        else:
            made.trainer.resume(made.train_data)


# ---- when to stop and to validate ----------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_when_validation_stops_improving(training, patience):
    made = training(epochs=60, stopping_step=patience, learning_rate=0.05).fit()
    assert len(made.trainer.curve) == made.trainer.best_epoch + patience + 1 < 60


@pytest.mark.parametrize(
    ("epochs", "validated"), [(5, [False, True, False, True, True]), (4, [False, True, False, True]), (1, [True])]
)
def test_validation_comes_every_so_many_epochs_and_after_the_last(training, epochs, validated):
    made = training(epochs=epochs, eval_step=2).fit()
    assert ["valid" in entry for entry in made.trainer.curve] == validated


def test_without_validation_the_last_weights_are_kept(training):
    made = training(epochs=3, eval_step=0).fit()
    last = {name: value.clone() for name, value in made.prepared.model.state_dict().items()}
    made.trainer.restore_best()
    assert all(torch.equal(value, last[name]) for name, value in made.prepared.model.state_dict().items())


def test_without_epochs_the_model_is_tested_as_it_began(tiny):
    run = make_run("SASRec", epochs=0, **SMALL["SASRec"])
    record = runner().run(run)
    assert (record.status, record.epochs, record.curve) == ("ok", 0, [])
    began = prepare("SASRec", epochs=0, **SMALL["SASRec"]).model.state_dict()
    kept = checkpoint.load(run.folder / "best.pt")["state_dict"]
    assert all(torch.equal(kept[name], value) for name, value in began.items())


def test_each_validation_is_reported(training):
    made = training(epochs=3)
    seen = []
    made.trainer.on_epoch = lambda epoch, score: seen.append((epoch, score))
    made.fit()
    assert seen == [(n, pytest.approx(e["valid"]["ndcg@10"], abs=1e-6)) for n, e in enumerate(made.trainer.curve)]


def test_the_metric_of_validation_need_not_be_reported(training):
    made = training(metrics=["Hit"], topk=[5], valid_metric="MRR@7").fit()
    assert set(made.trainer.best_valid_result) == {"hit@5", "hit@7", "mrr@5", "mrr@7"}
    assert made.trainer.best_valid_score == made.trainer.best_valid_result["mrr@7"]


def test_validation_counts_what_gauc_needs(training):
    made = training(metrics=["GAUC"], topk=[5]).fit()
    assert 0 < made.trainer.best_valid_result["gauc"] < 1


# ---- steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "SRGNN"])
def test_divergence_is_a_user_error(training, model):
    with pytest.raises(UserError, match="try a smaller learning_rate"):
        training(model, learning_rate=1e30).fit()


def test_gradients_are_clipped(training):
    made = training("BPR", learner="sgd", learning_rate=1.0, clip_grad_norm={"max_norm": 1e-9})
    before = [parameter.detach().clone() for parameter in made.prepared.model.parameters()]
    made.fit()
    for old, new in zip(before, made.prepared.model.parameters(), strict=True):
        assert torch.allclose(old, new, atol=1e-6)


@pytest.mark.parametrize("learner", ["adam", "adamw", "sgd", "adagrad", "rmsprop"])
def test_every_optimiser_trains(training, learner):
    made = training("BPR", learner=learner, learning_rate=0.05, epochs=3).fit()
    assert made.trainer.curve[-1]["loss"] < made.trainer.curve[0]["loss"]


def test_adam_in_one_kernel_steps_as_torch_s_adam(training):
    made = training()
    model, optimizer = made.prepared.model.eval(), made.trainer.optimizer
    assert optimizer.param_groups[0]["fused"] is True
    twin = prepare("SASRec", **SMALL["SASRec"]).model.eval()
    plain = torch.optim.Adam(twin.parameters(), lr=made.trainer.learning_rate)
    for _ in range(3):
        for batch in made.train_data:
            losses = []
            for one, step in ((model, optimizer), (twin, plain)):
                step.zero_grad()
                loss = one.calculate_loss(batch)
                loss.backward()
                step.step()
                losses.append(loss.item())
            assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_the_loss_of_an_epoch_is_the_mean_of_its_batches(training):
    made = training()
    values = iter(range(1000))
    loss = made.trainer._train_epoch(
        made.train_data, 0, loss_func=lambda batch: made.prepared.model.calculate_loss(batch) * 0 + next(values)
    )
    assert loss == pytest.approx((len(made.train_data) - 1) / 2)


def test_the_parts_of_a_loss_are_kept_apart(training):
    made = training()

    def parts(batch):
        loss = made.prepared.model.calculate_loss(batch)
        return loss * 0 + 2.0, loss * 0 + 3.0

    assert made.trainer._train_epoch(made.train_data, 0, loss_func=parts) == pytest.approx((2.0, 3.0))


def test_half_precision_trains_and_ranks(training):
    made = training(precision="bf16").fit()
    assert 0 < made.trainer.best_valid_score <= 1


def test_curves_go_to_tensorboard_when_asked_for(training, tmp_path):
    training(tensorboard=True).fit()
    assert list((tmp_path / "log_tensorboard").glob("run/events*"))


def test_nothing_is_logged_to_tensorboard_otherwise(training, tmp_path):
    training().fit()
    assert not (tmp_path / "log_tensorboard").exists()


# ---- RecBole's special trainers ------------------------------------------------------------------

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


def test_checkpoints_are_those_of_the_place_chosen(training, tmp_path):
    made = training(folder="elsewhere").fit()
    assert checkpoint.load(tmp_path / "elsewhere" / "best_so_far.pt")["epoch"] == made.trainer.best_epoch
