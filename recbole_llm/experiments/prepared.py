"""A model with its data, ready to be trained or asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_llm.compat.fast import can_trim
from recbole_llm.data.loaders import DeviceTable, EvalLoader
from recbole_llm.data.split import Cases
from recbole_llm.evaluation.lists import TopLists
from recbole_llm.evaluation.ranks import item_popularity


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
        return EvalLoader(self.device_table(), self.cases(phase), int(self.config["eval_batch_size"]), self.sequential)

    def cases(self, phase: str) -> Cases:
        """The cases of ``test``, or of ``valid``: of a sample of users where ``valid_users`` says so."""
        split, sample = self.dataset.split, int(self.config["valid_users"] or 0)
        return split.valid.of_sample(self.dataset.table.user_tokens, sample) if phase == "valid" else split.test

    def list_counter(self) -> TopLists | None:
        """Counters of the first places of all lists, ``None`` where no metric needs them."""
        if not self.config["list_metrics"]:
            return None
        train_items = self.dataset.table.item[self.dataset.split.train_rows]
        counts, _ = item_popularity(train_items, self.dataset.item_num)
        return TopLists(self.config["topk"], counts, self.config["tail_ratio"])
