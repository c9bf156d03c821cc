"""Records made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from recbole_llm.evaluation.metrics import summarise
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.record import DatasetFacts, MetricValue, Record
from recbole_llm.experiments.store import ResultStore


def record_of(**changes: Any) -> Record:
    """A small finished record."""
    values = {"key": "0123456789abcdef", "model": "SASRec", "dataset": "tiny", "protocol": "loo", "seed": 1}
    return Record(**values | changes)


def run_of(model: str, ndcg: float, **changes: Any) -> Record:
    """A record with the numbers that tables show."""
    values = {
        "key": f"{model}-{changes.get('seed', 1)}-{changes.get('protocol', 'loo')}",
        "metrics": {"hit@10": MetricValue(value=2 * ndcg), "ndcg@10": MetricValue(value=ndcg)},
        "data": DatasetFacts(name="tiny", sha256="ab" * 32, test_cases=1234),
        "settings": {"mask_history": True},
        "parameters": 1000,
        "epochs": 3,
    }
    return record_of(model=model, **values | changes)


def bound(store: ResultStore, record: Record, cut_off: int) -> None:
    """Make a record's ranks those of a run that looked for the first places only (``decode: bounded``)."""
    path = store.ranks_of(record)
    replace(Ranks.load(path), cut_off=cut_off, pool=np.zeros(0, dtype=np.int32)).save(path)


def store_run(store: ResultStore, model: str, skill: float, seed: int = 1, cases: int = 200, **changes: Any) -> Record:
    """Store a record with a file of ranks among 100 items; the larger the skill, the better the target's rank.

    All models have the same cases with the same difficulties, so models differ only by skill and chance.
    """
    difficulty = np.random.default_rng(0).random(cases)
    luck = np.random.default_rng([seed, *model.encode()]).random(cases)
    higher = np.minimum(99, 100 * (difficulty + 0.3 * luck) / 1.3 / (1 + skill)).astype(np.int32)
    ranks = Ranks(
        user=np.arange(1, cases + 1),
        offsets=np.arange(cases + 1),
        item=np.arange(1, cases + 1, dtype=np.int32),
        higher=higher,
        tied=np.zeros(cases, dtype=np.int32),
        history=np.arange(cases, dtype=np.int32) % 20,
        train_count=np.arange(cases, dtype=np.int32) % 10,
        head=np.arange(cases) % 10 > 7,
        pool=np.full(cases, 100, dtype=np.int32),
    )
    values = summarise(ranks, ["Hit", "NDCG", "MRR"], [5, 10])
    curve = [{"epoch": n, "loss": 1 / n, "valid": {"ndcg@10": 0.1 * n}, "seconds": 1.0} for n in (1, 2, 3)]
    record = run_of(
        model,
        values["ndcg@10"],
        seed=seed,
        **{
            "key": f"{model}{seed}".lower().encode().hex()[-16:],
            "metrics": {name: MetricValue(value=value) for name, value in values.items()},
            "valid_metric": "ndcg@10",
            "curve": curve,
            "best_epoch": 3,
            "seconds": {"train": 3.0, "evaluate": 1.0, "total": 5.0},
            "data": DatasetFacts(name="tiny", sha256="ab" * 32, test_cases=cases),
        }
        | changes,
    )
    path = store.ranks_path(record)
    record.ranks_file = path.name
    ranks.save(path)
    store.put(record)
    return record
