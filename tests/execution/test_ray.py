"""Jobs on a Ray cluster of two logical machines, one of which fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.api import run, tune
from recbole_llm.errors import UserError
from recbole_llm.execution.base import Job, JobError, each_result
from recbole_llm.execution.choice import open_executor
from recbole_llm.experiments.store import ResultStore
from tests.execution import chores
from tests.processes import wait_for

pytestmark = pytest.mark.cluster
ray = pytest.importorskip("ray")

ROOT = Path(__file__).resolve().parents[2]
SHORT: dict[str, Any] = {"epochs": 2, "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 128}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
        yield made
        made.shutdown()


@pytest.fixture
def address(cluster: Any) -> Iterator[str]:
    yield cluster.address
    ray.shutdown()


def test_jobs_give_values_and_fail_alone(address: str) -> None:
    jobs = [
        Job("double", chores.double, (4,)),
        Job("fail", chores.refuse, (ValueError("no"),)),
        Job("refuse", chores.refuse, (UserError("mistyped"),)),
    ]
    with open_executor("ray", 2, address) as executor:
        found = {result.job.title: result for result in each_result(executor, jobs)}
    assert found["double"].value == 8
    assert isinstance(found["fail"].error, JobError)
    assert found["fail"].reason == "ValueError: no"
    assert isinstance(found["refuse"].error, UserError)


def test_a_grid_gives_the_records_of_one_process_without_shared_files(
    address: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tiny.parent))
    there = run("Pop,LLMDMsRec", "tiny", executor="ray", ray_address=address, **SHORT)
    here = run("Pop,LLMDMsRec", "tiny", results_dir="serial", checkpoint_dir="other", **SHORT)
    assert [record.error for record in there] == [None, None]
    assert [record.metrics for record in there] == [record.metrics for record in here]
    assert [record.key for record in there] == [record.key for record in here]
    store = ResultStore("results")
    assert all(store.ranks_of(record).is_file() for record in there)


def test_a_search_reports_to_the_driver_and_finds_what_one_process_finds(
    address: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tiny.parent))
    search: dict[str, Any] = {"model": "GRU4Rec", "dataset": "tiny", "trials": 8, **SHORT, "epochs": 4}
    found = tune(**search, executor="ray", ray_address=address, workers=1)
    (away,) = found.studies
    wanted = tune(**search, results_dir="serial", checkpoint_dir="other")
    (alone,) = wanted.studies
    assert [trial.intermediate_values for trial in away.ended()] == [
        trial.intermediate_values for trial in alone.ended()
    ]
    assert [trial.state for trial in away.ended()] == [trial.state for trial in alone.ended()]
    assert {len(trial.intermediate_values) for trial in away.ended()} > {4}  # some were pruned while on Ray
    assert [record.metrics for record in found.records] == [record.metrics for record in wanted.records]


def test_no_cluster_at_the_address_is_an_error() -> None:
    with (
        pytest.raises(UserError, match=r"--ray_address=127\.0\.0\.1:1: there is no cluster"),
        open_executor("ray", 1, "127.0.0.1:1"),
    ):
        pass


def test_a_job_of_a_lost_machine_runs_again_on_another(cluster: Any, address: str, tmp_path: Path) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    jobs = [
        Job("a", chores.meet, (str(tmp_path), "a", "b")),
        Job("b", chores.meet, (str(tmp_path), "b", "a")),
        *[Job(str(n), chores.stay_until, (str(tmp_path / "lost"), n)) for n in range(4)],
    ]
    with open_executor("ray", 2, address) as executor:
        found = []
        for result in each_result(executor, jobs):
            found.append(result)
            if len(found) == 2:  # both machines had a job; the next ones are under way
                cluster.remove_node(second, allow_graceful=False)
                (tmp_path / "lost").touch()
    assert [result.error for result in found] == [None] * 6
    assert sorted(str(result.value) for result in found) == ["0", "1", "2", "3", "a", "b"]


def test_a_grid_finishes_after_a_machine_was_killed(cluster: Any, address: str, tiny: Path) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    store = ResultStore("results")

    def kill_after_the_first_record() -> None:
        wait_for(lambda: any(True for _ in store), seconds=240)
        cluster.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill_after_the_first_record)
    killer.start()
    records = run("GRU4Rec", "tiny", seeds=6, executor="ray", ray_address=address, workers=2, **{**SHORT, "epochs": 10})
    killer.join()
    assert [record.status for record in records] == ["ok"] * 6
    assert len(list(store)) == 6
    assert not cluster.worker_nodes
