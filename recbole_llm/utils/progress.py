"""Progress bars on a terminal, silence elsewhere (log lines tell the rest)."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from recbole_llm.utils.text import visible

SHOW_AFTER_SECONDS = 2.0


class Bars:
    """Makes progress bars with one switch for all.

    Args:
        enabled: show bars; they also need a terminal.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled and sys.stderr.isatty()

    def __call__(self, items: Iterable[Any], title: str) -> Iterable[Any]:
        """``items`` with a bar that appears after ``SHOW_AFTER_SECONDS``."""
        if not self.enabled:
            return items
        total = len(items) if isinstance(items, Sized) else None
        return tqdm(items, desc=title, total=total, leave=False, delay=SHOW_AFTER_SECONDS, dynamic_ncols=True)


class TqdmHandler(logging.Handler):
    """Writes log lines above a running bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            tqdm.write(visible(self.format(record)), file=sys.stderr)  # messages may hold titles and answers
        except (OSError, ValueError):
            self.handleError(record)


class Stopwatch:
    """Seconds by phase. Phases of the same name add up; an inner phase does not count for the outer one.

    Args:
        ahead: seconds by phase that were spent before; they count for the whole, too.
    """

    def __init__(self, ahead: Mapping[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(ahead or {})
        self._started = time.monotonic() - sum(self.seconds.values())
        self._inner = [0.0]

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a block as part of a phase."""
        began = time.monotonic()
        self._inner.append(0.0)
        try:
            yield
        finally:
            whole = time.monotonic() - began
            inner = self._inner.pop()
            self._inner[-1] += whole
            self.add(phase, whole - inner)

    def add(self, phase: str, seconds: float) -> None:
        """Add time to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def report(self) -> dict[str, float]:
        """Rounded seconds of all phases and of the whole."""
        rounded = {phase: round(value, 3) for phase, value in self.seconds.items()}
        return {**rounded, "total": round(time.monotonic() - self._started, 3)}
