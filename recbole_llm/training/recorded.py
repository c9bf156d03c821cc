"""Training steps recorded as CUDA graphs and replayed.

A small model's step is hundreds of kernels of a few microseconds, and the GPU waits for Python between them. Recorded
once for each batch shape, a step is one launch: gather, forward, loss, backward and optimiser. Random numbers come from
the GPU's own generator, which advances as it does without recording. One seed therefore gives the same training both
ways, up to the order in which a GPU adds.

The first step of a shape runs eagerly, that is, without recording. The second runs eagerly and is watched. The third is
recorded and replayed, then undone and run eagerly, and the two results are compared. From the fourth on the recording
is replayed, provided that both agreed and that a step

- reads nothing back from the GPU and moves nothing to it,
- draws no random numbers and counts nothing on the host,
- uses one of torch's Adam optimisers.

If any of this fails, the training continues eagerly, and its record says why.

A replay runs no Python. Other work of a step on the host, such as dropping what an evaluation cached, is done by the
first step of an epoch, which runs eagerly if the host's state of the model has changed.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import pickle
import random
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_llm.data.loaders import Shape, TrainLoader
from recbole_llm.errors import UserError

logger = logging.getLogger(__name__)

Parts = list[torch.Tensor]
Step = Callable[[torch.Tensor, Shape], Parts]

MAX_SHAPES = 24  # each recording holds the memory of a step's results
# A recorded and an eager step differ in the order of sums; a missing or repeated part would make a larger difference.
_LOSS_APART = 0.01
_UPDATE_APART = 0.1

# ATen operators whose result, or its size, is read on the host.
_READS = frozenset(
    {
        "_local_scalar_dense",
        "_unique2",
        "bincount",
        "equal",
        "is_nonzero",
        "masked_select",
        "multinomial",  # on a GPU it checks the sum of the weights
        "nonzero",
        "unique_consecutive",
        "unique_dim",
    }
)
_INDEXES = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})


class Waits(TorchDispatchMode):
    """Notes the operators that make the host wait until the device has finished its work.

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


@contextmanager
def gpu_waits(device: torch.device) -> Iterator[list[str]]:
    """Notes the waits for a GPU that torch itself reports, including those inside operators.

    Yields:
        Their messages, complete when the context ends; none for other devices.
    """
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found += waits_among(caught)


def waits_among(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    """The waits among some warnings; others are shown again, except torch's notice that this mode is a prototype."""
    found = []
    for warning in caught:
        text = str(warning.message)
        if "called a synchronizing CUDA operation" in text:
            found.append("a synchronizing CUDA operation")
        elif not text.startswith("Synchronization debug mode is a prototype feature"):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return found


def _moves(name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operator copies between the host and a device."""
    if name in _INDEXES:  # an index is copied to the device of the tensor
        return any(index is not None and index.device.type != args[0].device.type for index in args[1])
    if name == "copy_":
        return args[0].device.type != args[1].device.type
    if name == "_to_copy" and (device := kwargs.get("device")) is not None:
        return torch.device(device).type != args[0].device.type
    return False


class CUDARecording:
    """A step as a CUDA graph.

    Args:
        step: runs the step.
        generators: random generators besides the device's own.
        beside: a recording to share memory with. Read the results of one before replaying the other.
        device: of everything that the step works on. (Work on another device is done, but not recorded.)

    Raises:
        RuntimeError: the step cannot be recorded. The device stays usable; earlier recordings do not.
    """

    _pool: Any  # torch's handle of the memory

    def __init__(
        self,
        step: Callable[[], Parts],
        generators: Iterable[torch.Generator],
        beside: CUDARecording | None,
        device: torch.device,
    ) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), _no_collection():
            self._pool = beside._pool if beside else torch.cuda.graph_pool_handle()
            number, stream = torch.cuda.current_device(), torch.cuda.current_stream()
            drawing = [torch.cuda.default_generators[number], *generators]
            states = [generator.clone_state() for generator in drawing]
            for generator in drawing[1:]:
                self._graph.register_generator_state(generator)
            try:
                with torch.cuda.graph(self._graph, pool=self._pool, stream=_capture_stream(number)):
                    self.parts = step()
            except RuntimeError:
                # torch leaves its stream current, its memory reserved, and generators waiting for the recording to end.
                torch.cuda.set_stream(stream)
                with suppress(RuntimeError):  # the recording did end, if the step itself raised the error
                    torch._C._cuda_endAllocateToPool(number, self._pool)
                    torch._C._cuda_releasePool(number, self._pool)
                for generator, state in zip(drawing, states, strict=True):
                    generator.graphsafe_set_state(state)
                raise

    def replay(self) -> None:
        """Run the step on what its rows hold now."""
        self._graph.replay()


@cache
def _capture_stream(number: int) -> torch.cuda.Stream:
    """One stream for all recordings on a device: libraries keep memory for each stream that they have used."""
    return torch.cuda.Stream(number)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause garbage collection: it could free an older recording, which CUDA may refuse while it records."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class RecordedSteps:
    """The steps of a training, recorded where possible.

    Args:
        model: what is trained.
        optimizer: of all its parameters.
        loader: of its batches.
        step: makes the batch of some rows and takes one step, without changing the learning rate.
        before_step: changes the learning rate.
        device: of the model.

    Attributes:
        why_not: why steps run eagerly; empty if they are recorded.
        recorded: whether any step was recorded.
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
        self._surroundings: list[Any] = []  # the model's host state for which the recordings hold
        self.why_not, self.recorded = "", False
        if not _is_adam(optimizer):
            self.why_not = (
                f"only fused Adam and AdamW can be recorded, not {type(optimizer).__name__} (--learner=adam or adamw)"
            )
        else:
            for group in optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.tensor(float(group["lr"]), device=device)
            # Otherwise it would warn of eager steps.
            optimizer._warned_capturable_if_run_uncaptured = True  # type: ignore[attr-defined]

    def epoch(self, blocks: Iterable[np.ndarray]) -> Iterator[Parts]:
        """Run a step for each block of rows and yield its losses; read them before the next step."""
        settled = bool(self.why_not) or _host_state(self.model) == self._surroundings
        for host_rows in blocks:
            if settled:
                yield self.take(host_rows)
            else:  # an epoch's first step
                yield self._settle(host_rows)
                settled = True

    def _settle(self, host_rows: np.ndarray) -> Parts:
        """An eager step after the host state changed; recordings are kept if the step changes it back."""
        shape = self.loader.shape(host_rows)
        parts = self._plain(self._on_device(host_rows), shape)
        surroundings = _host_state(self.model)
        if surroundings != self._surroundings:  # a stage began, or the model rebuilt something
            self._found.clear()
            self._seen.clear()
            self._surroundings = surroundings
        self._seen[shape] = max(1, self._seen[shape])
        return parts

    def take(self, host_rows: np.ndarray) -> Parts:
        """Run one step and return its losses."""
        shape = self.loader.shape(host_rows)
        rows = self._on_device(host_rows)
        if shape in self._found:
            static, recording = self._found[shape]
            static.copy_(rows)
            self._before_step()
            recording.replay()
            return recording.parts
        if self.why_not or len(self._found) >= MAX_SHAPES:
            return self._plain(rows, shape)
        self._seen[shape] += 1
        if self._seen[shape] == 1:  # whatever is created on first use is created here
            return self._plain(rows, shape)
        return self._watched(rows, shape) if self._seen[shape] == 2 else self._record(rows, shape)

    def _on_device(self, host_rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.loader.described(host_rows)).to(self.device, non_blocking=True)

    def _give_up(self, why: str) -> None:
        """Run all steps eagerly from now on."""
        self.why_not = why
        self._found.clear()

    def _plain(self, rows: torch.Tensor, shape: Shape) -> Parts:
        self._before_step()
        return self._step(rows, shape)

    def _watched(self, rows: torch.Tensor, shape: Shape) -> Parts:
        """An eager step that checks whether steps may be recorded."""
        before = _host_state(self.model), _host_chance(self.device)
        with gpu_waits(self.device) as inside, Waits() as waits:
            parts = self._plain(rows, shape)
        if found := waits.found + inside:
            self._give_up(f"a step reads back from the GPU or writes to it ({found[0]})")
        elif before != (_host_state(self.model), _host_chance(self.device)):
            self._give_up("a step draws or counts on the host")
        return parts

    def _record(self, rows: torch.Tensor, shape: Shape) -> Parts:
        """Record a step and also run it eagerly; the recording is kept if both agree."""
        self._before_step()
        before, chance = None, self._chance()
        try:
            before, static = self._state(), rows.clone()
            beside = next((recording for _, recording in self._found.values()), None)
            recording = CUDARecording(partial(self._step, static, shape), self._generators(), beside, self.device)
            self._restore(before, chance)  # undo work that was done instead of recorded
            recording.replay()
            replayed, losses = self._state(), [part.clone() for part in recording.parts]
            self._restore(before, chance)
            plain = self._step(rows, shape)
            agreed = self._agree(before, replayed, losses, plain)
        except RuntimeError as failure:
            self._give_up(f"a step could not be recorded ({_first_cause(failure)})")
        if self.why_not:
            return self._plainly_after_failure(rows, shape, before, chance)
        if agreed:
            self._found[shape] = static, recording
            self.recorded = True
        else:
            self._give_up(
                f"a replayed step of {type(self.model).__name__} gave other losses or weights than an eager one"
            )
            logger.warning(
                "training goes on eagerly, which is slower: %s. --cuda_graphs=False does not try to record.",
                self.why_not,
            )
        return plain

    def _plainly_after_failure(
        self, rows: torch.Tensor, shape: Shape, before: dict[str, list[torch.Tensor]] | None, chance: list[torch.Tensor]
    ) -> Parts:
        """Run the step that could not be recorded eagerly; the state that CUDA is left in may not allow it.

        Args:
            rows, shape: of the step.
            before: the state to start from; ``None`` if the failure came before anything had changed.
            chance: states of the random generators to start from.

        Raises:
            UserError: the GPU cannot continue.
        """
        try:
            if before is not None:
                self._restore(before, chance)
            return self._step(rows, shape)
        except RuntimeError as failure:
            raise UserError(
                f"{self.why_not}, and the GPU does not go on ({_first_cause(failure)}): give --cuda_graphs=False."
            ) from failure

    def _generators(self) -> list[torch.Generator]:
        """The generators that steps draw from, besides the device's own."""
        return [] if self.loader.sampler is None else [self.loader.sampler.generator]

    # ---- two forms of one step ---------------------------------------------------------------------

    def _tensors(self) -> dict[str, list[torch.Tensor]]:
        """All tensors that a step changes, by kind."""
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
        """Whether the losses agree, and the two updates of each kind differ by far less than their length."""
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


def _first_cause(error: BaseException) -> str:
    """First line of the original error: the one raised when a recording ends only says that something was wrong."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return next(iter(str(error).splitlines()), "")[:200]


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Sum of the squared differences."""
    return float((one.double() - other.double()).square().sum())


def _is_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimiser is torch's fused Adam or AdamW."""
    adam = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
    return adam and all(group.get("fused") for group in optimizer.param_groups)


def _host_state(model: torch.nn.Module) -> list[Any]:
    """The host's state of a model: plain attributes, which tensors it holds, and which parameters learn."""
    found: list[Any] = list(host_attributes(model).items())
    found += [(name, parameter.requires_grad, _place(parameter)) for name, parameter in model.named_parameters()]
    found += [(name, _place(buffer)) for name, buffer in model.named_buffers()]
    return found


def host_attributes(model: torch.nn.Module) -> dict[tuple[str, str], Any]:
    """Plain attributes of a model's modules, by module and name, in a form that can be compared later."""
    return {
        (name, key): _known(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in ("_parameters", "_buffers")  # steps write to them
    }


class _Same:
    """Compares by identity. It keeps its value alive, so that nothing else can get the same place in memory."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


def _known(value: Any) -> Any:
    """A form of a value that can be compared later: numbers, texts and containers by value, all else by identity."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple, deque)):
        return [type(value).__name__, *map(_known, value)]
    if isinstance(value, dict):
        return [type(value).__name__, *((key, _known(inner)) for key, inner in value.items())]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return _Same(value), hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, torch.nn.Parameter):
        return _place(value)
    if isinstance(value, torch.Tensor):  # neither parameter nor buffer: what a step writes to it could not be undone
        return _place(value), 0 if value.is_inference() else value._version
    return _Same(value), _drawn(value)


def _place(tensor: torch.Tensor) -> tuple[_Same, int]:
    """The identity of a tensor and the address of its data."""
    return _Same(tensor), tensor.data_ptr() if tensor.layout == torch.strided else 0


def _drawn(value: Any) -> bytes:
    """The state of a random generator; empty for anything else."""
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, (random.Random, np.random.Generator, np.random.RandomState)):
        return pickle.dumps(value)
    return b""


def _host_chance(device: torch.device) -> tuple[Any, ...]:
    """States of the host's generators, which a step that can be recorded does not draw from."""
    legacy: Any = np.random.get_state()
    own = b"" if device.type == "cpu" else torch.get_rng_state().numpy().tobytes()
    return random.getstate(), legacy[1].tobytes(), legacy[2], own
