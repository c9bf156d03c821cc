"""Small works for executors; workers import them from here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def double(ask: Any, value: Any) -> Any:
    return 2 * value


def ask_twice(ask: Any, value: int) -> list[int]:
    return [ask(value), ask(value + 1)]


def refuse(ask: Any, error: Exception) -> None:
    raise error


def environment(ask: Any, *names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def process(ask: Any) -> int:
    return os.getpid()


def die(ask: Any, mark: str) -> str:
    """Kill the own process the first time."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second try"


def always_die(ask: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def meet(ask: Any, folder: str, name: str, other: str) -> str:
    """Come back only when the other one runs at the same time."""
    (Path(folder) / name).touch()
    while not (Path(folder) / other).exists():
        time.sleep(0.01)
    return name


def unsendable(ask: Any) -> Any:
    return lambda: None


def announce(ask: Any, path: str) -> None:
    """Write the own process id, then wait for ever."""
    partial = Path(path + ".part")
    partial.write_text(str(os.getpid()))
    partial.rename(path)
    while True:
        time.sleep(60)


def stay_until(ask: Any, path: str, value: int) -> int:
    """Come back when there is a file."""
    while not Path(path).exists():
        time.sleep(0.01)
    return value
