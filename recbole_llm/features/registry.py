"""The features there are."""

from __future__ import annotations

from functools import cache

from recbole_llm.errors import UserError, did_you_mean
from recbole_llm.features.codes import TextCodes
from recbole_llm.features.feature import Feature
from recbole_llm.features.item_texts import ItemTextIds
from recbole_llm.features.visible import ITEMS_ALONE, VISIBLE
from recbole_llm.methods.eimf.features import Exemplars
from recbole_llm.methods.isrf.features import ItemReasoning, UserReasoning
from recbole_llm.methods.ldmi.features import Interests
from recbole_llm.methods.ldmi.synthesised import SynthesisedUsers
from recbole_llm.methods.llmdmsrec.candidates import Candidates
from recbole_llm.methods.llmdmsrec.features import Intents
from recbole_llm.utils.plugins import load_class

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


_STATED = ("name", "version", "prompts", "settings_keys", "files", "build")
_LISTS = ("prompts", "settings_keys", "files", "needs")


def find_feature(name: str) -> Feature:
    """The feature that a registry row names; ``module:Class`` is one from outside.

    Raises:
        UserError: there is no such feature.
    """
    if name in FEATURES:
        return FEATURES[name]
    if ":" not in name:
        hint = did_you_mean(name, FEATURES)
        raise UserError(f"there is no semantic feature {name!r}.{hint} package.module:Class names one of your own.")
    return _outside(name)


@cache
def _outside(target: str) -> Feature:
    found: Feature = load_class(target, f"the feature {target}")()
    missing = [attribute for attribute in _STATED if not hasattr(found, attribute)]
    if missing:
        raise UserError(f"the feature {target} does not say its {', '.join(missing)}.")
    for attribute in _LISTS:
        if isinstance(value := getattr(found, attribute, ()), str):
            raise UserError(f"the feature {target}: {attribute} is a list, such as ({value!r},).")
    sees = str(getattr(found, "visible", ITEMS_ALONE))
    if sees not in VISIBLE:
        hint = did_you_mean(sees, VISIBLE)
        raise UserError(f"the feature {target}: visible is one of {', '.join(VISIBLE)}, not {sees!r}.{hint}")
    if found.name in FEATURES:
        raise UserError(f"the feature {target}: the name {found.name!r} is taken; choose another.")
    return found
