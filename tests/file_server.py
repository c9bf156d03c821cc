"""Serves files over HTTP on the loopback interface, with byte ranges and with faults on demand."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass
class FileServer:
    """A context manager that serves ``files`` while it is open.

    Attributes:
        files: path (``/a.gz``) to contents; a test may change them while the server runs.
        ranges: whether the server supports range requests.
        tagged: whether responses carry an ETag.
        cuts: bytes that each of the next responses sends before the connection breaks; consumed from the front.
        refusals: status codes that the next requests get; consumed from the front.
        seen: the ``Range`` header of each request, or ``None`` if it had none.
    """

    files: dict[str, bytes]
    ranges: bool = True
    tagged: bool = True
    cuts: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    seen: list[str | None] = field(default_factory=list)

    def __enter__(self) -> Self:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, path: str) -> str:
        """URL of a file."""
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        self.seen.append(request.headers.get("Range"))
        if self.refusals:
            request.send_error(self.refusals.pop(0))
            return
        if request.path not in self.files:
            request.send_error(404)
            return
        data = self.files[request.path]
        tag = '"' + hashlib.sha256(data).hexdigest()[:8] + '"'
        match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        begin = int(match[1]) if match and self.ranges and request.headers.get("If-Range", tag) == tag else 0
        if begin and begin >= len(data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if begin else 200)
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        if self.tagged:
            request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(data) - begin))
        request.end_headers()
        cut = self.cuts.pop(0) if self.cuts else len(data)
        request.wfile.write(data[begin : begin + cut])
        request.wfile.flush()
        request.close_connection = True
