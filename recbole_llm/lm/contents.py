"""Identity of local models by their contents, since the same path may hold another model tomorrow."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from recbole_llm.utils.files import file_sha256

MODEL_FILES = (".safetensors", ".bin", ".pt", ".json", ".txt", ".model")  # of a folder: weights, tokenizer, settings


def contents_of(path: Path) -> str:
    """SHA-256 of a model's file, or of the files in its folder and their names; 64 hex digits."""
    found = [path] if path.is_file() else [each for each in path.rglob("*") if each.suffix in MODEL_FILES]
    states = [(each, each.stat()) for each in sorted(found) if each.is_file()]
    return _digest(path, tuple((each, state.st_size, state.st_mtime_ns) for each, state in states))


@cache
def _digest(path: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    """The digest of files, cached by their size and time of change, so that files are read once."""
    if [each for each, _, _ in files] == [path]:
        return file_sha256(path)
    parts = [f"{each.relative_to(path).as_posix()} {file_sha256(each)}" for each, _, _ in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
