"""Modules and files that docstrings and comments refer to exist."""

from __future__ import annotations

import re
from pathlib import Path

from recbole_llm.registry import recbole_folder

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recbole_llm"
PLACES = (ROOT, PACKAGE, recbole_folder().parent)
NAMED = re.compile(r"``([\w/]+/\w+\.py)``")


def test_modules_that_the_code_names_are_there() -> None:
    named = [(path, name) for path in sorted(PACKAGE.rglob("*.py")) for name in NAMED.findall(path.read_text("utf-8"))]
    assert len(named) > 10
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, name in named
        if not any((place / name).is_file() for place in (*PLACES, path.parent))
    ]
    assert not missing
