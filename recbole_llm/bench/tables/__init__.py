"""Tables from records: what may stand together, what the numbers say, how they are printed."""

from __future__ import annotations

from recbole_llm.bench.tables.grouping import group
from recbole_llm.bench.tables.show import FORMATS, render, render_check
from recbole_llm.bench.tables.statistics import Block, build

__all__ = ["FORMATS", "Block", "build", "group", "render", "render_check"]
