"""Which settings tell two runs apart, and the hash of them that names a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from recbole_llm.settings.definitions import Definitions
from recbole_llm.settings.schema import IDENTITY, before_of, key_name, role_of

# Settings that may name a file or folder of the user's; then its hash enters the key.
BY_CONTENTS = ("llm", "encoder", "lm", "pre_model_path")


def tells_apart(key: str, value: Any, definitions: Definitions) -> bool:
    """Whether a setting with this value can tell a run from another one."""
    owner = definitions.get(key)
    if owner is None:
        return (key, value) not in _retired(definitions).items()
    field = owner.model_fields[key]
    return role_of(field) in IDENTITY and before_of(field) != value


def _retired(definitions: Definitions) -> dict[str, Any]:
    """Settings that were removed, with the only value that they have in stored runs."""
    return {name: value for owner in {*definitions.values()} for name, value in owner.retired.items()}


def before(key: str, definitions: Definitions) -> Any:
    """The value that reproduces runs from before the setting existed; ``...`` if it has always existed."""
    owner = definitions.get(key)
    return ... if owner is None else before_of(owner.model_fields[key])


def identity(values: Mapping[str, Any], definitions: Definitions, model: str) -> dict[str, Any]:
    """The settings that can change a result, under the names by which they enter the key, in a canonical order."""
    kept = {
        key_name(k, definitions[k].model_fields[k]) if k in definitions else k: v
        for k, v in values.items()
        if tells_apart(k, v, definitions)
    }
    return dict(sorted({**_retired(definitions), **kept, "model": model}.items()))


def key_of(own: Mapping[str, Any], **more: Any) -> str:
    """The name of a run: a hash of its identity and of what else tells it apart.

    Args:
        own: the run's identity.
        **more: ``files``, versions of features, ... A setting that names one of the files counts by the file's
            contents, not by its path.
    """
    files = more.get("files", {})
    return hash_of([{k: v for k, v in own.items() if not (k in BY_CONTENTS and k in files)}, more])


def hash_of(parts: Any) -> str:
    """16 hex digits of a hash of plain values."""
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
