"""How often equal methods are found to differ: trainings of one model that differ by the seed alone, split in two.

    python -m benchmarks.calibration --models=BPR:10,GRU4Rec:2,SASRec:2 --trainings=60

The number after a model's name is that of its epochs. The trainings of a model are split at random into two "methods"
of one, three and five seeds. Both are the same method, so that at 5 % a test should find a difference in 5 % of the
splits. Shares are shown for the test of the tables (users and seeds), for the paired t test over users alone, and, with
one seed, for trainings whose values were swapped at random within each user: there neither training is the better one.
The error is the delete-one jackknife's over trainings.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtr

from benchmarks.common import arguments, report
from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.evaluation.significance import LEVEL, Estimate, standard_error
from recbole_llm.experiments.store import ResultStore

SEEDS = (1, 3, 5)


def trainings(model: str, epochs: int, options: argparse.Namespace, folder: str) -> np.ndarray:
    """``(trainings, users)`` values of the metric; under ``loo`` each user has one case."""
    import recbole_llm

    records = recbole_llm.run(
        model=model,
        dataset=options.dataset,
        seeds=list(range(1, options.trainings + 1)),
        epochs=epochs,
        MAX_ITEM_LIST_LENGTH=options.history,
        learning_rate=options.learning_rate,
        list_metrics=[],
        results_dir=f"{folder}/results",
        checkpoint_dir=f"{folder}/saved",
        **({"data_path": options.data_path} if options.data_path else {}),
    )
    store = ResultStore(f"{folder}/results")
    ranks = [Ranks.load(store.ranks_of(record)) for record in sorted(records, key=lambda record: record.seed)]
    assert all(np.array_equal(each.user, ranks[0].user) for each in ranks)
    return np.stack([per_case(each, options.metric) for each in ranks])


def p_values(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """P of two groups of trainings, ``(seeds, users)`` each: over users and seeds, and over users alone."""
    found = []
    for groups in ((a, b), (a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True))):
        sides = [Estimate.of(group, np.ones(group.shape[1])) for group in groups]
        error, df = standard_error(*sides)
        found.append(2 * float(stdtr(df, -abs(sides[0].mean - sides[1].mean) / error)))
    return found[0], found[1]


def share(found: np.ndarray, members: np.ndarray, trained: int) -> dict[str, float]:
    """Share of ``found`` below the level, with its error.

    Args:
        found: ``(splits,)`` values of p.
        members: ``(splits, k)`` trainings in each split.
        trained: number of trainings.
    """
    below = found < LEVEL
    without = [below[~(members == one).any(axis=1)].mean() for one in range(trained)]
    error = np.sqrt((trained - 1) / trained * np.square(np.array(without) - below.mean()).sum())
    return {"share": float(below.mean()), "error": float(error)}


def calibrate(values: np.ndarray, splits: int, seed: int = 0) -> list[dict[str, Any]]:
    """Shares for each number of seeds and each test; see the module's docstring."""
    generator = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for seeds in SEEDS:
        members = np.stack([generator.permutation(len(values))[: 2 * seeds] for _ in range(splits)])
        p = np.array([p_values(values[chosen[:seeds]], values[chosen[seeds:]]) for chosen in members])
        tests = {"users and seeds": p[:, 0], "users alone": p[:, 1]} if seeds > 1 else {"users alone": p[:, 1]}
        if seeds == 1:
            swapped = generator.random((splits, values.shape[1])) < 0.5
            pairs = (
                (np.where(swap, a, b)[None], np.where(swap, b, a)[None])
                for swap, (a, b) in zip(swapped, values[members], strict=True)
            )
            tests["users alone, values swapped"] = np.array([p_values(a, b)[1] for a, b in pairs])
        found += [{"seeds": seeds, "test": name, **share(each, members, len(values))} for name, each in tests.items()]
    return found


def main() -> None:
    """Train, split, test, print, write."""
    options = arguments(
        __doc__ or "", models="BPR:10,GRU4Rec:2,SASRec:2", trainings=60, history=10, learning_rate=0.005,
        metric="ndcg@10", splits=20_000, keep="",
    )  # fmt: skip
    if options.trainings <= 2 * max(SEEDS):
        raise UserError(f"--trainings={options.trainings}: give more than {2 * max(SEEDS)}.")
    facts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as aside:
        for named in options.models.split(","):
            model, _, epochs = named.partition(":")
            values = trainings(model, int(epochs or 1), options, str(Path(options.keep or aside)))
            means = values.mean(axis=1)
            found = calibrate(values, options.splits)
            facts.append(
                {"model": named, "trainings": len(values), "users": values.shape[1], "mean": float(means.mean()),
                 "deviation": float(means.std(ddof=1)), "shares": found}
            )  # fmt: skip
    together = []
    for number, first in enumerate(facts[0]["shares"]):
        parts = [each["shares"][number] for each in facts]
        shared = {name: first[name] for name in ("seeds", "test")}
        error = float(np.sqrt(sum(part["error"] ** 2 for part in parts))) / len(parts)
        together.append({**shared, "share": float(np.mean([part["share"] for part in parts])), "error": error})
    rows = [
        [name, each["seeds"], each["test"], 100 * each["share"], 100 * each["error"]]
        for name, shares in [*((f["model"], f["shares"]) for f in facts), ("all", together)]
        for each in shares
    ]
    worst = max(100 * each["share"] for each in together if each["test"] == "users and seeds")
    header = ["trainings of", "seeds each", "test", "p < .05 in %", "error"]
    report("calibration", options, rows, header, {"models": facts, "together": together}, worst, unit=" % at most")


if __name__ == "__main__":
    main()
