"""Time and peak memory of ISRF's graph of similar users, which is built in blocks, for many users.

python -m benchmarks.similar_users --users=100000 --dim=384
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

import recbole_llm  # noqa: F401 - thread policy
from recbole_llm.methods.isrf.graphs import similar_users_graph


def main() -> None:
    """Build one graph of random profiles; print seconds and the process' peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--k", type=int, default=100)
    options = parser.parse_args()
    torch.manual_seed(0)
    vectors = torch.randn(options.users, options.dim)
    began, busy = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        graph = similar_users_graph(vectors, torch.ones(options.users, dtype=torch.bool), options.k, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    edges = graph._forward.values().numel()
    print(
        f"{options.users:,} users, {edges:,} edges: {time.monotonic() - began:.0f} s, "
        f"{time.process_time() - busy:.0f} s of processor time, peak {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
