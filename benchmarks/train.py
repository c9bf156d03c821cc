"""Training: seconds per step and per epoch, RecBole as shipped, RecBole without anomaly detection, ours.

    python -m benchmarks.train --dataset=beauty --data_path=FOLDER --models=SASRec,SRGNN,GRU4Rec,LightGCN

A step is what an epoch repeats: the next batch from the loader, forward, backward, optimiser. RecBole's path
is its own class, its own loader (one padded row for each prefix) and its own loop's calls. Ours is what
``run`` uses. Batches are the same size; the three are timed in turns. A model that RecBole has not stands beside
RecBole's SR-GNN where it is built on it, else beside RecBole's SASRec.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.common import alternate, arguments, median, prepare, report, run
from recbole_llm.experiments.prepared import Prepared


class Steps:
    """Runs training steps of one path for ever.

    Args:
        prepared: model and data.
        recbole: use RecBole's loader, loop and optimiser.
        anomaly: autograd's anomaly detection, which RecBole's import switches on.
    """

    def __init__(self, prepared: Prepared, recbole: bool, anomaly: bool) -> None:
        import torch

        from recbole_llm.training.choice import make_trainer
        from recbole_llm.training.loaders import recbole_loaders, training_loader

        self.model, self.recbole, self.anomaly = prepared.model, recbole, anomaly
        self.device = prepared.config["device"]
        self.trainer = make_trainer(prepared.config, prepared.model)
        if recbole:
            self.trainer.optimizer = torch.optim.Adam(prepared.model.parameters(), lr=prepared.config["learning_rate"])
            self.loader: Any = recbole_loaders(prepared.config, prepared.dataset)[0]
        else:
            self.loader = training_loader(prepared)[0]
        self.per_epoch = len(self.loader)
        self._batches = iter(self.loader)
        self.model.train()

    def _next(self) -> Any:
        try:
            return next(self._batches)
        except StopIteration:
            self._batches = iter(self.loader)
            return next(self._batches)

    def run(self, steps: int) -> float:
        """Some steps; returns the last loss."""
        import torch

        with torch.autograd.set_detect_anomaly(self.anomaly, check_nan=True):
            value = 0.0
            for _ in range(steps):
                batch = self._next()
                if self.recbole:
                    batch = batch.to(self.device)
                self.trainer.optimizer.zero_grad(set_to_none=not self.recbole)
                losses = self.model.calculate_loss(batch)
                loss = sum(losses[1:], losses[0]) if isinstance(losses, tuple) else losses
                if self.recbole:
                    value = loss.item()  # RecBole fetches each loss and looks for NaN in it
                    assert not torch.isnan(loss)
                loss.backward()
                self.trainer.optimizer.step()
            return value


def measure(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step of the three paths for one model."""
    from recbole_llm.registry import SEQUENTIAL, find_method, recbole_methods

    method = find_method(model)
    reference = model
    if model not in recbole_methods():
        reference = "SRGNN" if method.backbone else "SASRec"
    ours = Steps(prepare(model, options), recbole=False, anomaly=False)
    plain = Steps(prepare(reference, options, engine="recbole"), recbole=True, anomaly=False)
    # RecBole's import leaves anomaly detection on for every process that loads a sequential model.
    shipped_on = method.kind == SEQUENTIAL
    actions = {"plain": lambda: plain.run(options.steps), "ours": lambda: ours.run(options.steps)}
    if shipped_on:
        plain_with = plain

        def shipped() -> None:
            plain_with.anomaly = True
            plain_with.run(options.steps)
            plain_with.anomaly = False

        actions = {"shipped": shipped, **actions}
    ours.run(2)
    plain.run(1)
    seconds = alternate(actions, options.repeats, ours.device)
    per_step = {name: median(values) / options.steps for name, values in seconds.items()}
    per_step.setdefault("shipped", per_step["plain"])
    return {
        "model": model,
        "reference": reference,
        "steps_per_epoch": ours.per_epoch,
        "seconds_per_step": per_step,
        "seconds_per_epoch": {name: value * ours.per_epoch for name, value in per_step.items()},
        "ratio_to_shipped": per_step["shipped"] / per_step["ours"],
        "ratio_to_plain": per_step["plain"] / per_step["ours"],
        "all_seconds": seconds,
    }


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__ or "", models="SASRec,SRGNN,GRU4Rec,LightGCN", steps=3, repeats=3)
    run("Pop", options)
    found = [measure(model, options) for model in options.models.split(",")]
    rows = [
        [
            f["model"] + ("" if f["model"] == f["reference"] else f" (RecBole: {f['reference']})"),
            f["seconds_per_step"]["shipped"],
            f["seconds_per_step"]["plain"],
            f["seconds_per_step"]["ours"],
            f["seconds_per_epoch"]["ours"],
            f"{f['ratio_to_shipped']:.1f}x",
            f"{f['ratio_to_plain']:.1f}x",
        ]
        for f in found
    ]
    header = ["model", "shipped s/step", "anomaly off s/step", "ours s/step", "ours s/epoch", "to shipped", "to off"]
    report("train", options, rows, header, found, found[0]["ratio_to_shipped"])


if __name__ == "__main__":
    main()
