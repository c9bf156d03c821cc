"""How often tests find equal methods to differ: trainings that differ only in the seed, split at random in two.

    python -m benchmarks.calibration --models=BPR:10,GRU4Rec:2,SASRec:2 --trainings=60

The number after a model's name is its number of epochs. Two null hypotheses are tested, with one, three and five seeds
per side. A test at 5 % should reject each of them in 5 % of the splits:

- one model: its trainings are split into two "methods", which are the same method;
- two models: each model's mean over all its trainings is subtracted, so that both have the same mean. Users are
  resampled for each split. The models differ in their spread over seeds and in which users they suit.

Shares of rejections are shown for the test of the tables (users and seeds), for the paired t test over users alone,
and, with one seed, for two trainings whose values are swapped at random within each user, so that neither is better.
The error is from the delete-one jackknife over trainings.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from itertools import combinations
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
    """P values for two groups of trainings, ``(seeds, users)`` each: over users and seeds, and over users alone."""
    found = []
    for groups in ((a, b), (a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True))):
        sides = [Estimate.of(group, np.ones(group.shape[1])) for group in groups]
        error, df = standard_error(*sides)
        found.append(2 * float(stdtr(df, -abs(sides[0].mean - sides[1].mean) / error)))
    return found[0], found[1]


def share(found: Sequence[float], members: np.ndarray, trained: int) -> dict[str, float]:
    """Share of ``found`` below the level, with its error.

    Args:
        found: ``(splits,)`` values of p.
        members: ``(splits, k)`` numbers of the trainings in each split.
        trained: number of trainings.
    """
    below = np.array(found) < LEVEL
    without = [below[~(members == one).any(axis=1)].mean() for one in range(trained)]
    error = np.sqrt((trained - 1) / trained * np.square(np.array(without) - below.mean()).sum())
    return {"share": float(below.mean()), "error": float(error)}


def one_model(values: np.ndarray, seeds: int, splits: int, generator: np.random.Generator) -> dict[str, Any]:
    """Shares of rejections where both sides are trainings of one model; ``values`` are ``(trainings, users)``."""
    members = np.stack([generator.permutation(len(values))[: 2 * seeds] for _ in range(splits)])
    p = np.array([p_values(values[chosen[:seeds]], values[chosen[seeds:]]) for chosen in members])
    tests = {"users and seeds": p[:, 0], "users alone": p[:, 1]}
    if seeds == 1:
        del tests["users and seeds"]  # equal to users alone
        swapped = generator.random((splits, values.shape[1])) < 0.5
        pairs = zip(swapped, values[members], strict=True)
        tests["users alone, values swapped"] = np.array(
            [p_values(np.where(swap, a, b)[None], np.where(swap, b, a)[None])[1] for swap, (a, b) in pairs]
        )
    return {name: share(found, members, len(values)) for name, found in tests.items()}


def two_models(
    first: np.ndarray, second: np.ndarray, seeds: int, splits: int, generator: np.random.Generator
) -> dict[str, Any]:
    """Shares of rejections where the sides are trainings of two models, shifted to the same mean."""
    first, second = first - first.mean(), second - second.mean()
    p, members = [], []
    for _ in range(splits):
        users = generator.integers(first.shape[1], size=first.shape[1])
        a, b = (generator.permutation(len(values))[:seeds] for values in (first, second))
        p.append(p_values(first[a][:, users], second[b][:, users]))
        members.append([*a, *(b + len(first))])
    names = ("users and seeds", "users alone")
    found = zip(names, zip(*p, strict=True), strict=True)
    shares = {name: share(each, np.array(members), len(first) + len(second)) for name, each in found}
    return {"users alone": shares["users alone"]} if seeds == 1 else shares


def together(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of some shares, and its error if they were independent."""
    error = float(np.sqrt(sum(part["error"] ** 2 for part in parts))) / len(parts)
    return {"share": float(np.mean([part["share"] for part in parts])), "error": error}


def main() -> None:
    """Train, split, test, print, write."""
    options = arguments(
        __doc__ or "", models="BPR:10,GRU4Rec:2,SASRec:2", trainings=60, history=10, learning_rate=0.005,
        metric="ndcg@10", splits=20_000, keep="",
    )  # fmt: skip
    if options.trainings <= 2 * max(SEEDS):
        raise UserError(f"--trainings={options.trainings}: give more than {2 * max(SEEDS)}.")
    values: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as aside:
        for named in options.models.split(","):
            model, _, epochs = named.partition(":")
            values[model] = trainings(model, int(epochs or 1), options, str(Path(options.keep or aside)))
    generator = np.random.default_rng(0)
    shares: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for seeds in SEEDS:
        found = [
            *(("one model", [name], one_model(own, seeds, options.splits, generator)) for name, own in values.items()),
            *(
                ("two models", list(pair), two_models(*(values[n] for n in pair), seeds, options.splits, generator))
                for pair in combinations(values, 2)
            ),
        ]
        for null, names, tests in found:
            for test, each in tests.items():
                shares.setdefault((null, seeds, test), []).append({"models": names, **each})
    order = sorted(shares, key=lambda key: (key[0], key[1]))
    facts = {
        "models": [
            {"model": name, "trainings": len(own), "users": own.shape[1], "mean": float(own.mean()),
             "deviation_over_seeds": float(own.mean(axis=1).std(ddof=1))}
            for name, own in values.items()
        ],
        "shares": [
            {"null": null, "seeds": seeds, "test": test, **together(shares[null, seeds, test]),
             "parts": shares[null, seeds, test]}
            for null, seeds, test in order
        ],
    }  # fmt: skip
    rows = [
        [null, seeds, test, " and ".join(each.get("models", ["all"])), 100 * each["share"], 100 * each["error"]]
        for null, seeds, test in order
        for each in (*shares[null, seeds, test], together(shares[null, seeds, test]))
    ]
    worst = max(100 * each["share"] for key, parts in shares.items() if key[2] == "users and seeds" for each in parts)
    options.keep = ""  # a local folder, which the JSON need not name
    header = ["null", "seeds", "test", "trainings of", "p < .05 in %", "error"]
    report("calibration", options, rows, header, facts, worst, unit=" % at most")


if __name__ == "__main__":
    main()
