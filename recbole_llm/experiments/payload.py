"""A cell's data sent along to a machine that does not see the driver's files."""

from __future__ import annotations

import getpass
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.execution.executors import Executor
from recbole_llm.experiments.jobs import features_of
from recbole_llm.experiments.run import Cell
from recbole_llm.experiments.runner import CellRunner
from recbole_llm.utils.files import whole_file


@dataclass(frozen=True)
class Shipment:
    """Dataset, semantic features and the user's settings files and item profiles.

    Attributes:
        digest: of the contents; names the folder on the other machine.
        files: contents by path under that folder.
        config_files: which of them are the user's settings files, in order.
        profiles: which of them holds item profiles, if any does.
    """

    digest: str
    files: dict[str, bytes]
    config_files: tuple[str, ...]
    profiles: str | None = None

    @contextmanager
    def unpacked(self, cell: Cell) -> Iterator[tuple[Cell, Path]]:
        """The cell over the unpacked files, and a folder for its results that goes when the block ends.

        Raises:
            UserError: another version of this package runs here.
        """
        place = Path(tempfile.gettempdir()) / f"recbole_llm-{getpass.getuser()}" / self.digest
        for name, content in self.files.items():
            path = place / name
            if not path.is_file() or path.stat().st_size != len(content):
                with whole_file(path) as stream:
                    stream.write(content)
        moved = self._moved(cell, place)
        if moved.key != cell.key:
            raise UserError(
                "the machines of the cluster run other versions of recbole_llm or of your model; put one everywhere."
            )
        results = Path(tempfile.mkdtemp(prefix="results-", dir=place))
        try:
            yield moved, results
        finally:
            shutil.rmtree(results, ignore_errors=True)

    def _moved(self, cell: Cell, place: Path) -> Cell:
        location, home = cell.location, place / "dataset"
        paths = {
            "data_path": str(place / "data" / location.stem),
            "dataset_dir": str(home),
            "checkpoint_dir": str(place / "saved"),
            **({"profiles": str(place / self.profiles)} if self.profiles is not None else {}),
        }
        settings = replace(
            cell.settings,
            values={**cell.settings.values, **paths},
            origin={**cell.settings.origin, "data_path": "command line"},
            overrides={**cell.settings.overrides, **paths},
            config_files=tuple(place / name for name in self.config_files),
        )
        moved = replace(location, folder=Path(paths["data_path"]), home=home / location.name)
        return replace(cell, settings=settings, location=moved)


class Shipper:
    """Packs what cells read, each dataset with its features once.

    Args:
        executor: keeps what is sent to many works.
        runner: knows where the features lie.
    """

    def __init__(self, executor: Executor, runner: CellRunner) -> None:
        self._executor, self._runner = executor, runner
        self._sent: dict[Any, Any] = {}

    def __call__(self, cell: Cell) -> Any:
        """The shipment of a cell, as an argument of a work."""
        key = (cell.location.folder, cell.settings.config_files, features_of(cell, self._runner))
        if key not in self._sent:
            self._sent[key] = self._executor.put(pack(cell, self._runner.make_features(cell)))
        return self._sent[key]


def pack(cell: Cell, features: Path | None) -> Shipment:
    """Everything a cell reads.

    Args:
        cell: the cell.
        features: folder of its semantic features, if it reads any.
    """
    location = cell.location
    files = {
        f"data/{location.stem}/{path.name}": path.read_bytes()
        for path in sorted(location.folder.glob(f"{location.stem}.*"))
        if path.is_file()
    }
    if features is not None:
        for path in sorted(features.iterdir()):
            files[f"dataset/{location.name}/semantics/{features.name}/{path.name}"] = path.read_bytes()
    given = {f"config/{number}-{file.name}": file for number, file in enumerate(cell.settings.config_files)}
    files |= {name: file.read_bytes() for name, file in given.items()}
    profiles = Path(cell.settings.get("profiles") or "")
    shipped = f"profiles/{profiles.name}" if profiles.is_file() else None
    if shipped is not None:
        files[shipped] = profiles.read_bytes()
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return Shipment(digest.hexdigest()[:16], files, tuple(given), shipped)
