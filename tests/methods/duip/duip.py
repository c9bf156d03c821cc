"""A DUIP small enough to train in seconds, for its tests."""

from __future__ import annotations

from typing import Any

from recbole_llm.experiments.prepared import Prepared
from tests.helpers import prepare

SMALL: dict[str, Any] = {
    "lm_scratch": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 120},
    "embedding_size": 8,
    "hidden_size": 12,
    "warmup_share": 0.0,
    "train_batch_size": 64,
    "min_epoch_steps": 0,
    "stage_epochs": [2, 6],
}


def duip(**overrides: Any) -> Prepared:
    return prepare("DUIP", **{**SMALL, **overrides})
