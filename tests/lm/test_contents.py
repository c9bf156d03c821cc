"""How local models are identified by their contents."""

from __future__ import annotations

from pathlib import Path

from recbole_llm.lm.contents import contents_of
from recbole_llm.utils.files import file_sha256


def test_a_folder_is_known_by_the_files_of_its_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = contents_of(tmp_path)
    (tmp_path / "README.md").write_text("about")
    assert contents_of(tmp_path) == before
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert contents_of(tmp_path) != before


def test_a_file_is_known_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for contents in (b"one", b"other"):
        path.write_bytes(contents)
        assert contents_of(path) == file_sha256(path)
