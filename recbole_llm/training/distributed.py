"""Data-parallel training: each process computes the gradient of its share of every batch.

RecBole's own way (trainer/trainer.py:60-93): ``DistributedDataParallel`` around the model, whose reduction is
armed by an empty forward pass, so that models keep their ``calculate_loss``. RecBole has it for NCCL alone; here
CPUs take part by gloo, and all processes draw the same order of examples, so that the batches are those of one
process. The first process validates and writes; the others follow.
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


def join(rank: int, world: int, meeting: Path) -> None:
    """Enter the group of processes that train one model.

    Args:
        rank: of this process.
        world: how many there are.
        meeting: a file that none of them has made yet.
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
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
        """Make a trainer one of the group, and its batches its share of the batches.

        Raises:
            UserError: the model's trainer or batches are not ours, or it has no gradients.
        """
        plain = type(trainer)._train_epoch is BenchTrainer._train_epoch
        name = trainer.config["model"]
        if isinstance(trainer, TraditionalTrainer):  # what each process counts of its share would not be shared
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
        )  # other dropout, as RecBole has

    @property
    def is_first(self) -> bool:
        """Whether this process validates and writes."""
        return self.process == 0

    def _reduced(self, loss: Any) -> Any:
        self.set_reduce_hook()
        return loss + self.sync_grad_loss()

    def _means(self, total: list[torch.Tensor], count: int) -> tuple[float, ...]:
        # RecBole's regularisers make losses of one element instead of none.
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
        distributed.broadcast_object_list(due)  # all of them save, by the clock of the first one
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
        """Continue together; the first one removes the file, and not before the others have read it."""
        found = super().resume(train_data)
        distributed.barrier()
        return found

    def restore_best(self) -> None:
        """Load the best weights where they are used."""
        if self.is_first:
            super().restore_best()
