"""Seconds by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by phase. Phases of one name add up; an inner phase does not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()
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
