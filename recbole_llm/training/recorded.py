"""Training steps recorded as CUDA graphs and replayed.

A small model's step is hundreds of kernels of a few microseconds, and a GPU waits for Python between them. Recorded
once for each shape of a batch, a step is one launch: gather, forward, loss, backward and optimiser. Random numbers come
from the GPU's own generator, which counts on as it does without recording, so that one seed gives the same training
both ways but for the order in which a GPU adds.

The first step of a shape is taken plainly. The second is taken plainly and watched. The third is recorded and replayed,
then undone and taken plainly, and the two results are compared. From the fourth on the recording is replayed, if both
agreed and a step

- reads nothing back from the GPU and moves nothing to it,
- draws nothing on the host and counts nothing there,
- ends in one of torch's Adam optimisers.

A training in which any of this fails goes on plainly, and its record says why.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_llm.data.loaders import Shape, TrainLoader
from recbole_llm.errors import UserError

logger = logging.getLogger(__name__)

Parts = list[torch.Tensor]
Step = Callable[[torch.Tensor, Shape], Parts]

MAX_SHAPES = 24  # each holds the memory of a step's results
# Two forms of a step differ by the order of sums; a forgotten or repeated part of one differs by more.
_LOSS_APART = 0.01
_UPDATE_APART = 0.1

# Operators of ATen whose result, or its size, is read on the host.
_READS = frozenset(
    {
        "_local_scalar_dense",
        "_unique2",
        "bincount",
        "equal",
        "is_nonzero",
        "masked_select",
        "nonzero",
        "unique_consecutive",
        "unique_dim",
    }
)
_INDEXES = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})


class Waits(TorchDispatchMode):
    """Notes the operators that stop a program until the device has done all that was begun.

    Attributes:
        found: their names, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        by_mask = name in _INDEXES and any(i is not None and i.dtype == torch.bool for i in args[1])
        unsized = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in _READS or by_mask or unsized or _moves(name, args, kwargs):
            self.found.append(name)
        return func(*args, **kwargs)


def _moves(name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operator copies between the host and a device."""
    if name == "copy_":
        return args[0].device.type != args[1].device.type
    if name == "_to_copy" and (device := kwargs.get("device")) is not None:
        return torch.device(device).type != args[0].device.type
    return False


class CUDARecording:
    """A step as a CUDA graph.

    Args:
        step: takes it.
        generators: random generators besides the device's own.
        beside: a recording to share memory with. The results of either are to be read before the other one is replayed.
    """

    def __init__(
        self, step: Callable[[], Parts], generators: Iterable[torch.Generator], beside: CUDARecording | None
    ) -> None:
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph, pool=beside._graph.pool() if beside else None):
            self.parts = step()

    def replay(self) -> None:
        """Take the step with what its rows hold now."""
        self._graph.replay()


class RecordedSteps:
    """The steps of a training, each recorded where it can be.

    Args:
        model: what is trained.
        optimizer: of all its parameters.
        loader: of its batches.
        step: makes the batch of some rows, and takes one step without the learning rate's change.
        before_step: changes the learning rate.
        device: of the model.

    Attributes:
        why_not: why steps are taken plainly; empty where they are recorded.
        recorded: whether any step was.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: TrainLoader,
        step: Step,
        before_step: Callable[[], None],
        device: torch.device,
    ) -> None:
        self.model, self.optimizer, self.loader, self.device = model, optimizer, loader, device
        self._step, self._before_step = step, before_step
        self._found: dict[Shape, tuple[torch.Tensor, CUDARecording]] = {}
        self._seen: Counter[Shape] = Counter()
        self._surroundings: list[Any] = []
        self.why_not, self.recorded = "", False
        if not _is_adam(optimizer):
            self.why_not = f"{type(optimizer).__name__} is no optimiser that a recording can hold"
        else:
            for group in optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.tensor(float(group["lr"]), device=device)
            # It would warn of the steps that are taken plainly.
            optimizer._warned_capturable_if_run_uncaptured = True  # type: ignore[attr-defined]

    def epoch(self, blocks: Iterable[np.ndarray]) -> Iterator[Parts]:
        """Take a step for each block of rows; its losses are to be read before the next one."""
        surroundings = _host_state(self.model)
        if surroundings != self._surroundings:  # a stage began, or what a model goes by was made anew
            self._found.clear()
            self._seen.clear()
            self._surroundings = surroundings
        for host_rows in blocks:
            yield self.take(host_rows)

    def take(self, host_rows: np.ndarray) -> Parts:
        """One step; its losses."""
        shape = self.loader.shape(host_rows)
        rows = torch.from_numpy(self.loader.described(host_rows)).to(self.device, non_blocking=True)
        if shape in self._found:
            static, recording = self._found[shape]
            static.copy_(rows)
            self._before_step()
            recording.replay()
            return recording.parts
        if self.why_not or len(self._found) >= MAX_SHAPES:
            return self._plain(rows, shape)
        self._seen[shape] += 1
        if self._seen[shape] == 1:  # what is made on first use is made here
            return self._plain(rows, shape)
        return self._watched(rows, shape) if self._seen[shape] == 2 else self._record(rows, shape)

    def _plain(self, rows: torch.Tensor, shape: Shape) -> Parts:
        self._before_step()
        return self._step(rows, shape)

    def _watched(self, rows: torch.Tensor, shape: Shape) -> Parts:
        """A plain step that tells whether it may be recorded."""
        before = _host_state(self.model), _host_chance(self.device)
        with Waits() as waits:
            parts = self._plain(rows, shape)
        if waits.found:
            self.why_not = f"a step reads back from the GPU or writes to it ({waits.found[0]})"
        elif before != (_host_state(self.model), _host_chance(self.device)):
            self.why_not = "a step draws or counts on the host"
        return parts

    def _record(self, rows: torch.Tensor, shape: Shape) -> Parts:
        """Record a step, and take it plainly if both agree."""
        self._before_step()
        static, before = rows.clone(), self._state()
        chance = self._chance()
        try:
            beside = next((recording for _, recording in self._found.values()), None)
            recording = CUDARecording(partial(self._step, static, shape), self._generators(), beside)
            recording.replay()
            replayed, losses = self._state(), [part.clone() for part in recording.parts]
            self._restore(before, chance)
            plain = self._step(rows, shape)
        except RuntimeError as failure:
            self.why_not = f"a step could not be recorded ({_first_line(failure)})"
            return self._plainly_after_failure(rows, shape, before, chance)
        if self._agree(before, replayed, losses, plain):
            self._found[shape] = static, recording
            self.recorded = True
        else:
            self.why_not = "a recorded step is not the plain one"
            self._found.clear()
            logger.warning("training steps are not recorded: %s", self.why_not)
        return plain

    def _plainly_after_failure(
        self, rows: torch.Tensor, shape: Shape, before: dict[str, list[torch.Tensor]], chance: list[torch.Tensor]
    ) -> Parts:
        """The step that could not be recorded; what CUDA was in the midst of may not let it."""
        try:
            self._restore(before, chance)
            return self._step(rows, shape)
        except RuntimeError as failure:
            raise UserError(
                f"{self.why_not}, and the GPU does not go on ({_first_line(failure)}): give --cuda_graphs=False."
            ) from failure

    def _generators(self) -> list[torch.Generator]:
        """Those that steps draw from, besides the device's own."""
        return [] if self.loader.sampler is None else [self.loader.sampler.generator]

    # ---- two forms of one step ---------------------------------------------------------------------

    def _tensors(self) -> dict[str, list[torch.Tensor]]:
        """All that a step changes, by kind."""
        found = {"parameters": [p.detach() for p in self.model.parameters()], "buffers": list(self.model.buffers())}
        for state in self.optimizer.state.values():
            for kind, value in state.items():
                if torch.is_tensor(value):
                    found.setdefault(kind, []).append(value)
        return found

    def _state(self) -> dict[str, list[torch.Tensor]]:
        return {kind: [tensor.clone() for tensor in tensors] for kind, tensors in self._tensors().items()}

    def _chance(self) -> list[torch.Tensor]:
        device = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [torch.get_rng_state()]
        return [*device, *(generator.get_state() for generator in self._generators())]

    def _restore(self, state: dict[str, list[torch.Tensor]], chance: list[torch.Tensor]) -> None:
        for kind, tensors in self._tensors().items():
            for tensor, value in zip(tensors, state[kind], strict=True):
                tensor.copy_(value)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(chance[0], self.device)
        else:
            torch.set_rng_state(chance[0])
        for generator, value in zip(self._generators(), chance[1:], strict=True):
            generator.set_state(value)

    def _agree(
        self,
        before: dict[str, list[torch.Tensor]],
        replayed: dict[str, list[torch.Tensor]],
        losses: Parts,
        plain: Parts,
    ) -> bool:
        """Whether losses are alike, and the two updates of each kind far less apart than they are long."""
        for one, other in zip(losses, plain, strict=True):
            if not torch.allclose(one, other, rtol=_LOSS_APART, atol=1e-4, equal_nan=True):
                return False
        for kind, tensors in self._tensors().items():
            triples = list(zip(before[kind], replayed[kind], tensors, strict=True))
            apart = sum(_distance(one, other) for _, one, other in triples)
            length = sum(_distance(start, other) for start, _, other in triples)
            if not apart <= _UPDATE_APART**2 * length:
                return False
        return True


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200]


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Sum of the squared differences."""
    return float((one.double() - other.double()).square().sum())


def _is_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimiser is torch's Adam in its one-kernel form."""
    adam = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
    return adam and all(group.get("fused") for group in optimizer.param_groups)


def _host_state(model: torch.nn.Module) -> list[Any]:
    """What the host knows of a model: plain attributes, which tensors it holds, and what learns."""
    found: list[Any] = []
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            found.append((name, key, _known(value)))
    found += [(name, parameter.requires_grad, id(parameter)) for name, parameter in model.named_parameters()]
    found += [(name, id(buffer)) for name, buffer in model.named_buffers()]
    return found


def _known(value: Any) -> Any:
    """A value that can be compared with a later one: numbers and texts as they are, also inside containers."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple, deque)):
        return [type(value).__name__, *map(_known, value)]
    if isinstance(value, dict):
        return [type(value).__name__, *((key, _known(inner)) for key, inner in value.items())]
    return id(value)


def _host_chance(device: torch.device) -> tuple[Any, ...]:
    """States of the generators that a step on a device does not draw from."""
    legacy: Any = np.random.get_state()
    own = b"" if device.type == "cpu" else torch.get_rng_state().numpy().tobytes()
    return random.getstate(), legacy[1].tobytes(), legacy[2], own
