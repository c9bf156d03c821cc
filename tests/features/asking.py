"""Helpers for feature tests: runs that ask the stub server, and readers for the feature folders they make."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_llm.data.atomic import read_table
from recbole_llm.experiments.prepared import Prepared
from recbole_llm.experiments.run import Run
from tests.helpers import make_run, prepare
from tests.stub_server import Call, Reply, StubServer, intents_from_candidates

SEMANTICS = Path("dataset/tiny/semantics")


def asking_run(server: StubServer, **overrides: Any) -> Run:
    """A run of LLM-DMsRec on the small dataset, with intents from the stub server."""
    return make_run("LLMDMsRec", **{"epochs": 1, "llm": "vllm", "llm_base_url": server.base_url} | overrides)


def ask(server: StubServer, **overrides: Any) -> Prepared:
    """Prepare such a run: make its features, data and model."""
    return prepare("LLMDMsRec", **{"epochs": 1, "llm": "vllm", "llm_base_url": server.base_url} | overrides)


def only_folder(source: str = "vllm", home: Path = SEMANTICS) -> Path:
    """The only feature folder from a source of answers."""
    (found,) = home.glob(f"loo-{source}-*")
    return found


def file_states(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and contents of each file, by name."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.iterdir())}


def contents(folder: Path) -> dict[str, bytes]:
    """Contents of each file by name, without the manifest, which holds times."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "manifest.json"}


def history_titles(prepared: Prepared, folder: Path) -> dict[tuple[str, int], list[str]]:
    """Titles of the items before each (user, position), cut to the model's maximum history length."""
    table = prepared.dataset.table
    texts = read_table(folder / "tiny.text")["text"].tolist()
    items = read_table(folder / "tiny.itemtext").set_index("item_id")["title_text"].astype(int)
    title = [""] + [texts[items[token]] for token in table.item_tokens[1:].tolist()]
    longest = int(prepared.config["MAX_ITEM_LIST_LENGTH"])
    found = {}
    for user in range(1, table.n_users + 1):
        own = np.asarray(table.item[table.offsets[user] : table.offsets[user + 1]])
        for position in range(1, len(own)):
            before = own[max(0, position - longest) : position]
            found[str(table.user_tokens[user]), position] = [title[item] for item in before]
    return found


def by_key(frame: pd.DataFrame) -> dict[tuple[str, int], tuple[str, ...]]:
    """Rows of a feature table, keyed by user and position."""
    rest = [name for name in frame if name not in ("user_id", "position")]
    values = frame[rest].fillna("").itertuples(index=False, name=None)
    return dict(zip(zip(frame["user_id"], frame["position"].astype(int), strict=True), values, strict=True))


def sessions_asked(calls: list[Call]) -> dict[tuple[str, ...], list[list[str]]]:
    """The candidate lists offered for each session that was asked about."""
    found: dict[tuple[str, ...], list[list[str]]] = defaultdict(list)
    for call in calls:
        found[tuple(call.data["session"])].append(call.data["candidates"])
    return found


def add_lines(path: Path, lines: list[str]) -> None:
    """Append lines to an atomic file."""
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(line + "\n" for line in lines)


# ---- planted changes ----------------------------------------------------------------------------


def user_rows(lines: list[str]) -> dict[str, list[int]]:
    """Line numbers of each user's rows in time order; users with equal times are left out."""
    rows: dict[str, list[int]] = defaultdict(list)
    for number, line in enumerate(lines[1:], start=1):
        rows[line.split("\t")[0]].append(number)
    time = [0] + [int(line.split("\t")[3]) for line in lines[1:]]
    ordered = {user: sorted(own, key=lambda n: time[n]) for user, own in rows.items()}
    return {user: own for user, own in ordered.items() if len({time[n] for n in own}) == len(own)}


def plant(inter: Path, from_the_end: int, among: Container[str] | None = None) -> str:
    """Change one user's item at a position counted from the end (1 is the test item); returns the user.

    ``among`` restricts the choice of users. All items keep their ids, because the changed line is not the first
    occurrence of the old or the new item.
    """
    lines = inter.read_text(encoding="utf-8").splitlines()
    cells = [line.split("\t") for line in lines]
    for user, own in user_rows(lines).items():
        number = own[-from_the_end]
        earlier = {cells[n][1] for n in range(1, number)}
        new = sorted(earlier - {cells[n][1] for n in own})
        if among is not None and user not in among:
            continue
        if len(own) >= 5 and cells[number][1] in earlier and new:
            cells[number][1] = new[0]
            inter.write_text("".join("\t".join(row) + "\n" for row in cells), encoding="utf-8")
            return user
    raise AssertionError("no user of the dataset serves")


def answer_of_any_prompt(call: Call) -> Reply:
    """A usable answer to any prompt of a method; the requested schema tells the prompts apart."""
    fields = {*call.body["response_format"]["json_schema"]["schema"]["properties"]}
    if "intents" in fields:
        return intents_from_candidates(call)
    if "summarization" in fields:
        return Reply(text=json.dumps({"summarization": "those who like such things"}))
    if "feature" in fields:
        return Reply(text=json.dumps({"feature": "of a kind"}))
    if isinstance(call.data, dict):  # LDMI's numbered history
        return Reply(text=json.dumps({"interests": [{"name": "all of it", "items": [int(n) for n in call.data]}]}))
    return Reply(text=json.dumps({"interests": ["this", "and that"]}))
