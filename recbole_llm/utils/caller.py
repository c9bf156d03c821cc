"""What the verbs of the Python API do for the process that calls them: a script or a notebook with work of its own."""

from __future__ import annotations

import logging
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

logger = logging.getLogger(__name__)

_at_work = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Work that no other thread of the process does at the same time, and that leaves its random generators alone.

    A training seeds the global generators of Python, numpy and torch and draws from them. Two at once would draw each
    other's numbers, and what the caller draws afterwards would be the same after every call.
    """
    if not _at_work.acquire(blocking=False):
        logger.info("another thread is at work; waiting for it")
        _at_work.acquire()
    try:
        restored = _states()
        try:
            yield
        finally:
            for restore in restored:
                restore()
    finally:
        _at_work.release()


def _states() -> list[Callable[[], Any]]:
    """Functions that restore the generators of the loaded libraries, and torch's choice of cuDNN's algorithms."""
    found: list[Callable[[], Any]] = [partial(random.setstate, random.getstate())]
    if (numpy := sys.modules.get("numpy")) is not None:
        found.append(partial(numpy.random.set_state, numpy.random.get_state()))
    if (torch := sys.modules.get("torch")) is not None:
        found.append(partial(torch.set_rng_state, torch.get_rng_state()))
        if torch.cuda.is_initialized():
            found.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
        cudnn = torch.backends.cudnn
        found += [partial(setattr, cudnn, name, getattr(cudnn, name)) for name in ("deterministic", "benchmark")]
    return found
