"""The command that runs a record again, even if defaults have changed since."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from functools import cache
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.experiments.record import Record
from recbole_llm.registry import find_method
from recbole_llm.settings.identity import before, tells_apart
from recbole_llm.settings.layers import Settings, layer_settings, parse_assignment
from recbole_llm.utils.text import visible

_NAMED = ("model", "dataset", "protocol", "seed")  # options of their own


def rerun_command(records: Sequence[Record]) -> str:
    """The shell command that runs the seeds of one row again.

    It names the settings that differ from today's defaults. For an external model, whose defaults are not known here,
    it names those that the original command named.
    """
    first, seeds = records[0], sorted({record.seed for record in records})
    words = ["python", "run_benchmark.py", "run", f"--model={first.model}", f"--dataset={first.dataset}"]
    words += [f"--protocol={first.protocol}", f"--seeds={json.dumps(seeds, separators=(',', ':'))}"]
    words += [f"--{name}={_text(value)}" for name, value in sorted(changed_settings(first).items())]
    return shlex.join(visible(word).replace("\n", " ") for word in words)


def changed_settings(record: Record) -> dict[str, Any]:
    """The settings that distinguish the run from one with this version's defaults."""
    backbone = record.settings.get("backbone")
    try:
        default = _defaults(record.model, record.dataset, record.protocol, backbone)
    except UserError:
        given = {key for key, source in record.origin.items() if source == "command line"}
        return {key: record.settings[key] for key in given - {*_NAMED} if record.settings.get(key) is not None}
    definitions = default.definitions
    found = {
        key: value for key, value in record.settings.items()
        if key not in _NAMED and tells_apart(key, value, definitions) and default.get(key) != value
    }  # fmt: skip
    for key, value in default.values.items():  # settings that were added after the record was made
        then = before(key, definitions)
        if key not in record.settings and then is not ... and tells_apart(key, value, definitions) and value != then:
            found[key] = then
    if backbone is not None:
        usual = _defaults(record.model, record.dataset, record.protocol, None).get("backbone")
        found |= {"backbone": backbone} if backbone != usual else {}
    return found


@cache
def _defaults(model: str, dataset: str, protocol: str, backbone: str | None) -> Settings:
    """Today's default settings; external code, which a foreign record may name, is never loaded for them."""
    if ":" in model:
        raise UserError(f"{model} is a model from outside.")
    given = {} if backbone is None else {"backbone": backbone}
    return layer_settings(find_method(model), dataset, protocol, (), given, strict=False)


def _text(value: Any) -> str:
    """A value as the command line reads it back."""
    if isinstance(value, str) and value and parse_assignment(f"value={value}")[1] == value:
        return value
    return json.dumps(value, ensure_ascii=False)
