"""Clusters of users at scale: Affinity Propagation, exact and in levels, and cliques with their coverage.

    python -m benchmarks.clusters --dataset=beauty --data_path=FOLDER --protocol=user_split
    python -m benchmarks.clusters --dataset=generated --users=1000000

Each measurement runs in its own process, so that peak memory is measured apart: first the exact algorithm and the
levels on the same ``--sample`` users (exemplars, net similarity), then the levels and the cliques on all users.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from benchmarks.common import arguments, peak_of_child, report, run

TASKS = ("exact", "levels", "all", "cliques")


def lists_of(options: argparse.Namespace) -> tuple[Any, Any, int, Any]:
    """Training items of each user in compressed rows, the number of items, and the items' texts (or ``None``)."""
    import numpy as np

    if options.dataset == "generated":
        generator = np.random.default_rng(0)
        n_items = max(1000, options.users // 5)
        lengths = generator.integers(4, 16, options.users)
        taste = generator.integers(0, n_items // 50, options.users).repeat(lengths)
        own = taste * 50 + np.minimum(generator.pareto(1.0, lengths.sum()) * 5, 49).astype(np.int64)
        popular = np.minimum(generator.pareto(0.8, lengths.sum()) * 10, n_items - 1).astype(np.int64)
        items = np.where(generator.random(lengths.sum()) < 0.7, own, popular) + 1
        return np.concatenate([[0], np.cumsum(lengths)]), items, n_items, None
    from recbole_llm.compat.config import BenchConfig
    from recbole_llm.data.dataset import make_dataset
    from recbole_llm.features.feature import training_lists
    from recbole_llm.features.items import read_item_texts

    chosen = run("EIMF", options, protocol=options.protocol)
    config = BenchConfig(chosen.settings, chosen.settings.method.load(), chosen.location.folder, chosen.location.stem)
    dataset = make_dataset(config, chosen.location)
    _, offsets, items = training_lists(dataset.table, dataset.split)
    texts = read_item_texts(chosen.location, dataset.table, chosen.settings.get("text"))
    return offsets, items, dataset.table.n_items, (texts.title[1:], chosen)


def user_vectors(options: argparse.Namespace) -> Any:
    """``(n_users, d)`` mean title vectors, as EIMF clusters them."""
    import numpy as np

    offsets, items, n_items, source = lists_of(options)
    if source is None:
        table = np.random.default_rng(1).normal(size=(n_items // 50 + 1, 384)).astype(np.float32)
        noise = np.random.default_rng(2).normal(size=(n_items + 1, 384)).astype(np.float32)
        table = table[np.arange(n_items + 1) // 50] * 0.2 + noise * 0.2
    else:
        from recbole_llm.features.encoder import Encoder, encode_texts

        titles, chosen = source
        encoder = Encoder(str(chosen.settings["encoder"]), str(chosen.settings["cluster_pooling"]))
        found = encode_texts(titles, encoder, chosen.location.home / "semantics" / "vectors.sqlite", options.device)
        table = np.concatenate([np.zeros((1, found.shape[1]), dtype=np.float32), found])
    vectors = np.empty((len(offsets) - 1, table.shape[1]), dtype=np.float32)
    for begin in range(0, len(vectors), 4096):
        bounds = offsets[begin : begin + 4097]
        own = table[items[bounds[0] : bounds[-1]]]
        vectors[begin : begin + 4096] = np.add.reduceat(own, bounds[:-1] - bounds[0]) / np.diff(bounds)[:, None]
    return vectors


def propagate(options: argparse.Namespace) -> dict[str, Any]:
    """Affinity Propagation, exact or in levels, on a sample of users or on all."""
    import numpy as np

    from recbole_llm.methods.eimf import affinity

    vectors = user_vectors(options)
    if options.task != "all" and len(vectors) > options.sample:
        vectors = vectors[np.sort(np.random.default_rng(0).permutation(len(vectors))[: options.sample])]
    preference = affinity.preference_of(vectors, options.preference)
    began = time.perf_counter()
    label = affinity.exemplars(vectors, preference, 10**9 if options.task == "exact" else affinity.CELL)
    seconds = time.perf_counter() - began
    return {
        "users": len(vectors),
        "seconds": seconds,
        "result": f"{len(np.unique(label))} exemplars",
        "net_similarity": affinity.net_similarity(vectors, label, preference),
        "preference": preference,
    }


def cover(options: argparse.Namespace) -> dict[str, Any]:
    """Find cliques and their items, and choose the cliques that cover most interactions."""
    import numpy as np

    from recbole_llm.methods.ldmi.cliques import clique_items, max_coverage, nearest_users, user_item_matrix

    offsets, items, n_items, _ = lists_of(options)
    began = time.perf_counter()
    matrix = user_item_matrix(offsets, items, n_items, "binary")
    near = nearest_users(matrix, 4, lambda parts, title: parts)
    searched = time.perf_counter()
    cliques = np.concatenate([np.arange(len(near))[:, None], near], axis=1)
    ends, flat = clique_items(cliques, offsets, items, 50)
    weights = np.bincount(items, minlength=n_items + 1).astype(np.float64)
    chosen = max_coverage(ends, flat, weights, max(1, len(near) // 10), 0.95)
    held = np.unique(np.concatenate([flat[ends[number] : ends[number + 1]] for number in chosen]))
    return {
        "users": len(near),
        "seconds": time.perf_counter() - began,
        "search_seconds": searched - began,
        "result": f"{len(chosen)} cliques cover {weights[held].sum() / weights.sum():.3f}",
    }


def main() -> None:
    """Measure, print, write."""
    options = arguments(
        __doc__ or "", protocol="user_split", users=100_000, sample=5000, preference=1.0, task="", tasks=",".join(TASKS)
    )
    if options.task:
        from recbole_llm.utils.environment import peak_memory_mib

        found = cover(options) if options.task == "cliques" else propagate(options)
        print(json.dumps({"task": options.task, **found, "mib": peak_memory_mib()["host"]}))
        return
    words = [word for word in sys.argv[1:] if not word.startswith("--tasks")]
    found = [peak_of_child("benchmarks.clusters", [*words, f"--task={task}"]) for task in options.tasks.split(",")]
    rows = [[f["task"], f["users"], f["seconds"], f["mib"], f["result"], f.get("net_similarity")] for f in found]
    by_task = {f["task"]: f for f in found}
    speed = by_task["exact"]["seconds"] / by_task["levels"]["seconds"] if "exact" in by_task else 1.0
    report(
        "clusters", options, rows, ["task", "users", "seconds", "peak MiB", "result", "net similarity"], found, speed
    )


if __name__ == "__main__":
    main()
