"""Every answer ever received, in SQLite: one row a request, written when it arrives.

Rows are JSON; nothing is unpickled. Write-ahead logging lets two processes share the file, and a
``kill -9`` loses at most the requests that were under way.
"""

from __future__ import annotations

import json
import sqlite3
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
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_database(path, _SCHEMA, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA synchronous=NORMAL")
        for table in (_PENDING, _BATCHES):
            self._connection.execute(table)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> ResponseCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        count: int = self._connection.execute("SELECT count(*) FROM answers").fetchone()[0]
        return count

    def _run(self, statement: str, values: tuple[str, ...]) -> sqlite3.Cursor:
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
        found = self._connection.execute(query, (prompt, model, count))
        return [(ChatRequest.parse(json.loads(request)), ChatAnswer(**json.loads(answer))) for request, answer in found]

    def requests(
        self, prompts: Iterable[str], model: str | None, keys: Container[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The requests of some prompts (``id@version``) to a model; of some keys alone where they are given."""
        for prompt in prompts:
            query = "SELECT key, request FROM answers WHERE prompt = ? AND model = ?"
            for key, request in self._connection.execute(query, (prompt, model)):
                if keys is None or key in keys:
                    yield json.loads(request)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows as plain values, by key."""
        query = "SELECT key, request, answer, created FROM answers ORDER BY key"
        for key, request, answer, created in self._connection.execute(query):
            yield {"key": key, "request": json.loads(request), "answer": json.loads(answer), "created": created}

    # ---- batches -------------------------------------------------------------------------------

    def put_pending(self, requests: Iterable[ChatRequest]) -> None:
        """Remember requests that go into a batch, by their keys."""
        rows = ((request.key, json.dumps(request.body(), ensure_ascii=False)) for request in requests)
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT OR IGNORE INTO pending VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    def pending(self, key: str) -> ChatRequest | None:
        """The request of a key that went into a batch."""
        row = self._connection.execute("SELECT request FROM pending WHERE key = ?", (key,)).fetchone()
        return None if row is None else ChatRequest.parse(json.loads(row[0]))

    def put_batch(self, batch: str, base_url: str, requests: int, likely: float, status: str) -> None:
        """Remember a batch, or its new status."""
        self._connection.execute(
            "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET status = excluded.status",
            (batch, base_url, requests, likely, status, datetime.now(UTC).isoformat(timespec="seconds")),
        )

    def drop_batch(self, batch: str) -> None:
        """Forget a batch."""
        self._connection.execute("DELETE FROM batches WHERE id = ?", (batch,))

    def batches(self, base_url: str, status: str) -> list[str]:
        """Batches of a server that have a status, the oldest first."""
        query = "SELECT id FROM batches WHERE base_url = ? AND status = ? ORDER BY created, id"
        return [row[0] for row in self._connection.execute(query, (base_url, status))]
