"""The features there are."""

from __future__ import annotations

from recbole_llm.semantics.features.base import Feature
from recbole_llm.semantics.features.candidates import Candidates
from recbole_llm.semantics.features.intent import Intents
from recbole_llm.semantics.features.reasoning import ItemReasoning, UserReasoning
from recbole_llm.semantics.features.titles import Titles

FEATURES: dict[str, Feature] = {
    feature.name: feature for feature in (Candidates(), Intents(), Titles(), ItemReasoning(), UserReasoning())
}
