"""Full-ranking evaluation: RecBole's evaluator against rank counting, on the same model and cases.

    python -m benchmarks.evaluate --dataset=beauty --data_path=FOLDER --models=BPR,LightGCN,GRU4Rec,SASRec

Both take turns in one process. Models are untrained: an evaluation costs the same, and there are no ties in floating
point, so the metrics should agree to 1e-6. RecBole's path is its loader, its model class and its evaluator.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.common import alternate, arguments, median, prepare, report


def measure(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one evaluation of the validation cases on both paths."""
    import torch
    from recbole.utils import init_seed

    from recbole_llm.data.loaders import EvalLoader
    from recbole_llm.evaluation.metrics import summarise
    from recbole_llm.registry import SEQUENTIAL, find_method
    from recbole_llm.training.choice import make_trainer
    from recbole_llm.training.loaders import recbole_loaders
    from recbole_llm.training.ranking import rank_cases

    # RecBole masks a user's items for general models only; both paths do the same here.
    masked = find_method(model).kind != SEQUENTIAL
    shared = {"mask_history": masked, "metrics": ["Hit", "NDCG", "MRR"], "topk": [5, 10, 20]}
    ours = prepare(model, options, **shared)
    theirs = prepare(model, options, engine="recbole", **shared)
    theirs.model.load_state_dict(ours.model.state_dict())
    init_seed(1, True)
    from recbole.trainer import Trainer

    trainer = Trainer(theirs.config, theirs.model)
    train_data, _, test_data = recbole_loaders(theirs.config, theirs.dataset)
    trainer.eval_collector.data_collect(train_data)
    cases = ours.dataset.split.test
    results: dict[str, dict[str, float]] = {}

    def recbole() -> None:
        results["recbole"] = dict(trainer.evaluate(test_data, load_best_model=False))

    def counted() -> None:
        loader = EvalLoader(ours.device_table(), cases, int(ours.config["eval_batch_size"]), ours.sequential)
        ranks = rank_cases(ours.model, loader, masked, int(ours.config["score_block_mib"]))
        results["ours"] = summarise(ranks, shared["metrics"], shared["topk"])

    make_trainer(ours.config, ours.model)
    with torch.no_grad():
        counted()
        seconds = alternate({"recbole": recbole, "ours": counted}, options.repeats, ours.config["device"])
    gap = max(abs(results["recbole"][name] - results["ours"][name]) for name in results["ours"])
    middle = {name: median(values) for name, values in seconds.items()}
    return {
        "model": model,
        "cases": len(cases),
        "items": ours.dataset.item_num - 1,
        "seconds": middle,
        "ratio": middle["recbole"] / middle["ours"],
        "largest_difference_of_metrics": gap,
        "all_seconds": seconds,
    }


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__ or "", models="BPR,LightGCN,GRU4Rec,SASRec", repeats=3)
    found = [measure(model, options) for model in options.models.split(",")]
    rows = [
        [f["model"], f["cases"], f["items"], f["seconds"]["recbole"], f["seconds"]["ours"], f"{f['ratio']:.1f}x",
         f"{f['largest_difference_of_metrics']:.1e}"]
        for f in found
    ]  # fmt: skip
    report(
        "evaluate",
        options,
        rows,
        ["model", "cases", "items", "RecBole s", "ours s", "ratio", "largest difference"],
        found,
        found[0]["ratio"],
    )


if __name__ == "__main__":
    main()
