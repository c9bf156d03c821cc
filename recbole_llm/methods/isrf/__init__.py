"""ISRF (arXiv 2603.13934): the generative model for two tasks, its features and prompts, its settings."""

from __future__ import annotations

from recbole_llm.registry import GENERAL, SEQUENTIAL, Method, register

_FEATURES = {
    "item_reasoning": "recbole_llm.methods.isrf.features:ItemReasoning",
    "user_reasoning": "recbole_llm.methods.isrf.features:UserReasoning",
}

register(
    Method(
        name="ISRF",
        target="recbole_llm.methods.isrf.model:ISRF",
        kind=SEQUENTIAL,
        paper="arXiv 2603.13934",
        features=tuple(_FEATURES),
        protocols=("loo", "direct_100"),
        settings="recbole_llm.methods.isrf.settings:ISRFSettings",
    ),
    _FEATURES,
)
register(
    Method(
        name="ISRFDirect",
        target="recbole_llm.methods.isrf.model:ISRFDirect",
        kind=GENERAL,
        paper="arXiv 2603.13934",
        features=tuple(_FEATURES),
        protocols=("direct_100",),
        settings_of="ISRF",
        settings="recbole_llm.methods.isrf.settings:ISRFSettings",
    )
)
