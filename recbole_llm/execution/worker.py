"""The worker's side: what a process does to run a job for the driver.

Importing this module must stay light. A spawned process imports it before its environment is set, and torch reads
``CUDA_VISIBLE_DEVICES`` and its thread counts when it is imported.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from threadpoolctl import threadpool_limits

from recbole_llm.errors import NoRoomError, UserError
from recbole_llm.execution.base import Job, JobError, JobResult
from recbole_llm.registry import Method, features, methods, register
from recbole_llm.utils.files import NO_ROOM

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Setup:
    """What a worker takes over from the process that started it.

    Attributes:
        path: entries of ``sys.path``.
        methods, features: those that are not built in.
        level: log level of this package.
        quiet_warnings: whether Python warnings are ignored.
        threads: how many threads the worker may use.
        prefix: of the worker's log messages.
        environment: all environment variables; ``None`` keeps the worker's own.
    """

    path: tuple[str, ...]
    methods: tuple[Method, ...]
    features: Mapping[str, str]
    level: int
    quiet_warnings: bool
    threads: int
    prefix: str = ""
    environment: Mapping[str, str] | None = None

    @classmethod
    def here(cls, threads: int, prefix: str = "", environment: Mapping[str, str] | None = None) -> Self:
        """The setup of this process."""
        return cls(
            path=tuple(sys.path),
            methods=tuple(row for row in methods().values() if row.is_external),
            features={name: path for name, path in features().items() if not path.startswith("recbole_llm.")},
            level=logging.getLogger("recbole_llm").getEffectiveLevel(),
            quiet_warnings=bool(warnings.filters) and warnings.filters[0][0] == "ignore",
            threads=threads,
            prefix=prefix,
            environment=environment,
        )

    def apply(self) -> None:
        """Apply the setup to this process."""
        if self.environment is not None:
            os.environ.clear()
            os.environ.update(self.environment)
        os.environ.update(dict.fromkeys(THREADS, str(self.threads)))
        _limit_threads(self.threads)
        known = set(sys.path)
        sys.path += [entry for entry in self.path if entry not in known]
        for row in self.methods:
            register(row, self.features)
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"%(asctime)s {self.prefix}%(message)s", "%H:%M:%S"))
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(logging.WARNING)
        logging.getLogger("recbole_llm").setLevel(self.level)
        if self.quiet_warnings:
            warnings.simplefilter("ignore")


def _limit_threads(threads: int) -> None:
    """Limit the threads of libraries that are already loaded, for which environment variables come too late."""
    threadpool_limits(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


# ``done`` and a value, ``refused`` and a UserError's text, ``full`` and (place, reason), ``failed`` and another's text
Answer = tuple[str, Any]


def call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
    """Make a call and report how it ended."""
    try:
        return "done", function(*arguments)
    except NoRoomError as error:
        return "full", (error.place, error.reason)
    except OSError as error:
        logging.getLogger(__name__).debug("%s", function.__name__, exc_info=True)
        if error.errno in NO_ROOM:
            return "full", (error.filename or "a file", error.strerror)
        return "failed", f"{type(error).__name__}: {error}"
    except UserError as error:
        return "refused", str(error)
    except SystemExit as error:  # RecBole and users' models may call exit()
        return "failed", f"exit({error.code}) was called"
    except Exception as error:
        logging.getLogger(__name__).debug("%s", function.__name__, exc_info=True)
        return "failed", f"{type(error).__name__}: {error}"


def result_of(job: Job, answer: Answer) -> JobResult:
    """The result of a job from its worker's answer.

    Raises:
        NoRoomError: the disk is full, which ends the other jobs too.
    """
    kind, content = answer
    if kind == "full":
        raise NoRoomError(*content)
    if kind == "done":
        return JobResult(job, content)
    return JobResult(job, error=(UserError if kind == "refused" else JobError)(content))


def serve(setup: Setup, job: bytes, channel: Connection, stderr: Connection) -> None:
    """Run one job in this worker process and send back its answer.

    Args:
        setup: of the driver.
        job: function and arguments, pickled; they are imported only after ``setup`` has been applied.
        channel: takes the answer, pickled.
        stderr: the driver's current one; a fork server still has the one that it was started with.
    """
    for stream in (1, 2):  # library output must not end up in the driver's tables
        os.dup2(stderr.fileno(), stream)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    multiprocessing.set_start_method(None, force=True)  # the job's own processes start as in the driver
    setup.apply()
    channel.send_bytes(_answer(job))


def _end_with_parent() -> None:
    """Exit when the driver is gone, so that a killed driver leaves no worker behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _answer(job: bytes) -> bytes:
    """Run a job; if the job cannot be read or its result cannot be sent back, the answer says so."""
    try:
        function, arguments = pickle.loads(job)  # noqa: S301 - from the process that started this one
    except Exception as error:  # imports can raise anything, for example if a model's class is missing
        return pickle.dumps(("failed", f"a worker cannot read its job: {type(error).__name__}: {error}"))
    answer = call(function, arguments)
    try:
        return pickle.dumps(answer)
    except Exception as error:  # pickle raises many types
        return pickle.dumps(("failed", f"{function.__name__} gave what cannot be sent back: {error}"))
