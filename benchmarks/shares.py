"""Where the time of a training step goes on a CPU, and how much of what is encoded is padding.

    OMP_NUM_THREADS=1 python -m benchmarks.shares --dataset=beauty --data_path=FOLDER --models=GRU4Rec,SRGNN,SASRec

Shares are of the operations' own CPU time, by torch's profiler. The loss over all items has a share of its own, and its
operations count in the other shares too. Ids are the ones that a step looks up to encode histories.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from benchmarks.common import arguments, prepare, report
from benchmarks.train import OwnSteps, RecBoleSteps, Steps

WARM_UP = 2
LOSS = ("_LinearCrossEntropy", "_LinearCrossEntropyBackward")  # with all operations that they call
PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm")
BY_INDEX = ("index", "embedding", "gather", "scatter", "_index_put")  # prefixes of names
COPIES = ("copy_", "cat", "fill_", "zero_", "stack")


def kind_of(name: str) -> str:
    """The kind of an operation such as ``aten::index_select``."""
    operation = name.rpartition("::")[2]
    if operation in PRODUCTS:
        return "matrix products"
    if operation.startswith(BY_INDEX):
        return "rows by index"
    return "copies" if operation in COPIES else "other"


def profiled(path: Steps, steps: int) -> dict[str, float]:
    """The share of each kind of operation in the time of some steps, and the share of the loss over all items."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        path.run(steps)
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    found = dict.fromkeys(("matrix products", "rows by index", "copies", "other"), 0.0)
    for event in events:
        found[kind_of(event.key)] += event.self_cpu_time_total / total
    return {**found, "loss": sum(event.cpu_time_total for event in events if event.key in LOSS) / total}


def positions(model: Any, path: Steps, steps: int) -> dict[str, float]:
    """Ids that a step looks up in the item embedding, and the share of them that is padding."""
    seen: dict[str, int] = defaultdict(int)

    def count(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        seen["ids"] += inputs[0].numel()
        seen["padding"] += int((inputs[0] == 0).sum())

    hook = model.item_embedding.register_forward_hook(count)
    try:
        path.run(steps)
    finally:
        hook.remove()
    return {"ids": seen["ids"] / steps, "padding": seen["padding"] / max(1, seen["ids"])}


def main() -> None:
    """Profile our steps of each model, and count what both paths encode."""
    options = arguments(__doc__ or "", models="GRU4Rec,SRGNN,SASRec", steps=5, name="")
    options.device = "cpu"  # a GPU's time is in benchmarks.train
    rows, facts = [], []
    for model in options.models.split(","):
        own, other = prepare(model, options), prepare(model, options, engine="recbole")
        ours, plain = OwnSteps(own), RecBoleSteps(other, anomaly=False)
        ours.run(WARM_UP)
        found = profiled(ours, options.steps)
        encoded = positions(own.model, ours, options.steps)
        theirs = positions(other.model, plain, options.steps)
        facts.append({"model": model, "shares": found, "ours": encoded, "recbole": theirs})
        rows.append([model, *found.values(), *theirs.values(), *encoded.values()])
    header = ["model", *facts[0]["shares"], "RecBole's ids a step", "padding", "ids a step", "padding"]
    ratio = facts[0]["recbole"]["ids"] / facts[0]["ours"]["ids"]
    report(options.name or "shares", options, rows, header, facts, ratio=ratio)


if __name__ == "__main__":
    main()
