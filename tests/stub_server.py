"""A chat endpoint on the loopback interface, for tests: OpenAI's chat completions, with faults on demand.

The server speaks HTTP/1.1 with keep-alive from one event loop in a thread of its own, so hundreds of
connections cost nothing. A function of the test decides each answer::

    def reply(call: Call) -> Reply:
        return Reply(status=429, headers={"Retry-After": "1"}) if call.number == 0 else Reply(text="{}")

    with StubServer(reply) as server:
        ...  # ask server.base_url
    assert server.calls[1].arrived - server.calls[0].answered >= 1.0

Every request is recorded, even if it was not answered.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

PATIENCE = 30.0  # seconds that a reply or a test waits for a condition before the test fails

How = Literal["whole", "hang", "close", "cut"]


@dataclass
class Call:
    """One recorded request.

    Attributes:
        number: order of arrival, from 0.
        path: path in the request line.
        headers: header values by lower-case name.
        raw: body as received.
        arrived, answered: seconds of the monotonic clock; ``answered`` is taken before the first byte is sent.
        status: status code of the answer; 0 until then.
        tokens_in, tokens_out: token counts that the answer stated.
    """

    number: int
    path: str
    headers: dict[str, str]
    raw: bytes
    arrived: float
    answered: float = 0.0
    status: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def body(self) -> dict[str, Any]:
        """The body as JSON."""
        found: dict[str, Any] = json.loads(self.raw)
        return found

    @property
    def question(self) -> str:
        """Content of the last message."""
        return str(self.body["messages"][-1]["content"])

    @property
    def data(self) -> Any:
        """The data that one of our prompts asks about: JSON on the last line of the question.

        If the question was asked again after an unusable answer, this reads the original question.
        """
        messages = self.body["messages"]
        again = messages[-1]["content"].startswith("That answer cannot be used")
        return json.loads(messages[-3 if again else -1]["content"].rsplit("\n", 1)[-1])


@dataclass(frozen=True)
class Reply:
    """What the server answers, and how.

    Attributes:
        text: content of the chat message.
        finish_reason: ``stop``, ``length``, ...
        status, headers: of the HTTP response.
        body: a response body instead of a completion; text is sent as it is, anything else as JSON.
        how: ``whole``; ``hang`` never answers; ``close`` breaks the connection before the first byte; ``cut``
            breaks it in the middle of the body.
        when: condition on the server that the answer waits for.
        delay: seconds before the answer is sent.
    """

    text: str = "{}"
    finish_reason: str = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    how: How = "whole"
    when: Callable[[StubServer], bool] | None = None
    delay: float = 0.0


def count_tokens(text: str) -> int:
    """The stub's tokeniser: one token per three characters."""
    return (len(text) + 2) // 3


def intents_from_candidates(call: Call) -> Reply:
    """Answer LLM-DMsRec's prompt with the first three candidates offered."""
    return Reply(text=json.dumps({"intents": call.data["candidates"][:3]}))


class StubServer:
    """A context manager that serves while it is open.

    Args:
        reply: decides each answer; called in the server's thread, in the order of arrival.
    """

    def __init__(self, reply: Callable[[Call], Reply] = lambda call: Reply()) -> None:
        self.reply = reply
        self.calls: list[Call] = []
        self.at_once = 0
        self.most_at_once = 0
        self.connections = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="stub server", daemon=True)
        self._started = threading.Event()

    # ---- the test's side -----------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(PATIENCE), "the stub server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)

    @property
    def base_url(self) -> str:
        """Base URL for clients."""
        return f"http://127.0.0.1:{self.port}/v1"

    def wait_until(self, condition: Callable[[StubServer], bool]) -> None:
        """Block until a condition holds; it is checked whenever a request arrives or is answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), PATIENCE), "the condition never came to hold"

    def look_again(self) -> None:
        """Make waiting replies check their conditions again after something outside the server has changed."""
        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._announce()))

    def times_asked(self) -> Counter[bytes]:
        """How often each request body arrived."""
        return Counter(call.raw for call in self.calls)

    def answered_calls(self) -> list[Call]:
        """The requests that got a completion."""
        return [call for call in self.calls if call.status == 200]

    @property
    def tokens_in(self) -> int:
        """Input tokens of all answered requests."""
        return sum(call.tokens_in for call in self.calls)

    @property
    def tokens_out(self) -> int:
        """Output tokens of all answers."""
        return sum(call.tokens_out for call in self.calls)

    # ---- the server's side ---------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._news = asyncio.Condition()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()
        async with self._news:
            self._news.notify_all()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one_request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the server stops
        finally:
            writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read and answer one request; returns whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        call = Call(len(self.calls), head[0].split(" ")[1], headers, raw, time.monotonic())
        self.calls.append(call)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        reply = self.reply(call)
        await self._announce()
        try:
            return await self._answer(call, reply, reader, writer)
        finally:
            self.at_once -= 1
            await self._announce()

    async def _answer(
        self, call: Call, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if not await self._wait(reply, reader) or reply.how == "close":
            return False
        payload = self._payload(call, reply)
        fields = {"Content-Type": "application/json", "Content-Length": str(len(payload)), **reply.headers}
        head = f"HTTP/1.1 {reply.status} Stub\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
        call.answered = time.monotonic()
        call.status = 0 if reply.how == "cut" else reply.status
        writer.write(head.encode("latin-1") + (payload[: len(payload) // 2] if reply.how == "cut" else payload))
        await writer.drain()
        return reply.how != "cut"

    async def _wait(self, reply: Reply, reader: asyncio.StreamReader) -> bool:
        """Wait for the reply's condition and delay; returns whether the client is still connected."""
        gone = asyncio.ensure_future(reader.read(1))  # a client that gives up closes its end
        ready = asyncio.ensure_future(self._ready(reply))
        try:
            done, _ = await asyncio.wait({gone, ready}, return_when=asyncio.FIRST_COMPLETED)
            return ready in done
        finally:
            gone.cancel()
            ready.cancel()
            await asyncio.gather(gone, ready, return_exceptions=True)

    async def _ready(self, reply: Reply) -> None:
        if reply.how == "hang":
            await asyncio.Event().wait()
        await asyncio.sleep(reply.delay)
        async with self._news, asyncio.timeout(PATIENCE):
            await self._news.wait_for(lambda: reply.when is None or reply.when(self))

    def _payload(self, call: Call, reply: Reply) -> bytes:
        if reply.body is not None:
            return (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        if reply.status != 200:
            return json.dumps({"error": {"message": f"stub says {reply.status}", "type": "stub"}}).encode()
        tokens_in = sum(count_tokens(message["content"]) for message in call.body["messages"])
        tokens_out = count_tokens(reply.text)
        if reply.how == "whole":
            call.tokens_in, call.tokens_out = tokens_in, tokens_out
        completion = {
            "id": f"chatcmpl-{call.number}",
            "object": "chat.completion",
            "created": 0,
            "model": call.body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": reply.text},
                    "finish_reason": reply.finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": tokens_in,
                "completion_tokens": tokens_out,
                "total_tokens": tokens_in + tokens_out,
            },
        }
        return json.dumps(completion).encode()
