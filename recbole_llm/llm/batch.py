"""The Batch API: half the price for answers within a day.

Each batch is recorded before and after it is submitted, and carries a mark of ours at the server. So a run that was
killed at any moment goes on waiting for its batches instead of paying for them again.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from recbole_llm.errors import UserError
from recbole_llm.llm.address import redact
from recbole_llm.llm.budget import Budget, LimitReached
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.chat import ChatRequest
from recbole_llm.llm.completion import Dialect, words_in
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.llm.exchange import BATCH, ImportReport, batch_lines, take_answers
from recbole_llm.utils.text import counted, one_line

logger = logging.getLogger(__name__)

LARGEST = 50_000  # requests of one batch, as OpenAI allows
LARGEST_BYTES = 150 << 20
OPEN, SUBMITTING, UNKNOWN = "open", "submitting", "unknown"
MARK = "recbole_llm"  # name of our mark in a batch's metadata
ENDED = ("completed", "failed", "expired", "cancelled")
PAUSE = 60.0  # seconds between two checks of a batch
DAY = 86_400.0  # seconds; a file of a younger batch that is not found may not have been stored yet


@dataclass(frozen=True)
class _State:
    """How far a batch has come.

    Attributes:
        status: as the API calls it.
        files: ids of the files with a line for each answered, and each failed, request.
        words: the API's message about a batch that it did not accept.
        created: seconds since 1970.
    """

    status: str
    files: list[str]
    words: str
    created: float


class BatchClient:
    """Submits requests and fetches their answers.

    Args:
        endpoint: an endpoint with a ``batch_price``.
        cache: where answers, and batches in progress, are kept.
        budget: the command's budget.
        pause: seconds between two checks.
        dialect: parameters that the endpoint turned out not to take.

    Attributes:
        incomplete: whether a fetched batch had ended before all of its requests were tried, or its answers are gone.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        cache: ResponseCache,
        budget: Budget,
        pause: float = PAUSE,
        dialect: Dialect | None = None,
    ) -> None:
        import openai

        if not endpoint.batch_price:
            raise UserError(f"--llm={endpoint.name} has no Batch API (batch_price in properties/llm/).")
        self.endpoint, self.cache, self.budget = endpoint, cache, budget
        self.incomplete = False
        self._pause, self._dialect = pause, dialect
        self._likely = 0.0  # set aside in the budget for batches in progress
        parts = urlsplit(endpoint.base_url)  # the client would join a path to its query, and log its login
        self._api = openai.OpenAI(
            api_key=endpoint.key(),
            base_url=urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")),
            default_headers={"Authorization": endpoint.authorization()},
            default_query=dict(parse_qsl(parts.query)),
            max_retries=5,
            timeout=600.0,
        )

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def submit(self, pending: Iterable[ChatRequest]) -> str:
        """Submit unanswered requests, as many as the budget allows; returns why not all, or an empty string."""
        part: list[ChatRequest] = []
        size, price, stopped = 0, 0.0, ""
        for request in pending:
            if self.cache.get(request.key) is not None:
                continue  # another command has fetched it since
            likely = self.endpoint.highest_price(request, BATCH)
            try:
                self.budget.reserve(likely)
            except LimitReached as reason:
                stopped = str(reason)
                break
            if len(part) >= LARGEST or size > LARGEST_BYTES:
                self._submit(part, price)
                part, size, price = [], 0, 0.0
            part.append(request)
            size += 2 * sum(len(message["content"]) for message in request.messages) + 1000
            price += likely
        if part:
            self._submit(part, price)
        return stopped

    def _submit(self, part: list[ChatRequest], price: float) -> None:
        self.cache.put_pending(part)
        content = "".join(batch_lines(self.endpoint, part, self._dialect)).encode()
        mark = secrets.token_hex(16)
        self.cache.put_batch(mark, self.endpoint.base_url, len(part), price, SUBMITTING)
        file = self._call(lambda: self._api.files.create(file=("requests.jsonl", content), purpose="batch").id)
        # No retries: if the reply is lost, the batch may exist, and a second one would be paid for. The mark finds it.
        once = self._api.with_options(max_retries=0)
        batch = self._call(
            lambda: (
                once.batches.create(
                    input_file_id=file,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    metadata={MARK: mark},
                ).id
            )
        )
        self.cache.put_batch(batch, self.endpoint.base_url, len(part), price, OPEN)
        self.cache.drop_batch(mark)
        self._likely += price
        logger.info("submitted %s as batch %s", counted(len(part), "request"), batch)

    def open_batches(self) -> list[str]:
        """Batches that this run or an earlier one submitted and that are not fetched yet."""
        marks = set(self.cache.batches(self.endpoint.base_url, SUBMITTING))
        if marks:  # a run ended between submitting a batch and recording its id
            listed = self._call(lambda: [(each.id, each.metadata or {}) for each in self._api.batches.list(limit=100)])
            for batch, metadata in listed:
                if metadata.get(MARK) in marks:
                    self.cache.put_batch(batch, self.endpoint.base_url, 0, 0.0, OPEN)
            for mark in marks:
                self.cache.drop_batch(mark)
        return self.cache.batches(self.endpoint.base_url, OPEN)

    def fetch(self) -> ImportReport:
        """Wait for all open batches and import their answers."""
        total = ImportReport()
        for batch in self.open_batches():
            report = self._fetch(batch)
            logger.info("batch %s: %s", batch, report)
            total.add(report)
        self.budget.release(self._likely)
        self._likely = 0.0
        self.budget.spend(total.price)
        return total

    def _fetch(self, batch: str) -> ImportReport:
        while True:
            state = self._call(lambda: self._state(batch))
            if state is None:
                return self._unknown(batch)
            if state.status in ENDED:
                break
            logger.info("batch %s is %s; looking again in %.0f s", batch, state.status, self._pause)
            time.sleep(self._pause)
        report = ImportReport()
        for file in state.files:
            content = self._call(partial(self._content, file, time.time() - state.created > DAY))
            if content is None:
                logger.warning("batch %s: the server has deleted its answers; its questions have none", batch)
                report.refused["no longer at the server"] += 1
                self.incomplete = True
            else:
                report.add(self._take(content))
        report.words = report.words or state.words
        if state.status != "completed":
            report.refused[f"batch {state.status}"] += 1
            self.incomplete = True
        self.cache.put_batch(batch, self.endpoint.base_url, 0, 0.0, state.status)
        return report

    def _unknown(self, batch: str) -> ImportReport:
        """The report of a batch that the server does not know; an old one is given up."""
        cause = "the server does not know it; it was deleted, or submitted with the key of another account"
        if self.cache.batch_age(batch) < DAY:
            raise UserError(f"--llm={self.endpoint.name}, batch {batch}: {cause}. Use that key, or wait a day.")
        logger.warning("batch %s: %s. Its questions have no answers", batch, cause)
        self.incomplete = True
        self.cache.put_batch(batch, self.endpoint.base_url, 0, 0.0, UNKNOWN)
        report = ImportReport()
        report.refused["batch unknown to the server"] += 1
        return report

    def _content(self, file: str, old: bool) -> bytes | None:
        """The contents of a file at the server; ``None`` if it has deleted the file of an old batch."""
        import openai

        try:
            return self._api.files.content(file).read()
        except openai.NotFoundError:
            if old:
                return None
            raise

    def _take(self, content: bytes) -> ImportReport:
        """Import the answers in the contents of a file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "output.jsonl"
            path.write_bytes(content)
            return take_answers(self.cache, path, self.endpoint)

    def _state(self, batch: str) -> _State | None:
        """How far a batch has come; ``None`` if the server does not know it."""
        import openai

        try:
            found = self._api.batches.retrieve(batch)
        except openai.NotFoundError:
            return None
        files = [file for file in (found.output_file_id, found.error_file_id) if file]
        faults = found.errors.data if found.errors is not None else None
        words = words_in([{"message": fault.message} for fault in faults or ()], self.endpoint.secrets)
        return _State(str(found.status), files, words, float(found.created_at or 0.0))

    def _call(self, action: Callable[[], Any]) -> Any:
        """Call the API and turn its errors into user errors.

        Raises:
            UserError: the call failed.
        """
        try:
            return action()
        except Exception as error:  # from OpenAI's client, or from its reading of an invalid body
            reason = redact(one_line(error), *self.endpoint.secrets)[:300]
            raise UserError(
                f"the Batch API at {self.endpoint.address} failed: {reason}. Batches that were submitted are kept; "
                "run the same command to go on."
            ) from error
