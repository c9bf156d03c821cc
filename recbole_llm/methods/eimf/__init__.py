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
        backbone="backbone",
        serves_alone=True,
        settings="recbole_llm.methods.eimf.settings:EIMFSettings",
    ),
    features={"exemplar": "recbole_llm.methods.eimf.features:Exemplars"},
)
