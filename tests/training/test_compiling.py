"""``compile``: which layers, and that the numbers stay."""

from __future__ import annotations

import pytest
from torch import nn

from recbole_llm.training.choice import make_trainer
from recbole_llm.training.loaders import training_loader
from recbole_llm.training.trainer import compile_layers
from tests.helpers import prepare


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(4, 3)
        self.gru = nn.GRU(3, 3)
        self.dropout = nn.Dropout()
        self.loss = nn.CrossEntropyLoss()
        self.encoder = nn.Sequential(nn.Linear(3, 3), nn.ReLU())


def test_layers_with_parameters_are_compiled_under_their_own_names() -> None:
    model = Model()
    names = list(model.state_dict())
    assert compile_layers(model, "default") == ["encoder"]
    assert list(model.state_dict()) == names


def test_a_run_compiles_what_the_setting_says(tiny) -> None:
    compiled = []
    for chosen in ("none", "default"):
        model = prepare("SASRec", compile=chosen).model
        compiled.append(make_trainer(prepare("SASRec", compile=chosen).config, model))
    layers = [trainer.model.trm_encoder._compiled_call_impl for trainer in compiled]
    assert layers[0] is None
    assert layers[1] is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"), [("SASRec", {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}), ("SRGNN", {})]
)
def test_compiled_layers_give_the_same_losses(tiny, name, settings) -> None:
    losses = []
    for chosen in ("none", "default"):
        prepared = prepare(name, compile=chosen, epochs=2, **settings)
        trainer = make_trainer(prepared.config, prepared.model)
        data, _ = training_loader(prepared)
        losses.append([trainer._train_epoch(data, epoch) for epoch in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
