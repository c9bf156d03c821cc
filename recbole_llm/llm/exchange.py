"""Answers in and out as JSON lines: publish a paper's answers, take in those made elsewhere.

Two forms are read: our own export (``key``, ``request``, ``answer``, ``created``) and the output of the OpenAI
Batch API (``custom_id``, ``response``). Files come from strangers: a line is taken only if its key is the hash of
its request, or of a request that this cache has put into a batch; the others are counted by reason.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recbole_llm.errors import UserError
from recbole_llm.llm.cache import ChatAnswer, ChatRequest, ResponseCache, request_key
from recbole_llm.llm.client import MOST_TOKENS, chat_body, read_completion
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.utils.files import whole_file

LONGEST_LINE = 8 << 20  # characters; a real answer has thousands
BATCH = "batch"

Count = Annotated[int, Field(ge=0, lt=MOST_TOKENS)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: str
    content: str


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    messages: list[_Message]
    temperature: float | int
    max_tokens: Count
    schema_: dict[str, Any] | None = Field(alias="schema")
    prompt: str


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    content: str = Field(max_length=LONGEST_LINE)
    finish_reason: str = Field(max_length=100)
    tokens_in: Count
    tokens_out: Count
    via: str = Field(default="", max_length=100)


class _Exported(BaseModel):
    model_config = ConfigDict(extra="ignore")

    key: str
    request: dict[str, Any]
    answer: _Answer


@dataclass
class ImportReport:
    """What became of the lines of a file.

    Attributes:
        new: answers that were taken in.
        known: answers that were there already; the first one stays.
        refused: lines that were not taken, by reason.
        tokens_in, tokens_out: of the new answers.
    """

    new: int = 0
    known: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    tokens_in: int = 0
    tokens_out: int = 0

    def add(self, other: ImportReport) -> None:
        """Add what became of another file's lines."""
        self.new += other.new
        self.known += other.known
        self.refused.update(other.refused)
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out

    def __str__(self) -> str:
        refused = "".join(f", {count} refused ({reason})" for reason, count in sorted(self.refused.items()))
        return f"{self.new} answers taken in, {self.known} known before{refused}"


def export_answers(
    cache: ResponseCache, path: Path, model: str | None = None, prompts: Iterable[str] | None = None
) -> int:
    """Write answers as JSON lines in the order of their keys, gzipped where the name ends in ``.gz``.

    The same answers give the same bytes. Where there are none, nothing is written, and an older file stays.

    Args:
        cache: where the answers are.
        path: the file to be.
        model: only those of one model.
        prompts: only those of some prompts (``id@version``).

    Returns:
        The number of answers.
    """
    wanted = None if prompts is None else set(prompts)
    rows = (
        row
        for row in cache.rows()
        if (model is None or row["request"]["model"] == model)
        and (wanted is None or row["request"]["prompt"] in wanted)
    )
    first = next(rows, None)
    if first is None:
        return 0
    count = 0
    with whole_file(path) as raw, _writer(path, raw) as stream:
        for count, row in enumerate(chain([first], rows), start=1):  # noqa: B007 - the last one is their number
            stream.write(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return count


def _writer(path: Path, raw: IO[bytes]) -> AbstractContextManager[Any]:
    """The stream to write to; it leaves ``raw`` open."""
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0)
    return nullcontext(raw)


def import_answers(cache: ResponseCache, path: Path) -> ImportReport:
    """Take in the answers of a file.

    Raises:
        UserError: the file cannot be read, or holds not one usable line.
    """
    report = take_answers(cache, path)
    if not report.new and not report.known:
        raise UserError(f"{path} holds no answers that can be used: {report}.")
    return report


def take_answers(cache: ResponseCache, path: Path) -> ImportReport:
    """Take in the usable lines of a file, which may be none.

    Raises:
        UserError: the file cannot be read.
    """
    report = ImportReport()
    for line in _lines(path):
        try:
            _take(cache, line, report)
        except _Refused as reason:
            report.refused[str(reason)] += 1
        except UnicodeEncodeError:  # half a character, which JSON can name and no key or request of ours holds
            report.refused["not an answer"] += 1
    return report


class _Refused(Exception):  # noqa: N818 - a reason
    """Why a line is not taken."""


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            while line := stream.readline(LONGEST_LINE):
                if line.strip():
                    yield line
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _take(cache: ResponseCache, line: bytes, report: ImportReport) -> None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise _Refused("not JSON") from None
    if not isinstance(value, dict):
        raise _Refused("not an answer")
    if "custom_id" in value:
        key, request, answer = _from_batch(cache, value)
    else:
        key, request, answer = _from_export(value)
    if cache.get(key) is not None:
        report.known += 1
        return
    cache.put(key, request, answer)
    report.new += 1
    report.tokens_in += answer.tokens_in
    report.tokens_out += answer.tokens_out


def _from_export(value: dict[str, Any]) -> tuple[str, dict[str, Any], ChatAnswer]:
    try:
        found = _Exported.model_validate(value)
        _Request.model_validate(found.request)
    except ValidationError:
        raise _Refused("not an answer") from None
    if request_key(found.request) != found.key:
        raise _Refused("the key is not that of the request")
    return found.key, found.request, ChatAnswer(**found.answer.model_dump())


def _from_batch(cache: ResponseCache, value: dict[str, Any]) -> tuple[str, dict[str, Any], ChatAnswer]:
    key, response = value["custom_id"], value.get("response")
    request = cache.pending(key) if isinstance(key, str) else None
    if request is None:
        raise _Refused("not asked for from here")
    if not isinstance(response, dict) or response.get("status_code") != 200:
        raise _Refused("the request failed")
    asked = ChatRequest(request["prompt"], tuple(request["messages"]), request["schema"], request["max_tokens"])
    try:
        answer = read_completion(response.get("body"), asked)
    except ValueError:
        raise _Refused("no chat completion") from None
    return key, request, ChatAnswer(**{**answer.stored(), "via": BATCH})


def write_batch_file(cache: ResponseCache, endpoint: Endpoint, pending: dict[str, ChatRequest], path: Path) -> None:
    """Write requests in the form that the Batch API takes, and remember them, so that the answers are known again."""
    with whole_file(path, "w") as stream:
        for line in batch_lines(endpoint, pending):
            stream.write(line)
    remember(cache, endpoint, pending)


def batch_lines(endpoint: Endpoint, pending: dict[str, ChatRequest]) -> Iterator[str]:
    """A JSON line for each request."""
    for key, request in pending.items():
        body = {**chat_body(endpoint, request), **endpoint.extra}
        line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line, ensure_ascii=False) + "\n"


def remember(cache: ResponseCache, endpoint: Endpoint, pending: dict[str, ChatRequest]) -> None:
    """Keep requests, so that their answers are taken when they come."""
    cache.put_pending((key, request.body(endpoint.model, endpoint.temperature)) for key, request in pending.items())
