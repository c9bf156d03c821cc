"""Every answer ever received, in SQLite: one row a request, written when it arrives.

Rows are JSON; nothing is unpickled. Write-ahead logging lets two processes share the file, and a
``kill -9`` loses at most the requests that were under way.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recbole_llm.errors import UserError
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


def request_key(body: dict[str, Any]) -> str:
    """Hash of all that an answer depends on."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def guess_tokens(text: str) -> int:
    """A guess at the tokens of a text: four bytes of UTF-8 each, so that Chinese counts more than English."""
    return math.ceil(len(text.encode("utf-8", "replace")) / 4)


@dataclass(frozen=True)
class ChatRequest:
    """One question; what it says and nothing about where it is sent.

    Attributes:
        prompt: ``id@version`` of the prompt.
        messages: the chat.
        schema: JSON schema of the answer, or ``None``.
        max_tokens: of the answer.
    """

    prompt: str
    messages: tuple[dict[str, str], ...]
    schema: dict[str, Any] | None
    max_tokens: int

    def body(self, model: str, temperature: float) -> dict[str, Any]:
        """Everything that the answer depends on."""
        return {
            "model": model,
            "messages": list(self.messages),
            "temperature": temperature,
            "max_tokens": self.max_tokens,
            "schema": self.schema,
            "prompt": self.prompt,
        }

    def key(self, model: str, temperature: float) -> str:
        """Hash of :meth:`body`: the row of the cache, and the ``custom_id`` of a batch."""
        return request_key(self.body(model, temperature))

    def estimated_tokens(self) -> int:
        """A guess at the tokens of the question, with a few for each message."""
        return guess_tokens("".join(message["content"] for message in self.messages)) + 4 * len(self.messages)


@dataclass(frozen=True)
class ChatAnswer:
    """What came back.

    Attributes:
        content: the text; empty for a refusal without text.
        finish_reason: ``stop``, ``length``, ``content_filter``, ...
        tokens_in, tokens_out: as the server counted them.
        cached: it was in the cache before this run.
        via: how it came, where that matters to its price: ``batch``.
        assumed: nobody gave it; a dry run stands it in for an answer that it does not ask for.
    """

    content: str
    finish_reason: str
    tokens_in: int
    tokens_out: int
    cached: bool = False
    via: str = ""
    assumed: bool = False

    def stored(self) -> dict[str, Any]:
        """What the cache keeps of it."""
        kept = {
            "content": self.content,
            "finish_reason": self.finish_reason,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
        }
        return kept | ({"via": self.via} if self.via else {})


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
        return ChatAnswer(**{**json.loads(row[0]), "cached": True})

    def put(self, key: str, request: dict[str, Any], answer: ChatAnswer) -> None:
        """Keep an answer; the first one of a key stays."""
        self._run(
            "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            (
                key,
                request["model"],
                request["prompt"],
                json.dumps(request, ensure_ascii=False),
                json.dumps(answer.stored(), ensure_ascii=False),
                datetime.now(UTC).isoformat(timespec="seconds"),
            ),
        )

    def sample(self, prompt: str, model: str, count: int) -> list[dict[str, Any]]:
        """Some rows of a prompt (``id@version``) and a model, the first by key: as good as drawn at random."""
        query = "SELECT request, answer FROM answers WHERE prompt = ? AND model = ? ORDER BY key LIMIT ?"
        found = self._connection.execute(query, (prompt, model, count))
        return [{"request": json.loads(request), "answer": json.loads(answer)} for request, answer in found]

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

    def put_pending(self, requests: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Remember requests that go into a batch, by their keys."""
        rows = ((key, json.dumps(request, ensure_ascii=False)) for key, request in requests)
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT OR IGNORE INTO pending VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    def pending(self, key: str) -> dict[str, Any] | None:
        """The request of a key that went into a batch."""
        row = self._connection.execute("SELECT request FROM pending WHERE key = ?", (key,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

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
