"""Time and peak memory of ItemKNN's similarities, here and by RecBole's own code, for generated interactions.

    python -m benchmarks.similar_items --users=30000 --items=20000
    python -m benchmarks.similar_items --users=300000 --items=200000 --tasks=here

Each way runs in its own process, so that peak memory is measured apart. The ratio is that of processor time, which
other processes change least.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from benchmarks.common import arguments, peak_of_child, report

TASKS = ("here", "recbole")


def interactions(options: argparse.Namespace) -> Any:
    """``(users, items)`` float32 matrix of ones: unequally active users, items of Zipf-like popularity."""
    import numpy as np
    from scipy import sparse

    generator = np.random.default_rng(0)
    count = options.users * options.each
    active, popular = generator.lognormal(0.0, 1.0, options.users), np.arange(1, options.items + 1) ** -0.8
    users = generator.choice(options.users, count, p=active / active.sum())
    items = generator.choice(options.items, count, p=popular / popular.sum())
    matrix = sparse.coo_matrix((np.ones(count), (users, items)), (options.users, options.items)).tocsr()
    matrix.data[:] = 1.0
    return matrix.astype(np.float32)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Find the similar items one way."""
    import zlib

    from recbole.model.general_recommender.itemknn import ComputeSimilarity

    from recbole_llm.compat.similar_items import similar_items

    matrix = interactions(options)
    began, busy = time.perf_counter(), time.process_time()
    if options.task == "here":
        found = similar_items(matrix, options.k, 0.0)
    else:
        found = ComputeSimilarity(matrix, topk=options.k, shrink=0.0).compute_similarity("item")[1]
    seconds, of_processor = time.perf_counter() - began, time.process_time() - busy
    found.sort_indices()
    return {
        "interactions": matrix.nnz,
        "seconds": seconds,
        "processor_seconds": of_processor,
        "neighbours": found.nnz,
        "crc32": zlib.crc32(found.data.tobytes(), zlib.crc32(found.indices.astype("int64").tobytes())),
    }


def main() -> None:
    """Measure, print, write."""
    options = arguments(
        __doc__ or "", dataset="generated", users=30_000, items=20_000, each=16, k=100, task="", tasks=",".join(TASKS)
    )
    if options.task:
        from recbole_llm.utils.environment import peak_memory_mib

        print(json.dumps({"task": options.task, **compare(options), "mib": peak_memory_mib()["host"]}))
        return
    words = [word for word in sys.argv[1:] if not word.startswith("--tasks")]
    found = [peak_of_child("benchmarks.similar_items", [*words, f"--task={task}"]) for task in options.tasks.split(",")]
    names = ("task", "interactions", "seconds", "processor_seconds", "mib", "neighbours", "crc32")
    by_task = {f["task"]: f["processor_seconds"] for f in found}
    ratio = by_task["recbole"] / by_task["here"] if len(by_task) == len(TASKS) else 1.0
    report("similar-items", options, [[f[name] for name in names] for f in found], [*names], found, ratio)


if __name__ == "__main__":
    main()
