"""Where a dataset's atomic files lie, and what is known about it."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.registry import recbole_folder
from recbole_llm.utils.files import check_name, whole_file
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml

logger = logging.getLogger(__name__)

BUNDLED = "ml-100k"  # travels inside RecBole's wheel


@dataclass(frozen=True)
class DatasetLocation:
    """A dataset on disk.

    Attributes:
        name: the value of ``--dataset``: an alias from ``properties/dataset/`` or a folder's name.
        stem: name of the atomic files, ``<stem>.inter`` and so on.
        folder: folder of the atomic files; it may be read-only.
        home: our own writable folder for files derived from them (caches, semantic files).
        about: the dataset's YAML file.
    """

    name: str
    stem: str
    folder: Path
    home: Path
    about: dict[str, Any] = field(default_factory=dict)

    def file(self, suffix: str) -> Path | None:
        """Path of ``<stem>.<suffix>`` or of its gzipped form; ``None`` if neither exists."""
        for name in (f"{self.stem}.{suffix}", f"{self.stem}.{suffix}.gz"):
            if (self.folder / name).is_file():
                return self.folder / name
        return None

    @property
    def semantics(self) -> Path:
        """Folder of the semantic files, the answer cache and the vector cache."""
        return self.home / "semantics"

    @property
    def answers(self) -> Path:
        """The cache of LLM answers about the dataset."""
        return self.semantics / "responses.sqlite"

    @property
    def vectors(self) -> Path:
        """The cache of embedding vectors of the dataset's texts."""
        return self.semantics / "vectors.sqlite"

    @property
    def similar_users(self) -> Path:
        """Folder of the neighbours of users with vectors."""
        return self.home / "cache" / "similar_users"

    @property
    def interactions(self) -> Path:
        """The ``.inter`` file.

        Raises:
            UserError: there is none.
        """
        path = self.file("inter")
        if path is None:
            parts = sorted(path.name for path in self.folder.glob(f"{self.stem}.*.inter*"))
            advice = f" It holds parts ({', '.join(parts)}): give --protocol=parts." if parts else ""
            raise UserError(
                f"--dataset={self.name}: {self.folder} holds no {self.stem}.inter or {self.stem}.inter.gz.{advice}"
            )
        return path


def _stem_in(folder: Path, wanted: list[str], lone: bool = True) -> str | None:
    """The stem of the ``.inter`` file in ``folder``: one of ``wanted`` or, if ``lone``, the only one there is.

    A folder without such a file may hold ready parts, ``<stem>.train.inter`` and others.
    """
    if not folder.is_dir():
        return None
    files = [path.name.split(".inter")[0] for path in folder.iterdir() if path.name.endswith((".inter", ".inter.gz"))]
    parts = Counter(stem.rpartition(".")[0] for stem in set(files))
    for stems in (sorted(set(files)), sorted(stem for stem, count in parts.items() if stem and count > 1)):
        for name in wanted:
            if name in stems:
                return name
        if lone and len(stems) == 1:
            return stems[0]
    return None


def _copy_bundled(home: Path) -> None:
    """Copy ml-100k from RecBole's wheel with CRLF turned into LF, so that all RecBole releases give the same hash."""
    source = recbole_folder() / "dataset_example" / BUNDLED
    # The interactions come last: where they are, the dataset is whole, even for a command that was killed meanwhile.
    for path in sorted(source.iterdir(), key=lambda path: path.suffix == ".inter"):
        target = home / path.name
        if target.exists() or not path.is_file():
            continue
        with whole_file(target) as stream:
            stream.write(path.read_bytes().replace(b"\r\n", b"\n"))
    logger.info("copied %s from RecBole's wheel to %s", BUNDLED, home)


def _places(name: str, stems: list[str], data_path: str | None, dataset_dir: Path) -> list[Path]:
    """Folders to look in, the most explicit first."""
    places: list[Path] = []
    if data_path:
        root = Path(data_path).expanduser()
        places += [root / stem for stem in [name, *stems]] + [root]
    places += [dataset_dir / stem for stem in [name, *stems]]
    if "/" in name or os.sep in name:
        places.insert(0, Path(name).expanduser())
    return list(dict.fromkeys(places))


def known_datasets(dataset_dir: Path) -> list[str]:
    """Aliases of ``properties/dataset/`` and the folders of atomic files in ``dataset_dir``."""
    names = set(property_names("dataset"))
    if dataset_dir.is_dir():
        names |= {path.name for path in dataset_dir.iterdir() if _stem_in(path, [path.name])}
    return sorted(names)


def derived(name: str, dataset_dir: str | Path) -> DatasetLocation:
    """Location of the files derived from a dataset, whether or not the dataset's own files exist.

    Raises:
        UserError: the name points outside the dataset folder.
    """
    short = check_name(Path(name).name, f"--dataset={name}")
    return DatasetLocation(short, short, Path(dataset_dir) / short, Path(dataset_dir) / short)


def locate(
    name: str, data_path: str | None = None, dataset_dir: str | Path = "dataset", train: str | None = None
) -> DatasetLocation:
    """Find a dataset by alias, by folder name or by path.

    Args:
        name: an alias such as ``beauty``, a folder under ``dataset_dir``, or a path.
        data_path: a folder of atomic files, or one that holds such folders; searched first.
        dataset_dir: the harness's own dataset folder.
        train: file of a ready training part; its folder is used if no dataset of that name is found.

    Raises:
        UserError: there is no such dataset (the message gives similar names and what to do), or the name points
            outside the dataset folder.
    """
    dataset_dir = Path(dataset_dir)
    check_data_path(data_path)
    file = properties_folder() / "dataset" / f"{name}.yaml"
    about = (read_yaml(file).get("about") or {}) if file.is_file() else {}
    stems = [str(stem) for stem in about.get("files", [])]
    places = _places(name, stems, data_path, dataset_dir)
    short = check_name(Path(name).name, f"--dataset={name}")
    if short == BUNDLED and not data_path and _stem_in(dataset_dir / BUNDLED, [BUNDLED]) is None:
        _copy_bundled(dataset_dir / BUNDLED)
    for folder in places:
        # A folder given for `toys` that holds another dataset's files must not be taken for toys.
        own = folder.name in (short, *stems)
        stem = _stem_in(folder, [short, *stems, *([folder.name] if own or not stems else [])], lone=own or not stems)
        if stem is not None:
            return DatasetLocation(short, stem, folder, dataset_dir / short, about)
    if train is not None:
        folder = Path(train).expanduser().parent
        items = [path.name.split(".item")[0] for path in sorted(folder.glob("*.item*"))]
        return DatasetLocation(short, items[0] if len(items) == 1 else short, folder, dataset_dir / short, about)
    wanted = f"{stems[0] if stems else short}.inter"
    given = "" if data_path is None else f" --data_path={data_path} {lies_in(Path(data_path).expanduser())}."
    if about:
        make = f", or make them: recbole-llm prepare {name}" if "raw" in read_yaml(file) else ""
        other = "Put" if data_path else "Give --data_path=FOLDER that holds"
        raise UserError(
            f"--dataset={name}: no atomic files in {' or '.join(str(p) for p in places)}.{given} "
            f"{other} {wanted}(.gz){' there' if data_path else ''}{make}. `recbole-llm doctor --dataset={name}` "
            "says where they can be had."
        )
    known = known_datasets(dataset_dir)
    advice = f"put {wanted} there" if data_path else f"or give --data_path=FOLDER with {wanted} in it"
    raise UserError(
        f"--dataset={name}: there is no such dataset.{given}{did_you_mean(name, known)} "
        f"Known: {', '.join(known)}; {advice}."
    )


def check_data_path(data_path: str | None) -> None:
    """Raise a ``UserError`` if ``--data_path`` is given and is not a folder."""
    if data_path is None:
        return
    root = Path(data_path).expanduser()
    if root.is_file():
        raise UserError(f"--data_path={data_path} is a file; give the folder that holds it.")
    if not root.is_dir():
        raise UserError(f"--data_path={data_path}: there is no such folder.")


def lies_in(folder: Path) -> str:
    """Describe which ``.inter`` files a folder holds or, if it has none, what else it holds."""
    inter = [path for form in ("*.inter", "*.inter.gz", "*/*.inter", "*/*.inter.gz") for path in folder.glob(form)]
    if inter:
        names = sorted({str(path.relative_to(folder)) for path in inter})
        return f"holds {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
    names = sorted(path.name for path in folder.iterdir())
    found = f" (it holds {', '.join(names[:6])}{', ...' if len(names) > 6 else ''})" if names else " (it is empty)"
    return f"holds no .inter file{found}"
