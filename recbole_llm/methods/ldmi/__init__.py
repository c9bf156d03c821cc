"""LDMI (arXiv 2507.10917): the multi-interest model, its features and prompt, its settings."""

from __future__ import annotations

from recbole_llm.registry import SEQUENTIAL, Method, register

register(
    Method(
        name="LDMI",
        target="recbole_llm.methods.ldmi.model:LDMI",
        kind=SEQUENTIAL,
        paper="arXiv 2507.10917",
        features=("interest", "synuser"),
        settings="recbole_llm.methods.ldmi.settings:LDMISettings",
    ),
    features={
        "interest": "recbole_llm.methods.ldmi.features:Interests",
        "synuser": "recbole_llm.methods.ldmi.features:SynthesisedUsers",
    },
)
