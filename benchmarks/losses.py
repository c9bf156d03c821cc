"""Next-item losses over a large catalogue: seconds and peak memory of a step, each loss in its own process.

    python -m benchmarks.losses --items=1000000

A step is the loss of ``--targets`` states, its gradients and Adam's update of the item vectors. The peak is the
process's memory beyond what it held before the first step. The row ``vectors`` has the gradient and Adam's moments of
the item vectors alone, which every loss needs.
"""

from __future__ import annotations

import json
import resource
import time

import torch

from benchmarks.common import arguments, peak_of_child, report
from recbole_llm.layers.next_item import NextItemLoss

CASES = {
    "vectors": ("softmax", True),
    "softmax": ("softmax", True),
    "sampled_softmax, shared": ("sampled_softmax", True),
    "sampled_softmax, per target": ("sampled_softmax", False),
    "gbce, shared": ("gbce", True),
    "gbce, per target": ("gbce", False),
}


def peak_mib() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def step(name: str, items: int, targets: int, size: int, negatives: int) -> dict[str, float]:
    """A warm-up step and a timed one, in this process."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(items, size) * 0.02)
    hidden = torch.randn(targets, size, requires_grad=True)
    target = torch.randint(1, items, (targets,))
    objective, shared = CASES[name]
    loss = NextItemLoss(objective, items, negatives, shared, log_q=objective == "sampled_softmax", calibration=0.75)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam([weight], lr=1e-3, fused=True)
    before, seconds = peak_mib(), 0.0
    for _ in range(2):
        began = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        if name == "vectors":
            weight.grad = torch.zeros_like(weight)
        else:
            loss(hidden, weight, target).backward()
        optimizer.step()
        seconds = time.process_time() - began
    return {"seconds": round(seconds, 3), "mib": round(peak_mib() - before, 1)}


def main() -> None:
    """Measure every loss; print a table and write JSON."""
    defaults = {"items": 1_000_000, "targets": 2048, "size": 64, "negatives": 256, "case": ""}
    options = arguments("losses of a next item over a large catalogue", **defaults)
    sizes = (options.items, options.targets, options.size, options.negatives)
    if options.case:
        torch.set_num_threads(1)
        print(json.dumps(step(options.case, *sizes)))
        return
    words = [f"--{name}={getattr(options, name)}" for name in ("items", "targets", "size", "negatives")]
    facts = [{"loss": n, **peak_of_child("benchmarks.losses", [f"--case={n}", *words])} for n in CASES]
    options.dataset = f"{options.items}-items"
    rows = [[fact["loss"], fact["seconds"], fact["mib"], fact["mib"] - facts[0]["mib"]] for fact in facts]
    full, shared = (next(f["seconds"] for f in facts if f["loss"] == n) for n in ("softmax", "sampled_softmax, shared"))
    report("losses", options, rows, ["loss", "cpu s a step", "MiB", "MiB beside"], facts, full / shared)


if __name__ == "__main__":
    main()
