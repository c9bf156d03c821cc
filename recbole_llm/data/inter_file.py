"""Interaction files: which columns and rows of ``.inter`` are read, and the cache of the result."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_llm.data.atomic import TAB, lines_alike, read_columns, read_header
from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.data.interactions import (
    PAD_TOKEN,
    Interactions,
    canonical_order,
    compact_ids,
    exact_repeats,
    offsets_of,
)
from recbole_llm.data.times import comparison_facts, in_seconds, users_tied
from recbole_llm.errors import UserError
from recbole_llm.utils.files import file_sha256, whole_folder
from recbole_llm.utils.text import counted

logger = logging.getLogger(__name__)

FORMAT = 8  # raise when the meaning of the cached files changes
_FIELDS = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
KEEP = "keep"  # rm_dup_inter: keep all rows, exact repeats included


@dataclass(frozen=True)
class ReadSpec:
    """Which columns of ``.inter`` are read and which rows are kept (RecBole's data settings).

    Attributes:
        user_field, item_field, time_field: column names; without ``time_field``, the file's order is kept.
        extra: further columns (tokens or floats).
        user_interval, item_interval: RecBole's ``*_inter_num_interval``, e.g. ``[5,inf)``.
        value_intervals: ``val_interval``: an interval for a float column, a list of values for a token column.
        duplicates: ``rm_dup_inter``: ``first`` or ``last`` keeps that interaction of a user with an item; ``None``
            drops only exact repeats (same user, item and time); ``keep`` drops nothing.
        separator: of the columns.
    """

    user_field: str = "user_id"
    item_field: str = "item_id"
    time_field: str | None = "timestamp"
    extra: tuple[str, ...] = ()
    user_interval: str | None = None
    item_interval: str | None = None
    value_intervals: tuple[tuple[str, str | tuple[Any, ...]], ...] = ()
    duplicates: str | None = None
    separator: str = TAB

    @classmethod
    def from_settings(cls, values: Mapping[str, Any]) -> ReadSpec:
        """The spec that RecBole's settings ask for.

        Times are read whether or not ``load_col`` names them (RecBole's default does not): without them, rows would
        keep the order of the file, and some files are sorted by item. ``TIME_FIELD: ~`` leaves times out.
        """
        user, item, time = values["USER_ID_FIELD"], values["ITEM_ID_FIELD"], values["TIME_FIELD"]
        named = (values.get("load_col") or {}).get("inter")
        wanted = [] if named in (None, "*") else list(named)
        used = [*wanted, *(values.get("val_interval") or {}), *(values.get("threshold") or {})]
        left_out = time or cls.time_field  # without times, the default time column is not read as an extra one
        extra = tuple(dict.fromkeys(name for name in used if name not in (user, item, left_out)))
        return cls(
            user_field=user,
            item_field=item,
            time_field=time,
            extra=extra,
            user_interval=_bounded(values.get("user_inter_num_interval")),
            item_interval=_bounded(values.get("item_inter_num_interval")),
            value_intervals=tuple(
                (name, tuple(kept) if isinstance(kept, list) else kept)
                for name, kept in sorted((values.get("val_interval") or {}).items())
            ),
            duplicates=values.get("rm_dup_inter"),
            separator=values.get("field_separator") or TAB,
        )


def _bounded(interval: Any) -> str | None:
    """The interval as text; ``None`` for one that keeps everything, such as ``[0,inf)``."""
    text = str(interval).replace(" ", "") if interval is not None else None
    return None if text in (None, "[0,inf)", "(0,inf)", "[1,inf)", "None") else text


def parse_interval(text: str, name: str) -> tuple[float, float, bool, bool]:
    """RecBole's interval notation: ``[5,inf)`` to ``(5, inf, True, False)`` (low, high, closed ends).

    Raises:
        UserError: the text is no interval.
    """
    match = re.fullmatch(r"([\[(])\s*([^,]+),\s*([^,\])]+)([\])])", text.strip())
    try:
        if match is None:
            raise ValueError
        low, high = float(match[2]), float(match[3])
    except ValueError:
        raise UserError(f"{name}={text}: write an interval such as [5,inf) or (0,10].") from None
    return low, high, match[1] == "[", match[4] == "]"


def _inside(values: np.ndarray, text: str, name: str) -> np.ndarray:
    """``(n,)`` bool: which values lie in an interval, or in one of several (``[1,2];[4,5]``)."""
    inside = np.zeros(len(values), dtype=bool)
    for part in str(text).split(";"):
        low, high, closed_low, closed_high = parse_interval(part, name)
        above = values >= low if closed_low else values > low
        inside |= above & (values <= high if closed_high else values < high)
    return inside


def as_exact_time(time: np.ndarray, path: Path, name: str) -> np.ndarray:
    """Turn integer-valued times into int64, since float32, RecBole's type, merges seconds above 2**24.

    Raises:
        UserError: a row has no time, or one that is not finite.
    """
    if count := int((~np.isfinite(time)).sum()):
        raise UserError(
            f"{path}: {counted(count, 'row')} without a {name}, or with one that is not finite; give each a time, or "
            "leave all times out: with --TIME_FIELD=~ the order of the file stands."
        )
    if len(time) and np.all(time == np.floor(time)) and np.abs(time).max() < 2**53:
        return time.astype(np.int64)
    return time


def check_listed(name: str, values: Any) -> None:
    """Raise unless ``val_interval`` of a token column is a list; a string would be read letter by letter.

    Raises:
        UserError: it is no list.
    """
    if not isinstance(values, (list, tuple)):
        raise UserError(
            f"val_interval.{name}={values}: {name} holds tokens, not numbers: list those that stay, such as [a,b]."
        )


def _keep_by_values(columns: dict[str, np.ndarray], tokens: dict[str, np.ndarray], spec: ReadSpec) -> np.ndarray:
    """``(n,)`` bool: rows that ``val_interval`` keeps; ``columns`` includes users, items and times."""
    keep = np.ones(len(columns[spec.user_field]), dtype=bool)
    for name, interval in spec.value_intervals:
        values = columns[name]
        if name in tokens:
            check_listed(name, interval)
            keep &= (values > 0) & np.isin(tokens[name][values], list(map(str, interval)))
        else:
            text = str(list(interval) if isinstance(interval, tuple) else interval)  # YAML has [2,4] as a list
            keep &= _inside(values, text, f"val_interval.{name}")
    return keep


def _keep_by_counts(user: np.ndarray, item: np.ndarray, spec: ReadSpec) -> np.ndarray:
    """``(n,)`` bool: rows left after dropping users and items outside their intervals until nothing changes.

    Each round drops users and items together, as RecBole does: with upper bounds, the order would matter.
    """
    keep = np.ones(len(user), dtype=bool)
    rules = [
        (user, spec.user_interval, "user_inter_num_interval"),
        (item, spec.item_interval, "item_inter_num_interval"),
    ]
    while True:
        left = keep.copy()
        for ids, interval, name in rules:
            if interval is not None:
                counts = np.bincount(ids[keep], minlength=int(ids.max(initial=0)) + 1)
                left &= _inside(counts, interval, name)[ids]
        if np.array_equal(left, keep):
            return keep
        keep = left


def _fill_missing(values: np.ndarray, is_token: bool) -> np.ndarray:
    """RecBole's rule for missing values: the padding id in token columns, the mean in float columns."""
    if is_token:
        return np.maximum(values, 0)
    missing = np.isnan(values)
    if not missing.any():
        return values
    return np.where(missing, 0.0 if missing.all() else values[~missing].mean(), values)


def check_columns(path: Path, spec: ReadSpec) -> list[str]:
    """The columns to read.

    Raises:
        UserError: a column is missing or has a type that its role does not allow.
    """
    header = {column.name: column.type for column in read_header(path, spec.separator)}
    columns = [spec.user_field, spec.item_field, *([spec.time_field] if spec.time_field else []), *spec.extra]
    settings = dict(zip((spec.user_field, spec.item_field, spec.time_field), _FIELDS, strict=True))
    if len(settings) < 3:
        named = ", ".join(f"{setting}={name}" for name, setting in zip(columns, _FIELDS, strict=False))
        raise UserError(f"{path}: user, item and time need a column each; the settings are {named}.")
    for name in columns:
        kind, setting = header.get(name), settings.get(name)
        if kind is None:
            advice = f"; --{setting}=NAME names another one" if setting else ""
            if setting == "TIME_FIELD":
                advice += ", and with --TIME_FIELD=~ the order of the file stands"
            raise UserError(f"{path} has no column {name!r}; it has {', '.join(header)}{advice}.")
        if setting in ("USER_ID_FIELD", "ITEM_ID_FIELD") and kind != "token":
            raise UserError(f"{path}: {name} is declared {kind}; it must be {name}:token.")
        if setting == "TIME_FIELD" and kind != "float":
            raise UserError(f"{path}: {name} is declared {kind}; it must be {name}:float.")
        if kind.endswith("_seq"):
            raise UserError(f"{path}: sequence columns of .inter cannot be loaded (load_col asks for {name}:{kind}).")
    return columns


def read_interactions(path: Path, spec: ReadSpec) -> Interactions:
    """Read, filter and order a ``.inter`` file; see :func:`load_interactions` for the cached form.

    Raises:
        UserError: a column is missing, a value is invalid, or nothing is left after filtering.
    """
    rows, rows_read = _read_rows(path, spec)
    missing = rows_read - len(rows)
    repeated = rows.drop_repeats() if spec.time_field and spec.duplicates is None else 0
    whole = len(rows)
    # Determined before filtering, which would leave gaps in times that merely count.
    if rows.time is None:
        of_times = no_time_facts(path, rows.user, rows.item, spec)
    else:
        of_times = time_facts(rows.user[rows.order], rows.time[rows.order])
    keep, by_value = _filtered(rows, spec)
    if not keep.any():
        raise UserError(
            f"{path}: the filters leave no interaction; loosen val_interval or the *_inter_num_interval keys."
        )
    if not keep.all():
        rows.keep(keep)
        rows.renumber()
    rows.arrange()
    if spec.time_field:
        rows.columns[spec.time_field], of_unit = in_seconds(rows.columns[spec.time_field], f"{path}, {spec.time_field}")
        of_times |= of_unit
    if missing:
        verbs = ("lacks", "was") if missing == 1 else ("lack", "were")
        logger.warning("%s: %s %s a user or an item and %s left out", path, counted(missing, "row"), *verbs)
    return rows.table(
        {
            "rows_read": rows_read,
            "rows_without_user_or_item": missing,
            **({"rows_repeated": repeated} if repeated else {}),
            "rows_filtered_by_value_or_duplicate": whole - by_value,
            "rows_filtered_by_count": by_value - len(rows),
            "rows_tied_in_time": rows.tied,
            **of_times,
        }
    )


class _Rows:
    """The rows of a file before they become :class:`Interactions`; columns are replaced one by one to save memory.

    Args:
        columns: by name, ``(n,)`` each, in the order of the file.
        tokens: for each token column, its tokens by id.
        spec: which columns hold users, items and times.

    Attributes:
        order: ``(n,)`` the canonical order of the rows.
        tied: how many rows of the file share user and time with another one.
    """

    def __init__(self, columns: dict[str, np.ndarray], tokens: dict[str, np.ndarray], spec: ReadSpec) -> None:
        self.columns, self.tokens, self.spec = columns, tokens, spec
        user_tokens, item_tokens = tokens[spec.user_field], tokens[spec.item_field]
        self.order, self.tied = canonical_order(self.user, self.item, self.time, user_tokens, item_tokens)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def user(self) -> np.ndarray:
        """``(n,)`` int32 user ids."""
        return self.columns[self.spec.user_field]

    @property
    def item(self) -> np.ndarray:
        """``(n,)`` int32 item ids."""
        return self.columns[self.spec.item_field]

    @property
    def time(self) -> np.ndarray | None:
        """``(n,)`` times, or ``None`` if they are not read."""
        return self.columns[self.spec.time_field] if self.spec.time_field else None

    def keep(self, chosen: np.ndarray) -> None:
        """Drop the rows where ``chosen``, ``(n,)`` bool, is false; the others keep their order."""
        place = np.cumsum(chosen) - 1
        self.order = place[self.order[chosen[self.order]]]
        for name, values in self.columns.items():
            self.columns[name] = values[chosen]

    def drop_repeats(self) -> int:
        """Drop rows that exactly repeat an earlier row of the file; returns how many were dropped."""
        assert self.time is not None
        repeats = exact_repeats(self.user, self.item, self.time, self.order)
        if len(repeats):
            once = np.ones(len(self), dtype=bool)
            once[repeats] = False
            self.keep(once)
        return len(repeats)

    def renumber(self) -> None:
        """Renumber ids without the gaps that dropped rows left, and sort the rows by the new user ids."""
        for name in (self.spec.user_field, self.spec.item_field):
            self.columns[name], self.tokens[name] = compact_ids(self.columns[name], self.tokens[name])
        self.order = self.order[np.argsort(self.user[self.order], kind="stable")]

    def arrange(self) -> None:
        """Put the rows into their canonical order."""
        for name, values in self.columns.items():
            self.columns[name] = values[self.order]

    def table(self, facts: dict[str, Any]) -> Interactions:
        """The rows as interactions; call :meth:`arrange` first."""
        own = (self.spec.user_field, self.spec.item_field, self.spec.time_field)
        extra = {name: values for name, values in self.columns.items() if name not in own}
        return Interactions(
            user=self.user,
            item=self.item,
            time=self.time,
            extra={name: _fill_missing(values, name in self.tokens) for name, values in extra.items()},
            offsets=offsets_of(self.user, len(self.tokens[self.spec.user_field])),
            user_tokens=self.tokens[self.spec.user_field],
            item_tokens=self.tokens[self.spec.item_field],
            extra_tokens={name: found for name, found in self.tokens.items() if name in extra},
            facts=facts,
        )


def _read_rows(path: Path, spec: ReadSpec) -> tuple[_Rows, int]:
    """The rows of a file that have a user and an item, and the number of all its rows."""
    columns = check_columns(path, spec)
    data, names = read_columns(path, columns, spec.separator)
    user, item = data[spec.user_field], data[spec.item_field]
    if not len(user):
        raise UserError(f"{path} has a header and no rows.")
    whole = (user > 0) & (item > 0)
    if not whole.all():
        data = {name: values[whole] for name, values in data.items()}
    if spec.time_field:
        data[spec.time_field] = as_exact_time(data[spec.time_field], path, spec.time_field)
    tokens = {name: np.array([PAD_TOKEN, *found], dtype=np.str_) for name, found in names.items()}
    for name in (spec.user_field, spec.item_field):  # an item without any interaction would still be ranked
        data[name], tokens[name] = compact_ids(data[name], tokens[name])
    return _Rows(data, tokens, spec), len(whole)


def _filtered(rows: _Rows, spec: ReadSpec) -> tuple[np.ndarray, int]:
    """Which rows the filters keep, ``(n,)`` bool, and how many were left before filtering by user and item counts."""
    keep = _keep_by_values(rows.columns, rows.tokens, spec)
    if spec.duplicates in ("first", "last"):
        frame = pd.DataFrame({"user": rows.user[rows.order], "item": rows.item[rows.order]})
        keep[rows.order[frame.duplicated(keep=spec.duplicates).to_numpy()]] = False
    by_value = int(keep.sum())
    if spec.user_interval or spec.item_interval:
        inner = np.flatnonzero(keep)
        keep[inner] = _keep_by_counts(rows.user[inner], rows.item[inner], spec)
    return keep, by_value


def time_facts(user: np.ndarray, time: np.ndarray) -> dict[str, int]:
    """Facts about times, given in canonical order: whether they compare between users, and how many users are tied."""
    several, tied = users_tied(user, time)
    return comparison_facts(user, time) | ({"users_of_several": several, "users_tied_throughout": tied} if tied else {})


def no_time_facts(path: Path, user: np.ndarray, item: np.ndarray, spec: ReadSpec) -> dict[str, int]:
    """Facts about a file read without times: how many lines repeat an earlier one, unless ``rm_dup_inter`` is set."""
    again = spec.duplicates is None and pd.DataFrame({"user": user, "item": item}).duplicated().any()
    alike = lines_alike(path) if again else 0
    return {"without_times": 1} | ({"lines_alike": alike} if alike else {})


def load_interactions(location: DatasetLocation, spec: ReadSpec) -> tuple[Interactions, str]:
    """Interactions of a dataset, memory-mapped from the cache if they were read before.

    The cache lies under ``<home>/cache/``, keyed by the file's SHA-256 and by ``spec``.

    Returns:
        The interactions and the SHA-256 of the ``.inter`` file.
    """
    source = location.interactions
    sha = file_sha256(source)
    return cached_interactions(location, sha, spec, lambda: read_interactions(source, spec)), sha


def cached_interactions(
    location: DatasetLocation, sha: str, spec: ReadSpec, read: Callable[[], Interactions]
) -> Interactions:
    """What ``read`` returns, cached under the dataset's ``home`` and memory-mapped the next time.

    Args:
        location: the dataset.
        sha: hash of everything that is read.
        spec: how it is read.
        read: reads the text files.
    """
    key = hashlib.sha256(json.dumps([FORMAT, sha, asdict(spec)], sort_keys=True, default=str).encode()).hexdigest()[:16]
    folder = location.home / "cache" / key
    cached = _open_cache(folder, spec)
    if cached is not None:
        return cached
    table = read()
    try:
        _write_cache(folder, table)
    except (OSError, UserError) as error:  # the cache is optional
        logger.warning("the cache %s could not be written (%s); the next start reads the text again", folder, error)
    return table


def _write_cache(folder: Path, table: Interactions) -> None:
    """Write all arrays into a new folder, then rename it in one step."""
    arrays = {"user": table.user, "item": table.item, "offsets": table.offsets}
    arrays |= {"user_tokens": table.user_tokens, "item_tokens": table.item_tokens}
    if table.time is not None:
        arrays["time"] = table.time
    arrays |= {f"extra.{name}": values for name, values in table.extra.items()}
    arrays |= {f"tokens.{name}": values for name, values in table.extra_tokens.items()}
    with whole_folder(folder) as partial:
        for name, values in arrays.items():
            np.save(partial / f"{name}.npy", values, allow_pickle=False)
        (partial / "facts.json").write_text(json.dumps(table.facts), encoding="utf-8")


def _open_cache(folder: Path, spec: ReadSpec) -> Interactions | None:
    if not folder.is_dir():
        return None
    try:
        arrays = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in folder.glob("*.npy")}
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        return Interactions(
            user=arrays["user"],
            item=arrays["item"],
            time=arrays.get("time"),
            extra={name: arrays[f"extra.{name}"] for name in spec.extra},
            offsets=arrays["offsets"],
            user_tokens=arrays["user_tokens"],
            item_tokens=arrays["item_tokens"],
            extra_tokens={n: arrays[f"tokens.{n}"] for n in spec.extra if f"tokens.{n}" in arrays},
            facts=facts,
        )
    except Exception as error:  # numpy raises half a dozen types for a damaged file
        logger.warning("the cache %s is damaged (%s) and is made anew", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
