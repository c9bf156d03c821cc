"""Small jobs for executors; workers import them from here."""

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


def double(value: Any) -> Any:
    return 2 * value


def refuse(error: Exception) -> None:
    raise error


def environment(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def threads() -> list[int]:
    """Of torch, and of each other library that has a pool of them."""
    import torch
    from threadpoolctl import threadpool_info

    return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]


def process() -> int:
    return os.getpid()


def loaded(*names: str) -> list[bool]:
    return [name in sys.modules for name in names]


def interrupt() -> str:
    """What Ctrl-C on a terminal does to all processes there."""
    os.kill(os.getpid(), signal.SIGINT)
    return "still here"


def speak(text: str) -> None:
    """As a library prints and as this package logs."""
    os.write(1, f"printed {text}\n".encode())
    logging.getLogger("recbole_llm.test").info("logged %s", text)
    logging.getLogger("recbole_llm.test").debug("whispered %s", text)


def row_of(name: str) -> Any:
    return find_method(name)


def inner(values: list[int]) -> list[int]:
    """Jobs of a job."""
    executor = ProcessExecutor(1, gpus=[])
    found = [result.value for result in each_result(executor, [Job("", double, (value,)) for value in values])]
    executor.close()
    return found


def die(mark: str) -> str:
    """Kill the own process the first time."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second try"


def always_die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(3)


def meet(folder: str, name: str, other: str) -> str:
    """Come back only when the other one runs at the same time."""
    (Path(folder) / name).touch()
    while not (Path(folder) / other).exists():
        time.sleep(0.01)
    return name


def unsendable() -> Any:
    return lambda: None


def announce(path: str) -> None:
    """Write the own process id, then wait for ever."""
    partial = Path(path + ".part")
    partial.write_text(str(os.getpid()))
    partial.rename(path)
    while True:
        time.sleep(60)


def stay_until(path: str, value: int) -> int:
    """Come back when there is a file."""
    while not Path(path).exists():
        time.sleep(0.01)
    return value


def drive(mark: str) -> None:
    """A driver with a job that waits for ever."""
    executor = ProcessExecutor(1, gpus=[])
    executor.submit(Job("", announce, (mark,)))
    executor.next()
