"""Validation curves of the same settings trained in two ways: their difference beside the noise of seeds.

    python -m benchmarks.curves --models=SASRec,GRU4Rec,SRGNN --epochs=5 --seeds=3
    python -m benchmarks.curves --ways=steps --models=SASRec,GRU4Rec,BPR --epochs=5 --seeds=3    # on a GPU

``--ways=engines``: RecBole's loop and ours draw different random numbers (the order of batches, the dropout masks), so
curves agree only up to the noise of seeds. The gap of the means is shown beside the pooled standard deviation over
seeds.

``--ways=steps``: plain and recorded steps on a GPU draw the same random numbers, so curves of one seed differ only
where the GPU sums in another order. Plain steps are trained twice, to show how far they differ without recording.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from typing import Any

from benchmarks.common import arguments, report

# In each comparison the first way is the reference.
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "engines": {"recbole": {"engine": "recbole"}, "ours": {"engine": "fast"}},
    "steps": {"plain": {"cuda_graphs": False}, "plain again": {"cuda_graphs": False}, "recorded": {}},
}


def curves(model: str, way: dict[str, Any], options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """For every seed: validation scores by epoch, seconds of training, and whether steps were recorded."""
    import recbole_llm

    records = recbole_llm.run(
        model=model,
        dataset=options.dataset,
        seeds=list(range(1, options.seeds + 1)),
        epochs=options.epochs,
        stopping_step=options.epochs,
        MAX_ITEM_LIST_LENGTH=options.history,
        mask_history=False,  # RecBole's evaluator ranks seen items for sequential models
        device=options.device,
        results_dir=f"{folder}/results",
        checkpoint_dir=f"{folder}/saved",
        **way,
        **({"data_path": options.data_path} if options.data_path else {}),
    )
    metric = records[0].valid_metric.lower()
    return {
        "curves": [[epoch["valid"][metric] for epoch in record.curve] for record in records],
        "seconds": [sum(epoch["seconds"] for epoch in record.curve) for record in records],
        "recorded": ["RecordedSteps" in record.accelerations for record in records],
        "notes": [note for record in records for note in record.notes if "recorded" in note],
    }


def compare(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Means, deviations and gaps by epoch, and the largest gap in standard errors of a difference of two means."""
    found = {}
    for name, way in WAYS[options.ways].items():
        with tempfile.TemporaryDirectory() as folder:  # the key of a run leaves machine settings out
            found[name] = curves(model, way, options, folder)
    (first, theirs), *others = ((name, each["curves"]) for name, each in found.items())
    epochs = [{first: statistics.mean(scores)} for scores in zip(*theirs, strict=True)]
    errors, apart = [], {}
    for name, own in others:
        pairs = [pair for each in zip(theirs, own, strict=True) for pair in zip(*each, strict=True)]
        apart[name] = max(abs(before - after) for before, after in pairs)
        for epoch, before, after in zip(epochs, zip(*theirs, strict=True), zip(*own, strict=True), strict=True):
            spread = math.sqrt((statistics.variance(before) + statistics.variance(after)) / 2)
            gap = statistics.mean(after) - statistics.mean(before)
            epoch |= {name: statistics.mean(after), "deviation": spread, "gap": gap}
            errors.append(abs(gap) / max(1e-12, spread * math.sqrt(2 / options.seeds)))
    return {
        "model": model,
        "epochs": epochs,  # deviation and gap: of the last way
        "curves": {name: each["curves"] for name, each in found.items()},
        "seconds": {name: each["seconds"] for name, each in found.items()},
        "recorded": {name: each["recorded"] for name, each in found.items()},
        "notes": {name: each["notes"] for name, each in found.items()},
        "largest_gap_in_standard_errors": max(errors),
        "largest_gap_of_a_seed": apart,
    }


def main() -> None:
    """Compare, print, write."""
    options = arguments(
        __doc__ or "", models="SASRec,GRU4Rec,SRGNN", epochs=5, seeds=3, history=20, ways="engines", name=""
    )
    found = [compare(model, options) for model in options.models.split(",")]
    ways = [*WAYS[options.ways]]
    rows = [
        [f["model"], n, *(e[way] for way in ways), e["gap"], e["deviation"]]
        for f in found
        for n, e in enumerate(f["epochs"], 1)
    ]
    header = ["model", "epoch", *ways, "gap", "deviation over seeds"]
    largest = max(f["largest_gap_in_standard_errors"] for f in found)
    name = options.name or {"engines": "curves", "steps": "recorded-curves"}[options.ways]
    if options.ways == "steps":
        for f in found:
            print(f"{f['model']}: largest gap of a seed {f['largest_gap_of_a_seed']}, recorded {f['recorded']}")
    report(name, options, rows, header, found, largest, unit=" standard errors at most")


if __name__ == "__main__":
    main()
