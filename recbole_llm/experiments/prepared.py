"""A model with its data, ready to be trained or to score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_llm.compat.fast import can_trim
from recbole_llm.data.loaders import DeviceTable, EvalLoader
from recbole_llm.data.split import Cases, cold_cases


@dataclass
class Prepared:
    """A model with its data.

    Attributes:
        config, dataset, model: RecBole's objects; ``dataset`` holds all interactions and the split.
        train_part: the dataset with training rows alone.
        sequential: whether batches carry histories.
        by_user: the model knows a user only by an id, so that it cannot score for users that it has not seen.
    """

    config: Any
    dataset: Any
    train_part: Any
    model: Any
    sequential: bool
    by_user: bool = False

    def device_table(self) -> DeviceTable:
        """The interactions on the model's device."""
        longest = int(self.config["MAX_ITEM_LIST_LENGTH"])
        return DeviceTable(self.dataset, self.config["device"], longest, can_trim(self.model))

    def eval_loader(self, phase: str) -> EvalLoader:
        """The cases of ``valid`` or ``test`` in batches."""
        cases = self.cases(phase)
        cold = cold_cases(self.dataset.table, self.dataset.split, cases) if self.by_user else None
        silent = cold if cold is not None and cold.any() else None
        return EvalLoader(self.device_table(), cases, int(self.config["eval_batch_size"]), self.sequential, silent)

    def cases(self, phase: str) -> Cases:
        """The cases of ``test`` or ``valid``; ``valid`` has a sample of users only, if ``valid_users`` is set."""
        split, sample = self.dataset.split, int(self.config["valid_users"] or 0)
        return split.valid.of_sample(self.dataset.table.user_tokens, sample) if phase == "valid" else split.test
