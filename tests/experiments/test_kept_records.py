"""The records in ``results/`` can still be found: today's code gives their settings the same keys."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.experiments.record import Record
from recbole_llm.experiments.run import Run
from recbole_llm.experiments.store import ResultStore
from recbole_llm.registry import find_method
from recbole_llm.settings.layers import layer_settings

RESULTS = Path(__file__).parents[2] / "results"
# A record names the contents of a file, not its path.
VECTORS = "dataset/ml-100k/vectors/films.npy"
CANDIDATES = {  # by history length
    20: "dataset/ml-100k/answers/ml-100k.8c4c7d7a0301.candidates.gz",
    10: "dataset/ml-100k/answers/ml-100k.ea77079564d1.candidates.gz",
}
RECORDS = [
    (folder.name, record)
    for folder in sorted(RESULTS.iterdir())
    if folder.is_dir()
    for record in ResultStore(folder)
    if record.dataset == "ml-100k"  # its files come with RecBole
]

# Folders of records that were made with today's defaults, with the exceptions that have changed since.
OF_TODAY: dict[str, dict[str, dict[str, Any]]] = {
    "answers": {},
    "direct": {},
    "duip": {},
    "flagship-short": {},
    "item-numbers": {"ISRF": {"item_numbers": "random"}},
    "parts": {},
    "sessions": {},
    "times": {},
    "vectors": {},
}
# Former values of defaults that have changed since the records were made, so new runs have other keys.
FORMER: dict[str, dict[str, Any]] = {
    "ComiRecDR": {"stopping_step": 5},
    "DUIP": {
        "warmup_steps": 50,
        "warmup_share": 0.0,
        "stage_epochs": [2, 6],
        "stopping_step": 2,
        "train_batch_size": 512,
        "min_epoch_steps": 0,
    },
    "LDMI": {"stopping_step": 5, "cluster_scale": "own"},
}


def run_of(record: Record, former: dict[str, dict[str, Any]]) -> Run:
    """The run that today's code plans for a record's settings, with the former values of changed defaults."""
    named = {key: record.settings.get(key) for key, source in record.origin.items() if source == "command line"}
    given = former.get(record.model, {}) | {key: value for key, value in named.items() if value is not None}
    if record.semantics in ("text", "codes"):
        given.pop("semantics", None)
    if "vectors.0" in record.data.files:
        given["vectors"] = VECTORS
    if "candidate_table" in record.data.files:
        given["candidate_table"] = CANDIDATES[record.settings["MAX_ITEM_LIST_LENGTH"]]
    limits = {name: getattr(record, name) for name in ("trials", "trial_epochs", "trial_minutes")}
    search = {name: limit for name, limit in limits.items() if limit is not None}
    settings = layer_settings(find_method(record.model), record.dataset, record.protocol, (), given, strict=False)
    return Run.of(settings, search or None)


@pytest.fixture(autouse=True)
def _elsewhere(workspace: Path) -> None:
    """Work in the test's own folder, with copies of the files that some runs read."""
    folder = Path(VECTORS).parent
    shutil.copytree(RESULTS.parent / folder, folder)
    for table in CANDIDATES.values():
        Path(table).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(RESULTS.parent / table, table)


def test_there_are_kept_records() -> None:
    assert len(RECORDS) > 200


def test_every_kept_record_is_found_by_its_settings() -> None:
    lost = {
        f"{folder}/{record.key}"
        for folder, record in RECORDS
        if run_of(record, OF_TODAY.get(folder, FORMER)).key != record.key
    }
    assert not lost
