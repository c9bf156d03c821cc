"""Whole columns of an atomic file: numbers, and tokens as ids by first appearance.

A Python string for each of twenty million cells costs more than all else, and looking strings up costs the more
the more there are, since they lie all over memory. So tokens of up to 32 bytes are taken from the file as integers,
eight bytes each, and those are numbered. Files that are not so regular go through :func:`atomic.read_chunks`, which
gives the same.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_llm.data.atomic import Vocabulary, line_blocks, read_chunks, read_header

WORD = 8  # bytes of an integer
MAX_WORDS = 4  # of a token
_MASKS = np.array([2 ** (8 * n) - 1 for n in range(WORD + 1)], dtype=np.uint64)  # the first n bytes of a word


def read_columns(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Columns of an atomic file.

    Args:
        path: plain or gzipped atomic file.
        names: token and float columns.

    Returns:
        By name, ``(n,)``: int32 ids from 1 of token columns (-1 where the token is missing), floats as float64;
        and, for token columns, the token of each id from 1.

    Raises:
        UserError: as :func:`atomic.read_chunks`.
    """
    return _read_regular(path, names) or _read_any(path, names)


def _read_any(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    vocabularies = {column.name: Vocabulary() for column in read_header(path) if column.type == "token"}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for chunk in read_chunks(path, names, vocabularies):
        for name in names:
            parts[name].append(chunk[name].to_numpy())
    values = {name: np.concatenate(parts.pop(name) or [np.empty(0)]) for name in names}
    return values, {name: list(vocabularies[name]) for name in names if name in vocabularies}


def _read_regular(path: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]] | None:
    """The same for a file without quotation marks, missing tokens or long ones; ``None`` for others."""
    header = read_header(path)
    position = {column.name: place for place, column in enumerate(header)}
    if not set(names) <= set(position) or len(header) < 2:
        return None
    tokens = [name for name in names if header[position[name]].type == "token"]
    packed: dict[str, list[list[np.ndarray]]] = {name: [] for name in tokens}
    try:
        for block in _rows(path):
            fields = _fields(block, len(header))
            if fields is None:
                return None
            for name in tokens:
                words = _pack(block, *fields[position[name]])
                if words is None:
                    return None
                packed[name].append(words)
        values: dict[str, np.ndarray] = {}
        found: dict[str, list[str]] = {}
        for name in tokens:
            values[name], found[name] = _number(packed.pop(name))
        floats = [name for name in names if name not in values]
        if floats:
            dtypes = {str(header[position[name]]): np.float64 for name in floats}
            frame = pd.read_csv(
                path, sep="\t", usecols=list(dtypes), dtype=dtypes, quoting=csv.QUOTE_NONE, na_values=[""],
                keep_default_na=False,
            )  # fmt: skip
            values |= {name: frame[str(header[position[name]])].to_numpy() for name in floats}
    except (OSError, EOFError, ValueError):
        return None  # read_chunks meets the same and finds the words for it
    return (values, found) if len({len(column) for column in values.values()}) == 1 else None


def _rows(path: Path) -> Iterator[bytes]:
    """The lines after the header, block by block."""
    blocks = line_blocks(path)
    first = next(blocks).partition(b"\n")[2]
    yield from itertools.chain([first] if first else [], blocks)


def _fields(block: bytes, width: int) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Where each column's fields begin and end, ``(n,)`` each; ``None`` unless all lines have ``width`` of them."""
    if any(mark in block for mark in (b'"', b"\r", b"\0")):
        return None
    text = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    tabs = np.flatnonzero(text == ord("\t"))
    if len(tabs) != len(ends) * (width - 1):
        return None
    inner = tabs.reshape(len(ends), width - 1)
    begins = np.concatenate([[0], ends[:-1] + 1])
    if (inner[:, 0] < begins).any() or (inner[:, -1] > ends).any():
        return None
    return list(zip([begins, *(inner.T + 1)], [*inner.T, ends], strict=True))


def _pack(block: bytes, begins: np.ndarray, ends: np.ndarray) -> list[np.ndarray] | None:
    """The bytes of each field as words, ``(n,)`` uint64 each, zeros behind its end; ``None`` for empty or long ones."""
    lengths = ends - begins
    count = -(-int(lengths.max(initial=0)) // WORD)
    if count > MAX_WORDS or not lengths.all():
        return None
    text = block + bytes(WORD * MAX_WORDS)
    windows = np.ndarray((len(text) - WORD + 1,), dtype="<u8", buffer=text, strides=(1,))  # a word from every byte on
    return [windows[begins + WORD * word] & _MASKS[np.clip(lengths - WORD * word, 0, WORD)] for word in range(count)]


def _number(blocks: list[list[np.ndarray]]) -> tuple[np.ndarray, list[str]]:
    """Ids from 1 by first appearance, int32, and the token of each."""
    words = [
        np.concatenate([block[place] if place < len(block) else np.zeros_like(block[0]) for block in blocks])
        for place in range(max(map(len, blocks), default=0))
    ]
    if not words:
        return np.empty(0, dtype=np.int32), []
    ids, first = pd.factorize(words[0])
    found = [first]
    for word in words[1:]:
        codes, values = pd.factorize(word)
        ids, pairs = pd.factorize(ids * len(values) + codes)
        found = [*(part[pairs // len(values)] for part in found), values[pairs % len(values)]]
    text = np.stack(found, axis=1).astype("<u8").view(f"S{WORD * len(found)}").ravel()
    return (ids + 1).astype(np.int32), [token.decode("utf-8") for token in text.tolist()]
