"""A worker process: receives works over a pipe, makes the calls, sends back what they give."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

from recbole_llm.errors import UserError
from recbole_llm.registry import Method, methods, register


@dataclass(frozen=True)
class Setup:
    """What a worker takes over from the process that started it: paths, models from outside, logging."""

    path: tuple[str, ...]
    methods: tuple[Method, ...]
    level: int
    prefix: str
    quiet_warnings: bool

    @classmethod
    def here(cls, prefix: str = "") -> Self:
        """Of this process."""
        outside = tuple(row for row in methods().values() if row.is_external)
        level = logging.getLogger("recbole_llm").getEffectiveLevel()
        quiet = bool(warnings.filters) and warnings.filters[0][0] == "ignore"
        return cls(tuple(sys.path), outside, level, prefix, quiet)

    def apply(self) -> None:
        """Make this process like that one."""
        known = set(sys.path)
        sys.path += [entry for entry in self.path if entry not in known]
        for row in self.methods:
            register(row)
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"%(asctime)s {self.prefix}%(message)s", "%H:%M:%S"))
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(logging.WARNING)
        logging.getLogger("recbole_llm").setLevel(self.level)
        if self.quiet_warnings:
            warnings.simplefilter("ignore")


def call(function: Callable[..., Any], arguments: tuple[Any, ...], ask: Callable[[Any], Any]) -> tuple[str, Any]:
    """Make a call; ``done`` with its value, ``refused`` with a user's error, ``failed`` with another's text."""
    try:
        return "done", function(ask, *arguments)
    except UserError as error:
        return "refused", str(error)
    except Exception as error:
        logging.getLogger(__name__).debug("%s", function.__name__, exc_info=True)
        return "failed", f"{type(error).__name__}: {error}"


def _end_with_parent(lifeline: socket.socket) -> None:
    """Leave when the process at the other end is gone; a kill leaves no worker behind."""
    try:
        lifeline.recv(1)
    finally:
        os._exit(1)


def main(channel_fd: int, lifeline_fd: int) -> None:
    """Serve until the channel closes."""
    os.dup2(2, 1)  # what libraries print must not stand in the driver's tables
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which ends its workers
    lifeline = socket.socket(fileno=lifeline_fd)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    channel = Connection(channel_fd)

    def ask(message: Any) -> Any:
        channel.send(("ask", message))
        return channel.recv()

    try:
        channel.recv().apply()
        while True:
            channel.send_bytes(_serve_one(channel, ask))
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return


def _serve_one(channel: Connection, ask: Callable[[Any], Any]) -> bytes:
    """Receive a work and do it; the answer, pickled, so that what cannot be sent is an answer too."""
    try:
        function, arguments = channel.recv()
    except (EOFError, OSError):
        raise
    except Exception as error:  # whatever imports raise: the class of a model that is not there
        return pickle.dumps(("failed", f"a worker cannot read its work: {type(error).__name__}: {error}"))
    answer = call(function, arguments, ask)
    try:
        return pickle.dumps(answer)
    except Exception as error:
        return pickle.dumps(("failed", f"{function.__name__} gave what cannot be sent back: {error}"))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
