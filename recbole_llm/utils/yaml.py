"""YAML files: ours in ``properties/`` and the user's. Values are read, never evaluated."""

from __future__ import annotations

import math
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from recbole_llm.errors import UserError
from recbole_llm.utils.text import one_line

PACKAGE = Path(__file__).resolve().parents[1]
MOST_CHARACTERS = 10_000_000  # of a file; a few nested aliases could stand for billions, and a message would print them


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads ``1e-5`` as a number, as RecBole's files mean it, and refuses a key given twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping; of two equal keys, YAML's loader would silently take the last."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """YAML text to plain values; raises ``yaml.YAMLError``."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader subclass
        if _length(value, {}) > MOST_CHARACTERS:
            raise yaml.YAMLError(f"with its aliases written out it has more than {MOST_CHARACTERS:,} characters")
        return value
    except (ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # Raised by 2024-13-45, which only looks like a date, by !!int "", and by ten thousand digits or brackets.
        raise yaml.YAMLError(str(error)) from error


def _length(value: Any, known: dict[int, float]) -> float:
    """Characters of a structure with each alias written out, at least; infinite if a part holds itself.

    ``known`` has the lengths of the parts that were counted.
    """
    if not isinstance(value, (dict, list)):
        return len(value) + 1 if isinstance(value, str) else 1
    if id(value) not in known:
        known[id(value)] = math.inf  # while it is being counted
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_length(part, known) for part in parts)
    return known[id(value)]


def value_of(text: str) -> Any:
    """The YAML value of what a user typed; text that YAML refuses stays text."""
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; empty files are empty mappings.

    Raises:
        UserError: the file cannot be read, is not YAML or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    return _copied(_mapping_of(text, path))


def _copied(value: Any) -> Any:
    """A copy of what YAML holds, for callers that change it; ``copy.deepcopy`` takes four times as long."""
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


@lru_cache(maxsize=512)
def _mapping_of(text: str, path: Path) -> dict[str, Any]:
    """The mapping in a file, cached since a grid and a search space read the same files for each of their runs."""
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {one_line(error)}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected `key: value` lines, found a {type(value).__name__}.")
    for key in value:
        if not isinstance(key, str):
            raise UserError(f"{path}: the key {key!r} is not text; if it is meant, put it in quotation marks.")
    return value


@cache
def properties_folder() -> Path:
    """Our ``properties/``: inside the installed package, or beside it in a checkout."""
    for folder in (PACKAGE / "properties", PACKAGE.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise UserError("the properties/ folder of recbole_llm is missing: reinstall the package.")


def where_published(path: str | Path) -> str:
    """What to do where a path that our suites name is missing, to end a message with; empty for other paths."""
    path = Path(path)  # without a slash at its end, or ./ before it
    whole = re.compile(rf"(?<![\w./-]){re.escape(str(path))}(?![\w./-])")
    suites = (properties_folder() / "suite").glob("*.yaml")
    if "/" not in str(path) or not any(whole.search(suite.read_text(encoding="utf-8")) for suite in suites):
        return ""
    return " It comes with the repository, not with the package: run in the folder of a clone, or give the path there."


def property_names(section: str) -> list[str]:
    """Names of the YAML files in one section of ``properties/``, such as ``protocol``."""
    return sorted(path.stem for path in (properties_folder() / section).glob("*.yaml"))
