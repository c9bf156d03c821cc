"""Ready-made training, validation and test parts: three files instead of one file and a split rule.

The files are given by ``--train``, ``--valid`` and ``--test``, or lie in one folder under the names in RecBole's
``benchmark_filename`` (``mine.train.inter``, ``mine.valid.inter``, ``mine.test.inter``). Ids are shared by all three.
A user's rows are sorted by part, then by time: the training part comes first, whatever the times say. The parts are
taken as they are; rows that occur in two parts, and targets older than training rows, are counted and reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_llm.data.atomic import read_columns, read_header
from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.data.inter_file import (
    ReadSpec,
    as_exact_time,
    cached_interactions,
    check_columns,
    no_time_facts,
    time_facts,
)
from recbole_llm.data.interactions import PAD_TOKEN, Interactions, canonical_order, compact_ids, offsets_of
from recbole_llm.data.split import Split, cases_of_sets, positions
from recbole_llm.data.times import in_seconds
from recbole_llm.errors import UserError
from recbole_llm.utils.files import check_file, file_sha256

PARTS = ("train", "valid", "test")
_LABEL = "@part"  # not a name that a column of a file has


def part_files(values: Mapping[str, Any], location: DatasetLocation) -> dict[str, Path]:
    """The files of the three parts.

    Args:
        values: settings of a run: ``train``, ``valid`` and ``test``, or ``benchmark_filename``.
        location: the dataset, whose folder is searched for named parts.

    Raises:
        UserError: a part is not given, or its file does not exist.
    """
    given = {part: values.get(part) for part in PARTS}
    if any(given.values()):
        missing = [f"--{part}=FILE" for part in PARTS if not given[part]]
        if missing:
            raise UserError(
                f"your own split needs three files: give {' and '.join(missing)} too. Models are chosen by validation."
            )
        found = {part: Path(str(path)).expanduser() for part, path in given.items()}
        for part, path in found.items():
            check_file(f"--{part}", path)
        return found
    names = list(values.get("benchmark_filename") or PARTS)
    if len(names) != len(PARTS):
        raise UserError(f"benchmark_filename={names}: give three names, of training, validation and test.")
    named: dict[str, Path] = {}
    for part, name in zip(PARTS, names, strict=True):
        there = location.file(f"{name}.inter")
        if there is None:
            raise UserError(
                f"--protocol={values.get('protocol')}: {location.folder} holds no {location.stem}.{name}.inter. Name "
                "the parts with benchmark_filename, such as [train,valid,test], or give --train, --valid and --test."
            )
        named[part] = there
    return named


def parts_sha256(files: Mapping[str, Path]) -> str:
    """One hash of all three files."""
    return hashlib.sha256("\n".join(f"{part} {file_sha256(files[part])}" for part in PARTS).encode()).hexdigest()


def load_parts(location: DatasetLocation, files: Mapping[str, Path], spec: ReadSpec) -> tuple[Interactions, np.ndarray]:
    """The interactions of three files, memory-mapped from the cache if they were read before.

    Returns:
        The interactions, each user's sorted by part and then by time, and ``(n,)`` the number of each row's part.

    Raises:
        UserError: as :func:`~recbole_llm.data.inter_file.read_interactions`, or filters are set, which would undo
            the parts.
    """
    for name, value in (
        ("user_inter_num_interval", spec.user_interval),
        ("item_inter_num_interval", spec.item_interval),
        ("val_interval", spec.value_intervals),
        ("rm_dup_inter", spec.duplicates if spec.duplicates != "keep" else None),
    ):
        if value:
            raise UserError(f"{name}: own parts are taken as they are; filter the files instead.")
    labelled = replace(spec, extra=(*spec.extra, _LABEL))
    table = cached_interactions(location, parts_sha256(files), labelled, lambda: _read(files, spec))
    extra = dict(table.extra)
    label = extra.pop(_LABEL)
    return replace(table, extra=extra), np.asarray(label)


def _read(files: Mapping[str, Path], spec: ReadSpec) -> Interactions:
    columns = _columns(files, spec)
    keys = [name for name in (spec.user_field, spec.item_field, spec.time_field) if name]
    frames, vocabularies = [], dict[str, dict[str, int]]()
    facts = {"rows_read": 0, "rows_without_user_or_item": 0, "rows_repeated": 0, "lines_alike": 0}
    for number, part in enumerate(PARTS):
        data, names = read_columns(files[part], columns, spec.separator)
        for name, found in names.items():
            known = vocabularies.setdefault(name, {})
            ids = np.array([0, *(known.setdefault(token, len(known) + 1) for token in found)], dtype=np.int32)
            data[name] = ids[np.maximum(data[name], 0)]
        if spec.time_field:
            data[spec.time_field] = as_exact_time(data[spec.time_field], files[part], spec.time_field)
        frame = pd.DataFrame(data)
        whole = (frame[spec.user_field] > 0) & (frame[spec.item_field] > 0)
        facts["rows_read"] += len(frame)
        facts["rows_without_user_or_item"] += int((~whole).sum())
        frame = frame[whole]
        if spec.time_field and spec.duplicates is None:  # repeats across parts are counted and kept
            again = frame.duplicated(keys)
            facts["rows_repeated"] += int(again.sum())
            frame = frame[~again]
        if not spec.time_field:
            user, item = (frame[name].to_numpy() for name in (spec.user_field, spec.item_field))
            facts["lines_alike"] += no_time_facts(files[part], user, item, spec).get("lines_alike", 0)
        if not len(frame):
            raise UserError(f"{files[part]} holds no interaction.")
        frames.append(frame.assign(**{_LABEL: number}))
    tokens = {name: np.array([PAD_TOKEN, *known], dtype=np.str_) for name, known in vocabularies.items()}
    joined = pd.concat(frames, ignore_index=True)
    for name in (spec.user_field, spec.item_field):  # close the gaps of rows that were left out
        joined[name], tokens[name] = compact_ids(joined[name].to_numpy(), tokens[name])
    counts = {name: count for name, count in facts.items() if count or name not in ("rows_repeated", "lines_alike")}
    return _table(joined, tokens, spec, counts, ", ".join(map(str, files.values())))


def _columns(files: Mapping[str, Path], spec: ReadSpec) -> list[str]:
    """The columns to read from all files.

    Raises:
        UserError: a file lacks a column, holds whole histories, or declares another type than the training part.
    """
    found: list[str] = []
    types: dict[str, str] = {}
    for part in PARTS:
        header = read_header(files[part], spec.separator)
        lists = [c.name for c in header if c.name == f"{spec.item_field}_list"]
        if lists:
            raise UserError(
                f"{files[part]} holds whole histories ({lists[0]}), as RecBole's sequential models want them in parts; "
                f"give one interaction a line: {spec.user_field}, {spec.item_field}, {spec.time_field}."
            )
        found = check_columns(files[part], spec)
        for column in header:
            if column.name in found and types.setdefault(column.name, column.type) != column.type:
                raise UserError(
                    f"{files[part]}: {column} is declared {column.name}:{types[column.name]} in {files['train']}; "
                    "declare it alike in all parts."
                )
    return found


def _table(
    frame: pd.DataFrame, tokens: dict[str, np.ndarray], spec: ReadSpec, facts: dict[str, int], where: str
) -> Interactions:
    """The rows of all parts as one table, each user's sorted by part and then by time."""
    user, item, label = (frame[name].to_numpy() for name in (spec.user_field, spec.item_field, _LABEL))
    time = frame[spec.time_field].to_numpy() if spec.time_field else None
    names = tokens[spec.user_field], tokens[spec.item_field]
    by_time, tied = canonical_order(user, item, time, *names)
    facts["rows_tied_in_time"] = tied
    facts |= {"without_times": 1} if time is None else time_facts(user[by_time], time[by_time])
    order = by_time[np.lexsort((np.arange(len(by_time)), label[by_time], user[by_time]))]
    user, item, label = user[order], item[order], label[order]
    if time is not None:
        time, of_unit = in_seconds(time[order], f"{where}, {spec.time_field}")
        facts |= of_unit
    facts |= _overlaps(user, item, time, label)
    return Interactions(
        user=user,
        item=item,
        time=time,
        extra={name: frame[name].to_numpy()[order] for name in (*spec.extra, _LABEL)},
        offsets=offsets_of(user, len(names[0])),
        user_tokens=names[0],
        item_tokens=names[1],
        extra_tokens={name: tokens[name] for name in spec.extra if name in tokens},
        facts=facts,
    )


def _overlaps(user: np.ndarray, item: np.ndarray, time: np.ndarray | None, label: np.ndarray) -> dict[str, int]:
    """Counts of held-out rows, of those also in an earlier part, and of those older than their user's earlier parts."""
    frame = pd.DataFrame({"user": user, "item": item, "part": label})
    first = frame.groupby(["user", "item"], sort=False)["part"].transform("min").to_numpy()
    found = {"targets_in_earlier_part": int((first < label).sum()), "held_out": int((label > 0).sum())}
    if time is not None:
        before = pd.DataFrame({"user": user, "part": label, "time": time}).groupby(["user", "part"])["time"].max()
        latest = before.groupby(level="user").cummax().groupby(level="user").shift()
        keys = pd.MultiIndex.from_arrays([user, label])
        bound = latest.reindex(keys).to_numpy()
        found["targets_before_training"] = int((time < np.where(np.isnan(bound), -np.inf, bound)).sum())
    return {name: count for name, count in found.items() if count}


def split_by_parts(table: Interactions, label: np.ndarray, options: Mapping[str, Any]) -> Split:
    """The split given by three parts: one case per user of a held-out part, with the user's rows there as targets.

    The history of a case is its user's rows in earlier parts. Users without any are no cases; their targets are
    counted.

    Raises:
        UserError: no user of validation, or of the test, has a history.
    """
    train_rows = np.flatnonzero(label == 0)
    found, lost = {}, {}
    for number, part in enumerate(PARTS[1:], start=1):
        rows = np.flatnonzero(label == number)
        users, first, counts = np.unique(np.asarray(table.user)[rows], return_index=True, return_counts=True)
        begin = rows[first]
        known = positions(table, begin) > 0
        if not known.any():
            raise UserError(
                f"--protocol={options['protocol']}: no user of the {part} part has an interaction in an earlier part, "
                "so that there is nothing to predict from. Parts are of interactions, not of users: for users who are "
                "held out whole take --protocol=user_split or session over one file."
            )
        rows = rows[np.repeat(known, counts)]
        found[part] = cases_of_sets(table, users[known].astype(np.int64), begin[known], rows, counts[known])
        lost[part] = int(counts[~known].sum())
    targets = train_rows[positions(table, train_rows) > 0]
    held_back = np.flatnonzero(label == PARTS.index("valid"))
    return Split(train_rows, targets, found["valid"], found["test"], without_history=lost, valid_rows=held_back)
