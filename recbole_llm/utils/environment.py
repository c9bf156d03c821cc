"""What the process runs on: thread settings before torch is imported, and facts for the records."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

_CLEAR_REFS = Path("/proc/self/clear_refs")
_WORTH_COLLECTING_KIB = 200 * 2**10  # a collection takes half a second, a run on a small dataset hardly more
_settled_kib = 0.0  # host memory after the last collection, so that what runs leave does not add up

TESTED_PACKAGES = (
    "recbole-llm",
    "recbole",
    "torch",
    "torch-geometric",
    "numpy",
    "pandas",
    "scipy",
    "openai",
    "sentence-transformers",
    "transformers",
    "optuna",
    "ray",
)


def available_cores() -> int:
    """Cores that this process may really use: its CPU affinity, limited by a container's quota.

    ``os.cpu_count`` counts the host's cores: a container limited to two of 64 would start 64 threads.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: the affinity stands
    return cores


def prepare_threads() -> None:
    """Set thread and memory policies that the user has not set; must precede ``import torch``.

    Two OpenMP threads that spin while they wait made a GRU4Rec step ten times slower on two cores. Large
    pages spare torch's CPU allocator most page faults: a softmax over 12,000 items is a third faster.
    """
    if "torch" in sys.modules:
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@cache
def process_space() -> str:
    """Where process ids mean the same: the host and, since containers may share its name, the space of its ids."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        space = ""
    return f"{socket.gethostname()} {space}".rstrip()


def now() -> str:
    """The time as records keep it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_version() -> str:
    """The version of this package."""
    return (Path(__file__).resolve().parents[1] / "VERSION").read_text(encoding="utf-8").strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result."""
    known = {name: version for name in TESTED_PACKAGES if (version := _version_of(name)) is not None}
    return {"python": platform.python_version(), **known}


@cache  # reads and parses the package's description
def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the generic name below
    return platform.processor() or platform.machine()


def hardware(device: Any = None) -> dict[str, Any]:
    """Processor, cores and threads and, for a CUDA ``device``, the GPU's name and memory."""
    import torch

    facts: dict[str, Any] = {
        "system": platform.system(),
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
    }
    if device is not None and torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = properties.name
        facts["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
    return facts


@cache  # from the first call: what is committed or changed later is not the code that runs
def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, with ``+`` when it has local changes."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
        dirty = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if dirty else "")


def forget_peak_memory() -> None:
    """Reset the memory peaks, so that earlier work of this process does not count.

    For host memory this works on Linux only; elsewhere a process has one peak for its whole life. Memory that
    earlier models have left counts too, unless it is given back first, as it is where it may be much: a trained model
    is in a reference cycle, and the C library keeps what is freed below a block in use.
    """
    global _settled_kib
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_initialized()
    collects = on_gpu or _host_peak_kib() - _settled_kib > _WORTH_COLLECTING_KIB
    if collects:
        gc.collect()
        if sys.platform == "linux":
            with contextlib.suppress(AttributeError):  # a C library other than glibc
                ctypes.CDLL(None).malloc_trim(0)
    if _CLEAR_REFS.exists():
        with contextlib.suppress(OSError):  # a container may forbid it
            _CLEAR_REFS.write_text("5", encoding="ascii")
    if collects:
        _settled_kib = _host_peak_kib()
    if torch is not None and on_gpu:
        torch.cuda.empty_cache()
        for number in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(number)


def peak_memory_mib(device: Any = None) -> dict[str, float]:
    """Peak resident memory of this process and, on CUDA, of the device, in MiB, since :func:`forget_peak_memory`."""
    peak = {"host": round(_host_peak_kib() / 2**10, 1)}
    if device is not None:
        import torch

        if torch.device(device).type == "cuda":
            peak["device"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return peak


def _host_peak_kib() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        return float(status.read_text(encoding="ascii", errors="replace").partition("VmHWM:")[2].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "darwin" else 1)
