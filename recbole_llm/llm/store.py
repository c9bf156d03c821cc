"""Stores of published answers: a folder, or a static address, that anyone can fill and take answers from.

``index.json`` lists the files of a store: one for each prompt and model, in the format of an export (``key``,
``request``, ``answer``, ``created``) plus ``price`` and ``licence``. File names contain the file's hash. Tables that
answers depend on, and questions that wait for answers, may be stored beside them. A store is untrusted: nothing in it
is executed, sizes are bounded by what the index states, and an answer counts only if its file has the stated hash and
its key is the hash of its request.

So the key fixes what was asked and the file's hash what was answered: no byte of an answer can change without a change
of the index. A hash for each answer would add nothing, since whoever can write the index can write that too.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recbole_llm.errors import UserError
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatAnswer, ChatRequest
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.llm.exchange import Refused, answer_lines, lines_of, parse_exported, writer
from recbole_llm.utils.files import file_sha256, one_process_at_a_time, whole_file
from recbole_llm.utils.text import complaint
from recbole_llm.utils.yaml import where_published

INDEX = "index.json"
LARGEST_INDEX = 4 << 20  # bytes
LARGEST_FILE = 4 << 30
DIGITS = 12  # digits of a file's hash in its name

_PART = "[A-Za-z0-9][A-Za-z0-9_.@+-]{0,200}"  # begins with a letter or digit, so it is never ``..``
Name = Annotated[str, Field(pattern=f"^({_PART}/)?{_PART}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Words = Annotated[str, Field(max_length=2000)]
Fetch = Callable[["StoreFile"], Path]


class StoreFile(BaseModel):
    """A file of a store, as its index has it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Name
    bytes: int = Field(ge=0, le=LARGEST_FILE)
    sha256: Digest


class AnswerFile(StoreFile):
    """Answers of one model to one prompt."""

    prompt: Words = Field(description="`id@version` of the prompt")
    model: Words
    answers: int = Field(ge=1, le=100_000_000)
    price: float | None = Field(default=None, ge=0, description="US dollars for all of them; null where not known")
    dates: tuple[Words, Words] = Field(description="of the first and the last answer")
    licence: Words


class TableFile(StoreFile):
    """A table that answers depend on: candidates of a model trained elsewhere."""

    name: Annotated[str, Field(pattern=rf"^({_PART}/)?{_PART}\.candidates\.gz$")]
    table: Literal["candidates"]
    dataset: Words


class QuestionFile(StoreFile):
    """Questions of one prompt that wait for answers, in the format of the Batch API."""

    prompt: Words
    model: Words
    questions: int = Field(ge=1, le=100_000_000)
    table: Name | None = Field(default=None, description="the table that they stand on")


class StoreIndex(BaseModel):
    """What a store holds."""

    model_config = ConfigDict(extra="ignore")

    format: Literal[1] = 1
    about: Words = ""
    files: list[AnswerFile] = Field(default_factory=list, max_length=10_000)
    tables: list[TableFile] = Field(default_factory=list, max_length=10_000)
    pending: list[QuestionFile] = Field(default_factory=list, max_length=10_000)


@dataclass
class AnswerStore:
    """A store that was opened.

    Args:
        address: its folder or address, for messages.
        index: what it contains.
        fetch: brings one of its files here and returns the path; the file is checked afterwards.
    """

    address: str
    index: StoreIndex
    fetch: Fetch

    @classmethod
    def opened(cls, address: str, index: Path, fetch: Fetch) -> AnswerStore:
        """Open a store by its index.

        Raises:
            UserError: the index does not exist, cannot be read or is invalid.
        """
        try:
            if index.stat().st_size > LARGEST_INDEX:
                raise ValueError(f"it has more than {LARGEST_INDEX >> 20} MiB")
            found = StoreIndex.model_validate_json(index.read_bytes())
            files = Counter((entry.prompt, entry.model) for entry in found.files)
            for (prompt, model), count in files.items():
                if count > 1:  # which of them came first would decide an answer
                    raise ValueError(f"{count} files have answers of {model} to {prompt}")
            return cls(address, found, fetch)
        except FileNotFoundError:
            raise UserError(f"{address} is no store of answers: it has no {INDEX}.{where_published(address)}") from None
        except OSError as error:
            raise UserError(f"{address}/{INDEX} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise UserError(f"{address}/{INDEX} is not the index of a store ({complaint(error)}).") from None

    @classmethod
    def in_folder(cls, folder: Path) -> AnswerStore:
        """Open a store that lies in a folder.

        Raises:
            UserError: as :meth:`opened`.
        """
        return cls.opened(str(folder), folder / INDEX, lambda entry: folder / entry.name)

    def file(self, entry: StoreFile) -> Path:
        """A file of the store, with the stated size and hash.

        Raises:
            UserError: it is gone, or has another size or hash.
        """
        path = self.fetch(entry)
        if not path.is_file():
            raise UserError(f"{self.address}/{entry.name} is gone, though {INDEX} lists it.")
        if path.stat().st_size != entry.bytes or file_sha256(path) != entry.sha256:
            raise UserError(
                f"{self.address}/{entry.name} is not the file that {INDEX} describes (SHA-256); nothing of it was "
                "taken. Get the store again, or tell those who publish it."
            )
        return path

    def answers(self, entry: AnswerFile) -> Iterator[tuple[ChatRequest, ChatAnswer, float]]:
        """Questions and answers in a file with the time each answer arrived (seconds since 1970), all checked.

        Raises:
            UserError: a line is not a question with its answer, or the file differs from the index.
        """
        count, keys = 0, set[str]()
        for line in lines_of(self.file(entry)):
            count += 1
            try:
                if count > entry.answers:
                    raise Refused("more answers than stated")
                value = json.loads(line)
                request, answer, moment = parse_exported(value)
                if (request.prompt, request.model) != (entry.prompt, entry.model):
                    raise Refused("of another prompt or model than stated")
                if moment is None:
                    raise Refused("no time of arrival")
                if request.key in keys:
                    raise Refused("its question has an answer in an earlier line")
                keys.add(request.key)
            except (Refused, ValueError, RecursionError) as error:
                reason = str(error) if isinstance(error, Refused) else "not an answer"
                raise UserError(
                    f"{self.address}/{entry.name}, line {count}: {reason}. Nothing of this file was taken."
                ) from None
            yield request, answer, moment
        if count != entry.answers:
            raise UserError(
                f"{self.address}/{entry.name} holds {count:,} answers, not {entry.answers:,} as {INDEX} says."
            )

    def verify(self) -> int:
        """Check every file, line by line; returns the number of answers.

        Raises:
            UserError: something differs from the index.
        """
        for table in self.index.tables:
            self.file(table)
        for questions in self.index.pending:
            self._check_questions(questions)
        return sum(sum(1 for _ in self.answers(entry)) for entry in self.index.files)

    def _check_questions(self, entry: QuestionFile) -> None:
        """Raise a ``UserError`` if a file has other questions than the index states."""
        keys = set()
        for number, line in enumerate(lines_of(self.file(entry)), start=1):
            try:
                value = json.loads(line)
                key, model = value["custom_id"], value["body"]["model"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise UserError(f"{self.address}/{entry.name}, line {number}: not a question.") from None
            if not (isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key)) or model != entry.model:
                raise UserError(f"{self.address}/{entry.name}, line {number}: not a question to {entry.model}.")
            keys.add(key)
        if len(keys) != entry.questions:
            raise UserError(
                f"{self.address}/{entry.name} holds {len(keys):,} questions, not {entry.questions:,} as {INDEX} says."
            )
        if entry.table is not None and entry.table not in {table.name for table in self.index.tables}:
            raise UserError(f"{self.address}/{entry.name} stands on {entry.table}, which {INDEX} does not list.")

    def take(self, cache: ResponseCache, model: str, prompts: Collection[str]) -> int:
        """Put the answers of a model to some prompts into a cache; returns their number.

        Raises:
            UserError: a file differs from the index; the answers of the files before it are kept.
        """
        count = 0
        for entry in self.index.files:
            if entry.model == model and entry.prompt in prompts:
                with cache.at_one_go():
                    for request, answer, moment in self.answers(entry):
                        cache.put(request, answer, moment)
                        count += 1
        return count


def publish(
    cache: ResponseCache, folder: Path, endpoint: Endpoint, prompts: Iterable[str], licence: str
) -> list[AnswerFile]:
    """Write the answers of a cache into the folder of a store, one file for each prompt.

    Files of other prompts and models stay; the same answers give the same bytes.

    Args:
        cache: where the answers are.
        folder: the store's folder, created if it is missing.
        endpoint: the endpoint whose model's answers are written, with its prices.
        prompts: ``id@version`` of the prompts whose answers are written.
        licence: licence under which the answers may be used.

    Returns:
        The files that were written; none if there are no answers.
    """
    answered = [prompt for prompt in sorted(set(prompts)) if any(True for _ in cache.rows(prompt, endpoint.model))]
    if not answered:
        return []
    with _only_writer(folder):
        index = AnswerStore.in_folder(folder).index if (folder / INDEX).is_file() else StoreIndex()
        written = [
            _write(folder, endpoint, prompt, list(cache.rows(prompt, endpoint.model)), licence) for prompt in answered
        ]
        old = [entry for entry in index.files if entry.model == endpoint.model and entry.prompt in answered]
        kept = [entry for entry in index.files if entry not in old]
        index.files = sorted([*kept, *written], key=lambda entry: (entry.model, entry.prompt))
        write_index(folder, index)
        for name in {entry.name for entry in old} - {entry.name for entry in index.files}:
            (folder / name).unlink(missing_ok=True)
    return written


def packed_table(path: Path) -> bytes:
    """A table of candidates, gzipped; the same table gives the same bytes."""
    data = path.read_bytes()
    return data if path.suffix == ".gz" else gzip.compress(data, mtime=0)


def table_name(stem: str, packed: bytes) -> str:
    """The name of a gzipped table of candidates, which contains the table's hash."""
    return f"{stem}.{hashlib.sha256(packed).hexdigest()[:DIGITS]}.candidates.gz"


def publish_table(packed: bytes, folder: Path, dataset: str) -> TableFile:
    """Put a gzipped table of candidates that answers depend on into the folder of a store, named by its hash."""
    entry = TableFile(
        name=table_name(dataset, packed),
        bytes=len(packed),
        sha256=hashlib.sha256(packed).hexdigest(),
        table="candidates",
        dataset=dataset,
    )
    with _only_writer(folder):
        with whole_file(folder / entry.name) as stream:
            stream.write(packed)
        index = AnswerStore.in_folder(folder).index
        index.tables = sorted({*index.tables, entry}, key=lambda each: each.name)
        write_index(folder, index)
    return entry


def _only_writer(folder: Path) -> AbstractContextManager[None]:
    """A block in which no other process changes a store's index, which would lose one of the two changes."""
    return one_process_at_a_time(folder, f"the store {folder}")


def write_index(folder: Path, index: StoreIndex) -> None:
    """Write the index of a store."""
    with whole_file(folder / INDEX, "w") as stream:
        stream.write(json.dumps(index.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")


def _write(folder: Path, endpoint: Endpoint, prompt: str, rows: list[dict[str, Any]], licence: str) -> AnswerFile:
    total = 0.0
    for row in rows:
        price = endpoint.price_of(ChatAnswer.parse(row["answer"])) if _is_priced(endpoint) else None
        total += price or 0.0
        row |= {"price": None if price is None else round(price, 8), "licence": licence}
    stem = "".join(sign if sign.isalnum() or sign in "_.@-" else "-" for sign in f"{endpoint.model}.{prompt}")
    with whole_file(folder / f"{stem}.jsonl.xz") as raw, writer(Path("x.xz"), raw) as stream:
        stream.writelines(answer_lines(rows))
    path = folder / f"{stem}.jsonl.xz"
    digest = file_sha256(path)
    named = path.replace(folder / f"{stem}.{digest[:DIGITS]}.jsonl.xz")
    dates = sorted(str(row["created"])[:10] for row in rows)
    return AnswerFile(
        name=named.name,
        bytes=named.stat().st_size,
        sha256=digest,
        prompt=prompt,
        model=endpoint.model,
        answers=len(rows),
        price=round(total, 6) if _is_priced(endpoint) else None,
        dates=(dates[0], dates[-1]),
        licence=licence,
    )


def _is_priced(endpoint: Endpoint) -> bool:
    """Whether the cost of the answers is known."""
    return endpoint.priced and not endpoint.published
