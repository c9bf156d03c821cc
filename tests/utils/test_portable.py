"""Values stripped of machine-specific paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.utils.portable import portable


def test_a_path_below_the_working_folder_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert portable({"folder": [str(tmp_path / "dataset" / "x")]}) == {"folder": ["dataset/x"]}
    assert (
        portable(f"cannot read {tmp_path}/dataset/x.inter: no such file") == "cannot read dataset/x.inter: no such file"
    )


@pytest.mark.parametrize("path", ["/home/someone/models/minilm", "~/models/minilm", r"C:\Users\someone\minilm"])
def test_a_path_elsewhere_keeps_its_name_alone(path: str) -> None:
    found = portable(path)
    assert found.startswith("…/")
    assert found.endswith("/minilm")
    assert "someone" not in found
    assert "models" not in found
    assert found == portable(path)


_PIECES = [*"/~\\\n (@:.-…aé", "C:\\", "//", "/home/me", "http://host", str(Path.cwd())]


@pytest.mark.parametrize("text", ["/models/e", "cannot read /a/b/c.inter, nor ~/files/e or C:\\me\\e"])
def test_a_path_elsewhere_is_named_once(text: str) -> None:
    assert "…/" in portable(text)
    assert "me" not in portable(f"loading…{text}…/home/me/e")
    assert portable(portable(text)) == portable(text)


@given(st.text() | st.lists(st.sampled_from(_PIECES), max_size=12).map("".join))
def test_what_is_portable_stays(text: str) -> None:
    assert portable(portable(text)) == portable(text)


def test_two_paths_of_one_name_stay_two() -> None:
    assert portable("/a/minilm") != portable("/b/minilm")


@pytest.mark.parametrize(
    "text",
    [
        "https://host/v1/models",
        "dataset/ml-100k",
        "4 / 5",
        "and/or",
        "/",
        "AMD EPYC",
        3,
        None,
        "a/b/c",
        "org/model-1.5",
    ],
)
def test_what_is_no_absolute_path_stays(text: object) -> None:
    assert portable(text) == text
