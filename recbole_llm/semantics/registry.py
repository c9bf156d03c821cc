"""The features there are."""

from __future__ import annotations

from recbole_llm.semantics.features.base import Feature
from recbole_llm.semantics.features.candidates import Candidates
from recbole_llm.semantics.features.codes import TextCodes
from recbole_llm.semantics.features.exemplars import Exemplars
from recbole_llm.semantics.features.intent import Intents
from recbole_llm.semantics.features.interests import Interests
from recbole_llm.semantics.features.item_texts import ItemTextIds
from recbole_llm.semantics.features.reasoning import ItemReasoning, UserReasoning
from recbole_llm.semantics.features.synthesised import SynthesisedUsers

_ALL: tuple[Feature, ...] = (
    ItemTextIds(),
    TextCodes(),
    Candidates(),
    Intents(),
    Interests(),
    SynthesisedUsers(),
    Exemplars(),
    ItemReasoning(),
    UserReasoning(),
)
FEATURES: dict[str, Feature] = {feature.name: feature for feature in _ALL}
