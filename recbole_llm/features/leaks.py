"""Check finished semantic files for leaks: did a held-out interaction reach a prompt or an answer?

The checks do not trust the code that built the files. What a feature may see is stated in the manifest (``sees``):

- Tables: no row may be about a held-out interaction or, if the table names no user, about an item that only held-out
  interactions have.
- Answers: they must not name their own user's held-out items more often than other users' held-out items.
- Prompts: none may contain a history with an item that no prompt may show.
- Candidates: with ``candidate_folds`` above 1, no model may have been trained on the users it made candidates for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from recbole_llm.data.atomic import read_header, read_table, split_ids
from recbole_llm.data.interactions import Interactions
from recbole_llm.data.split import Split, ends_before, rows_digest, without_fold
from recbole_llm.features.feature import TRAINING, visible_ends
from recbole_llm.features.folder import asked_suffix
from recbole_llm.features.lookup import find_feature
from recbole_llm.features.title_runs import TitleRuns
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.registry import features

SHORTEST_NAME = 6  # characters; shorter titles occur in texts by chance
MOST_KEYS = 20_000  # answers that are read of one table, evenly spaced
CHANCE = 1e-4  # a difference that is less likely than this by chance is a leak


@dataclass(frozen=True)
class LeakCheck:
    """One check: what was examined, and what was found.

    Attributes:
        good: no leak was found, and nothing that the check needs was missing.
        text: the result in words, for the report.
        checked: nothing that the check needs was missing.
    """

    good: bool
    text: str
    checked: bool = True


@dataclass
class Files:
    """A finished folder with the data that it was made from.

    Attributes:
        path: the folder.
        manifest: its manifest.
        table, split: the interactions and their division as they are now.
    """

    path: Path
    manifest: dict[str, Any]
    table: Interactions
    split: Split

    def __post_init__(self) -> None:
        self.texts = read_table(self.file("text"), ["text"])["text"].fillna("").tolist()
        frame = read_table(self.file("itemtext"), ["item_id", "title_text"])
        ids = dict(zip(frame["item_id"].astype(str), frame["title_text"].fillna(""), strict=True))
        cells = [ids.get(token, "") for token in self.table.item_tokens.tolist()]
        self.titles = [self.texts[int(cell)] if cell else "" for cell in cells]
        self.users = {token: number for number, token in enumerate(self.table.user_tokens.tolist()) if number}

    def file(self, suffix: str) -> Path:
        """A file that the manifest lists."""
        return self.path / self.manifest["files"][suffix]["name"]

    def asked(self, feature: str) -> set[str] | None:
        """Keys of the requests whose answers a feature was made from; ``None`` if they were not noted."""
        if asked_suffix(feature) not in self.manifest["files"]:
            return None
        return set(read_table(self.file(asked_suffix(feature)))["request_key"])

    def own(self, user: int) -> slice:
        """A user's rows."""
        return slice(int(self.table.offsets[user]), int(self.table.offsets[user + 1]))


def check_leaks(files: Files, cache: ResponseCache | None) -> Iterator[LeakCheck]:
    """All checks of one folder.

    Args:
        files: the folder.
        cache: the answers with the prompts to check; ``None`` if there are none.
    """
    ends = visible_ends(files.table, files.split)
    if "candidates" in files.manifest["features"] and "candidates" in files.manifest["files"]:
        yield _makers_of_candidates(files)
    features = files.manifest["features"]
    for name, entry in features.items():
        sees, of_users = entry.get("sees", "none"), False
        for suffix in _tables_of(files, name, entry):
            columns = [column.name for column in read_header(files.file(suffix))]
            of_users = of_users or bool({"user_id", "exemplar_id"} & set(columns))
            if sees == TRAINING and {"user_id", "position"} <= set(columns):
                yield _rows_spoken_of(files, suffix, ends)
            elif sees == TRAINING and "item_id" in columns:
                yield _items_spoken_of(files, suffix, ends)
            key = next((column for column in ("user_id", "exemplar_id") if column in columns), None)
            texts = [column for column in columns if column.endswith("_text")]
            if sees != "none" and key is not None and texts:
                yield _names_of_held_out(files, suffix, key, texts, ends)
        prompts = [f"{prompt}@{facts['version']}" for prompt, facts in entry.get("prompts", {}).items()]
        if prompts and sees != "none" and of_users:  # a list that mixes users is not a history
            yield _prompts_sent(files, name, prompts, sees, ends, cache)


def _tables_of(files: Files, feature: str, entry: Mapping[str, Any]) -> list[str]:
    """Suffixes of a feature's tables; older manifests lack them, so they follow from its class or its name."""
    suffixes = entry.get("files") or (find_feature(feature).files if feature in features() else (feature,))
    return [suffix for suffix in suffixes if suffix in files.manifest["files"] and suffix != "itemtext"]


def _rows_spoken_of(files: Files, suffix: str, ends: np.ndarray) -> LeakCheck:
    frame = read_table(files.file(suffix), ["user_id", "position"])
    users = np.array([files.users.get(user, 0) for user in frame["user_id"].astype(str)], dtype=np.int64)
    rows = np.asarray(files.table.offsets)[users] + frame["position"].astype(np.int64).to_numpy()
    beyond = np.flatnonzero((users > 0) & (rows >= ends[users]))
    text = f"{suffix}: {len(rows):,} interactions, {len(beyond):,} of them held out"
    if len(beyond):
        text += f" (first: user {files.table.user_tokens[users[beyond[0]]]})"
    return LeakCheck(not len(beyond), text)


def _makers_of_candidates(files: Files) -> LeakCheck:
    """How often the target is among the candidates, and whether a model was trained on users it made them for.

    One model for all rows, as in the paper, was fitted to the training rows, so candidates are better in training than
    at test. That is reported, but it is no leak, since no held-out item is involved.
    """
    table, split = files.table, files.split
    hits = {"training": [0, 0], "held-out": [0, 0]}
    training = set(split.train_targets.tolist())
    for (user, position), tokens in _offered(files).items():
        row = int(table.offsets[files.users[user]]) + position if user in files.users else len(table)
        if row < len(table):
            count = hits["training" if row in training else "held-out"]
            count[0] += str(table.item_tokens[table.item[row]]) in tokens
            count[1] += 1
    shares = [f"{100 * hit / max(1, total):.1f} % of {total:,} {part} rows" for part, (hit, total) in hits.items()]
    text = f"candidates: the target is among those of {' and '.join(shares)}"
    wanted = int(files.manifest["identity"]["settings"].get("candidate_folds", 1))
    folds = files.manifest["features"]["candidates"].get("folds", [])
    if wanted == 1:
        return LeakCheck(not folds, f"{text}; one model made all, fitted to the training rows (candidate_folds: 1)")
    honest = [
        fold["train_rows"] == rows_digest(without_fold(table, split, number, wanted).train_rows)
        for number, fold in enumerate(folds)
    ]
    if len(honest) == wanted and all(honest):
        return LeakCheck(True, f"{text}; {wanted} models made those of training rows, each of users it had not seen")
    number = honest.index(False) + 1 if False in honest else len(honest) + 1
    return LeakCheck(False, f"{text}; model {number} of {wanted} had seen the users whose candidates it made")


def _items_spoken_of(files: Files, suffix: str, ends: np.ndarray) -> LeakCheck:
    """All that can be checked in a table that mixes users: no item may occur in held-out rows only."""
    table = files.table
    shown = np.zeros(table.n_items + 1, dtype=bool)
    shown[np.asarray(table.item)[np.arange(len(table)) < ends[np.asarray(table.user)]]] = True
    hidden = {token for token, seen in zip(table.item_tokens.tolist(), shown.tolist(), strict=True) if not seen}
    items = read_table(files.file(suffix), ["item_id"])["item_id"].astype(str)
    beyond = items[items.isin(hidden)]
    text = f"{suffix}: {items.nunique():,} items, {beyond.nunique():,} of them in no interaction that may be shown"
    if len(beyond):
        text += f" (first: item {beyond.iloc[0]})"
    return LeakCheck(not len(beyond), text)


# ---- answers ------------------------------------------------------------------------------------


def _names_of_held_out(files: Files, suffix: str, key: str, columns: list[str], ends: np.ndarray) -> LeakCheck:
    """Whether answers name their own user's held-out items more often than another user's.

    Items that an answer may know, those of the visible history and the candidates offered, count on neither side.
    """
    frame = read_table(files.file(suffix))
    chosen = np.unique(np.linspace(0, max(0, len(frame) - 1), min(len(frame), MOST_KEYS)).astype(int))
    offered = _offered(files) if "position" in frame else {}
    cases = []
    for line in frame.iloc[chosen].to_dict("records"):
        user = files.users.get(str(line[key]), 0)
        if user:
            cases.append(_case(files, user, line, columns, ends, offered))
    named = [0, 0]
    asked = [0, 0]
    for number, (answer, hidden, known) in enumerate(cases):
        other = cases[(number + len(cases) // 2 + 1) % len(cases)]
        for place, (items, also_known) in enumerate(((hidden, known), (other[1], known | other[2]))):
            names = [files.titles[item].casefold() for item in items if item not in also_known]
            names = [name for name in names if len(name) >= SHORTEST_NAME]
            if names:
                asked[place] += 1
                named[place] += any(name in answer for name in names)
    table = [[named[0], asked[0] - named[0]], [named[1], asked[1] - named[1]]]
    chance = float(fisher_exact(table, alternative="greater")[1]) if asked[0] and asked[1] else 1.0
    good = chance > CHANCE or named[0] < 3
    share = [f"{100 * count / max(1, total):.2f} %" for count, total in zip(named, asked, strict=True)]
    return LeakCheck(
        good,
        f"{suffix}: {asked[0]:,} answers; {share[0]} name an item that their user takes only later, {share[1]} "
        f"one that another user takes (by chance as far apart: {chance:.2g})",
    )


def _offered(files: Files) -> dict[tuple[str, int], set[str]]:
    """Candidates by user and position, if the folder has them."""
    if "candidates" not in files.manifest["files"]:
        return {}
    frame = read_table(files.file("candidates"))
    keys = zip(frame["user_id"].astype(str), frame["position"].astype(int), strict=True)
    return {key: set(split_ids(items)) for key, items in zip(keys, frame["items"], strict=True)}


def _case(
    files: Files,
    user: int,
    line: dict[str, Any],
    columns: list[str],
    ends: np.ndarray,
    offered: dict[tuple[str, int], set[str]],
) -> tuple[str, list[int], set[int]]:
    """The answer's text, the items that it must not know, and those that it may know."""
    own, items = files.own(user), np.asarray(files.table.item)
    end = int(ends[user])
    hidden = items[end : own.stop]
    if "position" in line and offered:
        row = own.start + int(line["position"])
        end = files.split.shown_until(row)
        hidden = items[end : row + 1]
    known = set(items[own.start : end].tolist())
    tokens = offered.get((str(line.get("user_id")), int(line.get("position", -1))), set())
    known |= {item for item in hidden.tolist() if str(files.table.item_tokens[item]) in tokens}
    cells = [str(line[column]) for column in columns if isinstance(line[column], (str, int))]
    answer = " | ".join(files.texts[int(part)] for cell in cells for part in cell.split() if part.isdecimal())
    return answer.casefold(), hidden.tolist(), known


# ---- prompts ------------------------------------------------------------------------------------


def _prompts_sent(
    files: Files, feature: str, prompts: list[str], sees: str, ends: np.ndarray, cache: ResponseCache | None
) -> LeakCheck:
    """Whether a prompt contains a history with an item that no prompt may show.

    Only the folder's own requests are checked, since the same prompts of a folder with another split may show other
    items. Older folders did not note their requests, so for these all requests of the prompts are checked.
    """
    noted, model = files.asked(feature), files.manifest["identity"]["llm"].get("model")
    runs = TitleRuns(files.table, files.titles, _limits(files, sees, ends))
    checked, found = 0, ""
    for body in cache.requests(prompts, model, noted) if cache is not None else ():
        checked += 1
        lists = [titles for titles in _lists_of(body["messages"]) if titles]
        for titles in lists:
            # Any two titles are neighbours in some history by chance, so a pair counts only as the prompt's one list.
            user = 0 if found or (len(titles) == 2 and len(lists) > 1) else runs.leak(titles)
            if user:
                found = f"; a prompt holds the history of user {files.table.user_tokens[user]} with a held-out item"
    text = f"{feature}: {checked:,} prompts, {runs.hidden:,} endings that none may hold{found}"
    lost = not checked if noted is None else len(noted) - checked
    if lost:
        count = "its prompts" if noted is None else f"{lost:,} of its prompts"
        text += f"; not checked: {count} are not among the answers here (answers pull, generate --import)"
    return LeakCheck(not found and not lost, text, checked=not lost)


def _limits(files: Files, sees: str, ends: np.ndarray) -> np.ndarray:
    """``(n_users + 2,)``: the first row of each user that no prompt of a feature may show."""
    table, split = files.table, files.split
    offsets = np.asarray(table.offsets)
    if sees == TRAINING:
        limits = ends
    elif split.cuts is not None:  # rows after the cut are held out for every user
        return ends_before(table, split.cuts.test)
    else:
        limits = offsets.copy()
        for cases in (split.valid, split.test):
            np.maximum.at(limits, cases.user, cases.end)  # the history of any case may be shown
    # Without a cut, a user with neither training rows nor cases has nothing to hide.
    return limits if split.cuts is not None else np.where(limits > offsets, limits, len(table))


def _lists_of(messages: list[dict[str, str]]) -> Iterator[list[str]]:
    """Every list of titles in the data of a chat's questions."""
    for message in messages:
        if message["role"] == "user":
            yield from _lists_in(_data_of(message["content"]))


def _data_of(content: str) -> Any:
    """The JSON in a question: the first value that can be parsed."""
    decoder = json.JSONDecoder()
    for place, sign in enumerate(content):
        if sign in "{[":
            try:
                return decoder.raw_decode(content, place)[0]
            except ValueError:
                continue
    return None


def _lists_in(value: Any) -> Iterator[list[str]]:
    if isinstance(value, dict):
        numbered = [value.get(str(number)) for number in range(1, len(value) + 1)]
        yield [name for name in numbered if isinstance(name, str)]
        for name, inner in value.items():
            if name != "candidates":  # they may include the target and are not a history
                yield from _lists_in(inner)
    elif isinstance(value, list):
        names = [item.get("title", "") if isinstance(item, dict) else item for item in value]
        yield [name for name in names if isinstance(name, str)]
        for inner in value:
            if isinstance(inner, (dict, list)):
                yield from _lists_in(inner)
