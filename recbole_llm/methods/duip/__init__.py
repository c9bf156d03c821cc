"""DUIP (arXiv 2501.10871): the LSTM, the language model that it prompts, and their settings."""

from __future__ import annotations

from recbole_llm.registry import SEQUENTIAL, Method, register

register(
    Method(
        name="DUIP",
        target="recbole_llm.methods.duip.model:DUIP",
        kind=SEQUENTIAL,
        paper="arXiv 2501.10871",
        features=("itemtext",),
        text="text",
        settings="recbole_llm.methods.duip.settings:DUIPSettings",
    )
)
