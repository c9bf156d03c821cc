"""Evaluation cases that a paper published as files: PO4ISR's sessions with their candidates.

A file is a JSON list of prompts, each with a session's titles, its candidates' titles and the target. Sessions
are found in the dataset by their titles; the rest of the prompt text is not used.

Source: llm4sr/PO4ISR, ``Dataset/bundle``: ``valid.json`` and ``test_seed_{0,10,42,625,2023}.json``. The
published test sessions include all validation sessions; those are left out of the test here.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.data.atomic import TAB, read_table
from recbole_llm.data.catalog import DatasetLocation
from recbole_llm.data.interactions import Interactions
from recbole_llm.data.split import Split, split_interactions
from recbole_llm.errors import UserError

_DAMAGE = (OSError, EOFError, zlib.error)
_FORM = re.compile(r"\s*Current session interactions: \[(.*)\]\s*Candidate set: \[(.*)\]\s*", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """One published case, as titles.

    Attributes:
        history: titles of the session before the target.
        candidates: titles to rank, the target among them.
        target: title of the last item.
    """

    history: tuple[str, ...]
    candidates: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class PublishedCases:
    """Published cases found in a dataset.

    Attributes:
        users: ``(m,)`` user ids (sessions); the last item of each is its target.
        candidates: ``(m, c)`` item ids, the target first; 0 for an item without an interaction.
    """

    users: np.ndarray
    candidates: np.ndarray

    def of(self, users: np.ndarray) -> np.ndarray:
        """Candidates of some of the users, in the order given."""
        places = {user: place for place, user in enumerate(self.users.tolist())}
        return self.candidates[[places[user] for user in users.tolist()]]


def _titles(text: str) -> tuple[str, ...]:
    """Split ``1."A", 2."B"`` into titles; titles may hold quotes and numbers, so only the next number separates."""
    titles, rest, number = [], text.strip(), 1
    while rest:
        start = f'{number}."'
        if not rest.startswith(start):
            raise ValueError("a list that is not numbered")
        title, _, rest = rest[len(start) :].partition(f'", {number + 1}."')
        if rest:
            rest, number = f'{number + 1}."{rest}', number + 1
        elif title.endswith('"'):
            title = title[:-1]
        titles.append(title)
    return tuple(titles)


def read_prompts(path: Path) -> list[Prompt]:
    """The cases of one file, plain or gzipped.

    Raises:
        UserError: the file is missing or has another form.
    """
    try:
        data = path.read_bytes()
        lines = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
        return [_prompt(line) for line in lines]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, *_DAMAGE) as error:
        raise UserError(f"{path} is no file of PO4ISR's form ({type(error).__name__}: {error}).") from None


def _prompt(line: Mapping[str, Any]) -> Prompt:
    found = _FORM.fullmatch(line["input"])
    if found is None:
        raise ValueError("a prompt without its session and candidates")
    history, candidates = _titles(found[1]), _titles(found[2])
    place = int(line["target_index"]) - 1
    if not history or not 0 <= place < len(candidates) or _key(candidates[place]) != _key(line["target"]):
        raise ValueError("a prompt whose target is not where it says")
    return Prompt(history, candidates, line["target"])


def _key(title: str) -> str:
    """A title in a form to compare by: entities decoded, quotes as in atomic files, no white space."""
    return re.sub(r"\s+", "", html.unescape(html.unescape(title)).replace('"', "''"))


def find_cases(
    table: Interactions, titles: Mapping[str, str], prompts: Sequence[Prompt], source: str
) -> PublishedCases:
    """Find the sessions and items of ``prompts`` in a dataset.

    Items that share a title are interchangeable, but no item is used twice in a case. A title that is not in
    the dataset is searched for again up to its first line break. An item without any interaction has no id: its
    place holds 0, which is ranked last.

    Args:
        table: the interactions.
        titles: title of each item token.
        prompts: the published cases.
        source: name of the file, for messages.

    Raises:
        UserError: a session is not in this dataset or not unique there, an item is not in it, or the cases differ in
            their number of candidates.
    """
    names = np.array(["", *(_key(titles.get(str(token), "")) for token in table.item_tokens[1:])], dtype=object)
    items: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(names.tolist()):
        if number:
            items[name].append(number)
    sessions: dict[tuple[str, ...], list[int]] = defaultdict(list)
    offsets = np.asarray(table.offsets)
    for user in np.flatnonzero(np.diff(offsets) > 0).tolist():
        sessions[tuple(names[table.item[offsets[user] : offsets[user + 1]]])].append(user)

    known_titles = {_key(title) for title in titles.values()}
    users: list[int] = []
    lines = np.empty((len(prompts), len(prompts[0].candidates) if prompts else 0), dtype=np.int32)
    for case, prompt in enumerate(prompts):
        own = sessions.get(tuple(_key(title) for title in (*prompt.history, prompt.target)), [])
        if len(own) != 1 or own[0] in users:
            raise UserError(f"{source}: case {case + 1} is the session of {len(own)} users here; it is of other data.")
        if len(prompt.candidates) != lines.shape[1]:
            count = len(prompt.candidates)
            raise UserError(f"{source}: case {case + 1} ranks {count} items and the first case {lines.shape[1]}.")
        users.append(own[0])
        target = int(table.item[offsets[own[0] + 1] - 1])
        lines[case] = _candidates(prompt, target, items, known_titles, f"{source}: case {case + 1}")
    return PublishedCases(np.array(users, dtype=np.int64), lines)


def _candidates(
    prompt: Prompt, target: int, items: Mapping[str, list[int]], known_titles: Collection[str], where: str
) -> list[int]:
    """Item ids of a case, the target first."""
    line = [target]
    rest = list(prompt.candidates)
    rest.remove(next(title for title in rest if _key(title) == _key(prompt.target)))
    for title in rest:
        known = items.get(_key(title)) or items.get(_key(title.split("\n")[0]), [])
        free = [number for number in known if number not in line]
        if not free and _key(title) not in known_titles:
            raise UserError(f"{where} ranks {title[:60]!r}, which is no item of this dataset.")
        line.append(free[0] if free else 0)
    return line


def published_split(table: Interactions, location: DatasetLocation, options: Mapping[str, Any]) -> Split:
    """The published sessions with the published candidates; sessions that ended before them train.

    The dataset's YAML names the files (``about: published_cases: {folder, valid, test}``). They are searched for
    in that folder, which lies beside the dataset's folder or in it.

    Args:
        table: the interactions.
        location: the dataset.
        options: the protocol's settings; ``candidate_seed`` chooses the test file.

    Raises:
        UserError: nothing is published for this dataset, a file is missing, or it belongs to other data.
    """
    if not location.about.get("published_cases"):
        raise UserError(f"--protocol={options['protocol']}: no cases are published for --dataset={location.name}.")
    titles = _item_titles(location, options.get("ITEM_ID_FIELD", "item_id"), options.get("field_separator", TAB))
    found = {}
    for phase in ("valid", "test"):
        path = published_file(location, phase, options)
        if path is None:
            name = _name(location, phase, options)
            raise UserError(f"the published cases are missing: put {name}(.gz) into {_places(location)[-1]}.")
        found[phase] = find_cases(table, titles, read_prompts(path), path.name)
    split = split_interactions(table, {**options, "held_out": {phase: cases.users for phase, cases in found.items()}})
    return replace(
        split,
        valid=split.valid.with_candidates(found["valid"].of(split.valid.user)),
        test=split.test.with_candidates(found["test"].of(split.test.user)),
    )


def published_file(location: DatasetLocation, phase: str, options: Mapping[str, Any]) -> Path | None:
    """Path of the published cases of a phase, plain or gzipped; ``None`` if there are none.

    Args:
        location: the dataset.
        phase: ``valid`` or ``test``.
        options: as :func:`published_split` takes them.
    """
    if not location.about.get("published_cases"):
        return None
    name = _name(location, phase, options)
    paths = (place / form for place in _places(location) for form in (name, f"{name}.gz"))
    return next((path for path in paths if path.is_file()), None)


def _name(location: DatasetLocation, phase: str, options: Mapping[str, Any]) -> str:
    return str(location.about["published_cases"][phase]).format(seed=options.get("candidate_seed"))


def _places(location: DatasetLocation) -> list[Path]:
    folder = str(location.about["published_cases"]["folder"])
    return [location.folder.parent / folder, location.folder / folder, location.home / folder]


def _item_titles(location: DatasetLocation, key: str, separator: str) -> dict[str, str]:
    path = location.file("item")
    frame = read_table(path, separator=separator) if path else None
    if frame is None or not {key, "title"} <= set(frame):
        raise UserError(
            f"--dataset={location.name}: published cases are found by titles, and there is no .item file with {key} "
            "and title."
        )
    return dict(zip(frame[key].astype(str), frame["title"].astype(str), strict=True))
