"""How long a GPU works on a step, and how many launches the step takes, by torch's profiler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Activity(NamedTuple):
    """One event of the profiler.

    Attributes:
        name: of a kernel, a copy, or a call of CUDA.
        on_gpu: whether it ran on the GPU; else it is a call on the host.
        begin, end: microseconds.
    """

    name: str
    on_gpu: bool
    begin: float
    end: float


def covered(activities: Iterable[Activity]) -> float:
    """Microseconds in which at least one activity was running."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted((each.begin, each.end) for each in activities):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def summary(activities: Iterable[Activity], steps: int) -> dict[str, float]:
    """What one step uses of a GPU.

    Returns:
        ``busy_ms``, the milliseconds in which the GPU works; ``activities``, the number of its kernels and copies; and
        ``launches``, the number of host calls that start them (a recorded step needs one).
    """
    found = list(activities)
    on_gpu = [each for each in found if each.on_gpu]
    calls = [each for each in found if not each.on_gpu and each.name.startswith(("cuda", "cu"))]
    told = [each for each in calls if any(word in each.name for word in ("Launch", "Memcpy", "Memset"))]
    return {
        "busy_ms": covered(on_gpu) / 1000 / steps,
        "activities": len(on_gpu) / steps,
        "launches": len(told) / steps,
    }


def use_of_gpu(action: Callable[[], Any], steps: int) -> dict[str, float]:
    """The :func:`summary` of an action that takes some steps."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    # Torch sets these where its compiler records CUDA graphs: the profiler must not stop and start again beside them.
    os.environ.setdefault("DISABLE_CUPTI_LAZY_REINIT", "1")
    os.environ.setdefault("TEARDOWN_CUPTI", "0")
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        action()
        torch.cuda.synchronize()
    activities = [
        Activity(event.name, event.device_type.name == "CUDA", event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if not event.is_user_annotation  # only names a span of time
    ]
    return summary(activities, steps)
