"""The results folder, which only :class:`ResultStore` reads and writes.

Each run has a JSON file and a file of ranks beside it, under ``<dataset>/<protocol>/``; probes of an LLM's memory lie
under ``<dataset>/``. Files appear completely or not at all, so that several processes may write at once. A broken file
is reported and skipped.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from recbole_llm.errors import UserError
from recbole_llm.experiments.probe_record import ProbeRecord
from recbole_llm.experiments.record import SCHEMA, Record
from recbole_llm.utils.files import check_name, whole_file
from recbole_llm.utils.text import complaint

logger = logging.getLogger(__name__)


class ResultStore:
    """Records of finished runs.

    Args:
        folder: the results folder; made on first write.
    """

    def __init__(self, folder: str | Path = "results") -> None:
        self.folder = Path(folder)

    def path(self, record: Record) -> Path:
        """Where a record belongs."""
        parts = [record.model] if record.semantics == "none" else [record.model, record.source]
        name = "-".join(map(_file_word, parts)) + f"-s{record.seed}-{record.key}.json"
        return self.place(record.dataset, record.protocol) / name

    def place(self, dataset: str, protocol: str) -> Path:
        """The folder of the records of a dataset under a protocol.

        Raises:
            UserError: a name would lead out of the results folder.
        """
        return self.folder / check_name(dataset, "dataset of a record") / check_name(protocol, "protocol of a record")

    def find(self, key: str) -> Record | None:
        """The record of a key, if it is there and readable.

        Raises:
            UserError: a later version wrote it. If it were not found, the run would be made again and replace it.
        """
        for path in self.folder.glob(f"*/*/*-{key}.json"):
            record = self._parsed(path)
            if record is not None and record.schema_version > SCHEMA:
                raise UserError(
                    f"{path} was written by a later version (schema {record.schema_version}), and this one would "
                    "replace it: update this package, or give another --results_dir."
                )
            if record is not None:
                return record
        return None

    def __iter__(self) -> Iterator[Record]:
        """All readable records, in the order of their paths."""
        for path in sorted(self.folder.glob("*/*/*.json")):
            record = self._read(path)
            if record is not None:
                yield record

    def probes(self) -> Iterator[ProbeRecord]:
        """All readable probes of LLMs' memory, in the order of their paths."""
        for path in sorted(self.folder.glob("*/probe-*.json")):
            try:
                yield ProbeRecord.model_validate_json(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, ValidationError) as error:
                logger.warning("%s is no readable probe and is skipped: %s", path, complaint(error))

    def probe_path(self, record: ProbeRecord) -> Path:
        """Where a probe belongs."""
        return self.folder / record.dataset / f"probe-{_file_word(record.llm_model)}-{record.key}.json"

    def put_probe(self, record: ProbeRecord) -> Path:
        """Write a probe, replacing one of the same key."""
        path = self.probe_path(record)
        with whole_file(path, "w") as stream:
            stream.write(record.model_dump_json(indent=1))
        return path

    def put(self, record: Record) -> Path:
        """Write a record, replacing one of the same key."""
        path = self.path(record)
        with whole_file(path, "w") as stream:
            stream.write(Record.model_validate(record.model_dump()).model_dump_json(indent=1))  # without machine paths
        _remove_others(path.parent, record.key, {path.name, self.ranks_of(record).name})
        return path

    def pack(self, record: Record) -> dict[str, bytes]:
        """A record's files by their paths in the folder, to be sent to another store."""
        paths = self.path(record).parent.glob(f"[!.]*-{record.key}.*")  # hidden files may be a killed process's
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in sorted(paths)}

    def unpack(self, files: Mapping[str, bytes]) -> Record:
        """Write what another store packed, the record last, replacing one of the same key.

        Raises:
            UserError: a file would lie outside the folder.
        """
        *others, last = sorted(files, key=lambda name: name.endswith(".json"))
        record = Record.model_validate_json(files[last])
        for part in {part for name in files for part in Path(name).parts}:
            check_name(part, "a file that a worker sends")
        for name in (*others, last):
            with whole_file(self.folder / name) as stream:
                stream.write(files[name])
        _remove_others((self.folder / last).parent, record.key, {Path(name).name for name in files})
        return record

    def ranks_path(self, record: Record) -> Path:
        """Where a record's ranks lie or will lie."""
        return self.path(record).with_suffix(".ranks.npz")

    def ranks_of(self, record: Record) -> Path:
        """Where a record says that its ranks lie, in this folder even if it has been moved or renamed since."""
        return self.path(record).parent / check_name(record.ranks_file or self.ranks_path(record).name, "ranks_file")

    def _parsed(self, path: Path) -> Record | None:
        """The record of any version in a file."""
        try:
            return Record.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError, json.JSONDecodeError) as error:
            logger.warning("%s is not a readable record and is skipped: %s", path, complaint(error))
            return None

    def _read(self, path: Path) -> Record | None:
        record = self._parsed(path)
        if record is not None and record.schema_version > SCHEMA:
            logger.warning("%s was written by a later version (schema %d) and is skipped.", path, record.schema_version)
            return None
        return record


def _file_word(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)


def _remove_others(folder: Path, key: str, kept: set[str]) -> None:
    """Remove a key's records and ranks under other names, for example if a run failed before it knew its source."""
    for suffix in (".json", ".ranks.npz"):
        for other in folder.glob(f"*-{key}{suffix}"):
            if other.name not in kept:
                other.unlink(missing_ok=True)
