"""Small trainings, and an end to them before their last epoch."""

from __future__ import annotations

from recbole_llm.data.loaders import EvalLoader
from recbole_llm.training.choice import make_trainer
from recbole_llm.training.loaders import training_loader
from tests.helpers import prepare

SMALL = {
    "SASRec": {"hidden_size": 16, "inner_size": 24, "n_layers": 1},
    "BERT4Rec": {"hidden_size": 16, "inner_size": 24, "n_layers": 1},
    "GRU4Rec": {"hidden_size": 16, "embedding_size": 16},
    "RecVAE": {"hidden_dimension": 16, "latent_dimension": 8},
    "DiffRec": {"dims_dnn": [16], "history_num_per_term": 2, "train_batch_size": 16},
    "MultiVAE": {"mlp_hidden_size": [16], "latent_dimension": 8, "total_anneal_steps": 10},
}


class Training:
    """A model, its trainer and its loaders, with a checkpoint folder."""

    def __init__(self, model, folder, **overrides):
        self.prepared = prepare(model, **{"epochs": 4, **SMALL.get(model, {}), **overrides})
        self.trainer = make_trainer(self.prepared.config, self.prepared.model)
        self.trainer.place(folder)
        self.train_data, _ = training_loader(self.prepared)
        self.valid_data = self.loader("valid")

    def loader(self, phase):
        cases = getattr(self.prepared.dataset.split, phase)
        return EvalLoader(self.prepared.device_table(), cases, 1024, self.prepared.sequential)

    def fit(self):
        self.trainer.fit(self.train_data, self.valid_data, verbose=False)
        return self

    def numbers(self):
        """Everything that a repeated training must reproduce: losses, validation, weights."""
        curve = [{key: value for key, value in entry.items() if key != "seconds"} for entry in self.trainer.curve]
        weights = {name: value.numpy().tobytes() for name, value in self.prepared.model.state_dict().items()}
        return curve, self.trainer.best_epoch, self.trainer.best_valid_score, weights


class StoppedError(Exception):
    """The training was interrupted."""


def stop_after(epochs):
    def on_epoch(epoch, score):
        if epoch + 1 == epochs:
            raise StoppedError

    return on_epoch
