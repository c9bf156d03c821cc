"""EIMF (arXiv 2411.09410): the bi-level multi-interest model, its feature and prompt, its settings."""

from __future__ import annotations

from recbole_llm.registry import SEQUENTIAL, Method, register

register(
    Method(
        name="EIMF",
        target="recbole_llm.methods.eimf.model:EIMF",
        kind=SEQUENTIAL,
        paper="arXiv 2411.09410",
        features=("exemplar",),
        serves_alone=True,
        losses=("CE",),
    ),
    features={"exemplar": "recbole_llm.methods.eimf.features:Exemplars"},
)
