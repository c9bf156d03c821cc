"""Compact storage of questions and answers: what many of them have in common is stored once.

All questions of a prompt have the same opening messages, schema and settings: their *frame*. The rest of a question is
packed together with its answer by zlib, with earlier ones of the same frame as its dictionary, since titles and phrases
recur. A row takes a tenth of the space that its answer and whole question would take.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from recbole_llm.llm.chat import ChatAnswer, ChatRequest

FRAMES = """
CREATE TABLE IF NOT EXISTS frames (
    id INTEGER PRIMARY KEY,
    prompt TEXT NOT NULL,
    model TEXT NOT NULL,
    body BLOB NOT NULL,
    words BLOB NOT NULL
)
"""
WINDOW = 32_000  # bytes that zlib looks back
# A frame gets a dictionary after the first number of packed bytes, and a better one after the second.
GROWTH = (32_000, 500_000)
LEVEL = 6

Run = Callable[..., Any]


@dataclass
class Frame:
    """What the questions of a prompt have in common.

    Attributes:
        id: its row in the table ``frames``.
        head: a request's body without the messages, as JSON.
        opening: the messages that all questions begin with.
        words: zlib's dictionary; the frame itself until there are examples.
        packed: bytes that this process has packed with it.
        generation: number of dictionaries that these questions have had.
        values: ``head``, parsed.
        learnt: whether the dictionary consists of examples.
    """

    id: int
    head: str
    opening: list[dict[str, str]]
    words: bytes
    packed: int = 0
    generation: int = 0
    values: dict[str, Any] = field(init=False)
    learnt: bool = field(init=False)

    def __post_init__(self) -> None:
        self.values = json.loads(self.head)
        self.learnt = bool(self.words)
        self.words = self.words or (self.head + json.dumps(self.opening, ensure_ascii=False)).encode("utf-8")[-WINDOW:]


class Packer:
    """Packs requests with their answers, and unpacks them.

    Args:
        run: runs a statement in the database that has the table ``frames``.
        examples: packed bodies of some rows of a frame.
    """

    def __init__(self, run: Run, examples: Callable[[int], Iterable[bytes]]) -> None:
        self._run, self._examples = run, examples
        self._frames: dict[int, Frame] = {}
        self._by_head: dict[str, list[Frame]] = {}

    def pack(self, request: ChatRequest, answer: ChatAnswer | None) -> tuple[int, bytes]:
        """The id of a request's frame, and the rest of the request, packed with its answer."""
        body = request.body()
        messages = body.pop("messages")
        head = json.dumps(body, ensure_ascii=False, sort_keys=True)
        frame = self._frame_of(head, messages)
        rest = [messages[len(frame.opening) :], None if answer is None else answer.stored()]
        raw = json.dumps(rest, ensure_ascii=False).encode("utf-8")
        packed = _pack(raw, frame.words)
        frame.packed += len(raw)
        if frame.generation < len(GROWTH) and frame.packed >= GROWTH[frame.generation]:
            self._learn(frame, raw)
        return frame.id, packed

    def unpack(self, frame_id: int, packed: bytes) -> tuple[ChatRequest, ChatAnswer | None]:
        """A request and its answer, as they were.

        Raises:
            ValueError: the row is damaged.
        """
        frame = self._frame(frame_id)
        rest, answer = _loads(packed, frame.words)
        request = ChatRequest(messages=(*frame.opening, *rest), **frame.values)
        return request, None if answer is None else ChatAnswer(**answer)

    def answer(self, frame_id: int, packed: bytes) -> ChatAnswer:
        """The answer alone.

        Raises:
            ValueError: the row is damaged.
        """
        _, answer = _loads(packed, self._frame(frame_id).words)
        return ChatAnswer(**answer)

    def forget(self) -> None:
        """Forget the frames, since some may have been rolled back."""
        self._frames.clear()
        self._by_head.clear()

    def _frame(self, frame_id: int) -> Frame:
        if frame_id not in self._frames:
            self._read()
        if frame_id not in self._frames:
            raise ValueError(f"there is no frame {frame_id}")
        return self._frames[frame_id]

    def _read(self) -> None:
        """Read the frames that are not known yet, also those that other processes have added."""
        numbers = [number for (number,) in self._run("SELECT id FROM frames ORDER BY id")]
        for number in numbers:
            if number not in self._frames:
                body, words = self._run("SELECT body, words FROM frames WHERE id = ?", (number,)).fetchone()
                head, opening = json.loads(zlib.decompress(body))
                self._add(Frame(number, head, opening, zlib.decompress(words) if words else b""))

    def _add(self, frame: Frame) -> None:
        self._frames[frame.id] = frame
        same = self._by_head.setdefault(frame.head, [])
        frame.generation = sum(each.opening == frame.opening for each in same) if frame.learnt else 0
        # The longest opening comes first; among equal ones, the frame with the latest dictionary.
        self._by_head[frame.head] = sorted([*same, frame], key=lambda each: (-len(each.opening), -each.id))

    def _frame_of(self, head: str, messages: list[dict[str, str]]) -> Frame:
        """The frame whose opening a chat begins with; a new one if there is none."""
        for look in (False, True):
            if look:
                self._read()
            for frame in self._by_head.get(head, ()):
                if messages[: len(frame.opening)] == frame.opening:
                    return frame
        return self._keep(head, messages[:-1], b"")

    def _keep(self, head: str, opening: list[dict[str, str]], words: bytes) -> Frame:
        values = json.loads(head)
        body = zlib.compress(json.dumps([head, opening], ensure_ascii=False).encode("utf-8"), 9)
        cursor = self._run(
            "INSERT INTO frames (prompt, model, body, words) VALUES (?, ?, ?, ?)",
            (values["prompt"], values["model"], body, zlib.compress(words, 9) if words else b""),
        )
        frame = Frame(cursor.lastrowid, head, opening, words)
        self._add(frame)
        return frame

    def _learn(self, frame: Frame, raw: bytes) -> None:
        """Add a frame with a dictionary of what was packed with an older one: new rows refer to the added frame."""
        parts, size = [raw], len(raw)
        for same in [each for each in self._by_head[frame.head] if each.opening == frame.opening]:
            for packed in self._examples(same.id):
                try:
                    part = _unpack(packed, same.words)
                except ValueError:
                    continue  # a damaged row is no example
                if size + len(part) > WINDOW:
                    break
                parts.append(part)
                size += len(part)
        self._keep(frame.head, frame.opening, b"".join(parts)[-WINDOW:]).packed = frame.packed


def _pack(raw: bytes, words: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, zdict=words)
    return packer.compress(raw) + packer.flush()


def _unpack(packed: bytes, words: bytes) -> bytes:
    """The bytes that were packed.

    Raises:
        ValueError: they are damaged.
    """
    unpacker = zlib.decompressobj(zdict=words)
    try:
        raw = unpacker.decompress(packed)
    except zlib.error as error:
        raise ValueError(f"a packed row is damaged ({error})") from error
    if not unpacker.eof:
        raise ValueError("a packed row is cut off")
    return raw


def _loads(packed: bytes, words: bytes) -> Any:
    return json.loads(_unpack(packed, words))
