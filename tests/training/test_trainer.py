"""The training loop: repeatable, and it keeps the best weights."""

from __future__ import annotations

import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import summarise
from recbole_llm.training import checkpoint
from recbole_llm.training.loaders import training_loader
from recbole_llm.training.ranking import rank_cases
from tests.helpers import make_run, prepare, runner
from tests.training.trained import SMALL, StoppedError, stop_after

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


def test_checkpoints_are_those_of_the_place_chosen(training, tmp_path):
    made = training(folder="elsewhere").fit()
    assert checkpoint.load(tmp_path / "elsewhere" / "best_so_far.pt")["epoch"] == made.trainer.best_epoch


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


# ---- optimisers and losses -----------------------------------------------------------------------


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
