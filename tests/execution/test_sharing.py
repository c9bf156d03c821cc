"""How many workers fit into the memory of a machine's devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.execution import sharing
from recbole_llm.execution.processes import ProcessExecutor
from recbole_llm.execution.sharing import free_memory_mib, workers_that_fit


@pytest.mark.parametrize(
    ("need", "free", "workers"),
    [
        (100, [1000], 10),
        (100, [1099], 10),
        (1001, [1000], 0),
        (400, [1000, 1000], 4),
        (400, [1000, 800], 4),
        (400, [1000, 500], 3),  # a fourth would go to the second GPU, which is full
        (400, [300, 4000], 0),  # the first worker would go to the first GPU, which is too small
    ],
)
def test_workers_take_devices_in_turn_until_one_is_full(need: float, free: Sequence[float], workers: int) -> None:
    assert workers_that_fit(need, free) == workers


@given(need=st.integers(100, 900), free=st.lists(st.integers(0, 5000), min_size=1, max_size=4))
def test_no_device_is_overfull_where_the_executor_puts_so_many_workers(need: int, free: list[int]) -> None:
    workers = workers_that_fit(need, free)
    if workers:
        executor = ProcessExecutor(workers, gpus=[str(number) for number in range(len(free))])
        placed = [int(executor.environment(slot)["CUDA_VISIBLE_DEVICES"]) for slot in range(workers)]
        assert all(placed.count(device) * need <= free[device] for device in range(len(free)))


def test_nothing_is_said_of_devices_that_are_not_known() -> None:
    with pytest.raises(ValueError, match="MiB of"):
        workers_that_fit(100, [])


def test_the_free_memory_of_the_host_is_one_number() -> None:
    (free,) = free_memory_mib(on_gpu=False)
    assert free > 0


@pytest.mark.parametrize(
    ("limit", "free"), [(str(1000 << 20), 500), (str(600 << 20), 100), (str(100 << 20), 0), ("max", None)]
)
def test_a_container_has_no_more_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, free: float | None
) -> None:
    """Regression: a container of 8 GiB on a large host was told that the host's memory was free."""
    (whole,) = free_memory_mib(on_gpu=False)
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{700 << 20}\n")
    (tmp_path / "memory.stat").write_text(f"anon {500 << 20}\ninactive_file {200 << 20}\n")
    monkeypatch.setattr(sharing, "_CONTAINER", tmp_path)
    (found,) = free_memory_mib(on_gpu=False)
    assert found == pytest.approx(whole if free is None else free, rel=0.2)
