"""Checks for what RecBole's own file reader cannot do, made before it reads, and what its error meant."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from recbole.data.dataset import KnowledgeBasedDataset

from recbole_llm.data.atomic import bad_number, check_lines, header_of
from recbole_llm.data.foreign import word_of
from recbole_llm.data.inter_file import check_listed
from recbole_llm.errors import UserError


def check_recbole_can_read(dataset: Any, causes: Sequence[str]) -> None:
    """Refuse what RecBole's own reader cannot do or answers with a traceback.

    Args:
        dataset: about to be read by RecBole.
        causes: the settings that only RecBole's reader implements; empty if the model requires that reader.

    Raises:
        UserError: histories are to be cut into sessions, the parts are ready-made, a knowledge graph is missing, a
            file has a form that RecBole's reader does not accept, or a setting names a column that is not loaded.
    """
    config = dataset.config
    cause = f"with {causes[0]}" if causes else f"for {config['model']}"
    if config["split"] == "parts":
        raise UserError(
            f"--protocol={config['protocol']}: {cause} RecBole reads one .inter file itself, and no own parts."
        )
    if config["sessions"]:
        raise UserError(
            f"--protocol={config['protocol']} cuts histories into sessions, and {cause} RecBole reads the "
            "files itself, whole users only. Take a protocol without sessions, such as loo, or give --sessions=~."
        )
    if isinstance(dataset, KnowledgeBasedDataset):
        _check_graph(config, dataset.location, cause)
    _check_named(config, {suffix: _columns(path, config, cause) for suffix, path in _files_read(dataset).items()})


def explain_number(dataset: Any) -> UserError | None:
    """An error for the first number that RecBole's own reader cannot read; ``None`` if there is no such number."""
    load = dataset.config["load_col"] or {}
    for suffix, path in _files_read(dataset).items():
        header = header_of(path, dataset.config["field_separator"])
        every = [column.name for column in header.columns]
        loaded = load.get(suffix, "*")
        if error := bad_number(path, header, every if loaded == "*" else loaded, _pandas_accepts):
            return error
    return None


def _pandas_accepts(text: str) -> bool:
    """Whether pandas reads a field as a number for RecBole; it takes more than our own reader, such as ``NA``."""
    try:
        pd.read_csv(io.StringIO(f"x\n{text}\n"), sep="\t", dtype={"x": float}, engine="python")
    except ValueError:
        return False
    return True


def _files_read(dataset: Any) -> dict[str, Path]:
    """The files that are read, by suffix."""
    load = dataset.config["load_col"]
    wanted = [suffix for suffix in ("inter", "user", "item") if load is None or suffix in load]
    return {suffix: path for suffix in wanted if (path := dataset.location.file(suffix))}


def _columns(path: Path, config: Any, cause: str) -> dict[str, str]:
    """The type of each column of a file, after checking that RecBole's reader reads its first line the same way.

    Raises:
        UserError: the file is gzipped, RecBole would read other column names, or a line would be cut or shortened.
    """
    if path.suffix == ".gz":
        raise UserError(f"{path}: {cause} RecBole reads the files itself, and no gzipped ones: unpack it.")
    separator = config["field_separator"]
    header = header_of(path, separator)
    right = separator.join(map(str, header.columns))
    with path.open(encoding="utf-8") as stream:
        if stream.readline().rstrip("\n") != right:
            raise UserError(
                f"{path}, line 1: {cause} RecBole reads the files itself, and takes no blanks, quotation marks or byte "
                f"order mark there, nor other separators than {word_of(separator)}. Write {right.expandtabs(1)!r}."
            )
    check_lines(path, header)
    return {column.name: column.type for column in header.columns}


def _check_named(config: Any, columns: Mapping[str, Mapping[str, str]]) -> None:
    """Check that the settings that name columns name only loaded ones.

    Args:
        config: of the run.
        columns: for each file that is read (by suffix), the types of its columns by name.

    Raises:
        UserError: a column is not loaded, or the value given for it does not fit.
    """
    threshold = config["threshold"] or {}
    if len(threshold) > 1 or not all(isinstance(value, (int, float)) for value in threshold.values()):
        raise UserError(f"threshold={threshold}: give one column and a number, such as {{rating: 3}}.")
    of_rows = {suffix: found for suffix, found in columns.items() if suffix == "inter"}
    for setting, files in (
        ("threshold", of_rows), ("val_interval", columns), ("normalize_field", columns), ("discretization", columns)
    ):  # fmt: skip
        for name in config[setting] or ():
            holder = next((suffix for suffix, found in files.items() if name in found), None)
            if holder is None:
                there = "; ".join(f".{suffix} has {', '.join(found)}" for suffix, found in files.items())
                raise UserError(f"{setting}: no file that is read has a column {name!r}; {there}.")
            load = (config["load_col"] or {}).get(holder, "*")
            if load != "*" and name not in load:
                raise UserError(
                    f"{setting} names {name}, which load_col leaves out: give "
                    f'"--load_col.{holder}=[{",".join([*load, name])}]".'
                )
            if setting == "val_interval" and columns[holder][name].startswith("token"):
                check_listed(name, config[setting][name])


def _check_graph(config: Any, location: Any, cause: str) -> None:
    """Check that ``load_col`` names the two files of the knowledge graph, and that they are there and can be read."""
    stem, load = location.stem, config["load_col"]
    graph = [config[f"{name}_ID_FIELD"] for name in ("HEAD_ENTITY", "RELATION", "TAIL_ENTITY")]
    columns = {"kg": graph, "link": [config["ITEM_ID_FIELD"], config["ENTITY_ID_FIELD"]]}
    unnamed = [suffix for suffix in columns if load is not None and suffix not in load]
    absent = [suffix for suffix in columns if not (location.folder / f"{stem}.{suffix}").is_file()]
    if unnamed or absent:
        keys = " ".join(f"--load_col.{suffix}=[{','.join(names)}]" for suffix, names in columns.items())
        state = ", ".join(
            [*(f"load_col lacks {suffix}" for suffix in unnamed), *(f"there is no {stem}.{s}" for s in absent)]
        )
        raise UserError(
            f"--model={config['model']} needs a knowledge graph, and {state}. Put {stem}.kg and {stem}.link into "
            f"{location.folder} and give {keys}."
        )
    for suffix, names in columns.items():
        path = location.folder / f"{stem}.{suffix}"
        found = _columns(path, config, cause)
        if lacking := [name for name in names if name not in found]:
            raise UserError(f"{path} has no column {lacking[0]!r}; it has {', '.join(found)}.")
