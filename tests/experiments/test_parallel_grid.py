"""Grids on worker processes give the same records as in one process, even if workers die."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.api import run
from recbole_llm.experiments.jobs import pack
from recbole_llm.experiments.record import Record
from recbole_llm.experiments.store import ResultStore
from recbole_llm.settings.layers import stage_one_settings
from tests.helpers import make_run

pytestmark = pytest.mark.usefixtures("fork_server")
SHORT: dict[str, Any] = {"epochs": 2, "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 128}

DEADLY = '''
import os
import signal

from recbole.model.sequential_recommender.gru4rec import GRU4Rec


class Deadly(GRU4Rec):
    """Takes its whole process with it."""

    def calculate_loss(self, interaction):
        os.kill(os.getpid(), signal.SIGKILL)
'''


def metrics(records: list[Record]) -> list[dict[str, float]]:
    return [{name: metric.value for name, metric in record.metrics.items()} for record in records]


@pytest.mark.slow
def test_workers_find_what_one_process_finds_with_features_made_once(tiny: Path) -> None:
    grid: dict[str, Any] = {"model": "GRU4Rec,LLMDMsRec", "dataset": "tiny", "semantics": "llm,shuffled", **SHORT}
    there = run(**grid, workers=2)
    assert [record.label for record in there] == ["GRU4Rec", "LLMDMsRec (offline)", "LLMDMsRec (shuffled)"]
    models = [(record.model, record.status) for record in ResultStore("results")]
    assert models.count(("SRGNN", "ok")) == 1  # stage one, made by the driver before the runs were spread
    assert len(models) == 4
    made = {"features", "encode", "stage_one"}  # by the driver; regression: no record had their seconds
    assert [made & record.seconds.keys() for record in there] == [set(), made, set()]
    assert there[1].seconds["total"] > sum(there[1].seconds[phase] for phase in (*made, "train"))
    here = run(**grid, results_dir="serial", checkpoint_dir="other")
    assert metrics(there) == metrics(here)


def test_a_cell_that_kills_its_worker_fails_alone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("deadly_model.py").write_text(textwrap.dedent(DEADLY))
    monkeypatch.syspath_prepend(Path.cwd())
    deadly, pop = run("deadly_model:Deadly,Pop", "tiny", executor="processes", **SHORT)
    assert (deadly.status, deadly.error) == ("failed", "its worker died (signal 9; out of memory?)")
    assert pop.status == "ok"
    assert {record.model: record.status for record in ResultStore("results")} == {
        "deadly_model:Deadly": "failed",
        "Pop": "ok",
    }


def test_a_record_packed_and_unpacked_is_whole(tiny: Path) -> None:
    (record,) = run("Pop", "tiny", **SHORT)
    here, there = ResultStore("results"), ResultStore("elsewhere")
    assert there.unpack(here.pack(record)) == record
    assert there.find(record.key) == record
    assert there.ranks_of(record).read_bytes() == here.ranks_of(record).read_bytes()


def test_item_profiles_travel_with_a_cell(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other machine does not have the profile file, whose hash is part of the key."""
    monkeypatch.setattr("tempfile.tempdir", str(Path.cwd() / "there"))
    Path("mine.jsonl").write_text('{"title": "a", "profile": "b"}\n')
    run = make_run("LLMDMsRec", profiles="mine.jsonl")
    shipment = pack(run, None)
    Path("mine.jsonl").unlink()
    with shipment.unpacked(run) as (moved, _):
        assert moved.key == run.key
        assert Path(moved.settings["profiles"]).read_text() == '{"title": "a", "profile": "b"}\n'
        assert stage_one_settings(moved.settings).key() == stage_one_settings(run.settings).key()
        assert moved.blank_record().settings == run.blank_record().settings
