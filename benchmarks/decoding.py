"""ISRF's ways of decoding: users per second, and how far ranks and top-10 lists agree with exact scoring.

    python -m benchmarks.decoding --dataset=ml-100k --users=256 --epochs=1 --history=20
    python -m benchmarks.decoding --preset=scratch --semantics=none    # at T5-small's size, for a GPU

``--semantics=none`` saves encoding texts and does not change the time of decoding. The model decodes in the precision
of its training. On a CPU, processor time is measured, so that other processes matter little. The ways take turns.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.common import arguments, device_of, median, report, run
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore

DEPTH = 20  # the largest cut-off of leave-one-out
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("exact", {}),
    ("bounded, ranks", {"depth": DEPTH}),  # a validation
    ("bounded, ranks and lists", {"depth": DEPTH, "lists": True}),  # a test
    ("restricted, 20 beams", {"decode": "restricted", "beams": 20}),
    ("free, 20 beams", {"decode": "free", "beams": 20}),
)


def agreement(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean share of the first list's items that are in the second list, ``(B, 10)`` each."""
    return float((first[:, :, None] == second[:, None, :]).any(2).float().mean())


def ranks(scores: torch.Tensor, target: torch.Tensor, ranked: torch.Tensor) -> torch.Tensor:
    """Number of ranked items above the target, at most ``DEPTH``."""
    own = scores.gather(1, target[:, None])
    return ((scores > own) & ranked).sum(1).clamp(max=DEPTH)


def main() -> None:
    """Train for some epochs, decode the same users in every way."""
    options = arguments(
        __doc__ or "", users=256, epochs=1, history=20, repeats=3, batch=128, preset="", semantics="llm", name=""
    )
    runner = Runner(ResultStore("results"))
    settings = {"epochs": options.epochs, "eval_step": options.epochs, "MAX_ITEM_LIST_LENGTH": options.history}
    settings |= {"semantics": options.semantics, **({"preset": options.preset} if options.preset else {})}
    prepared = runner.trained(run("ISRF", options, protocol="loo", **settings))
    core, loader = prepared.model.core, prepared.eval_loader("test")
    cases = np.linspace(0, len(loader.cases) - 1, options.users).astype(np.int64)
    batches = [loader.batch(part) for part in np.array_split(cases, -(-options.users // options.batch))]
    cuda, half = device_of(options).type == "cuda", prepared.config["precision"] == "bf16"
    plain = {"decode": "exact", "beams": core.beams, "depth": 0, "lists": False}
    seconds: dict[str, list[float]] = {name: [] for name, _ in WAYS}
    found: dict[str, torch.Tensor] = {}
    for _ in range(options.repeats):
        for name, changes in WAYS:
            for key, value in {**plain, **changes}.items():
                setattr(core, key, value)
            clock = time.perf_counter if cuda else time.process_time
            with torch.no_grad(), torch.autocast("cuda" if cuda else "cpu", torch.bfloat16, enabled=half):
                began = clock()
                scores = [prepared.model.full_sort_predict(batch) for batch in batches]
                if cuda:
                    torch.cuda.synchronize()
                seconds[name].append(clock() - began)
            found[name] = torch.cat(scores)
    core.depth = 0
    target = torch.cat([batch[prepared.model.ITEM_ID] for batch in batches])
    masks = [core.ranked(batch[prepared.model.USER_ID], None, batch["position"]) for batch in batches]
    ranked = torch.cat(masks).scatter(1, target[:, None], True)
    ranked[:, 0] = False
    exact = ranks(found["exact"], target, ranked)
    lists = {name: scores.masked_fill(~ranked, -torch.inf).topk(10, dim=1).indices for name, scores in found.items()}
    rows = []
    for name, _ in WAYS:
        same = float((ranks(found[name], target, ranked) == exact).float().mean())
        speed = options.users / median(seconds[name])
        rows.append([name, speed, same, agreement(lists["exact"], lists[name])])
    header = ["decoding", "users per second", f"ranks to {DEPTH} as exact", "top 10 as exact"]
    facts = {
        "language_model": core.label,
        "precision": prepared.config["precision"],
        "rows": [dict(zip(header, row, strict=True)) for row in rows],
    }
    name = options.name or "-".join(["decoding", *([options.preset] if options.preset else [])])
    report(name, options, rows, header, facts, ratio=rows[1][1] / rows[0][1])


if __name__ == "__main__":
    main()
