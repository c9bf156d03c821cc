"""DUIP's two stages: what learns in each, at what rate and for how long, and how a killed stage continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.training.choice import make_trainer
from recbole_llm.training.loaders import training_loader
from tests.helpers import make_run, runner
from tests.methods.duip.duip import SMALL, duip


def test_stages_have_their_own_rates(shared_tiny: Path) -> None:
    model = duip(learning_rate=0.1, finetune_learning_rate=0.01, lm_learning_rate=0.001).model
    assert [group["lr"] for group in model.enter_stage(0)] == [0.1]
    groups = model.enter_stage(1)
    assert [group["lr"] for group in groups] == [0.01, 0.001]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_run_passes_through_both_stages_and_moves_the_language_model_in_the_second(tiny: Path) -> None:
    prepared = duip(epochs=4, stage_epochs=[2, 2])
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.place(Path("saved"))
    first = {name: value.clone() for name, value in prepared.model.lm.state_dict().items()}
    same = []
    trainer.on_epoch = lambda epoch, score: same.append(
        all(torch.equal(value, first[name]) for name, value in prepared.model.lm.state_dict().items())
    )
    trainer.fit(training_loader(prepared)[0], prepared.eval_loader("valid"))
    assert [entry["stage"] for entry in trainer.curve] == ["frozen", "frozen", "finetuned", "finetuned"]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("switch", [{"use_lm": False}, {"freeze_lm": True}], ids=str)
def test_a_model_of_one_stage_has_the_epochs_of_both(tiny: Path, switch: dict[str, Any]) -> None:
    prepared = duip(epochs=20, stage_epochs=[1, 2], stopping_step=20, **switch)
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.place(Path("saved"))
    trainer.fit(training_loader(prepared)[0], prepared.eval_loader("valid"))
    assert [entry["stage"] for entry in trainer.curve] == ["frozen"] * 3


@pytest.mark.parametrize("head", ["lm", "index"])
def test_the_language_model_alone_learns_from_the_first_epoch(tiny: Path, head: str) -> None:
    """With these heads and no soft tokens, only the language model affects the loss, so there is no frozen stage."""
    prepared = duip(head=head, soft_tokens=0, protocol="temporal_20", epochs=2, stage_epochs=[1, 1])
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.place(Path("saved"))
    words = prepared.model.lm.get_input_embeddings().weight
    first = words.detach().clone()
    trainer.fit(training_loader(prepared)[0], prepared.eval_loader("valid"))
    assert [entry["stage"] for entry in trainer.curve] == ["finetuned"] * 2
    assert not torch.equal(words, first)
    with pytest.raises(UserError, match="nothing to train"):
        duip(head=head, soft_tokens=0, protocol="temporal_20", freeze_lm=True)


def test_stages_count_epochs_however_seldom_validations_are(tiny: Path) -> None:
    prepared = duip(epochs=20, stage_epochs=[2, 3], stopping_step=20, eval_step=2)
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.place(Path("saved"))
    trainer.fit(training_loader(prepared)[0], prepared.eval_loader("valid"))
    # The second stage ends with the first validation after its three epochs.
    assert [entry.get("stage") for entry in trainer.curve] == [None, "frozen", None, "finetuned", None, "finetuned"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stage_epochs": [3]}, r"stage_epochs: \[3\] is not one number for each of the stages frozen, finetuned"),
        ({"stage_epochs": [1, 2, 3]}, "is not one number for each of the stages"),
        ({"stage_epochs": []}, "stage_epochs: give whole numbers from 1 on"),
        ({"stage_epochs": [2, 0]}, r"stage_epochs: give whole numbers from 1 on.*\[2, 0\]"),
        ({"eval_step": 0}, "eval_step=0: stages end with a validation"),
    ],
    ids=str,
)
def test_stages_that_would_not_come_to_their_end_are_refused_before_the_first(
    tiny: Path, wrong: dict[str, Any], message: str
) -> None:
    prepared = duip(**wrong)
    with pytest.raises(UserError, match=message):
        make_trainer(prepared.config, prepared.model)


def test_rates_that_fall_do_so_from_the_start_of_each_stage(tiny: Path) -> None:
    options = {"lr_decay_epochs": 2, "lr_decay": 0.5, "learning_rate": 0.01, "warmup_steps": 1}
    prepared = duip(epochs=6, stage_epochs=[3, 3], finetune_learning_rate=0.02, lm_learning_rate=0.03, **options)
    trainer = make_trainer(prepared.config, prepared.model)
    rates = []
    trainer.on_epoch = lambda epoch, score: rates.append([group["lr"] for group in trainer.optimizer.param_groups])
    trainer.fit(training_loader(prepared)[0], prepared.eval_loader("valid"))
    assert rates == [[0.01], [0.01], [0.005], [0.02, 0.03], [0.02, 0.03], [0.01, 0.015]]


def test_a_warm_up_is_a_share_of_each_stage(tiny: Path) -> None:
    """A fixed number of steps could exceed a short stage, which would then never reach its learning rate."""
    prepared = duip(epochs=5, stage_epochs=[1, 3], warmup_share=0.5, learning_rate=0.01, finetune_learning_rate=0.02)
    trainer = make_trainer(prepared.config, prepared.model)
    loader = training_loader(prepared)[0]
    stepped: list[list[float]] = [[], []]
    build = trainer._build_optimizer

    def watched(**kwargs: Any) -> Any:
        optimizer = build(**kwargs)
        stage = prepared.model.stage
        optimizer.register_step_post_hook(lambda o, *_: stepped[stage].append(o.param_groups[0]["lr"]))
        return optimizer

    trainer._build_optimizer = watched
    trainer.optimizer = watched()
    trainer.fit(loader, prepared.eval_loader("valid"))
    for rate, epochs, found in zip((0.01, 0.02), (1, 3), stepped, strict=True):
        steps = epochs * len(loader)
        assert len(found) == steps
        wanted = [rate * min(1.0, (number + 1) / (steps // 2)) for number in range(steps)]
        assert found == pytest.approx(wanted)


def test_a_run_that_is_interrupted_in_the_second_stage_goes_on_as_if_it_had_not_been(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", 0.0)
    options = {**SMALL, "epochs": 5, "stage_epochs": [2, 3], "warmup_share": 0.5}
    whole = runner("whole").run(make_run("DUIP", **options, checkpoint_dir="a"))

    class Stop(Exception):  # noqa: N818
        pass

    prepared = duip(**options)
    trainer = make_trainer(prepared.config, prepared.model)
    run = make_run("DUIP", **options, checkpoint_dir="b")
    trainer.place(run.folder)

    def stop(epoch: int, score: float) -> None:
        if epoch == 3:
            raise Stop

    trainer.on_epoch = stop
    with pytest.raises(Stop):
        trainer.fit(training_loader(prepared)[0], prepared.eval_loader("valid"))
    resumed = runner("parts").run(run)
    assert [entry["loss"] for entry in resumed.curve] == [entry["loss"] for entry in whole.curve]
    assert resumed.metrics == whole.metrics


def test_a_stage_begins_with_the_best_weights_so_far(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [0.5, 0.4, 0.3]
    prepared = duip(epochs=3, stage_epochs=[2, 1])
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.place(Path("saved"))
    monkeypatch.setattr(trainer, "_valid_epoch", lambda *_: (s := scores[len(trainer.curve) - 1], {"ndcg@10": s}))
    began: list[dict[str, torch.Tensor]] = []
    train_epoch = trainer._train_epoch

    def watched(*args: Any, **kwargs: Any) -> Any:
        began.append({name: value.clone() for name, value in prepared.model.state_dict().items()})
        return train_epoch(*args, **kwargs)

    monkeypatch.setattr(trainer, "_train_epoch", watched)
    trainer.fit(training_loader(prepared)[0], prepared.eval_loader("valid"))
    assert [entry["stage"] for entry in trainer.curve] == ["frozen", "frozen", "finetuned"]
    # The first epoch was the best, and the second one changed its weights.
    assert all(torch.equal(value, began[1][name]) for name, value in began[2].items())


def test_a_second_stage_begins_with_the_weights_of_the_first_after_a_kill_too(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second stage's first epochs improve, and no checkpoint was due since the first stage."""
    scores = [0.5, 0.4, 0.6, 0.7, 0.65]
    prepared = duip(epochs=5, stage_epochs=[2, 3])

    def trainer_in(folder: str) -> Any:
        trainer = make_trainer(duip(epochs=5, stage_epochs=[2, 3]).config, prepared.model)
        trainer.place(Path(folder))
        monkeypatch.setattr(trainer, "_valid_epoch", lambda *_: (s := scores[len(trainer.curve) - 1], {"ndcg@10": s}))
        return trainer

    def fit(trainer: Any) -> list[float]:
        loader = training_loader(prepared)[0]
        trainer.resume(loader)
        trainer.fit(loader, prepared.eval_loader("valid"))
        return [entry["loss"] for entry in trainer.curve]

    class Stop(Exception):  # noqa: N818
        pass

    def stop(epoch: int, score: float) -> None:
        if epoch == 1:  # from here on only the first epoch's checkpoint is on disk
            monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", 1e9)
        if epoch == 3:
            raise Stop

    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", 0.0)
    prepared = duip(epochs=5, stage_epochs=[2, 3])
    whole = fit(trainer_in("whole"))
    prepared = duip(epochs=5, stage_epochs=[2, 3])
    killed = trainer_in("parts")
    killed.on_epoch = stop
    with pytest.raises(Stop):
        fit(killed)
    prepared = duip(epochs=5, stage_epochs=[2, 3])
    assert fit(trainer_in("parts")) == whole


def test_freeze_lm_leaves_one_stage(shared_tiny: Path) -> None:
    assert duip(freeze_lm=True).model.stages == ("frozen",)
