"""The generated reference pages cover everything that has a definition."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from recbole_llm import cli
from recbole_llm.evaluation.names import LIST_METRICS, RANK_METRICS, UNCUT_METRICS
from recbole_llm.experiments.record import Record
from recbole_llm.registry import features, methods
from recbole_llm.settings.core import CoreSettings
from recbole_llm.settings.definitions import settings_class
from recbole_llm.utils.yaml import property_names

PATH = Path(__file__).parents[1] / "docs/reference_pages.py"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The page generator, loaded by path because docs/ is not a package."""
    spec = importlib.util.spec_from_file_location("reference_pages", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(reference: ModuleType) -> dict[str, str]:
    return reference.pages()


def section(page: str, title: str) -> str:
    """Text under a second-level heading."""
    return page.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_every_setting_of_every_run_has_a_row(pages: dict[str, str]) -> None:
    found = section(pages["reference/settings.md"], "Every run")
    assert [name for name in CoreSettings.model_fields if f"| `{name}` |" not in found] == []


def test_every_setting_of_every_method_has_a_row(pages: dict[str, str]) -> None:
    for name, method in methods().items():
        owner = settings_class(method)
        own = set(owner.model_fields) - set(CoreSettings.model_fields) if owner else set()
        if own:
            found = section(pages["reference/settings.md"], name)
            assert [each for each in sorted(own) if f"| `{each}` |" not in found] == [], name


def test_every_verb_and_option_has_its_place(pages: dict[str, str]) -> None:
    for name, verb in cli.VERBS.items():
        found = section(pages["reference/command_line.md"], name)
        for option in cli._parameters(name, verb):
            spelt = cli.SPELT.get(option.name, option.name)
            assert f"| `--{spelt}` |" in found or f"| `{option.name.upper()}` |" in found, (name, option.name)


def test_records_metrics_protocols_and_features_are_whole(pages: dict[str, str]) -> None:
    wanted = {
        "record": [f"`{name}`" for name in Record.model_fields],
        "metrics": [f"| {title} |" for title in (RANK_METRICS | UNCUT_METRICS | LIST_METRICS).values()],
        "protocols": [f"## {name}\n" for name in property_names("protocol")],
        "features": [f"| `{name}` |" for name in features()],
    }
    for page, words in wanted.items():
        assert [word for word in words if word not in pages[f"reference/{page}.md"]] == []


def test_a_cell_cannot_end_its_column(reference: ModuleType) -> None:
    assert reference.cell("a | b\nc <d>") == "a \\| b c &lt;d>"
