"""How a run read and divided its interactions, noted beside its features so that both can be repeated.

The note is ``read_with`` in ``manifest.json``. It is not part of the identity, which already identifies the
interactions by their hashes; the note says how to obtain them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_llm.data.candidates import settings_of
from recbole_llm.data.dataset import RECBOLE_ONLY
from recbole_llm.data.parts import PARTS
from recbole_llm.data.split import CUT_BY
from recbole_llm.errors import check_known
from recbole_llm.registry import find_method, reads_graph, recbole_methods
from recbole_llm.settings.layers import Settings, layer_settings

READER = "Pop"  # a model that reads interactions as all do, except those with a knowledge graph
# Settings that can change which rows are read, what they are called or how they are divided.
READING = (
    *("field_separator", "seq_separator", "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "RATING_FIELD"),
    *("LABEL_FIELD", "load_col", "unload_col", "unused_col", "seq_len"),
    *("rm_dup_inter", "val_interval", "user_inter_num_interval", "item_inter_num_interval"),
    *RECBOLE_ONLY,
    *("HEAD_ENTITY_ID_FIELD", "TAIL_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "ENTITY_ID_FIELD", "kg_reverse_r"),
    *("entity_kg_num_interval", "relation_kg_num_interval", "alias_of_entity_id", "alias_of_relation_id"),
    *("split", "sessions", "window_targets", "user_order", "min_history", *CUT_BY, "candidates", "candidate_seed"),
    *("benchmark_filename", *PARTS),
)


def noted_reading(settings: Settings) -> dict[str, Any]:
    """A run's reading settings that differ from the defaults of its dataset and protocol, as JSON values.

    Files of ready parts are noted by their path if they are below the current folder, otherwise by name only. A model
    that reads a knowledge graph is noted as ``model``.
    """
    usual = layer_settings(find_method(READER), settings["dataset"], settings["protocol"])
    found = {name: settings.get(name) for name in READING if settings.get(name) != usual.get(name)}
    found |= {part: _shown(str(found[part])) for part in PARTS if found.get(part)}
    if reads_graph(settings.method):
        found["model"] = settings.method.name
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _shown(path: str) -> str:
    """A path that reveals nothing about the machine."""
    whole = Path(path).expanduser().absolute()
    return whole.relative_to(Path.cwd()).as_posix() if whole.is_relative_to(Path.cwd()) else whole.name


def replayed(manifest: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A model and settings that read the interactions as they were when a folder's features were made.

    Older manifests have no note: the settings in their identity are taken, or the defaults if it has none.

    Raises:
        UserError: the note names a model or a setting that does not belong to reading.
    """
    identity = manifest["identity"]
    noted = dict(manifest.get("read_with") or settings_of(identity.get("reading", {})))
    model = str(noted.pop("model", READER))
    check_known(f"its manifest names the model {model}", model, [READER, *filter(_is_graph_model, recbole_methods())])
    for name in noted:
        check_known(f"its manifest notes {name}, which says nothing of reading", name, READING)
    return model, {**identity.get("cut_by", {}), **noted}


def _is_graph_model(name: str) -> bool:
    return reads_graph(find_method(name))
