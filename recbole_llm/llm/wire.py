"""Requests over HTTP, bounded in size and in time, whatever the other side sends.

Whatever a server, a proxy or the network does, :meth:`Wire.post` raises nothing but a :class:`WireFault` with the
reason.
"""

from __future__ import annotations

import json
import ssl
import urllib.parse
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from recbole_llm.llm.address import redact

LARGEST_RESPONSE = 2 << 20  # bytes, unpacked; an answer has thousands
CONNECT_SECONDS = 10.0
TIME_OUT, BROKEN, MALFORMED, NO_SERVER = "time-out", "broken connection", "malformed response", "no connection"


class WireFault(Exception):  # noqa: N818 - a fault is no error of ours
    """An attempt that brought no usable response.

    Args:
        kind: name under which it is counted.
        words: what happened, for messages.
        headers: the response's headers, if there was one.
    """

    def __init__(self, kind: str, words: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(words)
        self.kind, self.headers = kind, headers or {}


@dataclass(frozen=True)
class Response:
    """A whole response.

    Attributes:
        status: HTTP status.
        headers: names in lower case.
        body: unpacked.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is not JSON, or nested too deeply.
        """
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


class Wire:
    """Connections to one address; the caller closes them.

    Args:
        url: the address to post to, without a name and password.
        headers: headers of every request.
        timeout: seconds for a request and its whole response.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        self.url = url
        self._proxy = _proxy_of(url)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"Content-Type": "application/json", "Accept-Encoding": "gzip", **headers},
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, CONNECT_SECONDS)),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def post(self, body: Any) -> Response:
        """Send JSON and return the response, whatever its status.

        Raises:
            WireFault: there was no response that can be used.
        """
        if self._proxy is not None and not self._proxy.startswith(("http://", "https://")):
            proxy = redact(self._proxy)
            raise WireFault(NO_SERVER, f"the environment names the proxy {proxy}, and only HTTP proxies can be used")
        try:
            data = json.dumps(body, ensure_ascii=False).encode("utf-8")
            request = self._session.post(self.url, data=data, proxy=self._proxy, allow_redirects=False)
            async with request as response:
                return await _read(response)
        except WireFault:
            raise
        except aiohttp.ConnectionTimeoutError as error:
            raise WireFault(NO_SERVER, f"no connection within {CONNECT_SECONDS:.0f} seconds") from error
        except TimeoutError as error:
            raise WireFault(TIME_OUT, "no whole response in time") from error
        except aiohttp.ClientProxyConnectionError as error:
            proxy = redact(str(self._proxy))
            raise WireFault(NO_SERVER, f"the environment's proxy {proxy}: {_words(error)}") from error
        except aiohttp.ClientConnectorError as error:
            raise WireFault(NO_SERVER, _words(error)) from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError, OSError) as error:
            raise WireFault(BROKEN, _words(error)) from error
        except Exception as error:  # parsers raise unforeseen errors on malformed input
            raise WireFault(MALFORMED, _words(error)) from error


async def _read(response: aiohttp.ClientResponse) -> Response:
    """The whole of a response.

    Raises:
        WireFault: it is too large, or packed in a way that cannot be read.
    """
    packed = bytearray()
    async for piece in response.content.iter_any():
        packed += piece
        if len(packed) > LARGEST_RESPONSE:
            raise WireFault(MALFORMED, f"a response of more than {LARGEST_RESPONSE:,} bytes")
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(response.status, headers, _unpacked(bytes(packed), headers.get("content-encoding", "")))


def _unpacked(body: bytes, encoding: str) -> bytes:
    if encoding.strip().lower() in ("", "identity"):
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise WireFault(MALFORMED, f"a response packed as {encoding[:40]!r}, which was not asked for")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        found = unpacker.decompress(body, LARGEST_RESPONSE)
    except zlib.error as error:
        raise WireFault(MALFORMED, f"a packed response that cannot be unpacked ({error})") from error
    if unpacker.unconsumed_tail:
        raise WireFault(MALFORMED, f"a response that unpacks to more than {LARGEST_RESPONSE:,} bytes")
    if not unpacker.eof:
        raise WireFault(BROKEN, "a packed response that was cut off")
    return found


def _proxy_of(url: str) -> str | None:
    """The proxy that the environment names for an address; one without a scheme is an HTTP proxy, as for curl."""
    parts = urllib.parse.urlsplit(url)
    proxies = urllib.request.getproxies()
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    found = proxies.get(parts.scheme) or proxies.get("all")
    return f"http://{found}" if found and "://" not in found else found


def _words(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({error.certificate_error})"
    inner = getattr(error, "os_error", None)
    if isinstance(inner, ssl.SSLError):
        return f"no TLS ({inner.reason or inner})"
    text = " ".join(str(getattr(inner, "strerror", None) or error).split())
    return text or type(error).__name__
