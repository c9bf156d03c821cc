"""Works in this process and in worker processes; what a dead worker costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.execution.executors import (
    Executor,
    Job,
    JobError,
    ProcessExecutor,
    SerialExecutor,
    each_result,
    open_executor,
)
from recbole_llm.utils.environment import available_cores
from tests.execution import chores

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessExecutor]:
    with ProcessExecutor(2, gpus=[]) as executor:
        yield executor


@pytest.fixture(params=["serial", "processes"])
def executor(request: pytest.FixtureRequest, pool: ProcessExecutor) -> Executor:
    return SerialExecutor() if request.param == "serial" else pool


def values(executor: Executor, works: list[Job]) -> list[Any]:
    """Values in the order of the works."""
    found = {id(outcome.work): outcome for outcome in each_result(executor, works)}
    for outcome in found.values():
        assert outcome.error is None, outcome.reason
    return [found[id(work)].value for work in works]


def errors(executor: Executor, *works: Job) -> list[str]:
    return [outcome.reason for outcome in each_result(executor, works) if outcome.error is not None]


# ---- what all executors do ------------------------------------------------------------------------


def test_every_work_gives_its_value_once(executor: Executor) -> None:
    works = [Job(str(n), chores.double, (n,)) for n in range(7)]
    assert values(executor, works) == [0, 2, 4, 6, 8, 10, 12]
    assert executor.under_way == 0
    assert executor.free == executor.slots


def test_a_work_that_runs_can_ask_the_driver(executor: Executor) -> None:
    heard: list[int] = []

    def answer(message: int) -> int:
        heard.append(message)
        return 10 * message

    assert values(executor, [Job("", chores.ask_twice, (3,), answer)]) == [[30, 40]]
    assert heard == [3, 4]


def test_an_error_ends_its_own_work_alone(executor: Executor) -> None:
    works = [Job("", chores.refuse, (ValueError("no"),)), Job("", chores.double, (4,))]
    outcomes = {outcome.work.function: outcome for outcome in each_result(executor, works)}
    assert outcomes[chores.refuse].reason == "ValueError: no"
    assert outcomes[chores.double].value == 8


def test_a_users_error_stays_one(executor: Executor) -> None:
    (outcome,) = each_result(executor, [Job("", chores.refuse, (UserError("mistyped"),))])
    assert isinstance(outcome.error, UserError)
    assert outcome.reason == "mistyped"


# ---- worker processes -----------------------------------------------------------------------------


def test_works_run_at_the_same_time(pool: ProcessExecutor, tmp_path: Path) -> None:
    works = [Job("", chores.meet, (str(tmp_path), *names)) for names in (("a", "b"), ("b", "a"))]
    assert values(pool, works) == ["a", "b"]


def test_workers_live_on_between_works(pool: ProcessExecutor) -> None:
    first = set(values(pool, [Job("", chores.process) for _ in range(6)]))
    assert set(values(pool, [Job("", chores.process) for _ in range(6)])) <= first
    assert os.getpid() not in first


def test_threads_of_all_workers_are_no_more_than_the_cores(pool: ProcessExecutor) -> None:
    ((threads, blas),) = values(pool, [Job("", chores.environment, ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"))])
    assert threads == blas == str(max(1, available_cores() // 2))


def test_each_worker_sees_one_gpu() -> None:
    executor = ProcessExecutor(3, gpus=["4", "GPU-ab"])
    assert [executor.environment(n)["CUDA_VISIBLE_DEVICES"] for n in range(3)] == ["4", "GPU-ab", "4"]


def test_a_worker_that_dies_costs_its_own_work_one_more_try(pool: ProcessExecutor, tmp_path: Path) -> None:
    works = [Job("", chores.die, (str(tmp_path / "mark"),)), *[Job("", chores.double, (n,)) for n in range(4)]]
    assert values(pool, works) == ["second try", 0, 2, 4, 6]


def test_a_work_that_kills_every_worker_is_given_up(pool: ProcessExecutor) -> None:
    works = [Job("", chores.always_die), *[Job("", chores.double, (n,)) for n in range(4)]]
    outcomes = list(each_result(pool, works))
    (lost,) = [outcome for outcome in outcomes if outcome.error is not None]
    assert isinstance(lost.error, JobError)
    assert lost.reason == "its worker died (signal 9; out of memory?)"
    assert sorted(outcome.value for outcome in outcomes if outcome.error is None) == [0, 2, 4, 6]


def test_what_cannot_travel_is_an_error(pool: ProcessExecutor) -> None:
    (there,) = errors(pool, Job("", chores.double, (lambda: None,)))
    assert there.startswith("cannot be sent to a worker")
    (back,) = errors(pool, Job("", chores.unsendable))
    assert back.startswith("unsendable gave what cannot be sent back")


def test_a_module_that_workers_lack_is_an_error(pool: ProcessExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores.double, "__module__", "no_such_module")
    monkeypatch.setitem(sys.modules, "no_such_module", chores)
    (reason,) = errors(pool, Job("", chores.double, (1,)))
    assert reason == "a worker cannot read its work: ModuleNotFoundError: No module named 'no_such_module'"


def is_alive(process: int) -> bool:
    """Whether a process still runs; one that ended and that nobody waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_a_driver_that_is_killed_leaves_no_worker_behind(tmp_path: Path) -> None:
    script = """
        import sys
        from recbole_llm.execution.executors import ProcessExecutor, Job
        from tests.execution import chores
        executor = ProcessExecutor(1, gpus=[])
        executor.submit(Job("", chores.announce, (sys.argv[1],)))
        executor.next()
    """
    mark = tmp_path / "worker"
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(mark)], cwd=ROOT)
    wait_for(mark.exists)
    worker = int(mark.read_text())
    assert is_alive(worker)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not is_alive(worker))


def wait_for(condition: Any, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.02)


# ---- the choice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "process"}, r"--executor=process: use .*Did you mean processes\?"),
        ({"workers": 0}, "--workers=0"),
        ({"kind": "serial", "workers": 3}, "--executor=serial has one worker"),
        ({"kind": "processes", "ray_address": "auto"}, "are for --executor=ray"),
    ],
)
def test_a_mistaken_choice_is_an_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message), open_executor(**arguments):
        pass


@pytest.mark.parametrize(("workers", "kind"), [(None, SerialExecutor), (1, SerialExecutor), (3, ProcessExecutor)])
def test_the_number_of_workers_decides_where_nothing_else_is_said(workers: int | None, kind: type) -> None:
    with open_executor(workers=workers) as executor:
        assert type(executor) is kind
        assert executor.slots == (workers or 1)
