"""How a run read and divided its interactions, noted beside its features so that both can be done again.

The note stands in ``manifest.json`` as ``read_with`` and not in the identity: it says how to come to the interactions
that the identity already tells apart by their hashes.
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

READER = "Pop"  # a model that reads as all do but those of knowledge graphs
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
    """What of a run's reading is not what its dataset and protocol take for granted, as JSON has it.

    Files of ready parts are noted by their paths below the current folder, others by their names alone. A model that
    reads a knowledge graph is noted as ``model``.
    """
    usual = layer_settings(find_method(READER), settings["dataset"], settings["protocol"])
    found = {name: settings.get(name) for name in READING if settings.get(name) != usual.get(name)}
    found |= {part: _shown(str(found[part])) for part in PARTS if found.get(part)}
    if reads_graph(settings.method):
        found["model"] = settings.method.name
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _shown(path: str) -> str:
    """A path that says nothing of the machine."""
    whole = Path(path).expanduser().absolute()
    return whole.relative_to(Path.cwd()).as_posix() if whole.is_relative_to(Path.cwd()) else whole.name


def replayed(manifest: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A model and settings that read the interactions as the features of a folder were made from them.

    Older manifests have no note. What their identity says of the reading is taken; else it was the usual one.

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
