"""The report: one static page about what was run."""

from __future__ import annotations

from recbole_llm.bench.report.page import write_report

__all__ = ["write_report"]
