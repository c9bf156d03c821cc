"""Every parser of external files and answers either reads an arbitrary input or refuses it as a user error.

Inputs are corrupted copies of good files, and arbitrary bytes, of at most ``LARGEST`` bytes; a parser that is far too
slow for such sizes would show here. ``python -m benchmarks.answers`` times the reading of answers.
"""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from recbole_llm.data.atomic import read_columns, read_table
from recbole_llm.errors import UserError
from recbole_llm.evaluation.ranks import Ranks
from recbole_llm.experiments.store import ResultStore
from recbole_llm.features.folder import SemanticFolder
from recbole_llm.features.items import read_profiles
from recbole_llm.features.vectors import read_vectors
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer
from recbole_llm.llm.completion import error_words, read_completion
from recbole_llm.llm.exchange import take_answers
from recbole_llm.llm.wire import Response, WireFault, _unpacked
from recbole_llm.methods.baselines.lists import read_lists
from recbole_llm.training import checkpoint
from recbole_llm.tuning.history import Header, read_history
from recbole_llm.utils.yaml import read_yaml
from tests.llm.chat import asked
from tests.llm.fault_server import completion

LARGEST = 20_000
FUZZED = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIGNS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"\t",
    b"\n",
    b"\r",
    b"\\",
    b"\x00",
    b"\xff",
    b"1e999",
    b"-",
    b"&a *a",
]
HEADER = Header(study="s", metric="NDCG@10", budget={}, space={})


@st.composite
def spoilt(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file with some bytes removed, repeated or inserted; sometimes arbitrary bytes instead."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=300) | st.sampled_from([sign * (LARGEST // len(sign)) for sign in SIGNS]))
    data = good
    for _ in range(draw(st.integers(1, 4))):
        place, other = draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))
        part = draw(st.sampled_from(SIGNS) | st.binary(max_size=8))
        data = draw(st.sampled_from([data[:place], data[:place] + data[other:], data[:place] + part + data[place:]]))
    return data[:LARGEST]


ATOMIC = b"user_id:token\titem_id:token\ttime:float\tgenres:token_seq\nu1\ti1\t1.5\ta b\nu2\ti2\t2\tc\n"
YAML = b"epochs: 3\ntopk: [5, 10]\nabout: {files: [a, b]}\nlr: 1e-3\nday: 2024-01-02\n"
LISTS = b"user_id\titem_id\trank\nu1\ti1\t1\nu1\ti2\t2\n"
PROFILES = b'{"title": "Heat (1995)", "text": "A thief."}\n{"title": "Alien", "year": 1979, "text": "A ship."}\n'
STUDY = (
    HEADER.model_dump_json().encode() + b'\n{"number": 0, "state": "COMPLETE", "value": 0.5, "params": {"a": 1}}\n'
    b'{"number": 1, "state": "FAIL", "error": "no"}\n'
)
RECORD = json.dumps(
    {
        **{"schema_version": 3, "key": "0" * 16, "model": "Pop", "dataset": "d", "protocol": "loo", "seed": 1},
        **{"semantics": "none", "engine": "fast", "created": "", "metrics": {"ndcg@10": {"value": 0.5}}},
    }
).encode()
MANIFEST = json.dumps(
    {
        "format": 1,
        "identity": {},
        "features": {},
        "files": {"text": {"name": "d.text", "rows": 1, "bytes": 3, "sha256": "0"}},
    }
).encode()
BATCH = json.dumps(
    {"custom_id": "0" * 64, "response": {"status_code": 200, "body": json.loads(completion())}, "error": None}
).encode()


def _npy(folder: Path, data: bytes) -> None:
    (folder / "a.ids").write_text("item_id\ni1\ni2\n")
    (folder / "a.npy").write_bytes(data)
    read_vectors(folder / "a.npy")


def _file(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], None]:
    def parse(folder: Path, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        read(path)

    return parse


def _take(path: Path) -> None:
    with ResponseCache(path.with_name("c.sqlite")) as cache:
        take_answers(cache, path)


def _good_npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones((2, 3), dtype=np.float32))
    return stream.getvalue()


PARSERS: dict[str, tuple[bytes, Callable[[Path, bytes], None]]] = {
    "atomic table": (ATOMIC, _file("a.inter", read_table)),
    "atomic columns": (ATOMIC, _file("a.inter", lambda path: read_columns(path, ["user_id", "time"]))),
    "gzipped table": (ATOMIC, _file("a.inter.gz", read_table)),
    "settings": (YAML, _file("a.yaml", read_yaml)),
    "record": (RECORD, _file("r/d/loo/a-0000000000000000.json", lambda path: [*ResultStore(path.parents[2])])),
    "lists": (LISTS, _file("a.tsv", read_lists)),
    "profiles": (PROFILES, _file("p.jsonl", lambda path: read_profiles(path, ["", "Heat (1995)"], ["", "1"]))),
    "study": (STUDY, _file("s.jsonl", lambda path: read_history(path, HEADER))),
    "batch file": (BATCH, _file("b.jsonl", _take)),
    "vectors (npy)": (_good_npy(), _npy),
    "vectors (safetensors)": (
        save({"vectors": np.ones((2, 3), dtype=np.float32)}, {"item_id": '["i1", "i2"]'}),
        _file("a.safetensors", read_vectors),
    ),
    "ranks": (_good_npy(), _file("a.ranks.npz", Ranks.load)),
    "checkpoint": (_good_npy(), _file("a.pt", checkpoint.load)),
    "manifest": (MANIFEST, _file("f/manifest.json", lambda path: SemanticFolder(path.parent, "d", {}))),
}


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
@FUZZED
def test_a_spoilt_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, name: str, data: Any) -> None:
    good, parse = PARSERS[name]
    with suppress(UserError):
        parse(tmp_path_factory.mktemp("fuzz"), data.draw(spoilt(good)))


@given(spoilt(completion('{"intents": ["a"]}')), st.sampled_from(["", "gzip", "deflate", "br", "\x00"]))
@FUZZED
def test_a_spoilt_response_is_a_fault_or_an_answer(body: bytes, encoding: str) -> None:
    with suppress(WireFault, ValueError):
        _unpacked(body, encoding)
    response = Response(200, {}, body)
    assert isinstance(error_words(response), str)
    with suppress(ValueError):
        assert isinstance(read_completion(response.json(), asked("q")), ChatAnswer)


@given(data=st.data())
@FUZZED
def test_a_spoilt_row_of_the_cache_is_asked_for_again(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.mktemp("cache") / "c.sqlite"
    request = asked("q")
    with ResponseCache(path) as cache:
        cache.put(request, ChatAnswer("fine", "stop", 1, 1))
        connection = sqlite3.connect(path)
        ((body,),) = connection.execute("SELECT body FROM kept")
        with connection:
            connection.execute("UPDATE kept SET body = ?", (data.draw(spoilt(body)),))
        connection.close()
        found = cache.get(request.key)
        assert found is None or isinstance(found, ChatAnswer)
        assert len([*cache.rows()]) <= 1
