"""Training: seconds per step and per epoch, RecBole as shipped, RecBole without anomaly detection, ours.

    python -m benchmarks.train --dataset=beauty --data_path=FOLDER --models=SASRec,SRGNN,GRU4Rec,LightGCN

A step is what an epoch repeats: the next batch from the loader, forward, backward, optimiser. RecBole's path is its
own class, its own loader (one padded row for each prefix) and the calls of its own loop. Ours is the trainer's loop,
as ``run`` uses it. Batches have the same size, and the paths take turns. A model that RecBole lacks is compared with
its backbone if RecBole has that, else with RecBole's SASRec.

On a GPU, ours is timed with recorded and with plain steps, one epoch at a time, after three epochs in which steps are
recorded. The profiler then shows for each path how long the GPU works on a step and how many launches the step takes.
``--precision=bf16`` applies to ours alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from benchmarks.busy import use_of_gpu
from benchmarks.common import alternate, arguments, device_of, median, prepare, report, run
from recbole_llm.errors import UserError
from recbole_llm.experiments.prepared import Prepared

PROFILED_STEPS = {"ours": 20, "unrecorded": 20}
PROFILED_STEPS_OF_RECBOLE = 3  # its loops over a batch make tens of thousands of calls
EPOCHS_TO_RECORD = 3  # for each shape: a plain step, a watched one and one that is recorded


class Steps(Protocol):
    """Training steps of one path, without an end."""

    def run(self, steps: int) -> None:
        """Take some steps."""


class RecBoleSteps:
    """RecBole's loader, loop and optimiser.

    Args:
        prepared: model and data.
        anomaly: autograd's anomaly detection, which RecBole's import switches on.
    """

    def __init__(self, prepared: Prepared, anomaly: bool) -> None:
        import torch

        from recbole_llm.training.loaders import recbole_loaders

        self.model, self.anomaly, self.device = prepared.model, anomaly, prepared.config["device"]
        self.optimizer = torch.optim.Adam(prepared.model.parameters(), lr=prepared.config["learning_rate"])
        self.loader: Any = recbole_loaders(prepared.config, prepared.dataset)[0]
        self._batches = iter(self.loader)
        self.model.train()

    def _next(self) -> Any:
        try:
            return next(self._batches)
        except StopIteration:
            self._batches = iter(self.loader)
            return next(self._batches)

    def run(self, steps: int) -> None:
        """Take some steps."""
        import torch

        with torch.autograd.set_detect_anomaly(self.anomaly, check_nan=True):
            for _ in range(steps):
                batch = self._next().to(self.device)
                self.optimizer.zero_grad(set_to_none=False)
                losses = self.model.calculate_loss(batch)
                loss = sum(losses[1:], losses[0]) if isinstance(losses, tuple) else losses
                loss.item()  # RecBole fetches each loss and looks for NaN in it
                assert not torch.isnan(loss)
                loss.backward()
                self.optimizer.step()


class OwnSteps:
    """The trainer's loop.

    Args:
        prepared: model and data.

    Raises:
        UserError: the model is trained by another loop.
    """

    def __init__(self, prepared: Prepared) -> None:
        from recbole_llm.training.choice import make_trainer
        from recbole_llm.training.loaders import training_loader
        from recbole_llm.training.trainer import BenchTrainer

        self.device = prepared.config["device"]
        self.trainer = make_trainer(prepared.config, prepared.model)
        if type(self.trainer)._train_epoch is not BenchTrainer._train_epoch:
            raise UserError(f"{prepared.config['model']} is trained by a loop of its own.")
        self.loader = self.trainer._loader = training_loader(prepared)[0]
        self.per_epoch = len(self.loader)
        self._left: Iterator[Any] = iter(())

    def run(self, steps: int) -> None:
        """Take some steps, and fetch their mean loss as at the end of an epoch."""
        self.trainer.progress = partial(self._some, steps)
        self.trainer._train_epoch(self.loader, 0)

    def _some(self, steps: int, items: Iterable[Any], title: str) -> Iterator[Any]:
        """The next batches, or their rows where steps are recorded; an epoch continues in the next call."""
        for _ in range(steps):
            try:
                item = next(self._left)
            except StopIteration:
                self._left = iter(items)
                item = next(self._left)
            yield item

    @property
    def recorded(self) -> str:
        """``yes``, or why steps are not recorded."""
        recorded = self.trainer.recorded
        return "no" if recorded is None else recorded.why_not or ("yes" if recorded.recorded else "not yet")


def measure(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step of the paths for one model."""
    from recbole_llm.registry import SEQUENTIAL, find_method, recbole_methods

    method = find_method(model)
    on_gpu = device_of(options).type == "cuda"
    prepared = prepare(model, options, precision=options.precision)
    built_on = prepared.config[method.backbone] if method.backbone else model
    reference = built_on if built_on in recbole_methods() else "SASRec"
    ours = OwnSteps(prepared)
    plain = RecBoleSteps(prepare(reference, options, engine="recbole"), anomaly=False)
    paths: dict[str, Steps] = {"plain": plain, "ours": ours}
    # RecBole's import leaves anomaly detection on for every process that loads a sequential model.
    if method.kind == SEQUENTIAL:
        shipped = RecBoleSteps(prepare(reference, options, engine="recbole"), anomaly=True)
        paths = {"shipped": shipped, **paths}
    if on_gpu:
        paths["unrecorded"] = OwnSteps(prepare(model, options, precision=options.precision, cuda_graphs=False))
    for path in paths.values():
        path.run(EPOCHS_TO_RECORD * ours.per_epoch if on_gpu and path is ours else 2)
    # On a GPU our steps are so short that work done once per epoch would distort three of them: a whole epoch is timed.
    steps = {
        name: ours.per_epoch if on_gpu and isinstance(path, OwnSteps) else options.steps for name, path in paths.items()
    }
    actions = {name: partial(path.run, steps[name]) for name, path in paths.items()}
    seconds = alternate(actions, options.repeats, ours.device)
    per_step = {name: median(values) / steps[name] for name, values in seconds.items()}
    per_step.setdefault("shipped", per_step["plain"])
    found = {
        "model": model,
        "reference": reference,
        "steps_per_epoch": ours.per_epoch,
        "seconds_per_step": per_step,
        "seconds_per_epoch": {name: value * ours.per_epoch for name, value in per_step.items()},
        "ratio_to_shipped": per_step["shipped"] / per_step["ours"],
        "ratio_to_plain": per_step["plain"] / per_step["ours"],
        "all_seconds": seconds,
    }
    if on_gpu:
        found["recorded"] = ours.recorded
        found["gpu"] = {name: _use(name, path, per_step[name]) for name, path in paths.items()}
    return found


def _use(name: str, path: Steps, seconds: float) -> dict[str, float]:
    """What a step uses of the GPU, and the share of the step's unprofiled time in which the GPU works."""
    steps = PROFILED_STEPS.get(name, PROFILED_STEPS_OF_RECBOLE)
    use = use_of_gpu(partial(path.run, steps), steps)
    return {**use, "busy_share": use["busy_ms"] / 1000 / seconds}


def main() -> None:
    """Measure, print, write."""
    options = arguments(
        __doc__ or "", models="SASRec,SRGNN,GRU4Rec,LightGCN", steps=3, repeats=3, precision="fp32", name=""
    )
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
    for row, f in zip(rows, found, strict=True):
        if "gpu" in f:
            plain, ours = f["gpu"]["unrecorded"], f["gpu"]["ours"]
            busy = [f"{100 * use['busy_share']:.0f} %, {use['launches']:.0f}" for use in (plain, ours)]
            row += [f["seconds_per_step"]["unrecorded"], *busy, f["recorded"]]
    if "gpu" in found[0]:
        header += ["ours plain s/step", "GPU busy, launches: plain", "ours", "recorded"]
    name = options.name or ("train" if options.precision == "fp32" else f"train-{options.precision}")
    report(name, options, rows, header, found, found[0]["ratio_to_shipped"])


if __name__ == "__main__":
    main()
