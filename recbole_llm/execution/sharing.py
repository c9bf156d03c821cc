"""How many workers fit into the memory of this machine at once, on the host or on GPUs that they share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

CUDA_MIB = 600.0  # of a process on a GPU beside its tensors: context, libraries; assumed, it differs by GPU and version
_MEMINFO = Path("/proc/meminfo")


def workers_that_fit(need_mib: float, free_mib: Sequence[float]) -> int:
    """The most workers that fit at once, spread over the devices in turn as ``ProcessExecutor`` spreads them.

    Args:
        need_mib: peak memory of one.
        free_mib: what is free on each device; the host is one.
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
    """Memory that is free now: of each GPU that this process sees, or of the host; empty where it is not known."""
    if on_gpu:
        import torch  # slow to load, and the host's memory is known without it

        torch.cuda.empty_cache()  # what this process has kept for itself would look taken
        devices = range(torch.cuda.device_count())
        return [torch.cuda.mem_get_info(number)[0] / 2**20 for number in devices]
    if not _MEMINFO.exists():
        return []
    _, found, rest = _MEMINFO.read_text(encoding="ascii", errors="replace").partition("MemAvailable:")
    return [float(rest.split()[0]) / 2**10] if found else []
