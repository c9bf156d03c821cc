"""Checkpoints: tensors and plain values, written whole or not at all, loaded with ``weights_only=True``."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from recbole_llm.errors import UserError
from recbole_llm.utils.files import whole_file
from recbole_llm.utils.text import one_line, reason_of


def pack(value: Any) -> Any:
    """A value in a form that ``torch.load(weights_only=True)`` reads back; see :func:`unpack`.

    Modules become ``None``: their parameters are in the state dict already.
    """
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {"__kind__": "numpy", "data": torch.from_numpy(np.ascontiguousarray(value))}
    if sp.issparse(value):
        matrix = value.tocsr()
        parts = {name: torch.from_numpy(getattr(matrix, name).copy()) for name in ("data", "indices", "indptr")}
        return {"__kind__": "csr", "shape": list(matrix.shape), **parts}
    if isinstance(value, torch.nn.Module):
        return None
    if isinstance(value, dict):
        return {key: pack(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack(inner) for inner in value]
    if isinstance(value, np.generic):  # before the next check: numpy's float64 is a float too
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, torch.Tensor)):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def unpack(value: Any) -> Any:
    """The inverse of :func:`pack`."""
    if isinstance(value, dict):
        if value.get("__kind__") == "numpy":
            return value["data"].cpu().numpy()
        if value.get("__kind__") == "csr":
            parts = tuple(value[name].cpu().numpy() for name in ("data", "indices", "indptr"))
            return sp.csr_matrix(parts, shape=tuple(value["shape"]))
        return {key: unpack(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [unpack(inner) for inner in value]
    return value


def holds(value: Any) -> bool:
    """Whether a value comes back from a checkpoint as what it was; a tuple would be a list, a ``Counter`` a dict."""
    try:
        return type(unpack(pack(value))) is type(value)
    except TypeError:
        return False


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; it gets its name only once it is complete."""
    with whole_file(path) as stream:
        torch.save(pack(state), stream)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        UserError: the file is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as kept:  # torch writes checksums and does not read them
            if (part := kept.testzip()) is not None:
                raise ValueError(f"{part} is not what its checksum says")
        state: dict[str, Any] = unpack(torch.load(path, map_location=device, weights_only=True))
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}.") from None
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise UserError(
            f"{path} is not a readable checkpoint: {reason_of(error, 200)}. Delete it; the same command then trains "
            "anew."
        ) from error
    return state


def model_state(model: Any) -> dict[str, Any]:
    """Everything a RecBole model needs to score: parameters and its ``other_parameter`` values."""
    other = {k: v for k, v in model.other_parameter().items() if not isinstance(v, torch.nn.Module)}
    return {"state_dict": dict(model.state_dict()), "other_parameter": other}


def fits(model: Any, state: dict[str, Any]) -> bool:
    """Whether a :func:`model_state` has all parameters of a model at their sizes; the model is not changed."""
    found = state.get("state_dict", {})
    return all(name in found and found[name].shape == value.shape for name, value in model.state_dict().items())


def restore_model(model: Any, state: dict[str, Any], path: Path) -> None:
    """Restore a :func:`model_state` into a model with the same settings.

    Args:
        model: takes the parameters.
        state: what was saved.
        path: the file that ``state`` was read from, for the message.

    Raises:
        UserError: the parameters do not fit the model.
    """
    try:
        model.load_state_dict(state["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{path} does not fit the model: {one_line(error, 300)}. Delete it; the same command then trains anew."
        ) from error
    model.load_other_parameter(state.get("other_parameter"))


def random_state(device: torch.device | None = None) -> dict[str, Any]:
    """States of the random generators of Python, numpy and torch.

    Args:
        device: where a training draws besides the host; ``None``: on any GPU.
    """
    state_of_numpy: Any = np.random.get_state()
    name, keys, position, has_gauss, gauss = state_of_numpy
    version, internal, gauss_next = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": {"name": name, "keys": torch.from_numpy(keys.astype(np.int64)), "rest": [position, has_gauss, gauss]},
        "python": {"version": version, "internal": list(internal), "gauss": gauss_next},
    }
    if device is None and torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    elif device is not None and device.type == "cuda":
        state["cuda"] = [torch.cuda.get_rng_state(device)]
    return state


def restore_random_state(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Restore :func:`random_state`; a training may go on on a GPU of another number."""
    torch.set_rng_state(state["torch"].cpu())
    numpy_state = state["numpy"]
    keys = numpy_state["keys"].cpu().numpy().astype(np.uint32)
    np.random.set_state((numpy_state["name"], keys, *numpy_state["rest"]))
    python = state["python"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss"]))
    gpus = [part.cpu() for part in state.get("cuda", ())]
    if device is None and gpus:
        torch.cuda.set_rng_state_all(gpus)
    elif device is not None and device.type == "cuda" and gpus:
        # Earlier versions kept the states of all GPUs, by number.
        torch.cuda.set_rng_state(gpus[min(device.index or 0, len(gpus) - 1)], device)
