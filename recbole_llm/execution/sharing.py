"""How many workers fit into the memory of this machine at once, on the host or on GPUs that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count
from pathlib import Path

CUDA_MIB = 600.0  # assumed GPU memory of a process besides tensors (context, libraries); varies by GPU and version
_MEMINFO = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")  # holds the limits of this container, if there is one


def workers_that_fit(need_mib: float, free_mib: Sequence[float]) -> int:
    """How many workers fit at once if they are assigned to the devices in turn, as ``ProcessExecutor`` does.

    Args:
        need_mib: peak memory of one worker.
        free_mib: free memory of each device; the host counts as one device.
    """
    if need_mib <= 0 or not free_mib:
        raise ValueError(f"{need_mib} MiB of {list(free_mib)}")
    left = list(free_mib)
    for worker in count():
        device = worker % len(left)
        if left[device] < need_mib:
            return worker
        left[device] -= need_mib
    raise AssertionError


def free_memory_mib(on_gpu: bool) -> list[float]:
    """Memory that is free now, of each GPU that this process sees or of the host; empty if it is not known."""
    if on_gpu:
        import torch  # slow to load, and not needed for the host's memory

        torch.cuda.empty_cache()  # memory that torch has merely cached would count as taken
        devices = range(torch.cuda.device_count())
        return [torch.cuda.mem_get_info(number)[0] / 2**20 for number in devices]
    if not _MEMINFO.exists():
        return []
    _, found, rest = _MEMINFO.read_text(encoding="ascii", errors="replace").partition("MemAvailable:")
    return [min(float(rest.split()[0]) / 2**10, _free_in_container())] if found else []


def _free_in_container() -> float:
    """MiB that a container may still take: its limit, without the files that its memory only caches; else infinite."""
    try:
        limit, used = (int((_CONTAINER / f"memory.{name}").read_text("ascii")) for name in ("max", "current"))
        parts = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text("ascii").splitlines())
        return max(0, limit - used + int(parts["inactive_file"])) / 2**20
    except (OSError, ValueError, KeyError):  # no container with cgroup v2, or one without a limit ("max")
        return math.inf
