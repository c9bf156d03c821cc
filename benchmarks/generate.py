"""Rate, processor time and memory of LLM requests, against a loopback server that answers after a latency.

    python -m benchmarks.generate                                 5,000 requests, 200 ms, 64 at once
    python -m benchmarks.generate --requests=200000 --latency=0   memory over a long run

The server is a minimal process of its own, so that the processor time is the client's alone. The ideal rate is
concurrency / latency. The client's rate includes building each prompt, looking it up in the cache and writing the
answer there. The last line is the share of the ideal rate (100 % where the latency is 0).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from tabulate import tabulate

from recbole_llm.features.prompts import load_prompt
from recbole_llm.features.questions import ask
from recbole_llm.llm.cache import ResponseCache
from recbole_llm.llm.client import Client, Script
from recbole_llm.llm.endpoint import Endpoint

PIECES = 10  # memory is read this many times


class Server(asyncio.Protocol):
    """Answers each request of a kept-open connection after the latency."""

    latency = 0.0
    answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        """Schedule an answer to each complete request."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            asyncio.get_running_loop().call_later(self.latency, self.transport.write, self.answer)  # type: ignore[attr-defined]


def serve(latency: float, pipe: Connection) -> None:
    """The server's process."""
    content = json.dumps({"intents": ["Title number 1 of the catalogue (1999)"]})
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 700, "completion_tokens": 20, "total_tokens": 720}
    body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    payload = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    Server.latency, Server.answer = latency, head.encode() + payload

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def script(number: int) -> Script:
    """A question as LLM-DMsRec asks it: 20 titles and 50 candidates."""
    titles = [f"Title number {(number * 7 + place) % 1000} of the catalogue (1999)" for place in range(70)]
    data = {"session": [str(number), *titles[:20]], "candidates": titles[20:]}
    return (yield from ask(load_prompt("llmdmsrec_intent"), data, lambda answer: answer.intents, Counter()))


def memory_mib() -> float:
    """Memory that this process holds now."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    """Serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(options.latency, theirs), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}/v1"
    endpoint = Endpoint("benchmark", url, "m", concurrency=options.concurrency)
    memory: list[float] = []
    done = Counter[str]()

    def count() -> None:
        done["scripts"] += 1
        if done["scripts"] % max(1, options.requests // PIECES) == 0:
            memory.append(memory_mib())

    def scripts(first: int, last: int) -> Iterator[Script]:
        return (script(number) for number in range(first, last))

    with tempfile.TemporaryDirectory() as folder, ResponseCache(Path(folder) / "responses.sqlite") as cache:
        Client(endpoint, cache).run(scripts(-options.concurrency, 0))  # imports and connections are not timed
        began, worked = time.perf_counter(), time.process_time()
        usage = Client(endpoint, cache).run(scripts(0, options.requests), count)
        seconds, cpu = time.perf_counter() - began, time.process_time() - worked
        assert len(cache) == options.requests + options.concurrency
    server.terminate()
    rate = options.requests / seconds
    ideal = options.concurrency / options.latency if options.latency else rate
    rows = [
        ["requests", usage.requests],
        ["seconds", round(seconds, 2)],
        ["requests a second", round(rate, 1)],
        ["ideal (concurrency / latency)", round(ideal, 1)],
        ["processor, ms a request", round(1000 * cpu / options.requests, 3)],
        ["memory after a tenth, MiB", round(memory[0], 1)],
        ["memory at the end, MiB", round(memory[-1], 1)],
    ]
    print(tabulate(rows))
    print(f"{100 * rate / ideal:.1f} %")


if __name__ == "__main__":
    main()
