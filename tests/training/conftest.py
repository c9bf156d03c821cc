"""Fixtures of the training loop's tests."""

from __future__ import annotations

import pytest

from recbole_llm.training import trainer
from tests.training.trained import Training


@pytest.fixture
def training(tiny, tmp_path):
    def make(model="SASRec", folder="run", **overrides):
        return Training(model, tmp_path / folder, **overrides)

    return make


@pytest.fixture
def saved_each_epoch(monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", -1.0)
