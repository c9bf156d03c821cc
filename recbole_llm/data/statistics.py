"""Counts of the datasets on disk, as papers print them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_llm.data.catalog import DatasetLocation, check_data_path, known_datasets, lies_in, locate
from recbole_llm.data.inter_file import ReadSpec, load_interactions
from recbole_llm.data.parts import load_parts, part_files
from recbole_llm.errors import UserError
from recbole_llm.registry import find_method
from recbole_llm.settings.layers import layer_settings


@dataclass(frozen=True)
class DatasetStatistics:
    """One dataset.

    Attributes:
        name: the value for ``--dataset``.
        folder: folder of its atomic files.
        sequence: the column whose values own the histories: ``user_id`` or ``session_id``.
        counts: from :meth:`~recbole_llm.data.interactions.Interactions.statistics`; empty after an error.
        published: counts that papers report; some may be missing.
        error: why the dataset cannot be read; empty if it can.
    """

    name: str
    folder: Path
    sequence: str
    counts: dict[str, Any] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)
    error: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether the counts of users, items and interactions are the published ones; ``None`` if none are known."""
        known = dict(self.published)
        if self.sequence == "session_id" and "sessions" in known:
            known["users"] = known["sessions"]
        shared = [name for name in ("users", "items", "interactions") if name in known and name in self.counts]
        return all(self.counts[name] == known[name] for name in shared) if shared else None


def dataset_statistics(
    data_path: str | None = None, dataset_dir: str | Path = "dataset"
) -> Iterator[DatasetStatistics]:
    """Statistics of every dataset on disk, by name; what is read is cached as in a run.

    Args:
        data_path: a folder of atomic files, or one that holds such folders; searched first.
        dataset_dir: the harness's own dataset folder.
    """
    for location in _on_disk(data_path, Path(dataset_dir)):
        ready = "parts" if location.file("inter") is None else None
        values = layer_settings(find_method("Pop"), location.name, ready).values
        sequence = str(values["USER_ID_FIELD"])
        published = {k: v for k, v in (location.about.get("published") or {}).items() if isinstance(v, int)}
        try:
            spec = ReadSpec.from_settings(values)
            table, _ = (
                load_parts(location, part_files(values, location), spec) if ready else load_interactions(location, spec)
            )
        except UserError as error:
            yield DatasetStatistics(location.name, location.folder, sequence, {}, published, str(error))
        else:
            yield DatasetStatistics(location.name, location.folder, sequence, table.statistics(), published)


def _on_disk(data_path: str | None, dataset_dir: Path) -> Iterator[DatasetLocation]:
    """Aliases whose own files exist, then folders that no alias claims."""
    claimed: set[Path] = set()
    unknown: list[str] = []
    check_data_path(data_path)
    if data_path and (found := lies_in(Path(data_path).expanduser())).startswith("holds no"):
        raise UserError(f"--data_path={data_path} {found}.")
    for name in known_datasets(dataset_dir):
        try:
            location = locate(name, data_path, dataset_dir)
        except UserError:
            continue
        if not location.about:
            unknown.append(name)
        elif location.stem in (name, *map(str, location.about.get("files", []))):
            claimed.add(location.folder.resolve())
            yield location
    if data_path:
        unknown += [path.name for path in sorted(Path(data_path).expanduser().glob("*/"))]
    for name in dict.fromkeys(unknown):
        try:
            location = locate(name, data_path, dataset_dir)
        except UserError:
            continue
        if location.folder.resolve() not in claimed:
            yield location


def render_statistics(found: Iterable[DatasetStatistics]) -> str:
    """A table of datasets, with one line for each that cannot be read."""
    rows, errors = [], []
    for one in found:
        if one.error:
            errors.append(f"{one.name}: {one.error}")
            continue
        c = one.counts
        agrees = {None: "", True: "equal", False: "differs"}[one.agrees]
        rows.append(
            [
                *(one.name, one.sequence, f"{c['users']:,}", f"{c['items']:,}", f"{c['interactions']:,}"),
                *(f"{c['mean_length']:.2f}", f"{c['max_length']:,}", f"{100 * c['density']:.4f} %", agrees),
            ]
        )
    header = ["dataset", "sequence", "users", "items", "interactions", "mean length", "max", "density", "published"]
    table = (
        tabulate(rows, header, colalign=("left", "left", *("right",) * 6, "left"), disable_numparse=True)
        if rows
        else "no dataset on disk"
    )
    return "\n".join([table, *errors])
