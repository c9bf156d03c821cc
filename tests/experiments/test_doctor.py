"""``doctor``: checks of the machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from recbole_llm.experiments import doctor
from recbole_llm.experiments.doctor import examine
from recbole_llm.features import encoder as encode
from recbole_llm.features.encoder import minilm_folder


def texts(folder: Path) -> str:
    return "\n".join(finding.text for finding in examine(folder / "dataset", folder / "results"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the import of the libraries in a process of its own, which takes seconds."""
    monkeypatch.setattr(doctor, "_libraries", list)


def test_a_sound_machine_has_no_fatal_finding(tiny: Path, workspace: Path) -> None:
    findings = examine(Path("dataset"), Path("results"))
    assert not [finding.text for finding in findings if finding.fatal and not finding.good]


def test_it_names_python_packages_datasets_and_folders(tiny: Path, workspace: Path) -> None:
    found = texts(workspace)
    for part in ("Python 3.", "recbole 1.2", "RecBole loads", "threads on", "datasets: ", "tiny", "is writable"):
        assert part in found


def test_it_makes_no_folder(workspace: Path) -> None:
    texts(workspace)
    assert list(workspace.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_keys_are_named_and_never_shown(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    found = texts(workspace)
    assert "--llm=gpt-4o-mini, openai: OPENAI_API_KEY is set" in found
    assert "0123456789abcdef" not in found


@pytest.mark.usefixtures("quick")
def test_a_missing_key_is_a_note(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (finding,) = [f for f in examine(Path("dataset"), Path("results")) if ": OPENAI_API_KEY" in f.text]
    assert not finding.good
    assert not finding.fatal


@pytest.mark.usefixtures("quick")
def test_a_missing_encoder_is_a_note_that_says_what_to_install(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "MINILM_PACKAGE", "no_such_wheel")
    minilm_folder.cache_clear()
    (finding,) = [f for f in examine(Path("dataset"), Path("results")) if "encoder" in f.text]
    minilm_folder.cache_clear()
    assert not finding.good
    assert not finding.fatal
    assert "recbole-llm[offline]" in finding.text


def test_libraries_that_take_too_long_are_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: ``doctor`` ended in a traceback, without its other findings."""
    monkeypatch.setattr(doctor, "PATIENCE", 0.01)
    (finding,) = doctor._libraries()
    assert (finding.good, finding.fatal) == (False, True)
    assert finding.text == "RecBole and torch cannot be used: not imported after 0.01 seconds"


def test_a_python_that_is_too_old_is_fatal(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    assert any(finding.fatal and not finding.good for finding in doctor._python())


@pytest.mark.usefixtures("quick")
def test_a_file_in_the_place_of_a_folder_is_fatal(workspace: Path) -> None:
    (workspace / "results").write_text("")
    (finding,) = [f for f in examine(workspace / "dataset", workspace / "results") if "not writable" in f.text]
    assert finding.fatal


@pytest.mark.usefixtures("quick")
def test_a_folder_that_cannot_be_written_is_fatal(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != workspace)  # root may write everywhere
    (finding,) = [f for f in examine(workspace / "deep" / "dataset", Path("/")) if "not writable" in f.text]
    assert finding.fatal
    assert f"{workspace}/deep/dataset/" in finding.text
