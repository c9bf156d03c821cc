"""Processes that tests start and kill. Each starts in a fraction of a second with torch, RecBole and this package
loaded, because it is forked from a server that has loaded them once."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

from recbole_llm.execution.processes import WARM, as_if_alone

LOADED = [
    *("recbole_llm.cli", "recbole_llm.api", "recbole_llm.experiments.launch", "recbole_llm.experiments.doctor"),
    *("recbole_llm.reporting.tables", "recbole_llm.tuning.search", "recbole_llm.tuning.report"),
    *("recbole_llm.features.builder", "recbole_llm.execution.worker", "tests.helpers", "tests.processes"),
    WARM,
]
ROOT = Path(__file__).resolve().parents[1]


def ensure_server() -> None:
    """Start this process's fork server; executors under test use it too."""
    multiprocessing.set_forkserver_preload(LOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))
    multiprocessing.forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


class Started:
    """A process that a test has started.

    Attributes:
        pid: the process id.
        stdout, stderr: its output, as text streams.
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any], environment: Mapping[str, str]) -> None:
        ensure_server()
        context: Any = multiprocessing.get_context("forkserver")
        (out, theirs_out), (err, theirs_err) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        with theirs_out, theirs_err:
            self._process = context.Process(
                target=_run, args=(function, arguments, {**os.environ, **environment}, theirs_out, theirs_err)
            )
            with as_if_alone():
                self._process.start()
        self.pid = self._process.pid
        self.stdout, self.stderr = _text(out), _text(err)

    @property
    def returncode(self) -> int | None:
        """Exit code, or the negative signal number if a signal killed it; ``None`` while it runs."""
        code: int | None = self._process.exitcode
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Send ``kill -9`` and wait for the process to end."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float = 120) -> int:
        """Wait for the process to end and return its exit code."""
        self._process.join(timeout)
        assert self.returncode is not None, "it did not end"
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait for the process to end and return its unread output."""
        found: dict[str, str] = {}
        streams = {"out": self.stdout, "err": self.stderr}
        readers = [
            threading.Thread(target=lambda name=name, stream=stream: found.update({name: stream.read()}))
            for name, stream in streams.items()
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return found["out"], found["err"]


def start(function: Callable[..., Any], *arguments: Any, **environment: str) -> Started:
    """Start a process in the current folder that calls a function.

    Args:
        function: a module-level function; if it returns an integer, that is the exit code.
        arguments: its arguments, which must be picklable.
        environment: variables to set in addition to those of this process.
    """
    return Started(function, arguments, environment)


def start_command(*words: str, **environment: str) -> Started:
    """Start a command line in a process."""
    return start(_command, list(words), **environment)


def _command(words: list[str]) -> int:
    from recbole_llm.cli import main

    sys.argv = ["recbole-llm", *words]
    return main()


def _text(connection: Connection) -> IO[str]:
    with connection:
        return open(os.dup(connection.fileno()), encoding="utf-8", errors="replace")  # noqa: PTH123


def _run(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    environment: dict[str, str],
    out: Connection,
    err: Connection,
) -> None:
    """Set up streams and environment in the new process, then call the function."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    multiprocessing.set_start_method(None, force=True)  # as in a process that was not forked
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may ignore Ctrl-C
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    out.close()
    err.close()
    code = 1
    try:
        found = function(*arguments)
        code = found if isinstance(found, int) else 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until a condition holds; fail after some seconds."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.02)
