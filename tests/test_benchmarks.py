"""The measuring code in ``benchmarks/``: what is counted, and how."""

from __future__ import annotations

import importlib
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import day_order, gpu, shares
from benchmarks.busy import Activity, covered, summary
from benchmarks.gpu import PARTS, command
from benchmarks.train import OwnSteps
from recbole_llm.errors import UserError
from recbole_llm.training import recorded
from tests.device_waits import nothing_at_hand
from tests.helpers import prepare
from tests.training.test_recorded import TakenAgain


def kernel(begin: float, end: float) -> Activity:
    return Activity("gemm", True, begin, end)


def call(name: str) -> Activity:
    return Activity(name, False, 0.0, 1000.0)


@pytest.mark.parametrize(
    ("times", "length"),
    [
        ([], 0),
        ([(0, 2), (5, 6)], 3),
        ([(0, 4), (1, 2)], 4),  # overlapping
        ([(3, 6), (0, 4)], 6),  # overlapping and unsorted
        ([(0, 2), (2, 3)], 3),
    ],
)
def test_time_in_which_several_are_under_way_counts_once(times: list[tuple[float, float]], length: float) -> None:
    assert covered(kernel(*each) for each in times) == length


def test_a_graph_is_one_launch_of_many_kernels() -> None:
    kernels = [kernel(10.0 * number, 10.0 * number + 5.0) for number in range(40)]
    calls = [call(name) for name in ("cudaGraphLaunch", "cudaMemcpyAsync", "cudaStreamSynchronize", "aten::cumsum")]
    found = summary([*kernels, *calls, call("cudaGraphLaunch")], steps=2)
    assert found == {"busy_ms": 0.1, "activities": 20, "launches": 1.5}


def taken(steps: OwnSteps) -> float:
    """How many steps the optimiser has taken."""
    (some, *_) = steps.trainer.optimizer.state.values()
    return float(some["step"])


def test_our_steps_are_the_trainer_s_and_go_on_from_call_to_call(tiny: Path) -> None:
    steps = OwnSteps(prepare("BPR", train_batch_size=64, clip_grad_norm={"max_norm": 1.0}))
    seen: list[Any] = []
    step = steps.trainer._gradients
    steps.trainer._gradients = lambda batch, *others: seen.append(batch["item_id"]) or step(batch, *others)
    steps.run(3)
    assert taken(steps) == 3
    steps.run(steps.per_epoch - 3)
    rows = steps.loader.rows
    items = torch.from_numpy(steps.loader.table.dataset.table.item[rows]).long()
    assert torch.equal(torch.cat(seen).sort().values, items.sort().values)  # each row of the epoch exactly once
    steps.run(2)
    assert taken(steps) == steps.per_epoch + 2
    assert steps.recorded == "no"


def test_our_steps_are_recorded_where_the_trainer_s_are(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_at_hand(monkeypatch)
    monkeypatch.setattr(recorded, "CUDARecording", TakenAgain)
    steps = OwnSteps(prepare("BPR", train_batch_size=64))
    steps.run(2)
    assert steps.recorded == "not yet"
    steps.run(3)
    assert steps.recorded == "yes"
    assert taken(steps) == 5


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if part.name])
def test_what_is_run_on_a_gpu_has_the_options_that_it_is_given(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Namespace(dataset="beauty", data_path="somewhere", folder="results")
    _, _, module, *words = command(PARTS[name], options)
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(module).main()
    known = set(re.findall(r"--(\w+)", capsys.readouterr().out))
    assert {word[2:].partition("=")[0] for word in words} <= known


@pytest.mark.parametrize(("parts", "said"), [
    ("tests,trian", "error: --parts: 'trian' is none. Did you mean train? Known: tests, "),
    ("tests,train", "error: torch sees no GPU here."),
])  # fmt: skip
def test_what_cannot_be_run_on_a_gpu_is_said_before_anything_is(
    parts: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", f"--parts={parts}"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if not part.name])
def test_what_is_tested_on_a_gpu_is_there(name: str) -> None:
    assert (Path(__file__).parents[1] / PARTS[name].words[-1]).is_file()


def test_the_shares_of_a_step_are_all_of_it_and_the_loss_is_found(tiny: Path) -> None:
    prepared = prepare("GRU4Rec", train_batch_size=64)
    steps = OwnSteps(prepared)
    found = shares.profiled(steps, 2)
    loss = found.pop("loss")
    assert sum(found.values()) == pytest.approx(1)
    assert 0 < loss < 1
    assert found["matrix products"] > 0
    encoded = shares.positions(prepared.model, steps, 2)
    assert encoded["ids"] > 64
    assert 0 <= encoded["padding"] < 1
    assert not prepared.model.item_embedding._forward_hooks


@pytest.mark.parametrize(("name", "kind"), [
    ("aten::mm", "matrix products"),
    ("aten::mmap", "other"),
    ("aten::index_select", "rows by index"),
    ("aten::copy_", "copies"),
    ("_LinearCrossEntropy", "other"),
])  # fmt: skip
def test_an_operation_has_a_kind(name: str, kind: str) -> None:
    assert shares.kind_of(name) == kind


def test_a_loop_of_a_model_s_own_is_not_measured(tiny: Path) -> None:
    with pytest.raises(UserError, match="a loop of its own"):
        OwnSteps(prepare("RecVAE", train_batch_size=64))


def test_reviews_of_one_day_are_counted_by_the_order_of_their_ids(workspace: Path) -> None:
    published = {"a": ["i1", "i2", "i3"], "b": ["i2", "i4", "i3"], "c": ["i4", "i1"], "d": ["i1", "i4"]}
    day_of = {"a": [1, 1, 2], "b": [1, 1, 1], "c": [1, 1], "d": [1, 1]}  # c and d have the same items
    for name, ids, users in (("seen", "i", "abcd"), ("timed", "j", "zyxw")):
        Path("data", name).mkdir(parents=True)
        rows = [
            (user, item.replace("i", ids), day_of[of][place] if name == "timed" else place)
            for user, (of, items) in zip(users, published.items(), strict=True)
            for place, item in enumerate(items)
        ]
        header = "user_id:token\titem_id:token\ttimestamp:float"
        Path("data", name, f"{name}.inter").write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]))
        titles = [f"{ids}{number}\ttitle {number}" for number in range(1, 5)]
        Path("data", name, f"{name}.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *titles]))
    found = day_order.measure(Namespace(dataset="seen", times="timed", data_path="data"))
    # a: i1 and i2; b: i2 and i4 upwards, i4 and i3 downwards at the end
    assert found == day_order.DayOrder(users=2, pairs=3, ascending=2, last_pairs=1, last_ascending=0)
