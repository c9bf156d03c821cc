"""Lists: lists that were made elsewhere (``--lists=FILE``) as a row of the table; no model of a paper.

The file is text with a header and columns separated by tabs or commas: ``user_id``, ``item_id``, and ``rank`` (1 is
best) or ``score`` (the highest is best); if it has both, ``rank`` counts. If a protocol has several cases per user, the
file also needs ``position``, the index of the target in the user's whole history. ``recommend`` writes such files.

     score_i = -rank_i or score_i for what is listed; all other items tie below it

Cases, masks, metrics and tests are the same as for any row. Ties count as their expectation, so a list of ``K`` items
has exactly the metrics, up to ``@K``, of the model that made it. For a user without a list, or whose listed items are
all masked, all items tie.
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_llm.data.atomic import open_text
from recbole_llm.data.interactions import Interactions
from recbole_llm.data.split import Cases
from recbole_llm.errors import UserError
from recbole_llm.methods.baselines.counting import CountingModel
from recbole_llm.methods.baselines.settings import ListsSettings
from recbole_llm.utils.arrays import joined_ranges
from recbole_llm.utils.files import file_sha256
from recbole_llm.utils.text import counted, one_line

logger = logging.getLogger(__name__)

_NEEDED = ("user_id", "item_id")


class Lists(CountingModel):
    """Scores read from a file."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = ListsSettings.of(config)
        if not settings.lists:
            raise UserError("--model=Lists takes lists made elsewhere: give --lists=FILE.")
        path = Path(settings.lists)
        frame = read_lists(path)
        table, cases = dataset.table, dataset.split.test
        self.by_position = "position" in frame
        if not self.by_position and len(np.unique(cases.user)) < len(cases):
            raise UserError(
                f"--lists={path}: the protocol {config['protocol']} has several cases a user; give the place of each "
                "target in its user's history, counted from 0, in a column position."
            )
        users = {token: number for number, token in enumerate(table.user_tokens.tolist()) if number}
        items = {token: number for number, token in enumerate(table.item_tokens.tolist()) if number}
        user = frame["user_id"].map(users).fillna(0).to_numpy(dtype=np.int64)
        item = frame["item_id"].map(items).fillna(0).to_numpy(dtype=np.int64)
        key = self._keys(user, frame["position"].to_numpy()) if self.by_position else user
        kept = (user > 0) & (item > 0)
        order = np.flatnonzero(kept)[np.argsort(key[kept], kind="stable")]
        self.key, self.item, self.value = key[order], item[order], frame["value"].to_numpy()[order]
        least = frame["value"].min()
        # A large float minus one may be the same float.
        self.below = float(min(least - 1.0, np.nextafter(least, -np.inf)))
        wanted = self._keys(cases.user, cases.end - np.asarray(table.offsets)[cases.user])
        begin = self._ends(wanted, "left")
        length = self._ends(wanted, "right") - begin
        if not length.any():
            raise UserError(
                f"--lists={path}: none of its {len(frame)} rows is of a test case and an item of this dataset; the "
                f"first names the user {frame['user_id'].iloc[0]!r}, the item {frame['item_id'].iloc[0]!r}."
            )
        case = np.repeat(np.arange(len(cases)), length)
        listed = self.item[joined_ranges(begin, length)]
        seen = in_history(table, cases, case, listed)
        ranked = np.bincount(case[is_ranked(table, cases, case, listed, seen, config["mask_history"])])
        if not len(ranked):
            raise UserError(
                f"--lists={path}: none of its {len(case)} rows of test cases names an item that is ranked; "
                f"{int(seen.sum())} name items that the user's history has already. Leave such items out of the lists."
            )
        self.lists_facts = {
            "name": f"{settings.list_name or path.stem}#{file_sha256(path)[:6]}",
            "sha256": file_sha256(path),
            "rows": len(frame),
            "cases": len(cases),
            "cases_without_list": int((length == 0).sum()),
            "cases_without_ranked": len(cases) - int((ranked > 0).sum()),
            "shortest": int(length[length > 0].min()),
            "shortest_ranked": int(ranked[ranked > 0].min()),
            "seen_rows": int(seen.sum()),
            "seen_users": len(np.unique(cases.user[case[seen]])),
            "unknown_users": int(frame["user_id"][user == 0].nunique()),
            "unknown_items": int(frame["item_id"][item == 0].nunique()),
            "rows_of_unknown_items": int((item == 0).sum()),
        }
        logger.info("%s: %s", path, ", ".join(f"{name} {value}" for name, value in self.lists_facts.items()))

    def _keys(self, user: np.ndarray, position: np.ndarray) -> np.ndarray:
        """One number for each case."""
        return user * (1 << 32) + position if self.by_position else user

    def _ends(self, keys: np.ndarray, side: Any) -> np.ndarray:
        return np.searchsorted(self.key, keys, side=side)

    def scores(self, interaction: Any) -> np.ndarray:
        """Scores of the file, and one lower score for all items that it does not list."""
        user, position = (interaction[name].cpu().numpy() for name in (self.USER_ID, "position"))
        keys = self._keys(user, position)
        found = np.full((len(keys), self.n_items), self.below)
        for line, (begin, end) in enumerate(zip(self._ends(keys, "left"), self._ends(keys, "right"), strict=True)):
            found[line, self.item[begin:end]] = self.value[begin:end]
        return found


def in_history(table: Interactions, cases: Cases, case: np.ndarray, item: np.ndarray) -> np.ndarray:
    """``(n,)`` bool, which items are in the visible history of their case without being one of its targets.

    Args:
        table: the interactions.
        cases: all cases.
        case: ``(n,)`` numbers of cases.
        item: ``(n,)`` item ids.
    """
    rows = len(table)
    places = np.sort(np.asarray(table.item, dtype=np.int64) * rows + np.arange(rows))  # an item's rows side by side
    first = np.searchsorted(places, item * rows + cases.start[case])
    behind = np.searchsorted(places, item * rows + cases.end[case])
    owner = np.repeat(np.arange(len(cases)), np.diff(cases.target_offsets))
    targets = _pairs(table, owner, np.asarray(table.item)[cases.target_rows])
    return (first < behind) & ~np.isin(_pairs(table, case, item), targets)


def is_ranked(
    table: Interactions, cases: Cases, case: np.ndarray, item: np.ndarray, seen: np.ndarray, mask_history: bool
) -> np.ndarray:
    """``(n,)`` bool, which items are ranked in their cases: candidates, or all but masked ``seen`` items."""
    if cases.candidates is None:
        return ~seen if mask_history else np.ones(len(item), dtype=bool)
    candidates = _pairs(table, np.arange(len(cases))[:, None], cases.candidates)
    return np.isin(_pairs(table, case, item), candidates)


def _pairs(table: Interactions, case: np.ndarray, item: np.ndarray) -> np.ndarray:
    """One number for each pair of a case and an item."""
    return case * (table.n_items + 1) + item


def read_lists(path: Path) -> pd.DataFrame:
    """``user_id`` and ``item_id`` as text, ``value`` (higher is better), and ``position`` if the file has it.

    Raises:
        UserError: the file cannot be read, lacks a column, holds a value that is not a number or a position that is
            not a whole one, or names an item twice in a list.
    """
    try:
        with open_text(path) as stream:
            mark = "\t" if "\t" in stream.readline() else ","
        quoting = csv.QUOTE_NONE if mark == "\t" else csv.QUOTE_MINIMAL  # as in atomic files
        frame = pd.read_csv(path, sep=mark, dtype=str, keep_default_na=False, quoting=quoting)
    except FileNotFoundError:
        raise UserError(f"--lists={path}: there is no such file.") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"--lists={path} cannot be read: {one_line(error, 200)}") from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas reads surplus columns as row names
        raise UserError(
            f"--lists={path}: its rows have more columns than its header: name them all there, or leave out what is "
            "too much (names of rows, separators at the ends of lines)."
        )
    if mark == "\t":
        frame = frame.rename(columns=_bare).map(_bare, na_action="ignore")
    frame.columns = [str(name).strip().partition(":")[0] for name in frame.columns]  # atomic files: name:type
    lacking = [name for name in _NEEDED if name not in frame]
    ranked = next((name for name in ("rank", "score") if name in frame), None)
    if lacking or ranked is None or not len(frame):
        raise UserError(
            f"--lists={path} has {counted(len(frame), 'row')} of {', '.join(frame.columns)}: the columns user_id, "
            "item_id, and rank or score are wanted."
        )
    values = _numbers(path, frame, ranked)
    found = frame[[*_NEEDED]].assign(value=-values if ranked == "rank" else values)
    if "position" in frame:
        found["position"] = _numbers(path, frame, "position", whole=True).astype(np.int64)
    again = found.duplicated([name for name in found if name != "value"])
    if again.any():
        first = found[again].iloc[0]
        raise UserError(f"--lists={path}: the item {first.item_id!r} stands twice in a list of {first.user_id!r}.")
    return found


def _bare(field: str) -> str:
    """A field without the pair of quotation marks that wraps it."""
    return field[1:-1].replace('""', '"') if len(field) > 1 and field[0] == field[-1] == '"' else field


def _numbers(path: Path, frame: pd.DataFrame, name: str, whole: bool = False) -> np.ndarray:
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(values) | (whole & (values != np.floor(values))))
    if len(wrong):
        kind = "whole number" if whole else "number"
        raise UserError(f"--lists={path}, line {wrong[0] + 2}: {name} is no {kind}: {frame[name].iloc[wrong[0]]!r}.")
    return values
