"""Which class defines a setting of a model."""

from __future__ import annotations

from functools import cache
from typing import cast

from recbole_llm.registry import Method, methods, recbole_methods
from recbole_llm.settings.core import CoreSettings, RecBoleSettings
from recbole_llm.settings.schema import SettingsModel
from recbole_llm.utils.plugins import load_class

Definitions = dict[str, type[SettingsModel]]


@cache
def _loaded(target: str) -> type[SettingsModel]:
    return cast(type[SettingsModel], load_class(target, f"the settings {target}"))


def settings_class(method: Method) -> type[SettingsModel] | None:
    """The class of a method's own settings, or else of the model whose settings it takes; ``None`` without one."""
    row = methods().get(method.settings_of, method)
    target = method.settings or row.settings
    return _loaded(target) if target else None


@cache
def definitions_of(method: Method, backbone: str | None = None) -> Definitions:
    """The class that defines each listed setting of a model; RecBole's other settings have none.

    Args:
        method: the model's row.
        backbone: name of the model that it is built on, whose settings it has, too.
    """
    classes: list[type[SettingsModel]] = [CoreSettings, RecBoleSettings]
    below = methods().get(backbone or "") or recbole_methods().get(backbone or "")
    for row in (below, method):
        owner = settings_class(row) if row is not None else None
        if owner is not None:
            classes.append(owner)
    found = {name: owner for owner in classes for name in owner.model_fields}
    if method.is_external:
        found.pop("hidden_act", None)  # a class from outside may have other layers than RecBole's
    return found


def definitions_of_name(model: str, backbone: str | None) -> Definitions:
    """The same for a model named in a record, which may come from outside and not exist here."""
    known = methods().get(model) or recbole_methods().get(model) or Method(model, model, "")
    return definitions_of(known, backbone)
