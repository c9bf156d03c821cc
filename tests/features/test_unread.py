"""Disabled parts of a method read no features, and no question is asked for a feature that nothing reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.experiments.jobs import features_of
from recbole_llm.settings.rules import features_read
from tests.features.asking import SEMANTICS, only_folder
from tests.helpers import layered, make_run, prepare, runner
from tests.methods.ldmi.test_interests import by_genre
from tests.stub_server import Reply, StubServer

CROWD, OWN = ("synuser",), ("interest",)
ISRF_ITEMS = ("item_reasoning",)
READ: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("LDMI", {}, (*OWN, *CROWD)),
    ("LDMI", {"align": False}, CROWD),
    ("LDMI", {"gate": "zero"}, CROWD),
    ("LDMI", {"contrast": "none"}, OWN),
    ("LDMI", {"contrast_weight": 0.0}, OWN),
    ("LDMI", {"align": False, "contrast": "none"}, ()),
    ("LDMI", {"clusters": "items"}, (*OWN, *CROWD)),  # still reads which histories have clusters
    ("EIMF", {}, ("exemplar",)),
    ("EIMF", {"esim": False}, ()),
    ("EIMF", {"alignment_weight": 0.0}, ("exemplar",)),
    ("EIMF", {"alignment_weight": 0.0, "semantic_weight": 0.0}, ()),
    ("LLMDMsRec", {}, ("candidates", "intent")),
    ("LLMDMsRec", {"fusion": False}, ("candidates", "intent")),
    ("LLMDMsRec", {"sigma": 0.0}, ("candidates", "intent")),
    ("LLMDMsRec", {"fusion": False, "sigma": 0.0}, ()),
    ("LLMDMsRec", {"fusion": False, "align": "none"}, ()),
    ("ISRF", {}, (*ISRF_ITEMS, "user_reasoning")),
    ("ISRF", {"sequential_alignment": 0.0, "direct_alignment": 0.0}, ISRF_ITEMS),
    ("ISRF", {"sequential_alignment": 0.0, "graph_words": False}, ()),
    ("ISRF", {"item_semantics": False}, (*ISRF_ITEMS, "user_reasoning")),
    ("ISRF", {"sequential_alignment": 0.0, "direct_alignment": 0.0, "item_semantics": False}, ()),
    ("DUIP", {}, ("itemtext",)),
    ("SASRec", {}, ()),
]


@pytest.fixture
def place(shared_tiny: Path) -> Path:
    """A workspace with the small dataset and no features or answers; encoded texts are kept between tests."""
    for path in (*SEMANTICS.glob("loo-*"), *SEMANTICS.glob("responses.*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return shared_tiny


@pytest.mark.parametrize(("model", "changes", "read"), READ)
def test_what_is_read_follows_from_the_switches(model: str, changes: dict[str, Any], read: tuple[str, ...]) -> None:
    settings = layered(model, **changes)
    assert features_read(settings.method, settings.values) == read


@pytest.mark.parametrize(("model", "changes", "read"), [row for row in READ if row[0] in ("LDMI", "EIMF")])
def test_the_model_is_built_from_what_is_read_alone(
    place: Path, model: str, changes: dict[str, Any], read: tuple[str, ...]
) -> None:
    found = prepare(model, **changes).dataset.semantics
    assert set(found.folder.manifest["features"]) == {"itemtext", *read} == set(found.facts()["coverage"])


@pytest.mark.parametrize(
    ("model", "off"),
    [("LDMI", {"align": False, "contrast": "none"}), ("EIMF", {"esim": False})],
)
def test_nobody_is_asked_where_nothing_is_read(place: Path, model: str, off: dict[str, Any]) -> None:
    with StubServer(lambda call: Reply(status=500)) as server:
        prepare(model, llm="vllm", llm_base_url=server.base_url, **off)
    assert server.calls == []


def test_what_a_part_reads_is_made_when_it_is_switched_on(place: Path) -> None:
    with StubServer(by_genre) as server:
        source = {"llm": "vllm", "llm_base_url": server.base_url}
        prepare("LDMI", align=False, **source)
        crowd = len(server.calls)
        prepared = prepare("LDMI", **source)
        assert 0 < crowd < len(server.calls) == len(server.times_asked())
    assert prepared.dataset.semantics.folder.path.name == only_folder().name
    assert set(prepared.dataset.semantics.facts()["coverage"]) == {"itemtext", "interest", "synuser"}


def test_cells_that_read_different_features_are_made_apart(place: Path) -> None:
    whole, part = (features_of(make_run("LDMI", align=align), runner()) for align in (True, False))
    assert whole != part
