"""Recorded steps (CUDA graphs) train like plain ones. On a CPU, a stand-in recording simply repeats the step."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
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


def gpu_alone(test: Any) -> Any:
    """Mark a test that only a real GPU can run, because the stand-in would prove nothing."""
    test = pytest.mark.parametrize("device", ["cuda"])(pytest.mark.cuda(test))
    return pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")(test)


class TakenAgain:
    """Stand-in for a recording: a replay takes the step again."""

    parts: list[torch.Tensor]

    def __init__(self, step: Any, generators: Any, beside: Any, device: Any) -> None:
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
    """Make a CPU take the GPU code paths."""
    if device == "cpu":
        nothing_at_hand(monkeypatch)
        monkeypatch.setattr(recorded, "CUDARecording", TakenAgain)


def trained(model: str, folder: Path, device: str = "cpu", epochs: int = 3, **options: Any) -> Any:
    """A trainer that has trained for some epochs."""
    settings = {"train_batch_size": 64, "epochs": epochs, "stopping_step": 50, "device": device, **options}
    prepared = prepare(model, **settings)
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.begun = [weight.clone() for weight in weights(trainer)]
    trainer.place(folder)
    train_data = training_loader(prepared)[0]
    trainer.resume(train_data)
    trainer.fit(train_data, prepared.eval_loader("valid"))
    return trainer


def weights(trainer: Any) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in trainer.model.parameters()]


def assert_alike(one: Any, other: Any, device: str = "cpu") -> None:
    """Check that two trainings end with the same weights, up to the order in which a GPU adds.

    Weights whose gradient is only rounding error, such as key biases, move as far as others, so on a GPU the
    weights are compared only as a whole.
    """
    if device == "cpu":
        for first, second in zip(weights(one), weights(other), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-3, atol=2e-4)
    apart = sum(float((a - b).square().sum()) for a, b in zip(weights(one), weights(other), strict=True))
    length = sum(float((a - b).square().sum()) for a, b in zip(weights(other), other.begun, strict=True))
    assert apart <= 0.1**2 * length


CASES = {
    "SASRec": {},
    "SASRec, every position": {"train_targets": "all"},
    "SASRec, bf16": {"precision": "bf16"},
    "GRU4Rec": {"warmup_steps": 20, "clip_grad_norm": {"max_norm": 1.0}},
    "BPR": {},
    "LightGCN": {},
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
    # A learning rate held in a tensor is rounded, which half precision makes visible.
    exact = device == "cpu" and case != "SASRec, bf16"
    for one, other in zip(replayed.curve, plain.curve, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4 if exact else 1e-2)
    assert_alike(replayed, plain, "cpu" if exact else "cuda")


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
    assert_alike(resumed, whole, device)


@pytest.mark.parametrize("device", ["cpu"])
def test_a_checkpoint_holds_rates_as_numbers(folder: Path, on_a_gpu: None, device: str) -> None:
    trainer = trained("SASRec", folder / "run", device)
    groups = trainer.optimizer.param_groups
    assert all(torch.is_tensor(group["lr"]) for group in groups)
    from recbole_llm.training.trainer import _plain_state

    kept = _plain_state(trainer.optimizer)["param_groups"]
    assert [(type(group["lr"]), group["capturable"]) for group in kept] == [(float, False)] * len(kept)
    assert all(torch.is_tensor(group["lr"]) for group in groups)  # unchanged in the optimiser


def spoilt(model: str, folder: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, **options: Any) -> Any:
    """A trainer whose model does something besides computing the loss in each step."""
    prepared = prepare(model, **{"train_batch_size": 64, "epochs": 2, "device": "cpu", **options})
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.begun = [weight.clone() for weight in weights(trainer)]
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
    return loss * float(np.random.rand() > 2) + loss


def draws_by_itself(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.own = getattr(model, "own", random.Random(1))
    return loss * float(model.own.random() > 2) + loss


def draws_by_numpy(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.own = getattr(model, "own", np.random.default_rng(1))
    return loss * float(model.own.random() > 2) + loss


def draws_by_torch(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.own = getattr(model, "own", torch.Generator().manual_seed(1))
    torch.randperm(3, generator=model.own)
    return loss


def writes(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.mean = getattr(model, "mean", torch.zeros((), device=loss.device))
    model.mean.lerp_(loss.detach(), 0.1)
    return loss


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (reads, "a step reads back from the GPU or writes to it (_local_scalar_dense)"),
        (counts, "a step draws or counts on the host"),
        (notes, "a step draws or counts on the host"),
        (draws, "a step draws or counts on the host"),
        (draws_by_itself, "a step draws or counts on the host"),
        (draws_by_numpy, "a step draws or counts on the host"),
        (draws_by_torch, "a step draws or counts on the host"),
        (writes, "a step draws or counts on the host"),
    ],
)
def test_a_step_that_goes_by_the_host_is_taken_plainly(
    folder: Path, on_a_gpu: None, device: str, monkeypatch: pytest.MonkeyPatch, spoil: Any, why: str
) -> None:
    trainer = spoilt("BPR", folder / "run", monkeypatch, spoil)
    assert trainer.recorded.why_not == why
    assert not trainer.recorded.recorded


class Wrong(TakenAgain):
    """A faulty recording whose losses are too large."""

    def replay(self) -> None:
        super().replay()
        for part in self.parts:
            part *= 1.2


class Half(TakenAgain):
    """A faulty recording that omits the optimiser's step."""

    def replay(self) -> None:
        held = self.step.func.__closure__  # of the trainer's step function
        owner = next(cell.cell_contents for cell in held if hasattr(cell.cell_contents, "optimizer"))
        before = [parameter.detach().clone() for parameter in owner.model.parameters()]
        super().replay()
        with torch.no_grad():
            for parameter, value in zip(owner.model.parameters(), before, strict=True):
                parameter.copy_(value)


class Early(TakenAgain):
    """An empty recording whose step ran while it was made, as happens on a device that is not the current one."""

    def __init__(self, step: Any, generators: Any, beside: Any, device: Any) -> None:
        self.parts = step()

    def replay(self) -> None:
        """Do nothing: no step was recorded."""


class Failing:
    def __init__(self, step: Any, generators: Any, beside: Any, device: Any) -> None:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        finally:
            self.end()

    def end(self) -> None:
        raise RuntimeError("operation failed due to a previous error during capture")


class FailingBeside(TakenAgain):
    """A recording that fails unless it is the first of a training."""

    def __init__(self, step: Any, generators: Any, beside: Any, device: Any) -> None:
        super().__init__(step, generators, beside, device)
        if beside is not None:
            raise RuntimeError("out of memory")


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Wrong, "a replayed step of SASRec gave other losses or weights than an eager one"),
        (Half, "a replayed step of SASRec gave other losses or weights than an eager one"),
        (Early, "a replayed step of SASRec gave other losses or weights than an eager one"),
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
    assert_alike(trainer, plain)


@pytest.mark.parametrize("device", ["cpu"])
def test_where_one_recording_fails_none_is_replayed_any_more(
    folder: Path, on_a_gpu: None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained("SASRec", folder / "plain", cuda_graphs=False)
    monkeypatch.setattr(recorded, "CUDARecording", FailingBeside)
    trainer = trained("SASRec", folder / "run")
    assert trainer.recorded.recorded
    assert trainer.recorded.why_not == "a step could not be recorded (out of memory)"
    assert not trainer.recorded._found
    assert_alike(trainer, plain)


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


@every_device
def test_what_an_evaluation_keeps_is_dropped_before_steps_are_replayed(
    folder: Path, on_a_gpu: None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LightGCN, for example, keeps its propagated vectors."""
    prepared = prepare("BPR", train_batch_size=64, epochs=1, device=device)
    model, loss = prepared.model, prepared.model.calculate_loss
    model.kept = None

    def calculate_loss(batch: Any) -> torch.Tensor:
        model.kept = None
        found: torch.Tensor = loss(batch)
        return found

    class NumbersAlone(TakenAgain):
        """Like a real replay, runs none of the model's Python code, so ``kept`` stays as it is."""

        def replay(self) -> None:
            kept = model.kept
            super().replay()
            model.kept = kept

    monkeypatch.setattr(model, "calculate_loss", calculate_loss)
    if device == "cpu":
        monkeypatch.setattr(recorded, "CUDARecording", NumbersAlone)
    trainer = make_trainer(prepared.config, model)
    trainer.place(folder)
    train_data = training_loader(prepared)[0]
    trainer._train_epoch(train_data, 0)
    first = dict(trainer.recorded._found)
    assert first
    for epoch in (1, 2):
        model.kept = torch.ones(3)
        trainer._train_epoch(train_data, epoch)
        assert model.kept is None
        assert {shape: trainer.recorded._found[shape] for shape in first} == first


def test_an_object_that_took_the_place_of_another_one_is_noticed() -> None:
    class Thing:
        """Any object that a model may hold."""

    model = torch.nn.Linear(2, 2)
    model.thing = Thing()  # type: ignore[assignment]
    before = recorded._host_state(model)
    assert recorded._host_state(model) == before
    model.thing = None  # type: ignore[assignment]
    model.thing = Thing()  # type: ignore[assignment]
    assert recorded._host_state(model) != before


def test_weights_that_were_moved_are_noticed() -> None:
    model = torch.nn.Linear(2, 2)
    before = recorded._host_state(model)
    model.weight.data = model.weight.data.clone()
    assert recorded._host_state(model) != before


@pytest.mark.parametrize("device", ["cpu"])
def test_another_loader_has_recordings_of_its_own(folder: Path, on_a_gpu: None, device: str) -> None:
    prepared = prepare("BPR", train_batch_size=64, epochs=1)
    trainer = make_trainer(prepared.config, prepared.model)
    trainer.place(folder)
    for _ in range(2):
        train_data = training_loader(prepared)[0]
        trainer._train_epoch(train_data, 0)
        assert trainer.recorded.loader is train_data
        assert trainer.recorded._found


@pytest.mark.parametrize("device", ["cpu"])
def test_another_optimiser_is_left_as_it_is(folder: Path, on_a_gpu: None, device: str) -> None:
    trainer = trained("BPR", folder / "run", learner="sgd")
    assert trainer.recorded.why_not == "only fused Adam and AdamW can be recorded, not SGD (--learner=adam or adamw)"


def test_a_cpu_records_nothing(folder: Path) -> None:
    assert trained("BPR", folder / "run").recorded is None


# ---- what makes a GPU wait ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("index", lambda x: x[torch.tensor([0, 1])]),
        ("index_put_", lambda x: x.index_put_((torch.tensor([0, 1]),), x[:2])),
        ("_to_copy", lambda x: torch.ones(3).to(x.device)),
        ("copy_", lambda x: x[0].copy_(torch.ones(3))),
        ("multinomial", lambda x: torch.multinomial(x, 1)),
        ("nonzero", torch.nonzero),
    ],
)
def test_waits_are_found(name: str, act: Any) -> None:
    x = torch.ones(4, 3, device="cpu" if name in ("multinomial", "nonzero") else "meta")
    with recorded.Waits() as waits:
        act(x)
    assert name in waits.found


def test_work_on_one_device_is_no_wait() -> None:
    x, rows = torch.ones(4, 3, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta")
    with recorded.Waits() as waits:
        (x[rows] * 2.0).to(torch.bfloat16).masked_fill(x[rows] > 0, 1.0).sum()
        x.index_put_((rows,), x[:2])
    assert not waits.found


def test_torch_s_notice_of_its_way_to_find_waits_is_not_shown() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all", stacklevel=1)
        warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert recorded.waits_among(caught) == ["a synchronizing CUDA operation"]
    assert [str(warning.message) for warning in shown] == ["something else"]


# ---- a GPU's own ways ---------------------------------------------------------------------------


@gpu_alone
def test_waits_inside_of_operators_are_found(device: str) -> None:
    x = torch.ones(3, device=device, requires_grad=True)
    with recorded.gpu_waits(torch.device(device)) as found:
        torch.multinomial(x.detach(), 1)
    assert found
    with recorded.gpu_waits(torch.device(device)) as found:
        (x * 2.0).sum().backward()
    assert not found


@gpu_alone
def test_a_model_that_takes_rows_by_the_host_is_trained_plainly(folder: Path, device: str) -> None:
    trainer = trained("MultiVAE", folder / "run", device)
    assert trainer.recorded.why_not == "a step reads back from the GPU or writes to it (index_put_)"


@gpu_alone
def test_a_gpu_goes_on_after_a_recording_that_failed(
    folder: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads_while_recorded(model: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss * float(loss.detach() > -1) if torch.cuda.is_current_stream_capturing() else loss

    plain = spoilt("SASRec", folder / "plain", monkeypatch, reads_while_recorded, device=device, cuda_graphs=False)
    trainer = spoilt("SASRec", folder / "run", monkeypatch, reads_while_recorded, device=device)
    assert trainer.recorded.why_not.startswith("a step could not be recorded")
    assert "previous error" not in trainer.recorded.why_not
    assert_alike(trainer, plain, device)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    later = trained("SASRec", folder / "later", device)
    assert later.recorded.recorded, later.recorded.why_not
    assert not later.recorded.why_not


@gpu_alone
def test_each_replay_draws_anew(folder: Path, device: str) -> None:
    trainer = trained("SASRec", folder / "run", device)
    (_, recording), *_ = trainer.recorded._found.values()
    losses = []
    for _ in range(3):
        kept = [weight.clone() for weight in weights(trainer)]
        recording.replay()
        losses.append([float(part) for part in recording.parts])
        for weight, value in zip(weights(trainer), kept, strict=True):
            weight.copy_(value)
    assert losses[0] != losses[1] != losses[2]  # by dropout alone
    torch.cuda.manual_seed(5)
    recording.replay()
    first = [float(part) for part in recording.parts]
    for weight, value in zip(weights(trainer), kept, strict=True):
        weight.copy_(value)
    torch.cuda.manual_seed(5)
    recording.replay()
    assert [float(part) for part in recording.parts] == pytest.approx(first, rel=1e-4)


@gpu_alone
def test_shapes_share_the_memory_of_their_recordings(folder: Path, device: str) -> None:
    trainer = trained("SASRec", folder / "run", device, epochs=4)
    pools = {recording._graph.pool() for _, recording in trainer.recorded._found.values()}
    assert len(trainer.recorded._found) > 1
    assert len(pools) == 1
