"""Jobs in this process and in worker processes, and what happens if a worker dies."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_llm import registry
from recbole_llm.errors import NoRoomError, UserError
from recbole_llm.execution.base import Executor, Job, JobError, each_result
from recbole_llm.execution.choice import open_executor
from recbole_llm.execution.processes import ProcessExecutor
from recbole_llm.execution.serial import SerialExecutor
from recbole_llm.registry import Method, register
from recbole_llm.utils.environment import available_cores
from tests.execution import chores
from tests.processes import start, wait_for

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("fork_server")


@pytest.fixture
def pool() -> Iterator[ProcessExecutor]:
    executor = ProcessExecutor(2, gpus=[])
    yield executor
    executor.close()


@pytest.fixture(params=["serial", "processes"])
def executor(request: pytest.FixtureRequest, pool: ProcessExecutor) -> Executor:
    return SerialExecutor() if request.param == "serial" else pool


def values(executor: Executor, jobs: list[Job]) -> list[Any]:
    """Run jobs and return their values, in the order of the jobs."""
    found = {id(result.job): result for result in each_result(executor, jobs)}
    for result in found.values():
        assert result.error is None, result.reason
    return [found[id(job)].value for job in jobs]


def value(executor: Executor, function: Any, *arguments: Any) -> Any:
    """Run one job and return its value."""
    (found,) = values(executor, [Job("", function, arguments)])
    return found


def errors(executor: Executor, *jobs: Job) -> list[str]:
    return [result.reason for result in each_result(executor, jobs) if result.error is not None]


# ---- what all executors do ------------------------------------------------------------------------


def test_every_job_gives_its_value_once(executor: Executor) -> None:
    jobs = [Job(str(n), chores.double, (n,)) for n in range(7)]
    assert values(executor, jobs) == [0, 2, 4, 6, 8, 10, 12]
    assert executor.under_way == 0
    assert executor.free == executor.slots


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no"), "ValueError: no"),
        (FileNotFoundError(2, "No such file", "side.npy"), "FileNotFoundError: [Errno 2] No such file: 'side.npy'"),
        (chores.OwnError("no"), "OwnError: no"),
    ],
)
def test_an_error_ends_its_own_job_alone(executor: Executor, error: Exception, reason: str) -> None:
    jobs = [Job("", chores.refuse, (error,)), Job("", chores.double, (4,))]
    results = {result.job.function: result for result in each_result(executor, jobs)}
    assert results[chores.refuse].reason == reason
    assert results[chores.double].value == 8


def test_a_job_that_leaves_python_ends_alone(executor: Executor) -> None:
    """Regression: the whole command ended without a word, as if all had gone well."""
    jobs = [Job("", chores.call_exit, (0,)), Job("", chores.double, (4,))]
    results = {result.job.function: result for result in each_result(executor, jobs)}
    assert results[chores.call_exit].reason == "exit(0) was called"
    assert results[chores.double].value == 8


@pytest.mark.parametrize("error", [NoRoomError("a.pt", "no space"), OSError(errno.ENOSPC, "no space", "a.pt")])
def test_a_full_disk_is_no_job_s_error(executor: Executor, error: OSError) -> None:
    with pytest.raises(OSError, match=r"a\.pt"):
        list(each_result(executor, [Job("", chores.refuse, (error,))]))


def test_a_users_error_stays_one(executor: Executor) -> None:
    (result,) = each_result(executor, [Job("", chores.refuse, (UserError("mistyped"),))])
    assert isinstance(result.error, UserError)
    assert result.reason == "mistyped"


# ---- worker processes -----------------------------------------------------------------------------


def test_jobs_run_at_the_same_time(pool: ProcessExecutor, tmp_path: Path) -> None:
    jobs = [Job("", chores.meet, (str(tmp_path), *names)) for names in (("a", "b"), ("b", "a"))]
    assert values(pool, jobs) == ["a", "b"]


def test_every_job_has_a_process_of_its_own_which_ends_with_it(pool: ProcessExecutor) -> None:
    found = values(pool, [Job("", chores.process) for _ in range(6)])
    assert len({*found, os.getpid()}) == 7
    assert not any(is_alive(process) for process in found)


def test_a_process_that_is_forked_has_loaded_what_the_job_needs(pool: ProcessExecutor) -> None:
    assert value(pool, chores.loaded, "torch", "recbole") == [True, True]


def test_without_a_fork_server_jobs_run_all_the_same() -> None:
    """This is the case with GPUs: torch must be loaded only after the process has its GPU assigned."""
    executor = ProcessExecutor(1, gpus=["7"])
    assert value(executor, chores.loaded, "torch") == [False]
    assert value(executor, chores.environment, "CUDA_VISIBLE_DEVICES") == ["7"]


def test_threads_of_all_workers_are_no_more_than_the_cores(pool: ProcessExecutor) -> None:
    share = max(1, available_cores() // 2)
    assert value(pool, chores.environment, "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") == [str(share)] * 2
    assert set(value(pool, chores.threads)) == {share}


def test_each_worker_sees_one_gpu() -> None:
    executor = ProcessExecutor(3, gpus=["4", "GPU-ab"])
    assert [executor.environment(n)["CUDA_VISIBLE_DEVICES"] for n in range(3)] == ["4", "GPU-ab", "4"]


def test_a_worker_is_where_its_driver_is(
    pool: ProcessExecutor, monkeypatch: pytest.MonkeyPatch, workspace: Path
) -> None:
    """It has the driver's current environment and folder, not those at the start of the fork server."""
    monkeypatch.setenv("SAID_TODAY", "yes")
    assert value(pool, chores.environment, "SAID_TODAY") == ["yes"]
    assert value(pool, os.getcwd) == str(workspace)


def test_what_was_registered_from_outside_is_known_to_workers(
    pool: ProcessExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_METHODS", dict(registry.methods()))
    row = Method("Mine", "my_models:Mine", "sequential")
    register(row)
    assert value(pool, chores.row_of, "Mine") == row


def test_what_a_worker_prints_goes_to_the_messages_and_is_marked(
    pool: ProcessExecutor, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="recbole_llm")
    value(pool, chores.speak, "this")
    out, err = capfd.readouterr()
    assert out == ""
    assert "printed this\n" in err
    assert "[1] logged this\n" in err
    assert "whispered" not in err


def test_ctrl_c_is_the_drivers(pool: ProcessExecutor) -> None:
    assert value(pool, chores.interrupt) == "still here"


def test_a_job_can_have_jobs(pool: ProcessExecutor) -> None:
    assert value(pool, chores.inner, [1, 2]) == [2, 4]


def test_a_worker_that_dies_costs_its_own_job_one_more_try(pool: ProcessExecutor, tmp_path: Path) -> None:
    jobs = [Job("", chores.die, (str(tmp_path / "mark"),)), *[Job("", chores.double, (n,)) for n in range(4)]]
    assert values(pool, jobs) == ["second try", 0, 2, 4, 6]


def test_a_worker_that_dies_while_it_answers_is_retried(pool: ProcessExecutor) -> None:
    """Regression: half an answer ended the command, and with it all other jobs."""
    pool.submit(Job("", chores.double, ("x" * 2**20,)))  # more than a pipe holds: the worker waits for its reader
    (worker,) = pool._workers.values()
    assert worker.channel.poll(60)
    worker.process.kill()
    result = pool.next()
    assert result is not None
    assert result.error is None, result.reason
    assert result.value == "x" * 2**21


@pytest.mark.parametrize(
    ("function", "ending"), [(chores.always_die, "signal 9; out of memory?"), (chores.leave, "exit code 3")]
)
def test_a_job_that_kills_every_worker_is_given_up(pool: ProcessExecutor, function: Any, ending: str) -> None:
    jobs = [Job("", function), *[Job("", chores.double, (n,)) for n in range(4)]]
    results = list(each_result(pool, jobs))
    (lost,) = [result for result in results if result.error is not None]
    assert isinstance(lost.error, JobError)
    assert lost.reason == f"its worker died ({ending})"
    assert sorted(result.value for result in results if result.error is None) == [0, 2, 4, 6]


def test_what_cannot_travel_is_an_error(pool: ProcessExecutor) -> None:
    (there,) = errors(pool, Job("", chores.double, (lambda: None,)))
    assert there.startswith("cannot be sent to a worker")
    (back,) = errors(pool, Job("", chores.unsendable))
    assert back.startswith("unsendable gave what cannot be sent back")


def test_a_module_that_workers_lack_is_an_error(pool: ProcessExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores.double, "__module__", "no_such_module")
    monkeypatch.setitem(sys.modules, "no_such_module", chores)
    (reason,) = errors(pool, Job("", chores.double, (1,)))
    assert reason == "a worker cannot read its job: ModuleNotFoundError: No module named 'no_such_module'"


@pytest.mark.parametrize(("gpus", "is_loaded"), [([], True), (["0"], False)], ids=["forked", "spawned"])
def test_a_script_without_a_guard_runs_once(tmp_path: Path, gpus: list[str], is_loaded: bool) -> None:
    """By default, multiprocessing makes every worker import the script, which would start its jobs again."""
    script = f"""
        from recbole_llm.execution.base import Job, each_result
        from recbole_llm.execution.processes import ProcessExecutor
        from tests.execution import chores
        print("the script")
        executor = ProcessExecutor(1, gpus={gpus})
        print([result.value for result in each_result(executor, [Job("", chores.loaded, ("torch.optim",))])])
        executor.close()
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    found = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (found.stdout, found.returncode) == (f"the script\n[[{is_loaded}]]\n", 0), found.stderr


def is_alive(process: int) -> bool:
    """Whether a process is still running; a zombie is not."""
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_a_driver_that_is_killed_leaves_no_worker_behind(tmp_path: Path) -> None:
    mark = tmp_path / "worker"
    driver = start(chores.drive, str(mark))
    wait_for(mark.exists)
    worker = int(mark.read_text())
    assert is_alive(worker)
    driver.kill()
    wait_for(lambda: not is_alive(worker))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_what_still_runs_ends_with_its_executor(tmp_path: Path) -> None:
    executor = ProcessExecutor(1, gpus=[])
    executor.submit(Job("", chores.announce, (str(tmp_path / "worker"),)))
    assert executor.next(timeout=0) is None
    wait_for((tmp_path / "worker").exists)
    executor.close()
    assert not is_alive(int((tmp_path / "worker").read_text()))
    assert executor.under_way == 0


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
