"""Top-10 lists from a model: latency for one user, throughput for all.

    python -m benchmarks.inference --dataset=beauty --data_path=FOLDER --models=SASRec,BPR

Ours is ``recommend``. RecBole's path is its ``full_sort_topk`` recipe: score with ``full_sort_predict``, mask
the history, take the top k; one user per call for the latency, its evaluation batches for the throughput.
Models are untrained, which does not change the work.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.common import arguments, prepare, report


def measure(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Latencies in milliseconds and users per second of both paths."""
    from recbole_llm.experiments.recommend import Recommender

    ours = Recommender(prepare(model, options))
    users = np.arange(1, ours.prepared.dataset.user_num)
    generator = np.random.default_rng(0)
    chosen = generator.choice(users, options.calls)
    for user in chosen[:5]:
        ours.top_items(np.array([user]), 10)
    latency = []
    for user in chosen:
        began = time.perf_counter()
        ours.top_items(np.array([user]), 10)
        latency.append(1000 * (time.perf_counter() - began))
    began = time.perf_counter()
    for begin in range(0, len(users), 1024):
        ours.top_items(users[begin : begin + 1024], 10)
    throughput = len(users) / (time.perf_counter() - began)
    theirs = RecBoleTopk(prepare(model, options, engine="recbole"))
    their_latency = []
    for user in chosen[: options.calls // 4]:
        began = time.perf_counter()
        theirs.one(int(user))
        their_latency.append(1000 * (time.perf_counter() - began))
    their_throughput = theirs.throughput(options.users)
    return {
        "model": model,
        "p50_ms": float(np.quantile(latency, 0.5)),
        "p99_ms": float(np.quantile(latency, 0.99)),
        "users_per_second": throughput,
        "recbole_p50_ms": float(np.quantile(their_latency, 0.5)),
        "recbole_p99_ms": float(np.quantile(their_latency, 0.99)),
        "recbole_users_per_second": their_throughput,
        "ratio": throughput / their_throughput,
    }


class RecBoleTopk:
    """RecBole's way to top-k lists (utils/case_study.py), from its own test loader."""

    def __init__(self, prepared: Any) -> None:
        from recbole_llm.training.loaders import recbole_loaders

        self.prepared = prepared
        _, _, self.test = recbole_loaders(prepared.config, prepared.dataset)
        prepared.model.eval()

    def one(self, user: int) -> Any:
        """The list of one user."""
        import torch
        from recbole.utils.case_study import full_sort_topk

        with torch.no_grad():
            return full_sort_topk(
                np.array([user]), self.prepared.model, self.test, k=10, device=self.prepared.config["device"]
            )

    def throughput(self, limit: int) -> float:
        """Users per second over RecBole's evaluation batches, up to ``limit`` users."""
        import torch

        done, began = 0, time.perf_counter()
        with torch.no_grad():
            for interaction, history, _, _ in self.test:
                scores = self.prepared.model.full_sort_predict(interaction).view(len(interaction), -1)
                scores[:, 0] = -torch.inf
                if history is not None:
                    scores[history] = -torch.inf
                scores.topk(10, dim=1)
                done += len(interaction)
                if done >= limit:
                    break
        return done / (time.perf_counter() - began)


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__ or "", models="SASRec,BPR", calls=400, users=4000)
    found = [measure(model, options) for model in options.models.split(",")]
    rows = [
        [f["model"], f["p50_ms"], f["p99_ms"], f["recbole_p50_ms"], f["recbole_p99_ms"], f["users_per_second"],
         f["recbole_users_per_second"], f"{f['ratio']:.1f}x"]
        for f in found
    ]  # fmt: skip
    header = ["model", "p50 ms", "p99 ms", "RecBole p50", "RecBole p99", "users/s", "RecBole users/s", "ratio"]
    report("inference", options, rows, header, found, found[0]["ratio"])


if __name__ == "__main__":
    main()
