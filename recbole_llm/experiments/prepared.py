"""A model with its data, ready to be trained or asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_llm.compat.fast import can_trim
from recbole_llm.data.loaders import DeviceTable, EvalLoader


@dataclass
class Prepared:
    """A model with its data.

    Attributes:
        config, dataset, model: RecBole's objects; ``dataset`` holds all interactions and the split.
        train_part: the dataset with training rows alone.
        sequential: whether batches carry histories.
    """

    config: Any
    dataset: Any
    train_part: Any
    model: Any
    sequential: bool

    def device_table(self) -> DeviceTable:
        """The interactions on the model's device."""
        longest = int(self.config["MAX_ITEM_LIST_LENGTH"])
        return DeviceTable(self.dataset, self.config["device"], longest, can_trim(self.model))

    def eval_loader(self, phase: str) -> EvalLoader:
        """The cases of ``valid`` or ``test`` in batches."""
        cases = self.dataset.split.valid if phase == "valid" else self.dataset.split.test
        return EvalLoader(self.device_table(), cases, int(self.config["eval_batch_size"]), self.sequential)
