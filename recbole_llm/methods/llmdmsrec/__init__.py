"""LLM-DMsRec (arXiv 2507.20147): the graph model, its features and prompts, its settings."""

from __future__ import annotations

from recbole_llm.registry import SEQUENTIAL, Method, register

register(
    Method(
        name="LLMDMsRec",
        target="recbole_llm.methods.llmdmsrec.model:LLMDMsRec",
        kind=SEQUENTIAL,
        paper="arXiv 2507.20147",
        features=("candidates", "intent"),
        stage_one="stage_one_model",
        backbone="backbone",
        settings="recbole_llm.methods.llmdmsrec.settings:LLMDMsRecSettings",
    ),
    features={
        "candidates": "recbole_llm.methods.llmdmsrec.features:Candidates",
        "intent": "recbole_llm.methods.llmdmsrec.features:Intents",
    },
)
register(
    Method(
        name="SRGNNEnsemble",
        target="recbole_llm.methods.llmdmsrec.ensemble:SRGNNEnsemble",
        kind=SEQUENTIAL,
        paper="arXiv 1811.00855",
        settings_of="SRGNN",
        settings="recbole_llm.methods.llmdmsrec.settings:SRGNNEnsembleSettings",
    )
)
