"""Two processes that train one model together get the same result as one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from recbole_llm.compat.config import resolve_device
from recbole_llm.errors import UserError
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.runner import run_rank
from recbole_llm.experiments.store import ResultStore
from recbole_llm.training.choice import make_trainer
from recbole_llm.training.distributed import Together, join
from recbole_llm.training.loaders import training_loader
from recbole_llm.training.trainer import BenchTrainer
from tests.helpers import make_run, prepare, runner

pytestmark = pytest.mark.usefixtures("fork_server")
EXACT: dict[str, Any] = {"dropout_prob": 0.0, "hidden_size": 16, "embedding_size": 16, "epochs": 3}


def values(record: Record) -> dict[str, float]:
    return {name: metric.value for name, metric in record.metrics.items()}


def test_two_processes_train_the_model_of_one(tiny: Path) -> None:
    """Without dropout, only the order of summation differs, so losses and metrics agree."""
    alone = runner("alone").run(make_run("GRU4Rec", checkpoint_dir="other", **EXACT))
    run = make_run("GRU4Rec", nproc=2, **EXACT)
    together = runner().run(run)
    assert together.key != alone.key
    assert together.settings["nproc"] == 2
    assert [e["loss"] for e in together.curve] == pytest.approx([e["loss"] for e in alone.curve], rel=1e-4)
    assert together.epochs == alone.epochs == 3
    assert values(together) == pytest.approx(values(alone), abs=0.005)
    assert together.valid_metrics == pytest.approx(alone.valid_metrics, abs=0.005)
    assert ResultStore("results").find(run.key) == together
    assert {path.name for path in run.folder.iterdir()} == {"best.pt"}


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """Make this process a group of one: it runs the code of a larger group without starting other processes."""
    join(0, 1, tmp_path / "meeting", resolve_device("auto"))
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("model", ["LightGCN", "GCSAN"])
def test_a_loss_of_one_element_is_averaged_as_one_of_none(tiny: Path, group: None, model: str) -> None:
    """RecBole's ``EmbLoss`` has the shape ``(1,)``, and so has a loss that it is added to."""
    prepared = prepare(model, epochs=1)
    trainer = make_trainer(prepared.config, prepared.model)
    data, _ = training_loader(prepared)
    assert prepared.model.calculate_loss(next(iter(data))).shape == (1,)
    Together.take_over(trainer, data)
    trainer.fit(data, verbose=False, saved=False)
    assert isinstance(trainer.curve[0]["loss"], float)


def test_a_refit_is_shared_too(tiny: Path, group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: each process trained on all the data by itself, and all wrote to the same files."""
    shared: list[BenchTrainer] = []
    take_over = Together.take_over

    def noted(trainer: BenchTrainer, data: Any) -> None:
        shared.append(trainer)
        take_over(trainer, data)

    monkeypatch.setattr(Together, "take_over", noted)
    refit = runner().run(make_run("GRU4Rec", refit=True, **EXACT))
    assert refit.refit
    assert [trainer.plan for trainer in shared] == [None, [refit.epochs]]


def test_two_processes_refit_the_model_of_one(tiny: Path) -> None:
    alone = runner("alone").run(make_run("GRU4Rec", refit=True, checkpoint_dir="other", **EXACT))
    together = runner().run(make_run("GRU4Rec", refit=True, nproc=2, **EXACT))
    assert [e["loss"] for e in together.curve] == pytest.approx([e["loss"] for e in alone.curve], rel=1e-4)
    assert values(together) == pytest.approx(values(alone), abs=0.005)


def test_one_process_is_what_a_run_is_without_the_setting(tiny: Path) -> None:
    assert make_run("GRU4Rec", nproc=1).key == make_run("GRU4Rec").key
    assert (
        runner().candidate_run(make_run("LLMDMsRec", nproc=2)).key == runner().candidate_run(make_run("LLMDMsRec")).key
    )


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "nccl")])
def test_processes_are_joined_by_what_their_device_takes(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, device: str, backend: str
) -> None:
    """Regression: on the CPU of a machine with GPUs they were joined by NCCL, which takes no tensors of a CPU."""

    class Joined(Exception):  # noqa: N818
        pass

    def join_by(backend: str, **options: Any) -> None:
        raise Joined(backend)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(distributed, "init_process_group", join_by)
    with pytest.raises(Joined, match=backend):
        run_rank(0, 2, "meeting", make_run("GRU4Rec", nproc=2, device=device), "results", False, {})


def test_more_processes_than_gpus_are_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: two processes shared a GPU, which NCCL refuses with an error of its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UserError, match="--nproc=2: each process takes a GPU of its own, and torch sees 1 GPU; give"):
        runner().run(make_run("GRU4Rec", nproc=2))


@pytest.mark.parametrize("model", ["S3Rec", "DUIP"])
def test_a_model_of_several_stages_is_refused(tiny: Path, model: str) -> None:
    with pytest.raises(UserError, match="--nproc=2 is for models of one stage"):
        runner().run(make_run(model, nproc=2))


def test_a_model_with_a_loop_of_its_own_is_refused(tiny: Path) -> None:
    prepared = prepare("BPR")
    trainer = make_trainer(prepared.config, prepared.model)
    data, _ = training_loader(prepared)
    trainer.__class__ = type("OwnLoop", (BenchTrainer,), {"_train_epoch": lambda self, *arguments: 0.0})
    with pytest.raises(UserError, match="--nproc: BPR is trained by a loop of its own"):
        Together.take_over(trainer, data)


def test_a_model_with_batches_of_its_own_is_refused(tiny: Path) -> None:
    prepared = prepare("ISRF", semantics="none")
    with pytest.raises(UserError, match="--nproc: ISRF learns from batches of its own"):
        Together.take_over(make_trainer(prepared.config, prepared.model), training_loader(prepared)[0])


def test_a_model_that_only_counts_is_refused(tiny: Path) -> None:
    """Otherwise the first process would rank by the counts of its share of the interactions."""
    prepared = prepare("Pop")
    with pytest.raises(UserError, match="--nproc: Pop learns without gradients"):
        Together.take_over(make_trainer(prepared.config, prepared.model), training_loader(prepared)[0])


def test_the_parts_of_a_batch_are_the_batch(tiny: Path) -> None:
    prepared = prepare("GRU4Rec")

    def targets(rank: int, world: int) -> list[list[int]]:
        data, _ = training_loader(prepared)
        data.share(rank, world, 1)
        return [sorted(batch["item_id"].tolist()) for batch in data]

    whole, first, second = targets(0, 1), targets(0, 2), targets(1, 2)
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == whole
