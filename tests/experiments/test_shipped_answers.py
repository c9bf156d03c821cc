"""The answers shipped with the repository: complete, free of leaks, and enough to run the methods that ask."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from recbole_llm import api
from recbole_llm.data.catalog import locate
from recbole_llm.experiments.leak_report import examine_leaks
from recbole_llm.experiments.published import open_store

DATASETS = Path(__file__).parents[2] / "dataset"
STORE = DATASETS / "ml-100k" / "answers"
SOURCE: dict[str, Any] = {"dataset": "ml-100k", "llm": "claude-2026-11", "answers": str(STORE)}
INTENTS = {"intent_stride": 50, "candidate_table": str(STORE / "ml-100k.8c4c7d7a0301.candidates.gz")}
TOY: dict[str, Any] = {"epochs": 1, "MAX_ITEM_LIST_LENGTH": 5, "train_batch_size": 8192}


@pytest.mark.parametrize(("dataset", "answers"), [("ml-100k", 16520), ("amazon-beauty", 456)])
def test_a_store_is_what_its_index_says(tmp_path: Path, dataset: str, answers: int) -> None:
    folder = DATASETS / dataset / "answers"
    store = open_store(str(folder), tmp_path)
    assert store.verify() == answers
    listed = {entry.name for entry in (*store.index.files, *store.index.tables, *store.index.pending)}
    found = [path for path in folder.rglob("*") if path.suffix == ".xz" or path.name.endswith(".candidates.gz")]
    assert {path.relative_to(folder).as_posix() for path in found} == listed
    assert store.index.pending == []


@pytest.mark.landing
def test_they_answer_every_question_and_leak_nothing_and_eimf_runs(workspace: Path) -> None:
    models = {"model": "EIMF,LDMI,ISRF", "dataset": "ml-100k", "llm": SOURCE["llm"]}
    assert api.answers("pull", store=str(STORE), **models).endswith("9,433 answers taken in; nothing is missing")
    asked = {"model": "LLMDMsRec", "dataset": "ml-100k", "llm": SOURCE["llm"], **INTENTS}
    assert "3,503 answers taken in; nothing is missing" in api.answers("pull", store=str(STORE), **asked)
    findings = examine_leaks("ml-100k", None, "dataset")
    assert [finding.text for finding in findings if not finding.good] == []
    assert sum(" prompts, " in finding.text for finding in findings) == 4
    # The alignment of a batch takes time and memory by the square of its size.
    (record,) = api.run("EIMF", **SOURCE, **{**TOY, "train_batch_size": 1024})
    assert (record.status, record.label) == ("ok", "EIMF (claude-2026-11)")
    assert record.features is not None
    assert record.features.coverage == {"itemtext": 1.0, "exemplar": 1.0}


@pytest.mark.landing
def test_the_small_model_answers_for_eimf_without_its_server(workspace: Path) -> None:
    small = "qwen2.5-coder-1.5b-instruct-q4_k_m"
    source = {**SOURCE, "llm": "llamacpp", "llm_model": small}
    (record,) = api.run("EIMF", **source, **{**TOY, "train_batch_size": 1024})
    assert (record.status, record.label) == ("ok", f"EIMF ({small})")
    assert record.features is not None
    assert (record.features.coverage, record.features.requests) == ({"itemtext": 1.0, "exemplar": 1.0}, 0)


@pytest.mark.parametrize(
    ("model", "small"),
    [
        ("LDMI", {"contrast": "none"}),  # synthesised users would depend on all users
        ("ISRF", {"lm_scratch": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 300}}),
    ],
)
def test_one_command_runs_a_row(workspace: Path, model: str, small: dict[str, Any]) -> None:
    """Uses a few users with one question each, because these questions do not depend on other users."""
    inter = locate("ml-100k", None, "dataset").file("inter")
    assert inter is not None
    header, *rows = inter.read_text(encoding="utf-8").splitlines()
    counts = Counter(row.split("\t")[0] for row in rows)
    kept = [row for row in rows if (user := row.split("\t")[0]) and int(user) <= 30 and counts[user] <= 100]
    inter.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
    (record,) = api.run(model, **SOURCE, **TOY, **small, encoder_max_length=8)
    assert (record.status, record.label.partition(",")[0].rstrip(")")) == ("ok", f"{model} (claude-2026-11")
    assert record.features is not None
    assert {*record.features.coverage.values()} == {1.0}
