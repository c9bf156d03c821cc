"""A raw-socket server that breaks HTTP in many ways, for tests and soaks.

A question that names a fault in ``FAULTS`` gets that fault, once or always; all others get a good answer.
"""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

PIECE = 0.05  # seconds between two pieces of a slow response


@dataclass(frozen=True)
class Fault:
    """A faulty response.

    Attributes:
        send: yields the bytes to send; a slow response has many pieces.
        kinds: error kinds under which the client may count the fault.
        reset: reset the connection before anything is sent.
    """

    send: Callable[[], Iterator[bytes]]
    kinds: tuple[str, ...]
    reset: bool = False


def completion(text: str = "fine") -> bytes:
    """The body of a good answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}).encode()


def whole(body: bytes, *headers: str, status: str = "200 OK", length: int | str | None = None) -> bytes:
    """A complete HTTP response."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {size}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _once(data: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: iter([data])


def _slowly(begin: bytes, piece: bytes) -> Callable[[], Iterator[bytes]]:
    def send() -> Iterator[bytes]:
        yield begin
        while True:
            yield piece

    return send


def _endless(begin: bytes, piece: bytes, count: int) -> Callable[[], Iterator[bytes]]:
    def send() -> Iterator[bytes]:
        yield begin
        for _ in range(count):
            yield piece

    return send


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD = completion()
BROKEN, MALFORMED, SLOW = ("broken connection",), ("malformed response",), ("time-out",)
BAD_HTTP = (*MALFORMED, *BROKEN)
BIG = json.dumps({"choices": [{"message": {"content": "x" * (20 << 20)}, "finish_reason": "stop"}]}).encode()


def _body(body: bytes) -> Fault:
    return Fault(_once(whole(body)), MALFORMED)


FAULTS: dict[str, Fault] = {
    # ---- the connection
    "closed without a byte": Fault(_once(b""), BROKEN),
    "reset": Fault(_once(b""), BROKEN, reset=True),
    "closed within the status line": Fault(_once(b"HTTP/1."), BAD_HTTP),
    "closed within the headers": Fault(_once(b"HTTP/1.1 200 OK\r\nContent-Le"), BAD_HTTP),
    "closed within the body": Fault(_once(whole(GOOD)[:-20]), BROKEN),
    # ---- HTTP
    "Content-Length too small": Fault(_once(whole(GOOD, length=10)), BAD_HTTP),
    "Content-Length too large": Fault(_once(whole(GOOD, length=len(GOOD) + 9)), BROKEN),
    "Content-Length below zero": Fault(_once(whole(GOOD, length=-5)), BAD_HTTP),
    "Content-Length of words": Fault(_once(whole(GOOD, length="some")), BAD_HTTP),
    "two lengths": Fault(_once(whole(GOOD, "Content-Length: 3")), BAD_HTTP),
    "a chunk size of letters": Fault(_once(CHUNKED + b"zz\r\n" + GOOD + b"\r\n0\r\n\r\n"), BAD_HTTP),
    "a chunk size beyond measure": Fault(_once(CHUNKED + b"f" * 40 + b"\r\n" + GOOD), BAD_HTTP),
    "a chunk that is too short": Fault(_once(CHUNKED + b"ff\r\nabc\r\n0\r\n\r\n"), BAD_HTTP),
    "chunks without an end": Fault(_once(CHUNKED + b"5\r\nabcde\r\n"), BROKEN),
    "TLS on a plain port": Fault(_once(b"\x15\x03\x01\x00\x02\x02\x46"), BAD_HTTP),
    "a preface of HTTP/2": Fault(_once(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), BAD_HTTP),
    "settings of HTTP/2": Fault(_once(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18), BAD_HTTP),
    "HTTP/0.9": Fault(_once(GOOD), BAD_HTTP),
    "a status of words": Fault(_once(b"HTTP/1.1 two hundred OK\r\n\r\n"), BAD_HTTP),
    "a status of six digits": Fault(_once(whole(GOOD, status="999999 OK")), BAD_HTTP),
    "a header of 100 kB": Fault(_once(whole(GOOD, "X-Long: " + "x" * 100_000)), BAD_HTTP),
    "10,000 headers": Fault(_once(whole(GOOD, *(f"X-{n}: y" for n in range(10_000)))), BAD_HTTP),
    "a header with a NUL": Fault(_once(whole(GOOD, "X-Nul: a\x00b")), BAD_HTTP),
    "another protocol offered": Fault(
        _once(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n"), (*BAD_HTTP, "HTTP 101")
    ),
    "no content": Fault(_once(b"HTTP/1.1 204 No Content\r\n\r\n"), ("HTTP 204",)),
    "part of the content": Fault(_once(whole(GOOD, status="206 Partial")), ("HTTP 206",)),
    # ---- time
    "silence": Fault(_slowly(b"", b""), SLOW),
    "headers that come slowly": Fault(_slowly(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), (*SLOW, *BAD_HTTP)),
    "a body that comes slowly": Fault(_slowly(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "), SLOW),
    "chunks that come slowly": Fault(_slowly(CHUNKED, b"1\r\n \r\n"), SLOW),
    "continue, continue": Fault(_slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (*SLOW, *BAD_HTTP)),
    # ---- size
    "an answer of 20 MB": Fault(_once(whole(BIG)), MALFORMED),
    "a body without an end": Fault(_endless(CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n", 2000), MALFORMED),
    "a bomb of 50 MB": Fault(_once(whole(gzip.compress(bytes(50 << 20)), "Content-Encoding: gzip")), MALFORMED),
    "an error of 20 MB": Fault(_once(whole(BIG, status="500 Oops")), MALFORMED),
    # ---- packing
    "gzip that is none": Fault(_once(whole(GOOD, "Content-Encoding: gzip")), MALFORMED),
    "gzip cut off": Fault(_once(whole(gzip.compress(GOOD)[:-12], "Content-Encoding: gzip")), BROKEN),
    "a packing that was not asked for": Fault(_once(whole(GOOD, "Content-Encoding: br")), MALFORMED),
    # ---- bodies
    "nothing": _body(b""),
    "blanks": _body(b" \n" * 50),
    "a web page": _body(b"<html><body><h1>502 Bad Gateway</h1></body></html>"),
    "half of a JSON text": _body(GOOD[: len(GOOD) // 2]),
    "100,000 brackets": _body(b"[" * 100_000),
    "100,000 objects": _body(b'{"a":' * 100_000),
    "a number of 10,000 digits": _body(b"1" * 10_000),
    "zeros": _body(bytes(500)),
    "not UTF-8": _body(b'{"choices": "\xff\xfe"}'),
    "null": _body(b"null"),
    "a list": _body(b"[]"),
    "another JSON": _body(b'{"status": "ok"}'),
    "no choices": _body(b'{"choices": []}'),
    "a choice that is null": _body(b'{"choices": [null]}'),
    "a message that is text": _body(b'{"choices": [{"message": "hello"}]}'),
    "content that is a number": _body(b'{"choices": [{"message": {"content": 7}}]}'),
    "an error that is called fine": Fault(
        _once(whole(b'{"error": {"message": "overloaded", "code": 529}}')), ("HTTP 529",)
    ),
    "a stream of events": _body(b"data: " + GOOD + b"\n\ndata: [DONE]\n\n"),
}


class FaultServer:
    """A context manager that serves while it is open.

    Args:
        once: answer later requests for the same fault well.
    """

    def __init__(self, once: bool = True) -> None:
        self.once = once
        self.asked: Counter[str] = Counter()
        self._stop = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def base_url(self) -> str:
        """Base URL for clients."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(30)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(30)
            try:
                while body := _request(connection):
                    if not self._answer(connection, json.loads(body)["messages"][-1]["content"]):
                        return
            except OSError:
                pass  # the client went away

    def _answer(self, connection: socket.socket, question: str) -> bool:
        """Answer a question; returns whether the connection stays open."""
        self.asked[question] += 1
        fault = FAULTS.get(question)
        if fault is None or (self.once and self.asked[question] > 1):
            connection.sendall(whole(completion()))
            return True
        if fault.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        for number, piece in enumerate(fault.send()):
            if number and len(piece) < 100 and self._stop.wait(PIECE):
                break
            connection.sendall(piece)
            if not piece and _is_closed(connection):
                break
        return False


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection, as far as a non-blocking read can tell."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(30)


def _request(connection: socket.socket) -> bytes:
    """The body of the next request; empty if the client has closed the connection or speaks TLS."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if piece.startswith(b"\x16\x03"):  # a TLS handshake, which a plain HTTP server refuses
            connection.sendall(whole(b"", status="400 Bad Request"))
        if not piece or piece.startswith(b"\x16\x03"):
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
    while len(body) < int(fields[b"content-length"]):
        body += connection.recv(65536)
    return body
