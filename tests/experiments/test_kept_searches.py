"""The searches kept in ``results/`` can be continued: one more seed of a row costs only one more training."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from recbole_llm import api
from recbole_llm.experiments.estimate import TRIAL, TUNED, Work
from recbole_llm.experiments.runner import Runner
from recbole_llm.experiments.store import ResultStore
from recbole_llm.experiments.suite import FULL
from recbole_llm.stages import checked_stages, trained_by
from recbole_llm.tuning.space import searched
from recbole_llm.tuning.study import study_name
from recbole_llm.tuning.work import work_of

ROOT = Path(__file__).parents[2]
# Results folder, its suite, the suite's budget, the minimum number of kept searches and the seeds of each row.
FOLDERS = [("flagship-short", "flagship", "short", 35, 5), ("vectors", "vectors", FULL, 5, 3)]
VERBS = {verb: getattr(api, verb) for verb in ("generate", "tune", "run", "table", "report")}


def suite_work(folder: Path, suite: str, budget: str, seeds: int) -> dict[str, list[Work]]:
    """The work that a suite has left in a copy of a results folder for that many seeds, by study name."""
    shutil.copytree(folder, "kept")
    for files in ("vectors", "answers"):
        shutil.copytree(ROOT / "dataset/ml-100k" / files, f"dataset/ml-100k/{files}")
    runner = Runner(ResultStore("kept"))
    given = {"results_dir": "kept", "seeds": seeds}
    found: dict[str, list[Work]] = {}
    for runs, numbers, search in trained_by(checked_stages(suite, VERBS, budget, given), VERBS):
        assert search is not None
        spaces, budget = searched(runs, **search)
        works = work_of(runs, runner, numbers, search)
        for run, space in zip(runs, spaces, strict=True):
            found[study_name(run, space, budget)] = works[:2]
            works = works[2:]
    return found


@pytest.mark.parametrize(("name", "suite", "budget", "least", "seeds"), FOLDERS)
def test_every_kept_search_is_a_row_of_the_suite_and_one_seed_more_is_one_training(
    workspace: Path, name: str, suite: str, budget: str, least: int, seeds: int
) -> None:
    folder = ROOT / "results" / name
    kept = sorted(path.stem for path in folder.glob("studies/*.jsonl"))
    assert len(kept) >= least
    works = suite_work(folder, suite, budget, seeds + 1)
    assert set(kept) <= {*works}
    for name in kept:
        trials, tuned = works[name]
        assert (trials.kind, trials.count) == (TRIAL, 0), name
        assert (tuned.kind, tuned.count, tuned.done) == (TUNED, 1, seeds), name


@pytest.mark.parametrize(("name", "seeds"), [(name, seeds) for name, *_, seeds in FOLDERS])
def test_every_kept_record_is_of_a_kept_search(name: str, seeds: int) -> None:
    """So no row of the table was trained with hand-picked settings.

    The only exception is the SR-GNN that ranks LLM-DMsRec's candidates, which the table shows untuned.
    """
    folder = ROOT / "results" / name
    records = list(ResultStore(folder))
    assert all(record.status == "ok" for record in records)
    assert {record.model for record in records if not record.tuned} <= {"SRGNN"}
    found = Counter(record.seed for record in records if record.tuned)
    assert [*found.values()] == seeds * [len(list(folder.glob("studies/*.jsonl")))]


@pytest.mark.parametrize("name", [name for name, *_ in FOLDERS])
def test_kept_searches_can_be_submitted(tmp_path: Path, name: str) -> None:
    folder = ROOT / "results" / name
    said = api.submit(folder, output=tmp_path / "handed-in", dataset_dir=tmp_path)
    count = len(list(ResultStore(folder)))
    assert f"{count} records: every metric follows from the ranks" in said
    assert f"settings give the key: {count}" in said
