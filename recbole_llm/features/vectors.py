"""Vectors of items or users that were made elsewhere (``--vectors=FILE``).

=================  ==================================================================================================
``NAME.npy``       the matrix, one row per item or user; ``NAME.ids`` beside it has ``item_id`` or ``user_id`` in its
                   first line and then one id per line, in row order
``.safetensors``   one tensor, or several of which one is called ``vectors``; the ids are a JSON list in the metadata
                   under ``item_id`` or ``user_id``, or in ``NAME.ids`` beside it
``.parquet``       a column ``item_id`` or ``user_id``, and a column ``vector`` with one list per row
=================  ==================================================================================================

No file is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.settings.schema import ITEM, USER
from recbole_llm.utils.files import check_file, file_sha256
from recbole_llm.utils.text import counted, reason_of

logger = logging.getLogger(__name__)

_KEYS = (ITEM, USER)
_TENSOR = "vectors"
BLOCK = 2**15  # rows that are checked at a time


@dataclass(frozen=True)
class GivenVectors:
    """The vectors of a file.

    Attributes:
        key: ``item_id`` or ``user_id``: what a row stands for.
        tokens: the rows' ids.
        matrix: ``(n, d)`` float32.
        name: the file's name with the first digits of its hash.
        sha256: hash of the file and its list of ids.
    """

    key: str
    tokens: tuple[str, ...]
    matrix: np.ndarray
    name: str
    sha256: str

    def aligned(self, tokens: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors ``(len(tokens), d)`` of a dataset's ids, zero if an id has none, and a mask of the ids with one.

        Raises:
            UserError: none of the ids has a row.
        """
        rows = self._rows(tokens)
        found = self.matrix[rows.clip(min=0)]
        found[rows < 0] = 0.0
        return found, rows >= 0

    def _rows(self, tokens: Sequence[str]) -> np.ndarray:
        """The row of each id; -1 if it has none."""
        place = {token: row for row, token in enumerate(self.tokens)}
        rows = np.array([place.get(token, -1) for token in tokens], dtype=np.int64)
        rows[0] = -1  # padding
        if not (rows >= 0).any():
            raise UserError(
                f"--vectors: this dataset has none of the {len(self.tokens)} {self.key} values in {self.name} "
                f"({', '.join(self.tokens[:3])}, ...): name rows as the dataset does ({', '.join(tokens[1:4])}, ...)."
            )
        return rows

    def facts(self, tokens: Sequence[str]) -> dict[str, Any]:
        """For the record: what the file holds, and how many of a dataset's ids; missing ones are logged."""
        known, total = int((self._rows(tokens) >= 0).sum()), len(tokens) - 1
        if known < total:
            logger.warning("--vectors: %s has %d of this dataset's %d %s values", self.name, known, total, self.key)
        return {
            "name": self.name,
            "sha256": self.sha256,
            "of": self.key,
            "dimensions": self.matrix.shape[1],
            "rows": len(self.tokens),
            "known": known,
            "missing": total - known,
        }


def files_of(path: Path) -> list[Path]:
    """The files that hold the vectors of a path: itself and, if it exists, its list of ids.

    Raises:
        UserError: there is no such file.
    """
    return [check_file("--vectors", path), *filter(Path.is_file, [path.with_suffix(".ids")])]


def digest(path: Path) -> str:
    """SHA-256 of the vectors of a path, its list of ids included."""
    hashes = list(map(file_sha256, files_of(path)))
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def read_vectors(path: Path) -> GivenVectors:
    """The vectors of a file, read once.

    Raises:
        UserError: the file is missing, damaged or of another format, or its rows do not fit its ids.
    """
    return _read(path, digest(path))


@cache
def _read(path: Path, sha256: str) -> GivenVectors:
    readers = {".npy": _from_npy, ".safetensors": _from_safetensors, ".parquet": _from_parquet}
    reader = readers.get(path.suffix)
    if reader is None:
        raise UserError(f"--vectors={path}: give a file that ends in {', '.join(readers)}.")
    try:
        key, tokens, matrix = reader(path)
    except UserError:
        raise
    except Exception as error:  # three libraries, each with errors of its own
        raise UserError(f"--vectors={path} cannot be read: {reason_of(error, 200)}") from error
    if not isinstance(matrix, np.ndarray):  # np.load opens archives of several arrays too
        raise UserError(f"--vectors={path} is an archive of arrays (np.savez): save the matrix alone, with np.save.")
    matrix = _checked(path, tokens, matrix)
    return GivenVectors(key, tuple(tokens), matrix, f"{path.stem}#{sha256[:6]}", sha256)


def _checked(path: Path, tokens: Sequence[str], matrix: np.ndarray) -> np.ndarray:
    """The checked matrix in single precision, in which large values, or their squares, may overflow."""
    if matrix.ndim != 2 or not matrix.shape[1] or matrix.dtype.kind not in "fiu":
        found = f"{matrix.dtype} of the shape {matrix.shape}"
        raise UserError(f"--vectors={path}: expected a matrix of numbers with one row per id; got {found}.")
    if len(tokens) != len(matrix):
        raise UserError(f"--vectors={path} has {counted(len(matrix), 'row')} and {counted(len(tokens), 'id')}.")
    if not tokens:
        raise UserError(f"--vectors={path} has no rows: it wants one an id.")
    if len(set(tokens)) < len(tokens):
        twice = next(token for token, count in Counter(tokens).items() if count > 1)
        raise UserError(f"--vectors={path}: the id {twice!r} has several rows.")
    begins = range(0, len(matrix), BLOCK)
    with np.errstate(over="ignore"):
        single = matrix.astype(np.float32, copy=False)
        for begin in begins:
            wrong = begin + np.flatnonzero(~np.isfinite(np.square(single[begin : begin + BLOCK]).sum(axis=1)))
            if len(wrong):
                raise UserError(
                    f"--vectors={path}: row {wrong[0] + 1} ({tokens[wrong[0]]}) holds a value that is not a finite "
                    "number in single precision, or whose square overflows."
                )
    if len(single) > 1 and all((single[begin : begin + BLOCK] == single[0]).all() for begin in begins):
        raise UserError(f"--vectors={path}: its {len(single)} rows are all the same, so that they tell nothing apart.")
    return single


def _ids_beside(path: Path) -> tuple[str, list[str]]:
    ids = path.with_suffix(".ids")
    if not ids.is_file():
        raise UserError(
            f"--vectors={path}: {ids.name} beside it is to name the rows: item_id or user_id, then the ids."
        )
    try:
        first, *tokens = ids.read_text(encoding="utf-8-sig").split("\n")  # an id may hold other line separators
    except UnicodeDecodeError as error:
        raise UserError(f"{ids}: the file is not UTF-8 text ({error}); save it as UTF-8.") from error
    key = first.strip().partition(":")[0]  # item_id:token, as atomic files have it
    if key not in _KEYS:
        raise UserError(f"{ids}: the first line is item_id or user_id, not {first[:40]!r}.")
    return key, [token for token in tokens if token]


def _from_npy(path: Path) -> tuple[str, list[str], np.ndarray]:
    key, tokens = _ids_beside(path)
    return key, tokens, np.load(path, allow_pickle=False)


def _from_safetensors(path: Path) -> tuple[str, list[str], np.ndarray]:
    from safetensors import safe_open  # brings torch along

    with safe_open(path, framework="pt") as file:
        names, metadata = list(file.keys()), file.metadata() or {}
        name = names[0] if len(names) == 1 else _TENSOR
        if name not in names:
            raise UserError(f"--vectors={path} has the tensors {', '.join(names)}: call one of them {_TENSOR}.")
        tensor = file.get_tensor(name)
    # numpy has no bfloat16; a tensor that holds no numbers is left as it is and refused later
    matrix = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
    key = next((key for key in _KEYS if key in metadata), None)
    if key is None:
        return *_ids_beside(path), matrix
    tokens = json.loads(metadata[key])
    if not isinstance(tokens, list) or not all(isinstance(token, str | int) for token in tokens):
        raise UserError(f"--vectors={path}: {key} in its metadata is no JSON list of ids.")
    return key, list(map(str, tokens)), matrix


def _from_parquet(path: Path) -> tuple[str, list[str], np.ndarray]:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise UserError(f"--vectors={path}: parquet files want pyarrow: pip install 'recbole-llm[parquet]'.") from error
    key = next((key for key in _KEYS if key in frame), None)
    if key is None or "vector" not in frame:
        raise UserError(
            f"--vectors={path} has the columns {', '.join(map(str, frame))}: item_id or user_id, and vector."
        )
    vectors = list(frame["vector"])
    nameless = np.flatnonzero(frame[key].isna())
    if len(nameless):
        raise UserError(f"--vectors={path}: row {nameless[0] + 1} has no {key}.")
    for token, vector in zip(frame[key], vectors, strict=True):
        if not isinstance(vector, np.ndarray):
            raise UserError(f"--vectors={path}: the vector of {token} is no list of numbers, but {str(vector)[:40]!r}.")
    if len({len(vector) for vector in vectors}) > 1:
        raise UserError(f"--vectors={path}: its vectors are of several lengths.")
    return key, frame[key].astype(str).tolist(), np.array([np.asarray(vector) for vector in vectors])


def given_vectors(paths: Sequence[str] | None) -> dict[str, GivenVectors]:
    """The vectors of some files, by ``item_id`` or ``user_id``.

    Raises:
        UserError: two files both have items, or users, as rows.
    """
    found: dict[str, GivenVectors] = {}
    for path in paths or ():
        vectors = read_vectors(Path(path))
        if vectors.key in found:
            raise UserError(
                f"--vectors: {vectors.name} and {found[vectors.key].name} both have one row per {vectors.key}."
            )
        found[vectors.key] = vectors
    return found
