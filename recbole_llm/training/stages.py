"""Training in stages: parts that are frozen at first are trained later, with their own learning rates.

A model takes part by two members::

    stages: tuple[str, ...]                     # names, in order
    enter_stage(stage: int) -> list[dict]       # freezes and thaws; parameter groups, each with its "lr"

A stage ends when validation stops improving, or with the first validation once its ``stage_epochs`` are over. The next
stage starts from the best weights so far, so its weights are kept only if they are better. A refit has no validation:
each stage has as many epochs as led to the best weights before. A model with a single stage gets the epochs of all
stages, so that an ablation without the other stages trains as long.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from recbole_llm.errors import UserError
from recbole_llm.training.trainer import BenchTrainer

logger = logging.getLogger(__name__)


def _limits(config: Any, stages: tuple[str, ...]) -> list[int]:
    """``stage_epochs``, checked before the first stage is trained.

    Raises:
        UserError: ``stage_epochs`` does not fit the stages, or the stages would never end.
    """
    limits = list(config["stage_epochs"])
    if not limits or any(type(limit) is not int or limit < 1 for limit in limits):
        raise UserError(f"stage_epochs: give whole numbers from 1 on, one for each stage; got {limits}.")
    if len(stages) > 1 and len(limits) != len(stages):
        raise UserError(f"stage_epochs: {limits} is not one number for each of the stages {', '.join(stages)}.")
    if len(stages) > 1 and int(config["eval_step"]) < 1:
        raise UserError(f"eval_step={config['eval_step']}: stages end with a validation; give a number from 1 on.")
    return limits


class StagedTrainer(BenchTrainer):
    """One optimiser per stage, each with its own warm-up; one record for all stages.

    Attributes:
        stage_limits: the most epochs of each stage.
    """

    def __init__(self, config: Any, model: Any) -> None:
        limits = _limits(config, model.stages)
        self.stage_limits = limits if len(model.stages) > 1 else [sum(limits)]
        self._began = 0  # epochs before the stage
        self._entered = False  # whether a stage was entered in this epoch
        super().__init__(config, model)

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        groups = self.model.enter_stage(self.model.stage)
        return super()._build_optimizer(**{**kwargs, "params": groups})

    def _most_epochs(self) -> int:
        return self.stage_limits[self.model.stage]

    def _decay(self, epoch: int) -> None:
        super()._decay(epoch - self._began)  # each stage has its own rates and counts its own epochs

    def _validate(self, valid_data: Any, epoch: int, entry: dict[str, Any], saved: bool, callback: Any) -> bool:
        entry["stage"] = self.model.stages[self.model.stage]
        stop = super()._validate(valid_data, epoch, entry, saved, callback)
        over = stop or epoch + 1 - self._began >= self.stage_limits[self.model.stage]
        if not over:
            return False
        if self.model.stage + 1 >= len(self.model.stages):
            return True
        if saved:
            self.restore_best()
        self._enter_next(epoch)
        return False

    def enter_next_stage(self) -> None:
        """Freeze and thaw what the next stage says, and give it its optimiser."""
        self.model.stage += 1
        self.optimizer = self._build_optimizer()

    def _enter_next(self, epoch: int) -> None:
        """Begin the next stage after an epoch."""
        self.enter_next_stage()
        self._began, self.cur_step, self._entered = epoch + 1, 0, True
        logger.info("stage %s begins after epoch %d", self.model.stages[self.model.stage], epoch + 1)

    def _keep_to_plan(self, epoch: int, entry: dict[str, Any]) -> None:
        """Once the stage's epochs are over, enter the next stage that has any."""
        entry["stage"] = self.model.stages[self.model.stage]
        assert self.plan is not None
        while epoch + 1 < self.epochs and epoch + 1 - self._began >= self.plan[self.model.stage]:
            self._enter_next(epoch)

    def _is_due(self, saved_at: float) -> bool:
        # The new stage's best weights will replace those that it began with, of which only last.pt then has a copy.
        entered, self._entered = self._entered, False
        return entered or super()._is_due(saved_at)

    def resume(self, train_data: Any) -> bool:
        """Continue within the stage that was under way."""
        state = self.resumable()
        if state is None:
            return False
        self.model.stage = state["counters"]["stage"]
        self.optimizer = self._build_optimizer()
        super().resume(train_data)
        stage = self.model.stages[self.model.stage]
        self._began = max((e["epoch"] for e in self.curve if e.get("stage", stage) != stage), default=0)
        return True
