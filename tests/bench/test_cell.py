"""From settings to a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.bench.cell import Cell
from recbole_llm.bench.cell_runner import CellRunner
from recbole_llm.bench.stopwatch import Stopwatch
from recbole_llm.bench.store import ResultStore
from recbole_llm.data.catalog import file_sha256
from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import summarise
from recbole_llm.evaluation.ranks import Ranks, rank_cases
from recbole_llm.semantics.registry import FEATURES
from tests.helpers import cell_of, runner

# ---- the key ------------------------------------------------------------------------------------


def test_the_same_settings_have_the_same_key(tiny: Path) -> None:
    assert cell_of("SRGNN").key == cell_of("SRGNN").key


@pytest.mark.parametrize(
    "changes",
    [{"seed": 2}, {"learning_rate": 0.01}, {"epochs": 3}, {"mask_history": False}, {"engine": "recbole"}, {"step": 2}],
)
def test_what_can_change_a_number_changes_the_key(tiny: Path, changes: dict[str, Any]) -> None:
    assert cell_of("SRGNN", **changes).key != cell_of("SRGNN").key


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cpu"},
        {"eval_batch_size": 7},
        {"score_block_mib": 1},
        {"results_dir": "elsewhere"},
        {"checkpoint_dir": "elsewhere"},
        {"topk": [1]},
        {"metrics": ["Hit"]},
        {"max_cost": 3.0},
    ],
)
def test_what_cannot_change_a_number_does_not(tiny: Path, changes: dict[str, Any]) -> None:
    assert cell_of("SRGNN", **changes).key == cell_of("SRGNN").key


def test_other_interactions_are_another_key(tiny: Path) -> None:
    before = cell_of("SRGNN").key
    with (tiny / "tiny.inter").open("a") as stream:
        stream.write("u0\ti0\t1\t1\n")
    assert cell_of("SRGNN").key != before


def test_other_item_text_is_another_key_for_models_that_read_it(tiny: Path) -> None:
    before = {model: cell_of(model).key for model in ("SRGNN", "LLMDMsRec")}
    with (tiny / "tiny.item").open("a") as stream:
        stream.write("i999\tnew\tx\ty\n")
    assert cell_of("SRGNN").key == before["SRGNN"]
    assert cell_of("LLMDMsRec").key != before["LLMDMsRec"]


def test_another_version_of_a_feature_is_another_key(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {model: cell_of(model).key for model in ("SRGNN", "LLMDMsRec")}
    monkeypatch.setattr(type(FEATURES["intent"]), "version", 99)
    assert cell_of("SRGNN").key == before["SRGNN"]
    assert cell_of("LLMDMsRec").key != before["LLMDMsRec"]


def test_an_unknown_dataset_is_an_error_with_the_nearest_name(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"--dataset=tinny.*Did you mean tiny\?"):
        cell_of("SRGNN", "tinny")


# ---- the record ---------------------------------------------------------------------------------


def test_the_record_says_what_was_run_on_what_and_how_long(tiny: Path) -> None:
    cell = cell_of("GRU4Rec")
    record = runner().run(cell)
    assert (record.key, record.status, record.model, record.dataset, record.protocol) == (
        cell.key, "ok", "GRU4Rec", "tiny", "loo",
    )  # fmt: skip
    assert (record.seed, record.semantics, record.features) == (1, "none", None)
    assert record.data is not None
    assert record.data.sha256 == file_sha256(tiny / "tiny.inter")
    assert record.data.test_cases == record.data.valid_cases == 80
    assert record.settings["epochs"] == 2
    assert record.origin["epochs"] == "command line"
    assert {"data", "build", "train", "validate", "evaluate", "total"} <= set(record.seconds)
    assert record.epochs == len(record.curve) == 2
    assert record.best_epoch in (1, 2)
    assert (record.parameters or 0) > 0
    assert record.versions["recbole"]
    assert record.hardware["cores"] >= 1
    assert record.memory_mib["host"] > 0


def test_the_record_is_in_the_store_and_its_ranks_give_its_metrics(tiny: Path) -> None:
    record = runner().run(cell_of("GRU4Rec"))
    store = ResultStore("results")
    assert store.find(record.key) == record
    path = store.ranks_path(record)
    assert path.name == record.ranks_file
    found = summarise(Ranks.load(path), ["Hit", "NDCG", "MRR", "Recall"], [5, 10, 20])
    assert found == {name: metric.value for name, metric in record.metrics.items()}


def test_a_record_with_features_says_where_they_came_from(featured: Path) -> None:
    cell = cell_of("LLMDMsRec", epochs=1)
    record = runner().run(cell)
    assert record.features is not None
    assert (record.features.llm, record.features.encoder) == ("offline", "minilm-mean-128")
    assert record.semantics == record.source == "offline"
    assert record.stage_one == runner().stage_one_cell(cell).key
    assert record.features.manifest_sha256 == file_sha256(Path(record.features.folder or "") / "manifest.json")


def test_a_finished_cell_is_not_run_again(tiny: Path) -> None:
    cell = cell_of("Pop")
    first = runner().run(cell)
    path = ResultStore("results").path(first)
    changed = path.stat().st_mtime_ns
    assert runner().run(cell) == first
    assert path.stat().st_mtime_ns == changed


def test_force_runs_a_finished_cell_again_with_equal_numbers(tiny: Path) -> None:
    cell = cell_of("GRU4Rec")
    first = runner().run(cell)
    second = runner(force=True).run(cell)
    assert second.seconds != first.seconds
    assert second.metrics == first.metrics


def test_force_runs_a_cell_once_in_a_command(tiny: Path) -> None:
    cell, forced = cell_of("Pop"), runner(force=True)
    assert forced.run(cell) is not None
    assert forced.finished(cell) is not None


def test_a_failed_record_does_not_count_as_finished(tiny: Path) -> None:
    cell, cells = cell_of("Pop"), runner()
    record = cell.blank_record()
    record.status = "failed"
    cells.store.put(record)
    assert cells.finished(cell) is None
    assert cells.run(cell).status == "ok"


def test_the_reference_engine_keeps_recboles_own_metrics_beside_ours(tiny: Path) -> None:
    record = runner().run(cell_of("GRU4Rec", engine="recbole", mask_history=False))
    assert record.recbole_metrics is not None
    for name, value in record.recbole_metrics.items():
        assert record.metric(name) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("engine", ["fast", "recbole"])
def test_a_model_that_ranks_nothing_is_refused(tiny: Path, engine: str) -> None:
    with pytest.raises(UserError, match="predicts labels, not rankings"):
        runner().run(cell_of("XGBoost", engine=engine))


# ---- trained models -----------------------------------------------------------------------------


def test_a_trained_model_has_the_best_weights(tiny: Path) -> None:
    cell, cells = cell_of("GRU4Rec"), runner()
    record = cells.run(cell)
    prepared = cells.trained(cell)
    loader = cells._eval_loader(prepared, "test")
    scores = torch.cat([prepared.model.full_sort_predict(batch) for _, batch in loader])
    assert bool(torch.isfinite(scores).all())
    assert not prepared.model.training
    again = summarise(rank_cases(prepared.model, loader, True), ["NDCG"], [10])
    assert again["ndcg@10"] == record.metric("ndcg@10")


def test_a_lost_checkpoint_is_trained_again(tiny: Path) -> None:
    cell, cells = cell_of("GRU4Rec"), runner()
    record = cells.run(cell)
    (cell.folder / "best.pt").unlink()
    cells.trained(cell)
    assert (cell.folder / "best.pt").is_file()
    again = ResultStore("results").find(cell.key)
    assert again is not None
    assert again.metrics == record.metrics


# ---- the clock ----------------------------------------------------------------------------------


def test_an_inner_phase_does_not_count_for_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 100.0))
    monkeypatch.setattr("recbole_llm.bench.stopwatch.time.monotonic", lambda: float(next(clock)))
    watch = Stopwatch()  # 0
    with watch("outer"), watch("inner"):  # 1, 2
        pass  # 3, 4
    assert watch.seconds == {"inner": 1.0, "outer": 2.0}
    assert watch.report() == {"inner": 1.0, "outer": 2.0, "total": 5.0}


def test_phases_of_one_name_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0.0, 100.0))
    monkeypatch.setattr("recbole_llm.bench.stopwatch.time.monotonic", lambda: float(next(clock)))
    watch = Stopwatch()
    for _ in range(3):
        with watch("phase"):
            pass
    assert watch.seconds == {"phase": 3.0}


def test_a_phase_that_fails_is_timed_all_the_same() -> None:
    watch = Stopwatch()
    with pytest.raises(RuntimeError), watch("phase"):
        raise RuntimeError
    assert watch.seconds["phase"] >= 0


def test_a_cell_is_named_for_people(tiny: Path) -> None:
    assert cell_of("SRGNN", seed=3).title() == "SRGNN on tiny (loo, seed 3)"
    assert cell_of("LLMDMsRec", semantics="shuffled").title() == "LLMDMsRec on tiny (loo, seed 1, shuffled)"


def test_cells_are_made_of_settings_alone(tiny: Path) -> None:
    cell = cell_of("SRGNN")
    assert Cell.of(cell.settings).key == cell.key
    assert isinstance(CellRunner(ResultStore("results")).store, ResultStore)


def test_a_record_says_nothing_of_the_folders_of_its_machine(tiny: Path, tmp_path: Path) -> None:
    cell = cell_of("BPR", data_path=str(tiny.parent), results_dir=str(tmp_path / "mine"))
    assert cell.settings["results_dir"] == str(tmp_path / "mine")
    assert str(tmp_path) not in cell.blank_record().model_dump_json()
