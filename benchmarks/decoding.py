"""ISRF's ways of decoding: users per second, and how far their top 10 agree with exact scoring.

python -m benchmarks.decoding --dataset=ml-100k --users=32 --epochs=2
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.common import arguments, report, run
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore

WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("exact", {}),
    ("restricted", {"beams": 20}),
    ("restricted", {"beams": 30}),
    ("free", {"beams": 20}),
    ("free", {"beams": 30}),
)


def agreement(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean share of the first list's items that the second has, ``(B, 10)`` each."""
    return float((first[:, :, None] == second[:, None, :]).any(2).float().mean())


def main() -> None:
    """Train for some epochs, decode the same users in every way."""
    options = arguments(__doc__ or "", users=64, epochs=2, samples=4)
    runner = Runner(ResultStore("results"))
    prepared = runner.trained(
        run("ISRF", options, protocol="loo", epochs=options.epochs, samples_per_user=options.samples)
    )
    core = prepared.model.core
    batch = runner._eval_loader(prepared, "test").batch(np.arange(options.users))
    rows, lists = [], {}
    for way, changes in WAYS:
        core.decode, core.beams = way, changes.get("beams", core.beams)
        name = way if way == "exact" else f"{way}, {core.beams} beams"
        with torch.no_grad():
            began = time.perf_counter()
            scores = prepared.model.full_sort_predict(batch)
            if scores.is_cuda:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
        scores[:, 0] = -torch.inf
        lists[name] = scores.topk(10, dim=1).indices
        rows.append([name, options.users / seconds, agreement(lists["exact"], lists[name])])
    header = ["decoding", "users per second", "top 10 as exact"]
    facts = {"language_model": core.label, "rows": [dict(zip(header, row, strict=True)) for row in rows]}
    report("decoding", options, rows, header, facts, ratio=rows[0][1] / rows[2][1])


if __name__ == "__main__":
    main()
