"""Every setting is defined once, and every value in ``properties/`` is valid under its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_llm.registry import Method, find_method, methods, recbole_methods
from recbole_llm.settings.core import CoreSettings, RecBoleSettings
from recbole_llm.settings.definitions import definitions_of, settings_class
from recbole_llm.settings.identity import tells_apart
from recbole_llm.settings.layers import backbone_key, layer_settings
from recbole_llm.settings.schema import SettingsModel, bounds_of, check_value, choices_of, described, role_of
from recbole_llm.utils.yaml import properties_folder, read_yaml

CLASSES = list(dict.fromkeys([CoreSettings, RecBoleSettings, *filter(None, map(settings_class, methods().values()))]))
SECTIONS = ("model", "preset", "protocol", "dataset")


def files() -> list[tuple[Path, str]]:
    """The YAML files of ``properties/``, each with a model whose settings it may hold."""
    found = [(properties_folder() / "overall.yaml", "Pop")]
    for section in SECTIONS:
        of_model = section in ("model", "preset")
        paths = sorted((properties_folder() / section).glob("*.yaml"))
        found += [(path, path.stem.partition("-")[0] if of_model else "Pop") for path in paths]
    return found


def backbones(method: Method) -> list[str | None]:
    """The models that a method may be built on."""
    key = backbone_key(method)
    owner = settings_class(method)
    return [None] if key is None or owner is None else list(choices_of(owner.model_fields[key]))


@pytest.mark.parametrize(("path", "model"), files(), ids=lambda value: getattr(value, "stem", value))
def test_a_value_keeps_to_its_definition(path: Path, model: str) -> None:
    definitions = definitions_of(find_method(model))
    for key, value in read_yaml(path).items():
        if key in definitions and key not in ("about", "raw"):
            assert check_value(definitions[key], key, value, value, str(path)) == value


@pytest.mark.parametrize("name", [name for name, row in methods().items() if row.settings])
def test_a_method_lists_what_its_file_sets_and_sets_what_it_lists(name: str) -> None:
    method = methods()[name]
    owner: Any = settings_class(method)
    for backbone in backbones(method):
        overrides = {} if backbone is None else {str(backbone_key(method)): backbone}
        values = layer_settings(method, "ml-100k", "loo", (), overrides).values
        assert set(owner.model_fields) <= set(values)
    listed = {*definitions_of(method), *definitions_of(find_method("SASRec"))}
    assert set(read_yaml(properties_folder() / "model" / f"{name}.yaml")) <= listed


@pytest.mark.parametrize("owner", CLASSES)
def test_a_setting_says_in_one_sentence_what_it_does_and_what_it_takes(owner: type[SettingsModel]) -> None:
    for name, field in owner.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert role_of(field)
        assert described(field) or name in ("about", "raw", "left_out", "gpu_id")


def test_bounds_and_choices_are_put_in_words() -> None:
    fields = CoreSettings.model_fields
    assert bounds_of(fields["nproc"]) == "at least 1"
    assert bounds_of(fields["seed"]) == "at least 0, at most 4294967295"
    assert described(fields["candidates"]) == "a whole number or all"
    assert described(fields["fill"]) == "none or offline"


def test_recbole_s_models_have_the_core_and_its_bounds() -> None:
    definitions = definitions_of(recbole_methods()["SASRec"])
    assert definitions["hidden_size"] is RecBoleSettings
    assert definitions["epochs"] is CoreSettings


def test_a_setting_that_is_gone_still_enters_the_key_and_tells_no_rows_apart() -> None:
    settings = layer_settings(find_method("Pop"), "ml-100k")
    assert settings.identity()["compile"] == "none"
    assert not tells_apart("compile", "none", settings.definitions)
    assert tells_apart("compile", "default", settings.definitions)
