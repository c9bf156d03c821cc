"""Vector files: which runs read them, and what is reported if none does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_llm.errors import UserError
from recbole_llm.experiments.grid import expand
from recbole_llm.experiments.vector_files import readers
from recbole_llm.features.vectors import GivenVectors
from recbole_llm.registry import methods, recbole_methods
from recbole_llm.settings.rules import vectors_read
from recbole_llm.settings.schema import ITEM, USER
from recbole_llm.utils.progress import Stopwatch
from tests.features.test_vectors import as_npy, matrix_of
from tests.helpers import Cli, make_run, runner

ROOT = Path(__file__).parents[2]
ROWS = (*methods().values(), *recbole_methods().values())
LDMI_OFF = {"align": False, "contrast": "none"}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((row.name, {}) for row in ROWS if row.features and not row.is_external and row.name != "ISRFDirect"),
    ("LLMESR", {"distillation_weight": 0.0}),
    ("ISRF", {"item_semantics": False}),
    ("ISRF", {"sequential_alignment": 0.0, "direct_alignment": 0.0}),
    ("LDMI", LDMI_OFF),
    ("EIMF", {"esim": False}),
    ("LLMDMsRec", {"init": "vectors"}),
]


@pytest.fixture
def files(tiny: Path) -> list[str]:
    """Vectors of the items and of the users of the small dataset."""
    as_npy(Path("items.npy"), matrix_of())
    as_npy(Path("users.npy"), matrix_of(80, 5), [f"u{number}" for number in range(80)], USER)
    return ["items.npy", "users.npy"]


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Keys (items or users) of the vectors that a run has read, not counting the reads for the record's facts."""
    found: set[str] = set()
    real = GivenVectors.aligned

    def aligned(self: GivenVectors, tokens: Any) -> Any:
        found.add(self.key)
        return real(self, tokens)

    monkeypatch.setattr(GivenVectors, "aligned", aligned)
    monkeypatch.setattr(
        GivenVectors, "facts", lambda self, tokens: {"name": self.name, "of": self.key, "known": 1, "missing": 0}
    )
    return found


@pytest.mark.parametrize(("model", "changes"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_model_says_that_it_reads_is_what_it_takes(
    files: list[str], touched: set[str], model: str, changes: dict[str, Any]
) -> None:
    small = {"use_lm": False} if model == "DUIP" else {}
    run = make_run(model, epochs=1, vectors=files, **small, **changes)
    said = vectors_read(run.settings.method, run.settings.values)
    assert [path.removesuffix(".npy") for path in run.settings.get("vectors") or []] == [
        name for key, name in ((ITEM, "items"), (USER, "users")) if key in said
    ]
    run.settings = run.settings.replaced(vectors=files)
    runner().prepare(run, Stopwatch())
    assert touched == said


@pytest.mark.parametrize(
    ("model", "place", "key"), [("LLMDMsRec", 0, ITEM), ("SASRecText,UniSRec", 1, USER), ("SASRec", 0, ITEM)]
)
def test_a_file_that_nothing_reads_is_refused(
    files: list[str], cli: Cli, capsys: pytest.CaptureFixture[str], model: str, place: int, key: str
) -> None:
    assert cli("run", f"--model={model}", "--dataset=tiny", f"--vectors={files[place]}", "--semantics=offline") == 2
    said = capsys.readouterr().err
    names = model.replace(",", ", ")
    assert f"--vectors={files[place]} has one row a {key}, and nothing here reads such vectors ({names})" in said
    assert f"those of users by {', '.join(readers(USER))}." in said


@pytest.mark.parametrize("model", ["EIMF", "LDMI"])
def test_the_llm_s_own_interests_read_no_vectors(files: list[str], model: str) -> None:
    with pytest.raises(UserError, match="nothing here reads such vectors"):
        expand(model, "tiny", overrides={"vectors": files[:1], "llm": "ollama"})
    (run,) = expand(model, "tiny", overrides={"vectors": files[:1], "llm": "ollama", "fill": "offline"})
    assert run.settings["vectors"] == files[:1]


def test_in_a_grid_each_model_takes_what_it_reads(files: list[str]) -> None:
    alone, text, esr = expand("SASRec,SASRecText,LLMESR", "tiny", overrides={"vectors": files})
    assert [run.settings["vectors"] for run in (alone, text, esr)] == [None, files[:1], files]
    assert [text.key] == [run.key for run in expand("SASRecText", "tiny", overrides={"vectors": files[:1]})]


def test_a_run_without_semantics_may_name_what_it_leaves_out(files: list[str]) -> None:
    (run,) = expand("SASRecText", "tiny", semantics="none", overrides={"vectors": files[:1]})
    assert run.settings["vectors"] is None


def test_the_model_below_another_may_read_them(files: list[str]) -> None:
    (run,) = expand("LLMDMsRec", "tiny", overrides={"vectors": files[:1], "SRGNN.init": "vectors"})
    assert run.settings["vectors"] == files[:1]


def _named(page: str, title: str) -> Iterator[str]:
    """Models in the first column of the page's table whose last header cell is ``title``."""
    table = page.partition(f"| {title} |\n")[2].partition("\n\n")[0]
    for line in table.splitlines()[1:]:
        yield from re.findall(r"`(\w+)`", line.split("|")[1])


@pytest.mark.parametrize(("key", "title"), [(ITEM, "use of vectors of items"), (USER, "use of vectors of users")])
def test_the_page_names_all_that_read_them(key: str, title: str) -> None:
    page = (ROOT / "docs/howto/vectors.md").read_text(encoding="utf-8")
    assert sorted(_named(page, title)) == sorted(readers(key))
