"""Export and import answers as JSON lines: publish a paper's answers, use those made elsewhere.

Two formats are read: our own export (``key``, ``request``, ``answer``, ``created``) and the output of the OpenAI
Batch API (``custom_id``, ``response``). Files are untrusted: a line is imported only if its key is the hash of its
request, or of a request that this cache has put into a batch; the others are counted by reason.
"""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from recbole_llm.errors import UserError
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer, ChatRequest
from recbole_llm.llm.completion import Dialect, read_completion, spoilt_answer, words_in
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.llm.unpacking import XzFile
from recbole_llm.utils.files import whole_file
from recbole_llm.utils.text import counted

LONGEST_LINE = 8 << 20  # bytes; a real answer has thousands
BATCH = "batch"


@dataclass
class ImportReport:
    """What became of the lines of a file.

    Attributes:
        new: answers that were imported.
        known: answers to questions that the cache had answers to already; those stay.
        differ: of these, answers with another text than the one that stays.
        refused: lines that were not imported, by reason.
        spoilt: of these, responses that were billed and cannot be read.
        price: US dollars for the new answers and the spoilt ones.
        words: the server's message about the first request that failed.
    """

    new: int = 0
    known: int = 0
    differ: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    spoilt: int = 0
    price: float = 0.0
    words: str = ""

    def add(self, other: ImportReport) -> None:
        """Add what became of another file's lines."""
        self.new += other.new
        self.known += other.known
        self.differ += other.differ
        self.refused.update(other.refused)
        self.spoilt += other.spoilt
        self.price += other.price
        self.words = self.words or other.words

    def __str__(self) -> str:
        refused = "".join(f", {count} refused ({reason})" for reason, count in sorted(self.refused.items()))
        spoilt = f", {self.spoilt} of them billed all the same" if self.spoilt else ""
        words = f"; the first failure says: {self.words}" if self.words else ""
        differ = f" ({self.differ} of them with another text, which is not taken)" if self.differ else ""
        return f"{counted(self.new, 'answer')} imported, {self.known} known before{differ}{refused}{spoilt}{words}"


def export_answers(
    cache: ResponseCache, path: Path, model: str | None = None, prompts: Iterable[str] | None = None
) -> int:
    """Write answers as JSON lines in the order of their keys, compressed if the name ends in ``.gz`` or ``.xz``.

    The same answers give the same bytes. If there are none, nothing is written, and an older file stays.

    Args:
        cache: where the answers are.
        path: the file to write.
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
    with whole_file(path) as raw, writer(path, raw) as stream:
        for count, line in enumerate(answer_lines(chain([first], rows)), start=1):  # noqa: B007 - the last is their number
            stream.write(line)
    return count


def answer_lines(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """A JSON line for each answer; the same answer gives the same bytes."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def writer(path: Path, raw: IO[bytes]) -> AbstractContextManager[Any]:
    """A stream that writes to ``raw``, compressed as the file's name says, and leaves ``raw`` open."""
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0)
    if path.suffix == ".xz":  # looks further back than gzip, past the opening that all prompts share
        return lzma.LZMAFile(raw, mode="wb", preset=6)
    return nullcontext(raw)


def import_answers(cache: ResponseCache, path: Path) -> ImportReport:
    """Import the answers in a file.

    Raises:
        UserError: the file cannot be read, or has no usable line.
    """
    report = take_answers(cache, path)
    if not report.new and not report.known:
        raise UserError(f"{path} holds no answers that can be used: {report}.")
    return report


def take_answers(cache: ResponseCache, path: Path, endpoint: Endpoint | None = None) -> ImportReport:
    """Import the usable lines of a file, of which there may be none.

    Args:
        cache: where they are kept.
        path: the file.
        endpoint: the endpoint whose prices count; without one the lines cost nothing.

    Raises:
        UserError: the file cannot be read.
    """
    report = ImportReport()
    for line in lines_of(path):
        try:
            _take(cache, line, report, endpoint)
        except Refused as reason:
            report.refused[str(reason)] += 1
            report.words = report.words or reason.words
            if reason.spoilt is not None:
                report.spoilt += 1
                report.price += endpoint.price_of(reason.spoilt) if endpoint else 0.0
        except UnicodeEncodeError:  # a lone surrogate, which JSON can express and no key of ours contains
            report.refused["not an answer"] += 1
    return report


class Refused(Exception):  # noqa: N818 - a reason
    """Why a line is not imported.

    Args:
        reason: name under which it is counted.
        words: the server's message.
        spoilt: the tokens of a response that was billed all the same.
    """

    def __init__(self, reason: str, words: str = "", spoilt: ChatAnswer | None = None) -> None:
        super().__init__(reason)
        self.words, self.spoilt = words, spoilt


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file that are not blank; lines longer than ``LONGEST_LINE`` come in pieces.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with _reader(path) as stream:
            while line := stream.readline(LONGEST_LINE):
                if line.strip():
                    yield line
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _reader(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return XzFile.opened(path) if path.suffix == ".xz" else path.open("rb")


def _take(cache: ResponseCache, line: bytes, report: ImportReport, endpoint: Endpoint | None) -> None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise Refused("not JSON") from None
    if not isinstance(value, dict):
        raise Refused("not an answer")
    secrets = endpoint.secrets if endpoint else ()
    request, answer, moment = _from_batch(cache, value, secrets) if "custom_id" in value else parse_exported(value)
    if (kept := cache.get(request.key)) is not None:
        report.known += 1
        report.differ += kept.content != answer.content
        return
    cache.put(request, answer, moment)
    report.new += 1
    report.price += endpoint.price_of(answer) if endpoint else 0.0


def parse_exported(value: Any) -> tuple[ChatRequest, ChatAnswer, float | None]:
    """The question and answer in a line of an export, and when the answer arrived.

    The time is in seconds since 1970, ``None`` if the line has none that can be read.

    Raises:
        Refused: it is not such a line, or its key is not the hash of its request.
    """
    if not isinstance(value, dict):
        raise Refused("not an answer")
    try:
        request, answer = ChatRequest.parse(value.get("request")), ChatAnswer.parse(value.get("answer"))
        key = request.key
    except ValueError:  # also UnicodeEncodeError: a lone surrogate, which no request of ours contains
        raise Refused("not an answer") from None
    if key != value.get("key"):
        raise Refused("the key is not that of the request")
    return request, answer, _moment(value.get("created"))


def _moment(created: Any) -> float | None:
    try:
        moment = datetime.fromisoformat(created).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment.timestamp()


def _from_batch(
    cache: ResponseCache, value: dict[str, Any], secrets: Collection[str]
) -> tuple[ChatRequest, ChatAnswer, None]:
    key, response = value["custom_id"], value.get("response")
    request = cache.pending(key) if isinstance(key, str) else None
    if request is None:
        raise Refused("not asked for from here")
    if not isinstance(response, dict) or response.get("status_code") != 200:
        said = value.get("error") or (response.get("body") if isinstance(response, dict) else None)
        raise Refused("the request failed", words_in(said, secrets) if said else "")
    try:
        answer = read_completion(response.get("body"), request)
    except ValueError:
        spoilt = spoilt_answer(response.get("body"), request)
        raise Refused("no chat completion", spoilt=spoilt and replace(spoilt, via=BATCH)) from None
    return request, replace(answer, via=BATCH), None


def write_batch_file(cache: ResponseCache, endpoint: Endpoint, pending: Collection[ChatRequest], path: Path) -> None:
    """Write requests in the format of the Batch API, and remember them, so that their answers can be imported.

    The file is compressed if its name ends in ``.gz`` or ``.xz``.
    """
    with whole_file(path) as raw, writer(path, raw) as stream:
        for line in batch_lines(endpoint, pending):
            stream.write(line.encode())
    cache.put_pending(pending)


def batch_lines(endpoint: Endpoint, pending: Iterable[ChatRequest], dialect: Dialect | None = None) -> Iterator[str]:
    """A JSON line for each request, as the endpoint takes it."""
    dialect = dialect or Dialect()
    for request in pending:
        body = dialect.body(endpoint, request)
        line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line, ensure_ascii=False) + "\n"
