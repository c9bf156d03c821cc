"""Data-parallel training: each process computes the gradient of its share of every batch.

As in RecBole (trainer/trainer.py:60-93), ``DistributedDataParallel`` wraps the model and an empty forward pass arms its
gradient reduction, so that models keep their ``calculate_loss``. RecBole supports NCCL only; here CPUs can use gloo.
All processes draw the examples in the same order, so that the batches are those of a single process. The first process
validates and writes; the others follow.
"""

from __future__ import annotations

import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from recbole.trainer import TraditionalTrainer
from recbole.utils import init_seed
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from recbole_llm.data.loaders import EvalLoader, TrainLoader
from recbole_llm.errors import UserError
from recbole_llm.training.trainer import BenchTrainer

PATIENCE = timedelta(hours=2)  # the others wait while the first one validates


def join(rank: int, world: int, meeting: Path, device: torch.device) -> None:
    """Enter the group of processes that train one model.

    Args:
        rank: of this process.
        world: number of processes.
        meeting: a file by which the processes find each other; it must not exist yet.
        device: of the model. NCCL joins GPUs only, and a machine that has some may train on its CPU.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(
        backend, init_method=meeting.absolute().as_uri(), rank=rank, world_size=world, timeout=PATIENCE
    )


def is_joined() -> bool:
    """Whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized()


class Together(BenchTrainer):
    """What a trainer does differently when it is one of several."""

    @classmethod
    def take_over(cls, trainer: BenchTrainer, train_data: Any) -> None:
        """Make a trainer part of the group, with its share of each batch.

        Raises:
            UserError: the model's training loop or batches are not ours, or it learns without gradients.
        """
        plain = type(trainer)._train_epoch is BenchTrainer._train_epoch
        name = type(trainer.model).__name__
        if isinstance(trainer, TraditionalTrainer):  # each process would count its own share only
            raise UserError(f"--nproc: {name} learns without gradients, and gradients are what processes share.")
        if not plain:
            raise UserError(f"--nproc: {name} is trained by a loop of its own, which one process runs.")
        if not isinstance(train_data, TrainLoader):
            raise UserError(
                f"--nproc: {name} learns from batches of its own, which are not shared out among processes."
            )
        trainer.__class__ = type(trainer.__class__.__name__, (cls, type(trainer)), {})
        rank, cuda = distributed.get_rank(), trainer.device.type == "cuda"
        trainer.process = rank
        if cuda:
            trainer.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(trainer.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 calls it forward_sync_buffers
            trainer.distributed_model = DistributedDataParallel(
                trainer.model, device_ids=[trainer.device] if cuda else None, broadcast_buffers=False
            )
        trainer.config["single_spec"], trainer.config["local_rank"] = False, rank
        train_data.share(rank, distributed.get_world_size(), int(trainer.config["seed"]))
        init_seed(
            int(trainer.config["seed"]) + rank, trainer.config["reproducibility"]
        )  # each process has its own dropout, as in RecBole

    @property
    def is_first(self) -> bool:
        """Whether this process validates and writes."""
        return self.process == 0

    def _reduced(self, loss: Any) -> Any:
        # The hook puts the class's method back as an attribute, which would pass for a change of the model.
        is_attribute = "forward" in vars(self.model)
        self.set_reduce_hook()
        if not is_attribute:
            del self.model.forward
        return loss + self.sync_grad_loss()

    def _means(self, total: list[torch.Tensor], count: int) -> tuple[float, ...]:
        # RecBole's regularisers turn losses from scalars into tensors of one element.
        means = torch.stack([part.reshape(()) / count for part in total])
        distributed.all_reduce(means)
        return tuple((means / distributed.get_world_size()).tolist())

    def _valid_epoch(self, valid_data: EvalLoader, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        found: list[Any] = [None]
        if self.is_first:
            found = [super()._valid_epoch(valid_data, show_progress)]
        distributed.broadcast_object_list(found)
        score, result = found[0]
        return score, result

    def _is_due(self, saved_at: float) -> bool:
        due = [super()._is_due(saved_at)]
        distributed.broadcast_object_list(due)  # all processes save, by the first one's clock
        return due[0]

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        if self.is_first:
            super()._write(path, state)

    def _chances(self) -> list[dict[str, Any]]:
        own = super()._chances()
        found: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(found, own[0])
        return found

    def resume(self, train_data: Any) -> bool:
        """Continue together; the first process must not remove the file before the others have read it."""
        found = super().resume(train_data)
        distributed.barrier()
        return found

    def restore_best(self) -> None:
        """Load the best weights in the first process, which alone uses them."""
        if self.is_first:
            super().restore_best()
