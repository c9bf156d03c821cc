"""Finished runs in trackers, tested with the real libraries and their local back ends."""

from __future__ import annotations

import json
import logging
import sqlite3
from pathlib import Path

import pytest

from recbole_llm import api
from recbole_llm.errors import UserError
from recbole_llm.experiments.record import Record, SemanticFacts
from recbole_llm.experiments.store import ResultStore
from recbole_llm.experiments.tracking import Tracking, group_of, open_tracking, parameters
from tests.helpers import Cli
from tests.reporting.records import store_run

SECRET = "sk-abcdefgh12345678"


@pytest.fixture
def store(workspace: Path) -> ResultStore:
    return ResultStore("results")


def finished(store: ResultStore, seed: int = 1) -> Record:
    settings = {"seed": seed, "learning_rate": 0.01, "llm_base_url": f"http://me:{SECRET}@host/v1?key={SECRET}"}
    return store_run(store, "SASRec", 1.0, seed, settings=settings, epochs=3)


def test_tensorboard_has_settings_curves_and_metrics(store: ResultStore) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    records = [finished(store, seed) for seed in (1, 2)]
    tracking = open_tracking("tensorboard", store)
    for record in records:
        tracking(record)
    (group,) = Path("log_tensorboard").iterdir()  # one group for both seeds
    assert len(list(group.iterdir())) == 2
    folder = next(group.glob("SASRec-s1-*"))
    events = accumulator.EventAccumulator(str(folder)).Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2, 3]
    assert [round(point.value, 6) for point in events.Scalars("valid/ndcg@10")] == [0.1, 0.2, 0.3]
    assert events.Scalars("test/ndcg@10")[0].value == pytest.approx(records[0].metrics["ndcg@10"].value)
    assert (folder / store.path(records[0]).name).is_file()
    assert all(SECRET.encode() not in path.read_bytes() for path in folder.glob("events*"))


def test_mlflow_has_settings_curves_metrics_and_the_record(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (pip install 'recbole-llm[mlflow]')")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
    mlflow.set_tracking_uri(None)
    record = finished(store)
    open_tracking("mlflow", store)(record)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("recbole_llm").experiment_id])
    assert run.data.params["settings/learning_rate"] == "0.01"
    assert run.data.tags["group"] == group_of(record)
    assert run.data.metrics["test/ndcg_at_10"] == pytest.approx(record.metrics["ndcg@10"].value)
    history = client.get_metric_history(run.info.run_id, "valid/ndcg_at_10")
    assert [(point.step, round(point.value, 6)) for point in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == [store.path(record).name]
    assert run.info.status == "FINISHED" and SECRET not in str(run.data.params)


def test_trackio_has_settings_curves_and_metrics(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed (pip install 'recbole-llm[trackio]')")
    utils = pytest.importorskip("trackio.utils")
    record = finished(store)
    for module in ("trackio.utils", "trackio.sqlite_storage"):
        monkeypatch.setattr(f"{module}.TRACKIO_DIR", Path.cwd() / "trackio")
    assert Path.cwd() / "trackio" == utils.TRACKIO_DIR
    open_tracking("trackio", store)(record)
    (database,) = Path("trackio").rglob("recbole_llm*.db")
    with sqlite3.connect(database) as connection:
        told = [json.loads(row[0]) for row in connection.execute("select metrics from metrics order by step")]
        config = str(list(connection.execute("select config from configs")))
    assert [point["valid/ndcg@10"] for point in told[:3]] == pytest.approx([0.1, 0.2, 0.3])
    assert told[3]["test/ndcg@10"] == pytest.approx(record.metrics["ndcg@10"].value)
    assert "learning_rate" in config and SECRET not in config


def test_wandb_writes_a_run_offline(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (pip install 'recbole-llm[wandb]')")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(Path.cwd())}.items():
        monkeypatch.setenv(name, value)
    record = finished(store)
    open_tracking("wandb", store)(record)
    (file,) = Path("wandb").glob("offline-run-*/run-*.wandb")
    written = file.read_bytes()
    for part in ("settings/learning_rate", "valid/ndcg@10", "test/ndcg@10", group_of(record), f"record-{record.key}"):
        assert part.encode() in written, part
    assert SECRET.encode() not in written


class Broken:
    """A tracker whose service is down."""

    def __init__(self) -> None:
        self.calls = 0

    def log(self, name: str, group: str, record: Record, path: Path) -> None:
        self.calls += 1
        raise OSError(f"no route to https://me:{SECRET}@host")


def test_a_tracker_that_fails_is_warned_of_once(store: ResultStore, caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    tracking = Tracking(broken, store)
    with caplog.at_level(logging.WARNING):
        for seed in (1, 2):
            tracking(finished(store, seed))
    assert broken.calls == 2
    assert caplog.text.count("the tracker failed") == 1 and SECRET not in caplog.text


def test_seeds_share_a_group_that_other_settings_do_not(store: ResultStore) -> None:
    first, second = finished(store, 1), finished(store, 2)
    other = first.model_copy(update={"settings": {**first.settings, "learning_rate": 0.5}})
    answers = first.model_copy(update={"semantics": "llm", "features": SemanticFacts(llm="openai")})
    assert group_of(first) == group_of(second)
    assert first.data is not None
    profiles = [
        first.model_copy(update={"data": first.data.model_copy(update={"files": {"profiles": digest}})})
        for digest in ("1a", "2b")
    ]
    assert len({group_of(record) for record in (first, other, answers, *profiles)}) == 5


def test_nothing_that_looks_like_a_key_is_sent(store: ResultStore) -> None:
    assert SECRET not in str(parameters(finished(store)))


def test_an_unknown_tracker_is_named_before_anything_runs(
    tiny: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("run", "--model=Pop", "--dataset=tiny", "--track=mlflo") == 2
    assert "Did you mean mlflow?" in capsys.readouterr().err
    assert not Path("results").exists()


def test_a_library_that_is_missing_is_named(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'recbole-llm\[wandb\]'"):
        open_tracking("wandb", store)


def test_only_runs_that_were_made_are_sent(tiny: Path, fork_server: None) -> None:
    """Worker processes make the runs; a second command finds their records and sends nothing."""
    api.run("Pop", "tiny", seeds=2, track="tensorboard", executor="processes", workers=2)
    assert len(list(Path("log_tensorboard").glob("*/*"))) == 2
    events = sorted(Path("log_tensorboard").rglob("events*"))
    api.run("Pop", "tiny", seeds=2, track="tensorboard")
    assert sorted(Path("log_tensorboard").rglob("events*")) == events


def test_trials_are_not_sent(tiny: Path) -> None:
    api.tune("BPR", "tiny", trials=2, epochs=1, track="tensorboard")
    assert len(list(Path("log_tensorboard").glob("*/*"))) == 1
