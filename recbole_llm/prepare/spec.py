"""What ``properties/dataset/<name>.yaml`` says about raw files.

It stands there under a key of its own::

    raw:
      family: amazon2014          # a module of recbole_llm.prepare
      kcore: 5                    # fewest interactions of a user and of an item; 0 keeps all
      page: https://...           # where a person finds the files
      files:
        reviews: {name: reviews_Beauty_5.json.gz, url: https://...}
        items: {name: meta_Beauty.json.gz, url: https://..., sha256: ...}

A list of files stands for alternatives: the first that lies in the folder is taken, and the first of all is
downloaded where none does. ``base`` is put before names that have no ``url``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.utils.yaml import properties_folder, property_names, read_yaml


@dataclass(frozen=True)
class RawFile:
    """One file of a source.

    Attributes:
        name: file name, also below the raw folder; it may hold one folder (``food/user_session.csv``).
        url: official address, empty where there is none.
        sha256: published or pinned checksum, empty where there is none.
    """

    name: str
    url: str = ""
    sha256: str = ""

    def find(self, folder: Path) -> Path | None:
        """The file in ``folder``, with or without ``.gz``; ``None`` where it is missing."""
        for name in dict.fromkeys([self.name, self.name.removesuffix(".gz"), self.name + ".gz"]):
            if (folder / name).is_file():
                return folder / name
        return None


@dataclass(frozen=True)
class RawSpec:
    """How a dataset is made from raw files.

    Attributes:
        name: alias of the dataset; its atomic files are called so.
        title: what it is, for people.
        family: kind of source; a key of ``prepare.FAMILIES``.
        files: role to alternatives, the preferred first.
        kcore: default of ``--kcore``.
        page: web page of the source.
        published: counts that papers report.
    """

    name: str
    title: str
    family: str
    files: Mapping[str, tuple[RawFile, ...]]
    kcore: int = 0
    page: str = ""
    published: Mapping[str, int] = field(default_factory=dict)


def preparable() -> list[str]:
    """Names of the datasets that can be made from raw files."""
    folder = properties_folder() / "dataset"
    return [name for name in property_names("dataset") if "raw" in read_yaml(folder / f"{name}.yaml")]


def read_spec(name: str) -> RawSpec:
    """The spec of a dataset by its alias.

    Raises:
        UserError: there is no such alias, or nothing is known about its raw files.
    """
    file = properties_folder() / "dataset" / f"{name}.yaml"
    values = read_yaml(file) if Path(name).name == name and file.is_file() else {}
    if "raw" not in values:
        known = preparable()
        what = "no raw files are known for it" if values else "there is no such dataset"
        raise UserError(f"prepare {name}: {what}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    raw, about = values["raw"], values.get("about") or {}
    base = str(raw.get("base", ""))
    return RawSpec(
        name=name,
        title=str(about.get("title", name)),
        family=str(raw["family"]),
        files={role: _alternatives(entry, base) for role, entry in raw["files"].items()},
        kcore=int(raw.get("kcore", 0)),
        page=str(raw.get("page", "")),
        published=dict(about.get("published") or {}),
    )


def _alternatives(entry: Any, base: str) -> tuple[RawFile, ...]:
    entries = entry if isinstance(entry, list) else [entry]
    files = [RawFile(**item) if isinstance(item, dict) else RawFile(str(item)) for item in entries]
    return tuple(RawFile(f.name, f.url or (base + f.name if base else ""), f.sha256) for f in files)
