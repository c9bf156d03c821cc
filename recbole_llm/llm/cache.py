"""Every answer ever received, in SQLite: one row per question, written when its answer arrives.

Rows are packed JSON; nothing is unpickled. Write-ahead logging lets several processes share the file, and a
``kill -9`` loses at most the requests that were in progress.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Collection, Container, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from recbole_llm.errors import UserError
from recbole_llm.llm.address import server_identity
from recbole_llm.llm.chat import ChatAnswer, ChatRequest, Script, at_once, follow
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.llm.packing import FRAMES, Packer
from recbole_llm.utils.environment import now, process_space
from recbole_llm.utils.files import BUSY_SECONDS, database_error, open_database

logger = logging.getLogger(__name__)

CHUNK = 500  # rows of an older file that are packed in one transaction
FORMAT = 2  # format of the file; format 1 stored every request whole
# ``created`` is null while a question waits for its batch.
_KEPT = """
CREATE TABLE IF NOT EXISTS kept (
    key BLOB NOT NULL UNIQUE,
    frame INTEGER NOT NULL,
    created INTEGER,
    body BLOB NOT NULL
)
"""
_BATCHES = """
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY,
    base_url TEXT NOT NULL,
    requests INTEGER NOT NULL,
    likely REAL NOT NULL,
    status TEXT NOT NULL,
    created TEXT NOT NULL
) WITHOUT ROWID
"""


_CLAIMS = """
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID
"""
LEASE = 15.0  # seconds that a claim holds unless it is renewed


def owner_of_claims() -> str:
    """A unique name for an owner of claims: where its process id counts, that id, and a random mark."""
    return f"{process_space()}/{os.getpid()}/{secrets.token_hex(4)}"


def _is_gone(owner: str) -> bool:
    """Whether an owner was a process that could be seen here and has ended."""
    space, process, _ = owner.rsplit("/", 2)
    if space != process_space():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False


class StoredAnswers:
    """Answers from the cache alone; nothing is asked.

    Attributes:
        used: the answers given to scripts, by request key.
        last: request keys of the answers given to the last script.
    """

    def __init__(self, endpoint: Endpoint, cache: ResponseCache) -> None:
        self.endpoint, self.cache = endpoint, cache
        self.used: dict[str, ChatAnswer] = {}
        self.last: list[str] = []

    async def answer(self, request: ChatRequest) -> ChatAnswer | None:
        """The cached answer, ``None`` if there is none."""
        key = self.endpoint.addressed(request).key
        found = self.cache.get(key)
        if found is not None:
            self.used[key] = found
            self.last.append(key)
        return found

    def result(self, script: Script) -> Any:
        """A script's result."""
        self.last = []
        return at_once(follow(script, self))


class Lender(Protocol):
    """A source of answers outside the cache."""

    def row(self, key: str) -> tuple[ChatRequest, ChatAnswer, float] | None:
        """A question, its answer and the time it arrived in seconds since 1970; ``None`` if there is none."""


class ResponseCache:
    """The answers of one dataset.

    Args:
        path: the SQLite file; created with its folder.
        lease: seconds that a claim on a question holds unless it is renewed.

    Attributes:
        lender: where an answer that is missing here is looked up.
        borrows: whether the lender's answers are stored here.

    Raises:
        UserError: the file is damaged, or was made by a newer version.
    """

    def __init__(self, path: Path, lease: float = LEASE) -> None:
        self.path, self.lease = path, lease
        self.lender: Lender | None = None
        self.borrows = True
        self._connection = open_database(path, FRAMES, isolation_level=None, check_same_thread=False)
        self._packer = Packer(self._run, self._examples)
        # A kill takes no answer, a loss of power the last ones: a sync for each would hold up the others in flight.
        self._run("PRAGMA synchronous = NORMAL")
        found = self._run("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            self.close()
            raise UserError(f"{self.path} was made by a newer version of recbole_llm: use that one, or move it away.")
        if found < FORMAT:
            with self.at_one_go():
                for statement in (_KEPT, _BATCHES, _CLAIMS, f"PRAGMA user_version = {FORMAT}"):
                    self._run(statement)
        if self._run("SELECT 1 FROM sqlite_schema WHERE name = 'answers'").fetchone():
            self._repack()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> ResponseCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        count: int = self._run("SELECT count(*) FROM kept WHERE created NOT NULL").fetchone()[0]
        return count

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run a statement.

        Raises:
            UserError: the file is damaged.
            NoRoomError: the disk is full.
        """
        try:
            return self._connection.execute(statement, values)
        except sqlite3.DatabaseError as error:
            raise database_error(self.path, error) from error

    @contextmanager
    def at_one_go(self) -> Iterator[None]:
        """A transaction: the changes of the block are kept all or not at all."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            self._connection.rollback()
            self._packer.forget()
            raise

    def _examples(self, frame: int) -> Iterator[bytes]:
        for (body,) in self._run("SELECT body FROM kept WHERE frame = ? ORDER BY key LIMIT 64", (frame,)):
            yield body

    def get(self, key: str) -> ChatAnswer | None:
        """The answer to the request with a key, ``None`` if there is none; a damaged row is deleted."""
        query = "SELECT frame, body FROM kept WHERE key = ? AND created NOT NULL"
        row = self._run(query, (_as_bytes(key),)).fetchone()
        if row is None:
            return self._borrow(key)
        try:
            return self._packer.answer(*row)
        except (TypeError, ValueError) as error:
            logger.warning("%s: the answer %s is damaged (%s); it is asked for again", self.path, key, error)
            self._run("DELETE FROM kept WHERE key = ?", (_as_bytes(key),))
            return None

    def _borrow(self, key: str) -> ChatAnswer | None:
        """The lender's answer, if there is one."""
        found = self.lender.row(key) if self.lender is not None else None
        if found is None:
            return None
        request, answer, created = found
        if self.borrows:
            self.put(request, answer, created)
        return answer

    def differing(self, prompts: Iterable[str], model: str) -> int:
        """How many answers of a model to some prompts (``id@version``) have another text than the lender's."""
        kept = ((key, answer) for prompt in prompts for key, _, answer, _ in self._read(prompt, model))
        pairs = ((answer, self.lender.row(key)) for key, answer in kept) if self.lender is not None else ()
        return sum(lent is not None and lent[1].content != answer.content for answer, lent in pairs)

    def row(self, key: str) -> tuple[ChatRequest, ChatAnswer, float] | None:
        """A question, its answer and the time it arrived in seconds since 1970, from this file alone.

        Raises:
            ValueError: the row is damaged.
        """
        query = "SELECT frame, body, created FROM kept WHERE key = ? AND created NOT NULL"
        found = self._run(query, (_as_bytes(key),)).fetchone()
        if found is None:
            return None
        request, answer = self._packer.unpack(found[0], found[1])
        return None if answer is None else (request, answer, float(found[2]))

    def put(self, request: ChatRequest, answer: ChatAnswer | None, created: float | None = None) -> None:
        """Store an answer; if the request has one already, that one stays.

        Args:
            request: the question.
            answer: its answer; ``None`` if a batch will bring it.
            created: seconds since 1970; now by default.
        """
        frame, body = self._packer.pack(request, answer)
        moment = None if answer is None else int(time.time() if created is None else created)
        self._run(
            "INSERT INTO kept VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET frame = excluded.frame, created = excluded.created, body = excluded.body WHERE created IS NULL",
            (_as_bytes(request.key), frame, moment, body),
        )

    def sample(self, prompt: str, model: str, count: int) -> list[tuple[ChatRequest, ChatAnswer]]:
        """The first questions of a prompt (``id@version``) by key, with answers: a fair sample, as keys are hashes."""
        return [(request, answer) for _, request, answer, _ in self._read(prompt, model, count)]

    def requests(
        self, prompts: Iterable[str], model: str | None, keys: Container[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Answered requests of some prompts (``id@version``) to a model, as plain values; only of ``keys`` if given."""
        for prompt in prompts:
            for key, request, _, _ in self._read(prompt, model):
                if keys is None or key in keys:
                    yield request.body()

    def rows(self, prompt: str | None = None, model: str | None = None) -> Iterator[dict[str, Any]]:
        """All answered rows as plain values, in key order; only of one prompt and model if given."""
        for key, request, answer, created in self._read(prompt, model):
            time_of = datetime.fromtimestamp(created, UTC).isoformat(timespec="seconds")
            yield {"key": key, "request": request.body(), "answer": answer.stored(), "created": time_of}

    def _read(
        self, prompt: str | None = None, model: str | None = None, count: int = -1
    ) -> Iterator[tuple[str, ChatRequest, ChatAnswer, int]]:
        """Answered rows in key order, only of one prompt and model if given; damaged ones are skipped."""
        of_frames, values = "", tuple[Any, ...]()
        if prompt is not None:
            of_frames = "AND frame IN (SELECT id FROM frames WHERE prompt = ? AND model = ?)"
            values = (prompt, model)
        query = f"SELECT key, frame, created, body FROM kept WHERE created NOT NULL {of_frames} ORDER BY key LIMIT ?"  # noqa: S608
        for key, frame, created, body in self._run(query, (*values, count)):
            try:
                request, answer = self._packer.unpack(frame, body)
            except (TypeError, ValueError) as error:
                logger.warning("%s: the answer %s is damaged (%s)", self.path, key.hex(), error)
                continue
            assert answer is not None
            yield key.hex(), request, answer, created

    # ---- claims --------------------------------------------------------------------------------

    def claim(self, key: str, owner: str) -> bool:
        """Claim a question, so that only one of several commands asks it; returns whether it is ours now.

        A claim ends with :meth:`drop_claim`, with its process, or when it is not renewed for ``lease`` seconds.
        """
        now = time.time()
        taken = self._run(
            "INSERT INTO claims VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET owner = excluded.owner, until = excluded.until WHERE until < ? OR owner = excluded.owner",
            (key, owner, now + self.lease, now),
        )
        if taken.rowcount == 1:
            return True
        row = self._run("SELECT owner FROM claims WHERE key = ?", (key,)).fetchone()
        if row is None or not _is_gone(row[0]):
            return False
        update = "UPDATE claims SET owner = ?, until = ? WHERE key = ? AND owner = ?"
        return self._run(update, (owner, now + self.lease, key, row[0])).rowcount == 1

    def renew_claims(self, owner: str) -> None:
        """Extend an owner's claims by another ``lease`` seconds from now."""
        self._run("UPDATE claims SET until = ? WHERE owner = ?", (time.time() + self.lease, owner))

    def drop_claim(self, key: str, owner: str) -> None:
        """Give a claim back."""
        self._run("DELETE FROM claims WHERE key = ? AND owner = ?", (key, owner))

    # ---- older files ---------------------------------------------------------------------------

    def _repack(self) -> None:
        """Pack the rows of a file of format 1, which stored every request whole; it shrinks to a tenth.

        Each chunk is moved in one transaction, so a kill at any moment loses nothing and the next command goes on.
        Rows that cannot be read stay where they are.
        """
        moved = 0
        for table, columns in (("answers", "request, answer, created"), ("pending", "request, NULL, NULL")):
            last, query = "", f"SELECT key, {columns} FROM {table} WHERE key > ? ORDER BY key LIMIT {CHUNK}"  # noqa: S608
            while rows := self._run(query, (last,)).fetchall():
                if not moved:
                    logger.info("packing the answers of %s, which an older version kept whole", self.path)
                with self.at_one_go():
                    done = [row[0] for row in rows if self._repack_row(*row)]
                    for key in done:
                        self._run(f"DELETE FROM {table} WHERE key = ?", (key,))  # noqa: S608
                moved, last = moved + len(done), rows[-1][0]
        if moved:
            self._shrink()

    def _repack_row(self, key: str, request: str, answer: str | None, created: str | None) -> bool:
        """Pack one row; returns whether it could be packed."""
        try:
            asked = ChatRequest.parse(json.loads(request))
            found = None if answer is None else ChatAnswer.parse(json.loads(answer))
            moment = None if created is None else datetime.fromisoformat(created).timestamp()
            known = asked.key == key
        except (TypeError, ValueError):
            return False
        waiting = "SELECT 1 FROM kept WHERE key = ?"
        if known and (found is not None or not self._run(waiting, (_as_bytes(key),)).fetchone()):
            self.put(asked, found, moment)
        return known

    def _shrink(self) -> None:
        """Free the space of moved rows, unless another process uses the file or the disk has no room to do it."""
        self._run("PRAGMA busy_timeout = 0")
        try:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.DatabaseError as error:
            logger.debug("%s keeps its size: %s", self.path, error)
        self._run(f"PRAGMA busy_timeout = {int(1000 * BUSY_SECONDS)}")

    # ---- batches -------------------------------------------------------------------------------

    def put_pending(self, requests: Iterable[ChatRequest]) -> None:
        """Remember requests that go into a batch, by their keys."""
        with self.at_one_go():
            for request in requests:
                self.put(request, None)

    def pending(self, key: str) -> ChatRequest | None:
        """The request of a key that went into a batch."""
        row = self._run("SELECT frame, body FROM kept WHERE key = ?", (_as_bytes(key),)).fetchone()
        return None if row is None else self._packer.unpack(*row)[0]

    def put_batch(self, batch: str, base_url: str, requests: int, likely: float, status: str) -> None:
        """Remember a batch, or its new status."""
        self._run(
            "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET status = excluded.status",
            (batch, server_identity(base_url), requests, likely, status, now()),
        )

    def drop_batch(self, batch: str) -> None:
        """Forget a batch."""
        self._run("DELETE FROM batches WHERE id = ?", (batch,))

    def batches(self, base_url: str, status: str) -> list[str]:
        """Batches of a server that have a status, the oldest first."""
        query = "SELECT id, base_url FROM batches WHERE status = ? ORDER BY created, id"
        server = server_identity(base_url)  # with or without a slash at the end: the same batches
        return [batch for batch, address in self._run(query, (status,)) if server_identity(address) == server]

    def batch_age(self, batch: str) -> float:
        """Seconds since a batch was submitted."""
        created = self._run("SELECT created FROM batches WHERE id = ?", (batch,)).fetchone()[0]
        return (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()

    def waits_in_batch(self, key: str, base_url: str, statuses: Collection[str]) -> bool:
        """Whether a question without an answer went into a batch, and a server has batches of such a status."""
        query = "SELECT 1 FROM kept WHERE key = ? AND created IS NULL"
        waiting = self._run(query, (_as_bytes(key),)).fetchone() is not None
        return waiting and any(self.batches(base_url, status) for status in statuses)


def _as_bytes(key: str) -> bytes:
    """A key as the file stores it: as bytes, half as long as its hex digits."""
    try:
        return bytes.fromhex(key)
    except ValueError:  # not one of our keys
        return key.encode("utf-8")
