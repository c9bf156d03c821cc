"""What tells one reading of an ``.inter`` file from the ordinary one, for the names of what is derived from it.

Candidates and features lie beside the dataset under names that hold the file's hash. The same file read by
other columns, filters or sessions gives other rows, or the same rows in another order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.data.catalog import file_sha256
from recbole_llm.data.interactions import Interactions, ReadSpec, token_hashes
from recbole_llm.data.split import BY_TIME
from recbole_llm.utils.yaml import properties_folder, read_yaml

# What a protocol or a dataset reads by default where that is not ReadSpec's. Written down and not looked up in their
# files, so that whoever edits those gets other names: under the old ones lies what was made before.
_ORDINARY: dict[str, dict[str, Any]] = {
    "temporal_20": {"sessions": {"by": "day", "window": 20, "min_length": 2}},
    "bundle": {"user_field": "session_id"},
}


def unusual_reading(values: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """The settings of reading and filtering that are not the ordinary ones, as JSON has them.

    Columns that are only loaded beside the others change no row and are not among them.

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
    del facts["extra"]
    return facts


def unusual_cases(values: Mapping[str, Any], user_order: Path | None) -> dict[str, Any]:
    """What of a split the protocol's name does not say: another ``split``, and a file of the users' order.

    Args:
        values: the settings of a run.
        user_order: the dataset's ``.user_last_order.tsv``, if it has one.
    """
    own = read_yaml(properties_folder() / "protocol" / f"{values['protocol']}.yaml")
    found = {} if values["split"] == own["split"] else {"split": values["split"]}
    if user_order is not None and values["split"] in BY_TIME:
        found["user_last_order"] = file_sha256(user_order)
    return found


def rows_only(spec: ReadSpec) -> ReadSpec:
    """A spec without the columns that change no row."""
    return replace(spec, extra=tuple(name for name, _ in spec.value_intervals if name in spec.extra))


def contents_digest(table: Interactions) -> str:
    """16 hex digits of who interacted with what in which order, whatever the ids are, and of the number of items."""
    tokens = np.asarray(table.user_tokens[1:])
    users = np.argsort(tokens, kind="stable") + 1
    offsets = np.asarray(table.offsets)
    lengths = offsets[users + 1] - offsets[users]
    ends = np.cumsum(lengths)
    rows = np.arange(len(table)) + np.repeat(offsets[users] - ends + lengths, lengths)
    items = token_hashes(table.item_tokens)[np.asarray(table.item)[rows]]
    digest = hashlib.sha256(str(table.n_items).encode())
    for part in (token_hashes(table.user_tokens)[users], lengths.astype("<i8"), items):
        digest.update(part.tobytes())
    return digest.hexdigest()[:16]


def name_part(unusual: Mapping[str, Any]) -> str:
    """What is appended to a file's name: nothing where nothing is unusual."""
    text = json.dumps(unusual, sort_keys=True)
    return f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if unusual else ""
