"""Similar users, kept on disk: runs that differ in the seed or in other settings of a model find the same ones."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch

from recbole_llm.layers.neighbours import nearest_neighbours
from recbole_llm.utils.files import one_process_at_a_time, whole_file

logger = logging.getLogger(__name__)

FORMAT = 1  # raise when the same vectors have other neighbours
FEWEST = 10_000  # rows; fewer are compared in a second or two


def kept_neighbours(vectors: torch.Tensor, k: int, folder: Path) -> torch.Tensor:
    """What :func:`nearest_neighbours` finds for many vectors, kept in a file named after a hash of all that it reads.

    Of several processes that want the same, one compares and the others wait. One that is killed leaves no file.

    Args:
        vectors: ``(n, d)`` on the host.
        k: neighbours of a row.
        folder: where the files lie; they may be removed at any time.

    Raises:
        UserError: the folder cannot be made or written to.
        NoRoomError: the disk is full.
    """
    if len(vectors) < FEWEST:
        return nearest_neighbours(vectors, k)
    path = folder / f"{_key(vectors, k)}.npy"
    with one_process_at_a_time(folder, "similar users"):
        found = _read(path, (len(vectors), min(k, len(vectors) - 1)))
        if found is None:
            logger.info("comparing %s users with each other", f"{len(vectors):,}")
            found = nearest_neighbours(vectors, k)
            with whole_file(path) as stream:
                np.save(stream, found.numpy().astype(np.int32), allow_pickle=False)
    return found


def _key(vectors: torch.Tensor, k: int) -> str:
    """A hash of everything that the neighbours depend on."""
    values = np.ascontiguousarray(vectors.numpy())
    digest = hashlib.sha256(f"{FORMAT} {k} {values.dtype} {values.shape} ".encode())
    digest.update(values.data)
    return digest.hexdigest()[:16]


def _read(path: Path, shape: tuple[int, int]) -> torch.Tensor | None:
    """The neighbours in a file; ``None`` if there is none, or a damaged one."""
    if not path.is_file():
        return None
    try:
        found = np.load(path, allow_pickle=False)
        if found.shape != shape or found.dtype != np.int32 or not ((found >= 0) & (found < len(found))).all():
            raise ValueError("it holds no neighbours of these users")
    except Exception as error:  # numpy raises half a dozen types for a damaged file
        logger.warning("%s is damaged (%s) and is made anew", path, error)
        return None
    return torch.from_numpy(found.astype(np.int64))
