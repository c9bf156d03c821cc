"""Time and memory from files on disk to the first training batch: RecBole, ours without a cache, ours with one.

    python -m benchmarks.load --dataset=gen-1m
    python -m benchmarks.load --dataset=gen-10m --recbole=0

Each start runs in a child process, so that its peak memory is its own; imports are not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import time
from typing import Any

from benchmarks.common import arguments, median, peak_of_child, report, run


def start(path: str, options: argparse.Namespace) -> dict[str, Any]:
    """One start, with its seconds and memory."""
    from recbole_llm.experiments.runner import Runner
    from recbole_llm.experiments.store import ResultStore
    from recbole_llm.training.loaders import training_loader
    from recbole_llm.utils.progress import Stopwatch

    runner = Runner(ResultStore("results"))
    chosen = run(options.model, options, engine="recbole" if path == "recbole" else "fast")
    small = argparse.Namespace(**{**vars(options), "dataset": "ml-100k", "data_path": None})
    runner.prepare(run("Pop", small), Stopwatch())  # imports what is imported on first use
    if path == "fresh":
        shutil.rmtree(chosen.location.home / "cache", ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    if path == "recbole":
        batch = _recbole_start(chosen)
    else:
        prepared = runner.prepare(chosen, Stopwatch())
        batch = next(iter(training_loader(prepared)[0]))
        batch[prepared.model.ITEM_SEQ]  # gathered on first access
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def _recbole_start(chosen: Any) -> Any:
    """RecBole's own reading, augmentation, splitting and loader, as its quick start does them."""
    from recbole.data import create_dataset, data_preparation

    from recbole_llm.compat.config import BenchConfig

    config = BenchConfig(chosen.settings, chosen.settings.method.load(), chosen.location.folder, chosen.location.stem)
    if chosen.location.interactions.suffix == ".gz":
        raise SystemExit("RecBole reads no .gz: unpack the file, or measure ours alone with --recbole=0")
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    return next(iter(train))


def main() -> None:
    """Measure, print, write; as a child, do one start."""
    options = arguments(__doc__ or "", dataset="gen-1m", model="GRU4Rec", repeats=3, recbole=1, child="")
    if options.child:
        print(json.dumps(start(options.child, options)))
        return
    run(options.model, options)
    words = [word for word in sys.argv[1:] if not word.startswith("--child")]
    paths = (["recbole"] if options.recbole else []) + ["fresh", "cached"]
    found: dict[str, list[dict[str, float]]] = {path: [] for path in paths}
    for _ in range(options.repeats):
        for path in paths:
            found[path].append(peak_of_child("benchmarks.load", [*words, f"--child={path}"]))
    middle = {path: median([one["seconds"] for one in runs]) for path, runs in found.items()}
    names = {"recbole": "RecBole", "fresh": "ours, first start", "cached": "ours, second start"}
    reference = middle.get("recbole", middle["fresh"])
    rows = [
        [
            names[path],
            middle[path],
            median([one["peak_mib"] for one in found[path]]),
            f"{reference / middle[path]:.1f}x",
        ]
        for path in paths
    ]
    report(
        "load",
        options,
        rows,
        ["path", "seconds", "peak MiB above imports", "ratio"],
        found,
        reference / middle["fresh"],
    )


if __name__ == "__main__":
    main()
