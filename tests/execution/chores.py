"""Small jobs for executors; workers import them from this module."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from recbole_llm.execution.base import Job, each_result
from recbole_llm.execution.processes import ProcessExecutor
from recbole_llm.registry import find_method


class OwnError(Exception):
    """An error that a user's module defines."""


def double(value: Any) -> Any:
    return 2 * value


def refuse(error: Exception) -> None:
    raise error


def call_exit(code: int) -> None:
    sys.exit(code)


def environment(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def threads() -> list[int]:
    """Number of threads of torch, and of each other library with a thread pool."""
    import torch
    from threadpoolctl import threadpool_info

    return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]


def process() -> int:
    return os.getpid()


def loaded(*names: str) -> list[bool]:
    return [name in sys.modules for name in names]


def interrupt() -> str:
    """Send this process SIGINT, as Ctrl-C on a terminal does to all its processes."""
    os.kill(os.getpid(), signal.SIGINT)
    return "still here"


def speak(text: str) -> None:
    """Print to stdout as a library does, and log as this package does."""
    os.write(1, f"printed {text}\n".encode())
    logging.getLogger("recbole_llm.test").info("logged %s", text)
    logging.getLogger("recbole_llm.test").debug("whispered %s", text)


def row_of(name: str) -> Any:
    return find_method(name)


def inner(values: list[int]) -> list[int]:
    """Run jobs from within a job."""
    executor = ProcessExecutor(1, gpus=[])
    found = [result.value for result in each_result(executor, [Job("", double, (value,)) for value in values])]
    executor.close()
    return found


def die(mark: str) -> str:
    """Kill this process on the first call."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second try"


def always_die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(3)


def meet(folder: str, name: str, other: str) -> str:
    """Return only once the other job runs at the same time."""
    (Path(folder) / name).touch()
    while not (Path(folder) / other).exists():
        time.sleep(0.01)
    return name


def unsendable() -> Any:
    return lambda: None


def announce(path: str) -> None:
    """Write this process's id to a file, then wait forever."""
    partial = Path(path + ".part")
    partial.write_text(str(os.getpid()))
    partial.rename(path)
    while True:
        time.sleep(60)


def stay_until(path: str, value: int) -> int:
    """Return once the file exists."""
    while not Path(path).exists():
        time.sleep(0.01)
    return value


def drive(mark: str) -> None:
    """Run a driver with a job that waits forever."""
    executor = ProcessExecutor(1, gpus=[])
    executor.submit(Job("", announce, (mark,)))
    executor.next()
