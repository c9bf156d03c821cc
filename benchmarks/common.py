"""What all measurements share: data, alternating timing, tables, JSON."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

import recbole_llm  # noqa: F401 - thread policy before torch
from recbole_llm.data.catalog import locate
from recbole_llm.errors import UserError
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.registry import find_method
from recbole_llm.settings.layers import layer_settings
from recbole_llm.utils.environment import git_commit, hardware, versions
from recbole_llm.utils.progress import Stopwatch

RESULTS = Path(__file__).parent / "results"
GENERATED = {"gen-1m": 1_000_000, "gen-10m": 10_000_000}


def arguments(description: str, **defaults: Any) -> argparse.Namespace:
    """The options that all measurements take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dataset", default=defaults.pop("dataset", "ml-100k"))
    parser.add_argument("--data_path", default=None, help="folder of atomic files, for beauty and the like")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", default=None, help="JSON file; default benchmarks/results/<name>.json")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", default=value, type=type(value))
    return parser.parse_args()


def generate_interactions(name: str, folder: Path) -> Path:
    """Write ``gen-1m`` or ``gen-10m``: ten interactions per user on average, Zipf-like items, times in seconds."""
    count = GENERATED[name]
    path = folder / f"{name}.inter"
    if path.is_file():
        return path
    print(f"generating {count:,} interactions into {path}", flush=True)
    generator = np.random.default_rng(1)
    n_users, n_items = count // 10, count // 100
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for begin in range(0, count, 1_000_000):
            size = min(1_000_000, count - begin)
            users = generator.integers(n_users, size=size)
            items = np.minimum((generator.pareto(1.2, size) * n_items / 200).astype(np.int64), n_items - 1)
            times = generator.integers(1_300_000_000, 1_500_000_000, size=size)
            stream.writelines(f"u{u}\ti{i}\t{t}\n" for u, i, t in zip(users, items, times, strict=True))
    partial.replace(path)
    return path


def run(model: str, options: argparse.Namespace, **overrides: Any) -> Run:
    """The run of a model on the dataset of the options."""
    if options.dataset in GENERATED:
        generate_interactions(options.dataset, Path("dataset") / options.dataset)
    extra = {"data_path": options.data_path} if options.data_path else {}
    method = find_method(model)
    settings = layer_settings(
        method, options.dataset, overrides={**extra, "device": options.device, **overrides}, strict=False
    )
    locate(options.dataset, options.data_path)
    return Run.of(settings)


def prepare(model: str, options: argparse.Namespace, **overrides: Any) -> Prepared:
    """A model with its data, built as a run would build it."""
    runner = Runner(ResultStore(Path("results")))
    return runner.prepare(run(model, options, **overrides), Stopwatch())


def alternate(actions: dict[str, Callable[[], Any]], repeats: int, device: Any = "cpu") -> dict[str, list[float]]:
    """Seconds of each action; actions take turns, so that a slow minute of the machine affects all alike."""
    import torch

    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            gc.collect()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            action()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def median(values: list[float]) -> float:
    """Median, in seconds."""
    return statistics.median(values)


def peak_of_child(module: str, words: list[str]) -> dict[str, Any]:
    """Run ``python -m module words``, so that its memory is measured apart, and read the JSON of its last line."""
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{module} {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def device_of(options: argparse.Namespace) -> Any:
    """The device that the options name."""
    from recbole_llm.compat.config import resolve_device

    return resolve_device(options.device)


def report(
    name: str,
    options: argparse.Namespace,
    rows: list[list[Any]],
    header: list[str],
    facts: Any,
    ratio: float,
    unit: str = "x",
) -> None:
    """Print the table, write the JSON, and print the ratio (or another figure with its unit) on the last line."""
    print(tabulate(rows, header, floatfmt=".4g"))
    device = device_of(options)
    path = Path(options.output) if options.output else RESULTS / f"{name}-{options.dataset}-{device.type}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "benchmark": name,
        "options": {name: value for name, value in vars(options).items() if name not in ("data_path", "output")},
        "results": facts,
        "hardware": hardware(device),
        "versions": versions(),
        "commit": git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\n{path}\n{ratio:.1f}{unit}")
