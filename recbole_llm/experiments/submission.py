"""Submitted records: checked for consistency, and kept as one folder that can be reviewed.

A submission is a results folder (``<dataset>/<protocol>/*.json`` with the ranks beside them) and ``submission.json``,
which lists the SHA-256 of every file. A submission is not trusted: files are read as data, names are matched against
patterns before they become paths, and sizes are limited.

A check can tell that the metrics follow from the ranks, the key from the settings, and that the answers have their
hashes. It cannot tell that a training took place; :mod:`recbole_llm.experiments.verify` runs one row again for that.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.evaluation.metrics import per_case
from recbole_llm.evaluation.names import needs_lists, parse_metric
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.record import SCHEMA, TOLERANCE, DatasetFacts, Record
from recbole_llm.experiments.run import key_parts
from recbole_llm.experiments.store import ResultStore
from recbole_llm.registry import SEQUENTIAL, Method, methods, recbole_methods
from recbole_llm.settings.definitions import definitions_of_name
from recbole_llm.settings.identity import identity, key_of
from recbole_llm.settings.rules import with_vectors
from recbole_llm.utils.files import file_sha256, whole_file, whole_folder
from recbole_llm.utils.text import complaint, counted

FORMAT = 1
LIST = "submission.json"
NAMES_FILES = 3  # from this schema on every record has the hashes of the files that its run read
NEEDED = (
    *("schema_version", "key", "model", "dataset", "protocol", "seed", "metrics", "ranks_file"),
    *("settings", "data", "versions", "hardware", "created"),
)
VERSIONS = ("python", "recbole", "torch", "numpy")  # every record must have their versions
LARGEST_RECORD, LARGEST_RANKS, LARGEST_CUT = 8 * 2**20, 512 * 2**20, 10_000
LONGEST_NAME, LONGEST_FILE = 150, 200  # letters of a display name; bytes of a file's, which file systems limit to 255
_WORDS = ("backbone", "titles", "preset")
_NAME = re.compile(r"[\w-][\w.+-]{0,199}")
_KEY = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One record that passed the checks.

    Attributes:
        record: of a finished run.
        ranks: its file of ranks.
        written: the schema in which it was submitted.
        settings_checked: its settings give its key; records from before schema 3 may lack what this check needs.
        answers_checked: its semantic files are here and have the hashes that it names; ``None`` if it reads none.
    """

    record: Record
    ranks: Path
    written: int
    settings_checked: bool
    answers_checked: bool | None


@dataclass(frozen=True)
class Submission:
    """A folder of records that all passed the checks.

    Attributes:
        name: of the folder.
        entries: in the order of their paths.
        failed: number of records of failed runs, which have no metrics.
    """

    name: str
    entries: list[Entry]
    failed: int = 0


def read_submission(folder: Path, dataset_dir: Path = Path("dataset")) -> Submission:
    """Read and check every record of a folder.

    Args:
        folder: a results folder, or one that :func:`write_submission` made.
        dataset_dir: where the semantic files lie, if they are here.

    Raises:
        UserError: a record fails a check, a file is not what ``submission.json`` says, or there is no record.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder.")
    _check_list(folder)
    entries, failed = [], 0
    for path in sorted(folder.glob("*/*/*.json")):
        values = _read_json(path)
        if values.get("status") == "failed":
            failed += 1
            continue
        entries.append(_entry(path, values, dataset_dir))
    if not entries:
        raise UserError(f"{folder}: there is no record of a finished run in it (DATASET/PROTOCOL/*.json).")
    keys: set[str] = set()
    for entry in entries:
        if entry.record.key in keys:
            raise UserError(f"{folder}: the key {entry.record.key} has two records; leave one of them out.")
        keys.add(entry.record.key)
    return Submission(folder.name or folder.resolve().name, entries, failed)


def write_submission(submission: Submission, output: Path) -> None:
    """Write records, ranks and the list of their hashes: all of them, or nothing.

    Raises:
        UserError: the folder exists and is not empty.
        NoRoomError: the disk is full.
    """
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise UserError(f"{output} is there already; give --output another folder, or remove it.")
    if output.exists():
        try:
            output.rmdir()  # the whole folder takes its place
        except OSError as error:
            raise UserError(
                f"{output} cannot be replaced ({error.strerror}); give --output a folder that is not there yet."
            ) from error
    with whole_folder(output) as folder:
        _fill(folder, submission)


def _fill(output: Path, submission: Submission) -> None:
    store, files = ResultStore(output), {}
    for entry in submission.entries:
        record = entry.record
        ranks = store.ranks_path(record)
        with whole_file(ranks) as stream:
            stream.write(entry.ranks.read_bytes())
        # Not put(), which writes today's schema: the old schema tells why a record names no files.
        record = record.model_copy(update={"ranks_file": ranks.name, "schema_version": entry.written})
        with whole_file(store.path(record), "w") as text:
            text.write(record.model_dump_json(indent=1))
        for path in (store.path(record), ranks):
            files[path.relative_to(output).as_posix()] = file_sha256(path)
    about = {
        "format": FORMAT,
        "records": len(submission.entries),
        "settings_checked": sum(entry.settings_checked for entry in submission.entries),
        "answers_checked": sum(bool(entry.answers_checked) for entry in submission.entries),
        "files": files,
    }
    with whole_file(output / LIST, "w") as text:
        text.write(json.dumps(about, indent=1) + "\n")


def render_submission(submission: Submission) -> str:
    """What was checked, one line each."""
    entries = submission.entries
    read = [entry.answers_checked for entry in entries if entry.answers_checked is not None]
    lines = [
        f"{counted(len(entries), 'record')}: every metric follows from the ranks",
        f"settings give the key: {sum(entry.settings_checked for entry in entries)}",
        f"answers have their hashes: {sum(map(bool, read))} of {len(read)} that read any",
    ]
    if submission.failed:
        lines.append(f"left out: {counted(submission.failed, 'run')} that failed")
    return "\n".join(lines)


# ---- checks of one record --------------------------------------------------------------------------


def _entry(path: Path, values: dict[str, Any], dataset_dir: Path) -> Entry:
    for name in NEEDED:
        if values.get(name) in (None, "", {}, []):
            raise UserError(f"{path}: the field {name} is missing; a submission needs {', '.join(NEEDED)}.")
    try:
        written = int(values["schema_version"])
        record = Record.model_validate(values)
        shown = (record.label, *map(str, (record.settings.get(name) for name in _WORDS)))  # parts of display names
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is no record: {complaint(error)}") from error
    if record.schema_version > SCHEMA:
        raise UserError(f"{path} was written by a later version (schema {record.schema_version}).")
    if max(map(len, shown)) > LONGEST_NAME or not all(isinstance(record.settings.get(n), str | None) for n in _WORDS):
        raise UserError(f"{path}: the names of model, answers and backbone are texts of up to {LONGEST_NAME} letters.")
    _check_names(path, record)
    _check_facts(path, record, written)
    ranks = path.parent / str(record.ranks_file)
    _check_ranks(path, record, ranks)
    return Entry(record, ranks, written, _check_key(path, record), _check_answers(path, record, dataset_dir))


def _read_json(path: Path) -> dict[str, Any]:
    _check_file(path, LARGEST_RECORD)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(values, allow_nan=False, ensure_ascii=False).encode()  # no NaN and no half of a letter gets further
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no record: {complaint(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is no record: it holds no JSON object.")
    return values


def _check_file(path: Path, most: int) -> None:
    if path.is_symlink() or path.parent.is_symlink() or path.parent.parent.is_symlink():
        raise UserError(f"{path}: links are not followed; put the file itself there.")
    if not path.is_file():
        raise UserError(f"{path} is missing.")
    if path.stat().st_size > most:
        raise UserError(f"{path} is larger than {most // 2**20} MiB.")


def _check_names(path: Path, record: Record) -> None:
    """Check that names which become paths are plain, and that the record lies where it says."""
    for field in ("dataset", "protocol", "ranks_file"):
        if not _NAME.fullmatch(str(getattr(record, field))):
            raise UserError(f"{path}: {field} is {getattr(record, field)!r}, which is no plain name.")
    # Of the board's page, and of the files under the record's own name
    files = (f"{record.dataset}-{record.protocol}", ResultStore().ranks_path(record).name)
    if max(len(file.encode()) for file in files) > LONGEST_FILE:
        raise UserError(f"{path}: names of dataset, protocol, model and answers are too long for those of files.")
    if not _KEY.fullmatch(record.key):
        raise UserError(f"{path}: key is {record.key!r}, not 16 hex digits.")
    place = f"{record.dataset}/{record.protocol}"
    if [path.parent.parent.name, path.parent.name] != place.split("/") or not path.stem.endswith(f"-{record.key}"):
        raise UserError(f"{path}: a record of {place} with the key {record.key} lies in {place}/*-{record.key}.json.")


def _check_facts(path: Path, record: Record, written: int) -> None:
    """Check that parts of a record that repeat each other agree, and that no required part is missing."""
    for name in VERSIONS:
        if not record.versions.get(name):
            raise UserError(f"{path}: versions does not name {name}.")
    for name, own in (("seed", record.seed), ("protocol", record.protocol)):
        if record.settings.get(name, own) != own:
            raise UserError(f"{path}: {name} is {own!r} and settings.{name} is {record.settings[name]!r}.")
    assert record.data is not None  # one of NEEDED
    if not _SHA256.fullmatch(record.data.sha256):
        raise UserError(f"{path}: data.sha256 is no SHA-256.")
    if written >= NAMES_FILES and not record.data.files:
        raise UserError(f"{path}: the field data.files is missing; without it no key can be checked.")
    if record.features is not None and not _SHA256.fullmatch(record.features.manifest_sha256 or ""):
        raise UserError(f"{path}: features.manifest_sha256 is no SHA-256: the answers have no hash.")


def _check_ranks(path: Path, record: Record, file: Path) -> None:
    """Check that the metrics of a record follow from its ranks."""
    _check_file(file, LARGEST_RANKS)
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(part.file_size for part in archive.infolist()) > LARGEST_RANKS:
                raise UserError(f"{file} unpacks to more than {LARGEST_RANKS // 2**20} MiB.")
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is not a readable file of ranks: {error}") from error
    ranks = Ranks.load(file)
    assert record.data is not None
    if len(ranks) != record.data.test_cases:
        raise UserError(f"{path}: data.test_cases is {record.data.test_cases:,}, and {file.name} has {len(ranks):,}.")
    for name, metric in record.metrics.items():
        metric_name, cut = parse_metric(name)
        if name != f"{metric_name}@{cut}".removesuffix("@0") or cut > LARGEST_CUT or needs_lists(name):
            raise UserError(f"{path}: {name} is no metric of ranks up to place {LARGEST_CUT:,}.")
        found = float(per_case(ranks, name).mean())
        if not math.isclose(found, metric.value, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            raise UserError(f"{path}: {name} is {metric.value:.6f}, and the ranks in {file.name} give {found:.6f}.")
    for name, metric in record.list_metrics.items():
        if not needs_lists(name) or not math.isfinite(metric.value):
            raise UserError(f"{path}: list_metrics.{name} is no number of a metric of lists.")


def settings_key(record: Record, data: DatasetFacts) -> str:
    """The key that this version of the package gives to a record's settings, files and search."""
    settings, search = record.settings, ("trials", "trial_epochs", "trial_minutes")
    row = {**recbole_methods(), **methods()}.get(record.model, Method(record.model, record.model, SEQUENTIAL))
    if settings.get("init") == "vectors":
        row = with_vectors(row, settings)
    limits = {name: getattr(record, name) for name in search if getattr(record, name) is not None}
    server = record.features.server if record.features is not None else None
    own = identity(settings, definitions_of_name(record.model, settings.get("backbone")), record.model)
    return key_of(own, **key_parts(row, settings, data.key_files(), limits, server or ""))


def _check_key(path: Path, record: Record) -> bool:
    """Whether the settings were checked to give the key; ``False`` if the record lacks what the check needs.

    Raises:
        UserError: the settings give another key.
    """
    if record.data is None or not record.data.files:
        return False
    try:
        found = settings_key(record, record.data)
    except (AttributeError, TypeError, ValueError, UserError) as error:  # values of a type that no setting has
        raise UserError(f"{path}: the settings are not those of a run: {error}") from error
    if found != record.key:
        raise UserError(
            f"{path}: its settings give the key {found}, not {record.key}: settings, files or search were changed, "
            "or another version of recbole_llm wrote it."
        )
    return True


def _check_answers(path: Path, record: Record, dataset_dir: Path) -> bool | None:
    """Whether the semantic files are here and have the hashes that the record names; ``None`` if it reads none.

    Raises:
        UserError: they are here and have other hashes.
    """
    facts = record.features
    if facts is None or not facts.folder:
        return None
    name = re.split(r"[/\\]", facts.folder)[-1]
    if not _NAME.fullmatch(name):
        raise UserError(f"{path}: features.folder ends in {name!r}, which is no plain name.")
    folder = dataset_dir / record.dataset / "semantics" / name
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return False
    if file_sha256(manifest) != facts.manifest_sha256:
        raise UserError(
            f"{path}: features.manifest_sha256 is not the hash of {manifest}: the run read other answers. If they were "
            "added to since, give --dataset_dir=FOLDER of a copy from then, or of none, to submit without this check."
        )
    for entry in _read_json(manifest).get("files", {}).values():
        part = folder / Path(str(entry["name"])).name
        if not part.is_file() or file_sha256(part) != entry["sha256"]:
            raise UserError(f"{part} is not the file that {manifest} lists: the answers were changed.")
    return True


# ---- the list of files -----------------------------------------------------------------------------


def _check_list(folder: Path) -> None:
    """Check that a submission with a list of files holds these, unchanged, and no others."""
    path = folder / LIST
    if not path.exists():
        return
    files = _read_json(path).get("files")
    if not isinstance(files, Mapping):
        raise UserError(f"{path}: the field files is missing.")
    there = {file.relative_to(folder).as_posix(): file for file in _all_files(folder)}
    for name in sorted({*files} ^ {*there}):
        raise UserError(f"{folder / name} is {'missing' if name in files else f'not in {LIST}'}.")
    for name, file in there.items():
        _check_file(file, LARGEST_RANKS)
        if file_sha256(file) != files[name]:
            raise UserError(f"{file} is not the file that {LIST} lists: it was changed since it was submitted.")


def _all_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.name != LIST and not path.is_dir():
            yield path
