"""Every answer ever received, in SQLite: one row a request, written when it arrives.

Rows are JSON; nothing is unpickled. Write-ahead logging lets two processes share the file, and a
``kill -9`` loses at most the requests that were under way.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sqlite3
import time
from collections.abc import Container, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
from recbole_llm.llm.chat import ChatAnswer, ChatRequest, Script, at_once, follow
from recbole_llm.llm.endpoint import Endpoint
from recbole_llm.utils.files import open_database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    prompt TEXT NOT NULL,
    request TEXT NOT NULL,
    answer TEXT NOT NULL,
    created TEXT NOT NULL
) WITHOUT ROWID
"""


_PENDING = "CREATE TABLE IF NOT EXISTS pending (key TEXT PRIMARY KEY, request TEXT NOT NULL) WITHOUT ROWID"
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
    """A name for who claims questions: machine, process, and a mark of its own."""
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"


def _is_gone(owner: str) -> bool:
    """Whether an owner was a process of this machine that has ended."""
    machine, process, _ = owner.rsplit("/", 2)
    if machine != socket.gethostname():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False


class StoredAnswers:
    """Cached answers: what is there, and nothing else.

    Attributes:
        used: the answers that scripts were given, by key, each once.
        last: keys of those that the last script was given.
    """

    def __init__(self, endpoint: Endpoint, cache: ResponseCache) -> None:
        self.endpoint, self.cache = endpoint, cache
        self.used: dict[str, ChatAnswer] = {}
        self.last: list[str] = []

    async def answer(self, request: ChatRequest) -> ChatAnswer | None:
        """The answer that is there, ``None`` where there is none."""
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


class ResponseCache:
    """The answers of one dataset.

    Args:
        path: the SQLite file; made with its folder.
        lease: seconds that a claim on a question holds unless it is renewed.
    """

    def __init__(self, path: Path, lease: float = LEASE) -> None:
        self.path, self.lease = path, lease
        self._connection = open_database(path, _SCHEMA, isolation_level=None, check_same_thread=False)
        for statement in ("PRAGMA synchronous=NORMAL", _PENDING, _BATCHES, _CLAIMS):
            self._run(statement)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> ResponseCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        count: int = self._run("SELECT count(*) FROM answers").fetchone()[0]
        return count

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run a statement.

        Raises:
            UserError: the disk is full, or the file is damaged.
        """
        try:
            return self._connection.execute(statement, values)
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path}: {error}. Make room on the disk, or mend the file (sqlite3's .recover); the answers in "
                "it are kept, the same command goes on."
            ) from error

    def get(self, key: str) -> ChatAnswer | None:
        """The answer of a key, if there is one."""
        row = self._run("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        return ChatAnswer(**json.loads(row[0]))

    def put(self, request: ChatRequest, answer: ChatAnswer) -> None:
        """Keep an answer; the first one of a request stays."""
        self._run(
            "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            (
                request.key,
                request.model,
                request.prompt,
                json.dumps(request.body(), ensure_ascii=False),
                json.dumps(answer.stored(), ensure_ascii=False),
                datetime.now(UTC).isoformat(timespec="seconds"),
            ),
        )

    def sample(self, prompt: str, model: str, count: int) -> list[tuple[ChatRequest, ChatAnswer]]:
        """Some questions of a prompt (``id@version``) with their answers, the first by key: as good as drawn."""
        query = "SELECT request, answer FROM answers WHERE prompt = ? AND model = ? ORDER BY key LIMIT ?"
        found = self._run(query, (prompt, model, count))
        return [(ChatRequest.parse(json.loads(request)), ChatAnswer(**json.loads(answer))) for request, answer in found]

    def requests(
        self, prompts: Iterable[str], model: str | None, keys: Container[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The requests of some prompts (``id@version``) to a model; of some keys alone where they are given."""
        for prompt in prompts:
            query = "SELECT key, request FROM answers WHERE prompt = ? AND model = ?"
            for key, request in self._run(query, (prompt, model)):
                if keys is None or key in keys:
                    yield json.loads(request)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows as plain values, by key."""
        query = "SELECT key, request, answer, created FROM answers ORDER BY key"
        for key, request, answer, created in self._run(query):
            yield {"key": key, "request": json.loads(request), "answer": json.loads(answer), "created": created}

    # ---- claims --------------------------------------------------------------------------------

    def claim(self, key: str, owner: str) -> bool:
        """Claim a question, so that of several commands one asks; whether it is ours now.

        A claim ends with :meth:`drop_claim`, with its process, or when it was not renewed for ``lease`` seconds.
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
        """Hold an owner's claims for another ``lease`` seconds."""
        self._run("UPDATE claims SET until = ? WHERE owner = ?", (time.time() + self.lease, owner))

    def drop_claim(self, key: str, owner: str) -> None:
        """Give a claim back."""
        self._run("DELETE FROM claims WHERE key = ? AND owner = ?", (key, owner))

    # ---- batches -------------------------------------------------------------------------------

    def put_pending(self, requests: Iterable[ChatRequest]) -> None:
        """Remember requests that go into a batch, by their keys."""
        rows = ((request.key, json.dumps(request.body(), ensure_ascii=False)) for request in requests)
        self._run("BEGIN IMMEDIATE")
        try:
            for row in rows:
                self._run("INSERT OR IGNORE INTO pending VALUES (?, ?)", row)
            self._run("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise

    def pending(self, key: str) -> ChatRequest | None:
        """The request of a key that went into a batch."""
        row = self._run("SELECT request FROM pending WHERE key = ?", (key,)).fetchone()
        return None if row is None else ChatRequest.parse(json.loads(row[0]))

    def put_batch(self, batch: str, base_url: str, requests: int, likely: float, status: str) -> None:
        """Remember a batch, or its new status."""
        self._run(
            "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET status = excluded.status",
            (batch, base_url, requests, likely, status, datetime.now(UTC).isoformat(timespec="seconds")),
        )

    def drop_batch(self, batch: str) -> None:
        """Forget a batch."""
        self._run("DELETE FROM batches WHERE id = ?", (batch,))

    def batches(self, base_url: str, status: str) -> list[str]:
        """Batches of a server that have a status, the oldest first."""
        query = "SELECT id FROM batches WHERE base_url = ? AND status = ? ORDER BY created, id"
        return [row[0] for row in self._run(query, (base_url, status))]
