"""Fixed negatives for sampled rankings, kept on disk so that every model ranks the same candidates.

A sampled metric does not equal the full one, not even in expectation, so tables never mix the two.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.data.atomic import Column, join_ids, read_table, split_ids, write_table
from recbole_llm.data.inter_file import ReadSpec
from recbole_llm.data.interactions import Interactions, token_hashes
from recbole_llm.data.split import BY_TIME, CUT_BY, Cases
from recbole_llm.errors import UserError
from recbole_llm.utils.arrays import joined_ranges
from recbole_llm.utils.files import file_sha256
from recbole_llm.utils.yaml import properties_folder, read_yaml

logger = logging.getLogger(__name__)

COLUMNS = (Column("user_id", "token"), Column("position", "token"), Column("items", "token_seq"))


def rarity(table: Interactions, train_rows: np.ndarray, cases: Cases) -> dict[str, float]:
    """How well rarity alone tells targets from the other candidates; empty where all items are ranked.

    A cold target among candidates that occur in training can be found without looking at any history.

    Returns:
        ``untrained_targets`` and ``untrained_others``, the shares of targets and of other candidates in no training
        row, and ``rarer_target``, how often a target is rarer in training than another candidate (ties count half).
    """
    if cases.candidates is None:
        return {}
    items = np.asarray(table.item)
    counts = np.bincount(items[train_rows], minlength=table.n_items + 1)
    targets = items[cases.target_rows]
    other = cases.candidates != targets[:, None]
    of_target, of_others = counts[targets], counts[cases.candidates]
    rarer = np.sign(of_others - of_target[:, None])[other]
    return {
        "untrained_targets": round(float((of_target == 0).mean()), 4),
        "untrained_others": round(float((of_others == 0)[other].mean()), 4),
        "rarer_target": round(float((1 + rarer).mean()) / 2, 4),
    }


def sampled(table: Interactions, cases: Cases, negatives: int, seed: int, path: Path) -> Cases:
    """Cases that rank their target among ``negatives`` items that the user has not interacted with.

    Negatives are drawn uniformly without replacement. Each case has its own generator (from seed, user and position),
    so that adding a user changes no other user's candidates. Under a global time split only the target and the user's
    items before the cut are excluded, because later ones are unknown at the cut. Candidates are read from ``path`` if
    the file exists and written there otherwise.

    Raises:
        UserError: cases have several targets, a user has interacted with almost all items, or the file belongs to
            other data.
    """
    if not cases.single_target:  # a line of the file holds one target; any other would have no rank
        raise UserError(
            f"--candidates={negatives}: cases of this protocol have several targets, and a sampled ranking knows one; "
            "give --candidates=all."
        )
    if path.is_file():
        return cases.with_candidates(_read(path, table, cases, negatives))
    offsets = np.asarray(table.offsets)
    wanted = negatives + (cases.shown is not None)  # one extra, so that another target changes one negative at most
    lines = np.empty((len(cases), negatives + 1), dtype=np.int32)
    targets = np.asarray(table.item)[cases.target_rows]
    for case in range(len(cases)):
        user = int(cases.user[case])
        end = offsets[user + 1] if cases.shown is None else cases.shown[case]
        own = np.unique(table.item[offsets[user] : end])
        if table.n_items - len(own) < wanted:
            raise UserError(
                f"--candidates={negatives}: so many negatives cannot be drawn for user {table.user_tokens[user]}, who "
                f"has {len(own):,} of the {table.n_items:,} items; give fewer, or all."
            )
        name = f"{seed}|{table.user_tokens[user]}|{cases.end[case] - offsets[user]}"
        generator = np.random.default_rng(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big"))
        drawn = _draw(generator, own, table.n_items, wanted)
        lines[case, 0] = targets[case]
        lines[case, 1:] = drawn[drawn != targets[case]][:negatives]
    _write(path, table, cases, lines)
    return cases.with_candidates(lines)


def _draw(generator: np.random.Generator, taken: np.ndarray, n_items: int, count: int) -> np.ndarray:
    """``count`` distinct items that are not in ``taken``, which holds each of its items once."""
    if 3 * (count + len(taken)) > n_items:
        free = np.setdiff1d(np.arange(1, n_items + 1), taken, assume_unique=True)
        return generator.choice(free, count, replace=False)
    found = np.empty(0, dtype=np.int64)
    while len(found) < count:
        drawn = generator.integers(1, n_items + 1, size=2 * count)
        drawn = drawn[~np.isin(drawn, taken)]
        merged = np.concatenate([found, drawn])
        _, first = np.unique(merged, return_index=True)
        found = merged[np.sort(first)][:count]
    return found


def _write(path: Path, table: Interactions, cases: Cases, lines: np.ndarray) -> None:
    offsets = np.asarray(table.offsets)
    rows = (
        (table.user_tokens[user], end - offsets[user], join_ids(table.item_tokens[line].tolist()))
        for user, end, line in zip(cases.user, cases.end, lines, strict=True)
    )
    write_table(path, COLUMNS, rows)
    logger.info("fixed candidates of %d cases written to %s", len(cases), path)


def _read(path: Path, table: Interactions, cases: Cases, negatives: int) -> np.ndarray:
    """Read the candidates of each case from a file: ``(m, negatives + 1)``, the target first."""
    frame = read_table(path)
    items = {token: number for number, token in enumerate(table.item_tokens.tolist())}
    keys = dict(
        zip(zip(frame["user_id"].astype(str), frame["position"].astype(int), strict=True), frame["items"], strict=True)
    )
    offsets = np.asarray(table.offsets)
    lines = np.empty((len(cases), negatives + 1), dtype=np.int32)
    for case in range(len(cases)):
        user = int(cases.user[case])
        line = keys.get((str(table.user_tokens[user]), int(cases.end[case] - offsets[user])))
        numbers = [items.get(token, 0) for token in split_ids(line)] if isinstance(line, str) else []
        if len(numbers) != negatives + 1 or 0 in numbers or numbers[0] != table.item[cases.target_rows[case]]:
            raise UserError(f"{path} holds candidates of other data or another split; move it away to have them drawn.")
        lines[case] = numbers
    return lines


# Reading options of protocols and datasets whose defaults differ from ReadSpec's. They are listed here instead of being
# looked up in the YAML files: an edited YAML file then yields new file names, and the old names keep the old contents.
_ORDINARY: dict[str, dict[str, Any]] = {
    "temporal_20": {"sessions": {"by": "day", "window": 20, "min_length": 2}},
    "bundle": {"user_field": "session_id"},
}


def unusual_reading(values: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """The settings of reading and filtering that differ from the defaults, in a form that JSON can hold.

    Extra columns that are only loaded change no row and are not included.

    Args:
        values: the settings of a run.
        dataset: the dataset's name.

    Returns:
        Empty for ordinary runs.
    """
    found = _facts(ReadSpec.from_settings(values), values.get("sessions"))
    ordinary = _facts(ReadSpec(), None) | _ORDINARY.get(values["protocol"], {}) | _ORDINARY.get(dataset, {})
    return {name: value for name, value in found.items() if value != ordinary[name]}


def _facts(spec: ReadSpec, sessions: Any) -> dict[str, Any]:
    facts = asdict(spec) | {"value_intervals": dict(spec.value_intervals), "sessions": sessions or None}
    for name in ("extra", "separator"):  # they change no row
        del facts[name]
    return facts


_SETTINGS = {
    "user_field": "USER_ID_FIELD",
    "item_field": "ITEM_ID_FIELD",
    "time_field": "TIME_FIELD",
    "user_interval": "user_inter_num_interval",
    "item_interval": "item_inter_num_interval",
    "value_intervals": "val_interval",
    "duplicates": "rm_dup_inter",
    "sessions": "sessions",
}


def settings_of(unusual: Mapping[str, Any]) -> dict[str, Any]:
    """The settings behind a result of :func:`unusual_reading`; all columns are loaded, which changes no row."""
    found = {_SETTINGS[name]: value for name, value in unusual.items() if name in _SETTINGS}
    return found | ({"load_col": {"inter": "*"}} if found else {})


def unusual_cases(values: Mapping[str, Any], user_order: Path | None) -> dict[str, Any]:
    """What the protocol's name does not say about a split: another ``split``, other cuts, a file of the users' order.

    Args:
        values: the settings of a run.
        user_order: the dataset's ``.user_last_order.tsv``, if it has one.
    """
    own = read_yaml(properties_folder() / "protocol" / f"{values['protocol']}.yaml")
    found = {} if values["split"] == own["split"] else {"split": values["split"]}
    found |= {key: values[key] for key in CUT_BY if values.get(key) != own.get(key)}
    if user_order is not None and values["split"] in BY_TIME:
        found["user_last_order"] = file_sha256(user_order)
    return found


def rows_only(spec: ReadSpec) -> ReadSpec:
    """A spec without the columns that change no row."""
    return replace(spec, extra=tuple(name for name, _ in spec.value_intervals if name in spec.extra))


def contents_digest(table: Interactions) -> str:
    """A hash (16 hex digits) of all users' item sequences, by token and so independent of ids, and the item count."""
    tokens = np.asarray(table.user_tokens[1:])
    users = np.argsort(tokens, kind="stable") + 1
    offsets = np.asarray(table.offsets)
    lengths = offsets[users + 1] - offsets[users]
    items = token_hashes(table.item_tokens)[np.asarray(table.item)[joined_ranges(offsets[users], lengths)]]
    digest = hashlib.sha256(str(table.n_items).encode())
    for part in (token_hashes(table.user_tokens)[users], lengths.astype("<i8"), items):
        digest.update(part.tobytes())
    return digest.hexdigest()[:16]


def name_part(unusual: Mapping[str, Any]) -> str:
    """The suffix of a file name for unusual settings; empty if there are none."""
    text = json.dumps(unusual, sort_keys=True)
    return f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if unusual else ""
