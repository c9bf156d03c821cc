"""Which interactions published popularity baselines count: training alone, validation too, or also the tested ones.

    python -m benchmarks.popularity --dataset=beauty --data_path=FOLDER

Leave-one-out over all items. Each way of counting has a row with the history's items ranked and a row without.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.common import arguments, prepare, report

COUNTED = ("training", "training and validation", "all, the tested ones among them")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Hit@10 and NDCG@10 of each way of counting."""
    import torch

    from recbole_llm.data.loaders import EvalLoader
    from recbole_llm.evaluation.metrics import summarise
    from recbole_llm.training.ranking import rank_cases

    prepared = prepare("Pop", options, protocol="loo")
    split, table = prepared.dataset.split, prepared.dataset.table
    rows = torch.ones(len(table.item), dtype=torch.bool)
    tested, validated = rows.clone(), rows.clone()
    tested[split.test.target_rows], validated[split.valid.target_rows] = False, False
    found = []
    for name, kept in zip(COUNTED, (tested & validated, tested, rows), strict=True):
        counts = torch.bincount(torch.from_numpy(table.item[kept.numpy()].astype("int64")), minlength=table.n_items + 1)
        prepared.model.item_cnt.copy_(counts[: len(prepared.model.item_cnt), None])
        prepared.model.max_cnt = counts.max()
        for masked in (False, True):
            loader = EvalLoader(prepared.device_table(), split.test, 4096, prepared.sequential)
            ranks = rank_cases(prepared.model, loader, masked, int(prepared.config["score_block_mib"]))
            scores = summarise(ranks, ["Hit", "NDCG"], [10])
            found.append({"counted": name, "history": "not ranked" if masked else "ranked", **scores})
    return found


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__ or "", dataset="beauty")
    found = measure(options)
    header = ["interactions counted", "items of the history", "Hit@10", "NDCG@10"]
    ratio = found[-1]["hit@10"] / found[1]["hit@10"]
    report("popularity", options, [list(row.values()) for row in found], header, found, ratio)


if __name__ == "__main__":
    main()
