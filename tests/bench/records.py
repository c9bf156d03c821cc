"""Records made by hand, and a process that writes them."""

from __future__ import annotations

import sys
from typing import Any

from recbole_llm.bench.record import DatasetFacts, MetricValue, Record
from recbole_llm.bench.store import ResultStore


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


if __name__ == "__main__":
    folder, name = sys.argv[1:]
    store = ResultStore(folder)
    for number in range(150):
        store.put(record_of(notes=[name * 5000]))  # one key for all writers: they replace one another
        store.put(record_of(key=f"{name}{number:04}"))
