"""Recorded steps train as plain ones do. What records them is CUDA's; on a CPU a recording takes its step again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_llm.errors import UserError
from recbole_llm.training import recorded
from recbole_llm.training.choice import make_trainer
from recbole_llm.training.loaders import training_loader
from tests.device_waits import nothing_at_hand
from tests.helpers import prepare, write_tiny

DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]
every_device = pytest.mark.parametrize("device", DEVICES)


class TakenAgain:
    """Stands for a recording."""

    parts: list[torch.Tensor]

    def __init__(self, step: Any, generators: Any, beside: Any) -> None:
        self.step = step

    def replay(self) -> None:
        self.parts = self.step()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tiny(tmp_path / "dataset" / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """A CPU takes the ways of a GPU."""
    if device == "cpu":
        nothing_at_hand(monkeypatch)
        monkeypatch.setattr(recorded, "CUDARecording", TakenAgain)


def trained(model: str, folder: Path, device: str = "cpu", epochs: int = 3, **options: Any) -> Any:
    """A trainer after some epochs."""
    settings = {"train_batch_size": 64, "epochs": epochs, "stopping_step": 50, "device": device, **options}
    prepared = prepare(model, **settings)
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.place(folder)
    train_data = training_loader(prepared)[0]
    trainer.resume(train_data)
    trainer.fit(train_data, prepared.eval_loader("valid"))
    return trainer


def weights(trainer: Any) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in trainer.model.parameters()]


CASES = {
    "SASRec": {},
    "SASRec, every position": {"train_targets": "all"},
    "GRU4Rec": {"warmup_steps": 20, "clip_grad_norm": {"max_norm": 1.0}},
    "BPR": {},
    "SRGNN": {"lr_decay_epochs": 1},
    "LDMI": {"llm": "offline"},
    "EIMF": {"llm": "offline"},
}


@every_device
@pytest.mark.parametrize("case", CASES)
def test_the_losses_and_weights_are_those_of_plain_steps(folder: Path, on_a_gpu: None, device: str, case: str) -> None:
    name = case.partition(",")[0]
    plain = trained(name, folder / "plain", device, cuda_graphs=False, **CASES[case])
    replayed = trained(name, folder / "replayed", device, **CASES[case])
    assert plain.recorded is None
    assert replayed.recorded.recorded, replayed.recorded.why_not
    assert not replayed.recorded.why_not
    tolerance = {"rtol": 1e-3, "atol": 2e-4} if device == "cpu" else {"rtol": 1e-2, "atol": 1e-2}
    for one, other in zip(replayed.curve, plain.curve, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4 if device == "cpu" else 1e-2)
    for one, other in zip(weights(replayed), weights(plain), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@every_device
def test_a_training_that_goes_on_is_one_that_was_not_interrupted(
    folder: Path, on_a_gpu: None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained("SASRec", folder / "whole", device, epochs=4)

    class Killed(Exception):  # noqa: N818
        pass

    def stop(epoch: int, score: float) -> None:
        if epoch == 2:
            raise Killed

    monkeypatch.setattr("recbole_llm.training.trainer.SAVE_EVERY_SECONDS", -1.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("recbole_llm.training.trainer.BenchTrainer.on_epoch", staticmethod(stop))
        trained("SASRec", folder / "parts", device, epochs=4)
    resumed = trained("SASRec", folder / "parts", device, epochs=4)
    assert [entry["epoch"] for entry in resumed.curve] == [1, 2, 3, 4]
    tolerance = {"rtol": 1e-3, "atol": 2e-4} if device == "cpu" else {"rtol": 1e-2, "atol": 1e-2}
    for one, other in zip(weights(resumed), weights(whole), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("device", ["cpu"])
def test_a_checkpoint_holds_rates_as_numbers(folder: Path, on_a_gpu: None, device: str) -> None:
    trainer = trained("SASRec", folder / "run", device)
    groups = trainer.optimizer.param_groups
    assert all(torch.is_tensor(group["lr"]) for group in groups)
    from recbole_llm.training.trainer import _plain_state

    kept = _plain_state(trainer.optimizer)["param_groups"]
    assert [(type(group["lr"]), group["capturable"]) for group in kept] == [(float, False)] * len(kept)
    assert all(torch.is_tensor(group["lr"]) for group in groups)  # as they were


def spoilt(model: str, folder: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any) -> Any:
    """A trainer whose model does something beside its loss in each step."""
    prepared = prepare(model, train_batch_size=64, epochs=2)
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.place(folder)
    loss = prepared.model.calculate_loss

    def calculate_loss(batch: Any) -> torch.Tensor:
        found: torch.Tensor = loss(batch)
        return spoil(prepared.model, found)

    monkeypatch.setattr(prepared.model, "calculate_loss", calculate_loss)
    trainer.fit(training_loader(prepared)[0], prepared.eval_loader("valid"))
    return trainer


def reads(model: Any, loss: torch.Tensor) -> torch.Tensor:
    return loss if float(loss.detach()) else loss * 2


def counts(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.steps = getattr(model, "steps", 0) + 1
    return loss


def notes(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.known = getattr(model, "known", {"steps": [0]})
    model.known["steps"][0] += 1
    return loss


def draws(model: Any, loss: torch.Tensor) -> torch.Tensor:
    import numpy as np

    return loss * float(np.random.rand() > 2) + loss


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (reads, "a step reads back from the GPU or writes to it (_local_scalar_dense)"),
        (counts, "a step draws or counts on the host"),
        (notes, "a step draws or counts on the host"),
        (draws, "a step draws or counts on the host"),
    ],
)
def test_a_step_that_goes_by_the_host_is_taken_plainly(
    folder: Path, on_a_gpu: None, device: str, monkeypatch: pytest.MonkeyPatch, spoil: Any, why: str
) -> None:
    trainer = spoilt("BPR", folder / "run", monkeypatch, spoil)
    assert trainer.recorded.why_not == why
    assert not trainer.recorded.recorded


class Wrong(TakenAgain):
    """A recording that forgets what its rows are."""

    def replay(self) -> None:
        super().replay()
        for part in self.parts:
            part *= 1.2


class Half(TakenAgain):
    """A recording that forgets the optimiser's step."""

    def replay(self) -> None:
        held = self.step.func.__closure__  # the trainer's step
        owner = next(cell.cell_contents for cell in held if hasattr(cell.cell_contents, "optimizer"))
        before = [parameter.detach().clone() for parameter in owner.model.parameters()]
        super().replay()
        with torch.no_grad():
            for parameter, value in zip(owner.model.parameters(), before, strict=True):
                parameter.copy_(value)


class Failing:
    def __init__(self, step: Any, generators: Any, beside: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Wrong, "a recorded step is not the plain one"),
        (Half, "a recorded step is not the plain one"),
        (Failing, "a step could not be recorded (operation not permitted when stream is capturing)"),
    ],
)
def test_a_recording_that_is_not_the_step_is_not_replayed(
    folder: Path, on_a_gpu: None, device: str, monkeypatch: pytest.MonkeyPatch, kind: Any, why: str
) -> None:
    plain = trained("SASRec", folder / "plain", cuda_graphs=False)
    monkeypatch.setattr(recorded, "CUDARecording", kind)
    trainer = trained("SASRec", folder / "run")
    assert trainer.recorded.why_not == why
    assert not trainer.recorded.recorded
    for one, other in zip(weights(trainer), weights(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("device", ["cpu"])
def test_a_gpu_that_does_not_go_on_from_a_recording_says_what_to_do(
    folder: Path, on_a_gpu: None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, state: Any, chance: Any) -> None:
        raise RuntimeError("offset increment outside graph capture")

    monkeypatch.setattr(recorded, "CUDARecording", Failing)
    monkeypatch.setattr(recorded.RecordedSteps, "_restore", broken)
    with pytest.raises(UserError, match=r"outside graph capture\): give --cuda_graphs=False"):
        trained("SASRec", folder / "run")


@pytest.mark.parametrize("device", ["cpu"])
def test_what_a_model_goes_by_is_recorded_anew_when_it_changes(folder: Path, on_a_gpu: None, device: str) -> None:
    prepared = prepare("BPR", train_batch_size=64, epochs=1)
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.place(folder)
    train_data = training_loader(prepared)[0]
    trainer._train_epoch(train_data, 0)
    first = dict(trainer.recorded._found)
    trainer._train_epoch(train_data, 1)
    assert trainer.recorded._found == first
    prepared.model.margin = 2.0
    trainer._train_epoch(train_data, 2)
    assert set(trainer.recorded._found) == set(first)
    assert all(trainer.recorded._found[shape] is not first[shape] for shape in first)


@pytest.mark.parametrize("device", ["cpu"])
def test_another_optimiser_is_left_as_it_is(folder: Path, on_a_gpu: None, device: str) -> None:
    trainer = trained("BPR", folder / "run", learner="sgd")
    assert trainer.recorded.why_not == "SGD is no optimiser that a recording can hold"


def test_a_cpu_records_nothing(folder: Path) -> None:
    assert trained("BPR", folder / "run").recorded is None
