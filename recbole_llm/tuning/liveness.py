"""Which process runs a trial, and whether it is alive."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from recbole_llm.tuning.storage import GRACE_SECONDS, HEARTBEAT_SECONDS
from recbole_llm.utils.environment import process_space

logger = logging.getLogger(__name__)


def owner() -> dict[str, Any]:
    """Identifies this process, so that others that see its id can tell whether it is alive."""
    return {"host": process_space(), "pid": os.getpid(), "started": _process_start(os.getpid())}


def _process_start(pid: int) -> str | None:
    """Start of a process in clock ticks since boot; ``None`` if there is none, ``unknown`` on systems without /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it exists and belongs to another user
    return "unknown" if not Path("/proc/self").exists() else None


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a running trial's process is known to be gone."""
    signed = trial.user_attrs.get("owner")
    if signed is None:  # killed between taking the trial and signing it
        began = trial.datetime_start
        return began is not None and time.time() - began.timestamp() > GRACE_SECONDS
    return signed["host"] == process_space() and _process_start(signed["pid"]) != signed["started"]


class Heartbeat(threading.Thread):
    """Records heartbeats of this process's trials while a block runs.

    Args:
        beats: functions that record one.
    """

    def __init__(self, beats: Sequence[Callable[[], None]]) -> None:
        super().__init__(daemon=True)
        self._beats, self._stop_asked = beats, threading.Event()

    def run(self) -> None:
        """Beat until the block ends."""
        while not self._stop_asked.wait(HEARTBEAT_SECONDS):
            for beat in self._beats:
                try:
                    beat()
                except Exception as error:  # for example a database that is unavailable for a moment
                    logger.warning("a heartbeat failed: %s", type(error).__name__)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *exception: object) -> None:
        self._stop_asked.set()
        self.join()
