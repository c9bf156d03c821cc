"""Trainings that are interrupted or killed go on where they were, with the same numbers."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils._pytree import tree_map

from recbole_llm.training import checkpoint, trainer
from tests.helpers import make_run, runner
from tests.training.trained import StoppedError, stop_after

RESUMED = ["SASRec", "BERT4Rec", "GRU4Rec", "BPR", "LightGCN", "SGL", "MultiVAE", "RecVAE", "DiffRec", "LINE"]


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
