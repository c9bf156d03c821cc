"""Which trainer a model gets."""

from __future__ import annotations

from typing import Any

from recbole.trainer import NCLTrainer, PretrainTrainer, Trainer
from recbole.utils import get_trainer

from recbole_llm.training.prototypes import PrototypeTrainer
from recbole_llm.training.stages import StagedTrainer
from recbole_llm.training.trainer import BenchTrainer, Pretraining


def make_trainer(config: Any, model: Any) -> Any:
    """The trainer for a model: ours, with RecBole's special trainer for the model, if any, on top."""
    if hasattr(model, "enter_stage"):
        return StagedTrainer(config, model)
    special = get_trainer(config["MODEL_TYPE"], config["model"])
    if special is Trainer or not issubclass(special, Trainer):
        return BenchTrainer(config, model)
    if special is NCLTrainer:
        return PrototypeTrainer(config, model)
    first = (Pretraining,) if issubclass(special, PretrainTrainer) else ()
    return type(special.__name__, (*first, special, BenchTrainer), {})(config, model)
