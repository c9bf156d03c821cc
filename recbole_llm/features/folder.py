"""One folder of semantic files: text table, feature tables, vectors, and the manifest that lists them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.data.atomic import Column, clean_field, read_table, write_table
from recbole_llm.errors import UserError
from recbole_llm.utils.environment import now
from recbole_llm.utils.files import check_name, file_sha256, whole_file

logger = logging.getLogger(__name__)

FORMAT = 1
TEXT_COLUMNS = (Column("text_id", "token"), Column("text", "token_seq"))
ASKED_COLUMNS = (Column("request_key", "token"),)


def asked_suffix(feature: str) -> str:
    """Suffix of the table of requests whose answers a feature was made from."""
    return f"{feature}.asked"


class ChangedFileError(UserError):
    """A file differs from the manifest; a process without the folder's lock may be seeing a write in progress."""


class TextTable:
    """Every distinct text once; its index is its id in all other files."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.texts: list[str] = []
        self._ids: dict[str, int] = {}
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str) -> int:
        """The id of a text, which is added if it is new."""
        text = clean_field(text)
        found = self._ids.get(text)
        if found is None:
            found = self._ids[text] = len(self.texts)
            self.texts.append(text)
        return found


class SemanticFolder:
    """The files of one feature set, ``dataset/<ds>/semantics/<protocol>-<llm>-<hash>/``.

    Args:
        path: the folder.
        stem: name of the dataset's files.
        identity: what the features were made from; a folder with another identity is refused.
        read_with: how the interactions were read; saved with the next manifest, but not part of the identity.

    Attributes:
        written: suffixes of the atomic files that this object has written.
    """

    def __init__(
        self, path: Path, stem: str, identity: dict[str, Any], read_with: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.stem, self.identity, self.read_with = path, stem, identity, dict(read_with or {})
        self.written: set[str] = set()
        self.manifest = self._read_manifest()
        self._start_anew_without_text()
        self.texts = TextTable()
        if self.has("text"):
            rows = self.manifest["files"]["text"]["rows"]
            self.texts = TextTable(read_table(self.file("text"), ["text"])["text"].fillna("")[:rows])

    def _read_manifest(self) -> dict[str, Any]:
        fresh = {"format": FORMAT, "identity": self.identity, "features": {}, "files": {}}
        path = self.path / "manifest.json"
        if not path.is_file():
            return fresh
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{path} is damaged ({error}); remove the folder and run again, paid answers are kept."
            ) from error
        if (
            not isinstance(manifest, dict)
            or manifest.get("format") != FORMAT
            or manifest.get("identity") != self.identity
        ):
            raise UserError(
                f"{path} belongs to other data, another split or another version; remove the folder or move it away."
            )
        if not _is_whole(manifest):
            raise UserError(f"{path} is damaged; remove the folder and run again, paid answers are kept.")
        for entry in manifest["files"].values():
            check_name(entry["name"], str(path))
        return manifest

    def _start_anew_without_text(self) -> None:
        """Forget all files if the text table, which they refer to, is gone."""
        entry = self.manifest["files"].get("text")
        if entry is not None and not (self.path / entry["name"]).is_file():
            path = self.path / entry["name"]
            logger.warning("%s is gone: the features are made again, from paid answers where there are any", path)
            self.manifest["features"].clear()
            self.manifest["files"].clear()

    def file(self, suffix: str) -> Path:
        """Path of an atomic file of this folder."""
        return self.path / f"{self.stem}.{suffix}"

    def has(self, suffix: str) -> bool:
        """Whether a file exists, is listed in the manifest and is unchanged since.

        The text table only grows, so only its listed beginning is compared: a commit that is in progress in another
        process, or that was killed before it wrote the manifest, has written more than is listed.

        Raises:
            ChangedFileError: the file was changed, or another process is writing it.
        """
        entry = self.manifest["files"].get(suffix)
        if entry is None:
            return False
        path = self.path / entry["name"]
        if not path.is_file():
            return False
        if suffix == "text":
            with path.open("rb") as stream:
                found = hashlib.sha256(stream.read(max(0, entry["bytes"]))).hexdigest()
        else:
            found = file_sha256(path) if path.stat().st_size == entry["bytes"] else ""
        if found != entry["sha256"]:
            raise ChangedFileError(
                f"{path} is not the file that manifest.json describes; remove it to have it made again."
            )
        return True

    def check(self) -> None:
        """Check every file that the manifest lists.

        Raises:
            UserError: one is gone or was changed.
        """
        for suffix, entry in self.manifest["files"].items():
            if not self.has(suffix):
                raise UserError(f"{self.path / entry['name']} is gone; run again to have it made.")

    def write(self, suffix: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> int:
        """Write an atomic file and return its number of rows; :meth:`commit` makes it part of the folder."""
        count = write_table(self.file(suffix), columns, rows)
        self._list(suffix, self.file(suffix), rows=count)
        self.written.add(suffix)
        return count

    def write_vectors(self, name: str, vectors: np.ndarray) -> None:
        """Write a matrix in the row order of the text table."""
        path = self.path / f"text.{name}.npy"
        with whole_file(path) as stream:
            np.save(stream, vectors, allow_pickle=False)
        self._list(f"text.{name}.npy", path, rows=len(vectors))

    def vectors(self, name: str) -> np.ndarray | None:
        """The memory-mapped matrix of an encoder, ``None`` if it has to be made."""
        if not self.has(f"text.{name}.npy"):
            return None
        matrix: np.ndarray = np.load(self.path / f"text.{name}.npy", mmap_mode="r", allow_pickle=False)
        return matrix if len(matrix) == len(self.texts) else None

    def _list(self, key: str, path: Path, rows: int) -> None:
        self.manifest["files"][key] = {
            "name": path.name,
            "rows": rows,
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }

    def commit(self, feature: str | None = None, facts: dict[str, Any] | None = None) -> None:
        """Write the text table, then the manifest that lists the files."""
        rows = ((str(number), text) for number, text in enumerate(self.texts.texts))
        self.write("text", TEXT_COLUMNS, rows)
        if feature is not None:
            self.manifest["features"][feature] = {
                **(facts or {}),
                "made": now(),
            }
        self.save_manifest()

    def save_manifest(self) -> None:
        """Write the manifest atomically."""
        if self.read_with:
            self.manifest["read_with"] = self.read_with
        with whole_file(self.path / "manifest.json", "w") as stream:
            json.dump(self.manifest, stream, indent=1, ensure_ascii=False)


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Whether a manifest has the structure that :class:`SemanticFolder` writes."""
    wanted = {"name": str, "rows": int, "bytes": int, "sha256": str}
    files = manifest.get("files")
    return (
        isinstance(manifest.get("features"), dict)
        and isinstance(files, dict)
        and all(isinstance(entry, dict) for entry in files.values())
        and all(isinstance(entry.get(key), kind) for entry in files.values() for key, kind in wanted.items())
    )
