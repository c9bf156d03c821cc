"""Which files of a dataset are here, which are missing, and where to get them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_llm.data.catalog import DatasetLocation, locate
from recbole_llm.errors import UserError
from recbole_llm.experiments.doctor import Finding
from recbole_llm.raw.source import RawSpec, preparable, read_spec
from recbole_llm.utils.files import file_sha256
from recbole_llm.utils.yaml import properties_folder, read_yaml


def examine_dataset(name: str, data_path: str | None, dataset_dir: str) -> list[Finding]:
    """Look for a dataset's atomic files, and for the raw files that they can be made from.

    Raises:
        UserError: the dataset is not here, and nothing is known about it.
    """
    file = properties_folder() / "dataset" / f"{name}.yaml"
    about = (read_yaml(file).get("about") or {}) if Path(name).name == name and file.is_file() else {}
    try:
        location = locate(name, data_path, dataset_dir)
    except UserError:
        if not about:
            raise
        location = None
    spec = read_spec(name) if name in preparable() else None
    return [
        *(_atomic(location) if location is not None else [Finding(False, f"{name}: its atomic files are not here")]),
        *(_raw(spec, Path(dataset_dir) / name / "raw", needed=location is None) if spec is not None else []),
        *_ways(name, about, spec, location is not None),
    ]


def _atomic(location: DatasetLocation) -> list[Finding]:
    """The files that a run reads, with their hashes."""
    files = [path for path in sorted(location.folder.glob(f"{location.stem}.*")) if path.is_file()]
    return [Finding(True, f"{path}: {path.stat().st_size:,} bytes, sha256 {file_sha256(path)}") for path in files]


def _raw(spec: RawSpec, folder: Path, needed: bool) -> list[Finding]:
    """The raw files; a missing one is no fault if the atomic files are here."""
    found = []
    for alternatives in spec.files.values():
        here = next((path for file in alternatives if (path := file.find(folder)) is not None), None)
        if here is not None:
            found.append(Finding(True, f"raw file {here}"))
            continue
        file = alternatives[0]
        others = [other.name for other in alternatives[1:]]
        instead = f" (or {', '.join(others)})" if others else ""
        places = ", then ".join(file.urls) or f"by hand from {spec.page}"
        found.append(Finding(not needed, f"raw file {folder / file.name}{instead} is not here; to be had: {places}"))
    return found


def _ways(name: str, about: dict[str, Any], spec: RawSpec | None, here: bool) -> list[Finding]:
    """Where the data come from, their licence, and how to make them ready."""
    page = (spec.page if spec is not None else "") or str(about.get("page", ""))
    terms = {"source": about.get("source"), "page": page, "licence": about.get("licence")}
    found = [Finding(True, f"{what}: {text}") for what, text in terms.items() if text]
    if here:
        return found
    stems = " or ".join([f"{name}.inter", *(f"{stem}.inter" for stem in about.get("files", []))])
    ready = f"give --data_path=FOLDER that holds {stems}(.gz)"
    if spec is None:
        return [*found, Finding(False, f"to do: {ready}")]
    first = "" if all(each[0].urls for each in spec.files.values()) else "put the raw files there, then "
    return [*found, Finding(False, f"to do: {first}recbole-llm prepare {name}; or {ready}")]
