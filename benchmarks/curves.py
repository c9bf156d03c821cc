"""Validation curves of both engines from the same settings: the difference beside the noise of seeds.

    python -m benchmarks.curves --models=SASRec,GRU4Rec,SRGNN --epochs=5 --seeds=3

RecBole's loop and ours draw other random numbers (the order of batches, the dropout masks), so curves agree up
to the seed: the gap of the means is shown beside the standard deviation over RecBole's own seeds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from typing import Any

from benchmarks.common import arguments, report


def curves(model: str, engine: str, options: argparse.Namespace, folder: str) -> list[list[float]]:
    """Validation score by epoch, for each seed."""
    import recbole_llm

    records = recbole_llm.run(
        model=model,
        dataset=options.dataset,
        seeds=list(range(1, options.seeds + 1)),
        engine=engine,
        epochs=options.epochs,
        stopping_step=options.epochs,
        MAX_ITEM_LIST_LENGTH=options.history,
        mask_history=False,  # RecBole's evaluator ranks seen items for sequential models
        results_dir=f"{folder}/results",
        checkpoint_dir=f"{folder}/saved",
        **({"data_path": options.data_path} if options.data_path else {}),
    )
    metric = records[0].valid_metric.lower()
    return [[epoch["valid"][metric] for epoch in record.curve] for record in records]


def compare(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Means and deviations by epoch; ``gap`` in standard errors of a difference of two means."""
    with tempfile.TemporaryDirectory() as folder:
        found = {engine: curves(model, engine, options, folder) for engine in ("recbole", "fast")}
    epochs = []
    for theirs, ours in zip(zip(*found["recbole"], strict=True), zip(*found["fast"], strict=True), strict=True):
        spread = math.sqrt((statistics.variance(theirs) + statistics.variance(ours)) / 2)
        gap = statistics.mean(ours) - statistics.mean(theirs)
        epochs.append(
            {"recbole": statistics.mean(theirs), "ours": statistics.mean(ours), "deviation": spread, "gap": gap}
        )
    errors = [abs(e["gap"]) / max(1e-12, e["deviation"] * math.sqrt(2 / options.seeds)) for e in epochs]
    return {"model": model, "epochs": epochs, "curves": found, "largest_gap_in_standard_errors": max(errors)}


def main() -> None:
    """Compare, print, write."""
    options = arguments(__doc__ or "", models="SASRec,GRU4Rec,SRGNN", epochs=5, seeds=3, history=20)
    found = [compare(model, options) for model in options.models.split(",")]
    rows = [
        [f["model"], n, e["recbole"], e["ours"], e["gap"], e["deviation"]]
        for f in found
        for n, e in enumerate(f["epochs"], 1)
    ]
    header = ["model", "epoch", "RecBole", "ours", "gap", "deviation over seeds"]
    largest = max(f["largest_gap_in_standard_errors"] for f in found)
    report("curves", options, rows, header, found, largest, unit=" standard errors at most")


if __name__ == "__main__":
    main()
