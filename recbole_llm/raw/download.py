"""Downloads that resume where they broke off.

What has arrived is kept beside the file as ``<name>.part``. After a broken connection or a restart, only the
rest is requested (HTTP Range), provided that the server's file is still the same (If-Range). The file gets its
name only when it is complete and its checksum is right.
"""

from __future__ import annotations

import http.client
import logging
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit

from recbole_llm.errors import NoRoomError, UserError
from recbole_llm.utils.files import file_sha256, is_no_room, one_process_at_a_time, whole_file

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 6  # consecutive attempts without a new byte
_BLOCK = 1 << 20
_REPORT_SECONDS = 5.0
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class _BrokenConnectionError(Exception):
    """The request failed, but another attempt may succeed."""


def download(url: str, target: Path, sha256: str = "", pause: float = 2.0, largest: int | None = None) -> Path:
    """Fetch a file, one at a time for each folder; a file that another process fetched meanwhile is taken.

    Args:
        url: http or https address.
        target: path of the file; its folder is created.
        sha256: expected checksum; not checked if empty.
        pause: seconds before the second attempt; doubled each time.
        largest: maximum size in bytes; ``None`` for no limit.

    Raises:
        UserError: the address is invalid, cannot be reached or refuses, the file is too large, the checksum is wrong,
            or the file cannot be written.
        NoRoomError: the disk is full; what has arrived is kept.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url}: only http and https addresses are downloaded.")
    missing, part = not target.exists(), target.with_name(target.name + ".part")
    with one_process_at_a_time(target.parent, f"a download into {target.parent}"):
        if missing and target.exists():
            return target
        try:
            _fetch(url, part, pause, largest)
        except NoRoomError:
            raise
        except OSError as error:
            if is_no_room(error):
                raise NoRoomError(part, error.strerror) from error
            raise UserError(f"{target} cannot be written: {error.strerror or error}") from error
        if sha256 and (found := file_sha256(part)) != sha256:
            part.unlink()
            raise UserError(f"{url}: the sha256 is {found}, not {sha256} as published; the download was thrown away.")
        part.replace(target)
        _validator(part).unlink(missing_ok=True)
        logger.info("%s: %s bytes%s", target, f"{target.stat().st_size:,}", ", sha256 as published" if sha256 else "")
        return target


def _validator(part: Path) -> Path:
    """The file that keeps a partial file's ETag or date and, on the next line, its address."""
    return part.with_name(part.name + ".tag")


def _fetch(url: str, part: Path, pause: float, largest: int | None) -> None:
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _attempt(url, part, before, largest)
            return
        except _BrokenConnectionError as error:
            now = part.stat().st_size if part.exists() else 0
            failures = 1 if now > before else failures + 1
            if failures >= ATTEMPTS:
                raise UserError(
                    f"{url}: the connection keeps breaking ({error}); {now:,} bytes are kept: run the same command "
                    "again to continue."
                ) from error
            logger.warning("%s: %s; going on at byte %s", part.stem, error, f"{now:,}")
            time.sleep(pause * 2 ** (failures - 1))


def _attempt(url: str, part: Path, offset: int, largest: int | None) -> None:
    """Make one request for the missing bytes.

    Raises:
        _BrokenConnectionError: another attempt may help.
        UserError: another attempt will not help.
    """
    tag = _validator(part)
    headers = {"User-Agent": "recbole-llm", "Accept-Encoding": "identity"}
    if offset and tag.exists():
        version, _, origin = tag.read_text(encoding="utf-8").partition("\n")
        if origin in ("", url):  # another address may serve other bytes under the same tag
            headers |= {"Range": f"bytes={offset}-", "If-Range": version}
    request = urllib.request.Request(quote(url, safe=":/?&=%#+~@,;"), headers=headers)  # noqa: S310 - scheme checked
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
            _receive(response, part, offset, largest, url)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            if error.headers.get("Content-Range") == f"bytes */{offset}":
                return  # everything had already arrived
            part.unlink(missing_ok=True)
            raise _BrokenConnectionError("the server has no such range") from error
        if error.code in _PASSING:
            raise _BrokenConnectionError(f"the server answers {error.code} {error.reason}") from error
        raise UserError(f"{url}: the server answers {error.code} {error.reason}.") from error
    except urllib.error.URLError as error:
        if offset and not isinstance(error.reason, socket.gaierror):
            raise _BrokenConnectionError(str(error.reason)) from error
        raise UserError(f"{url} cannot be reached ({error.reason}).") from error
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise _BrokenConnectionError(str(error) or type(error).__name__) from error


def _receive(response: http.client.HTTPResponse, part: Path, offset: int, largest: int | None, url: str) -> None:
    """Append the response's body; start over if the server sends the whole file.

    Raises:
        _BrokenConnectionError: the server sent another range, or fewer or more bytes than announced.
        UserError: the file is larger than ``largest``.
    """
    total = None
    resumed = False
    if response.status == 206:
        match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        resumed = match is not None and int(match[1]) == offset
        if not resumed:
            part.unlink(missing_ok=True)
            raise _BrokenConnectionError("the server sent another range than was asked for")
        total = int(match[2]) if match is not None and match[2] != "*" else None
    elif response.headers.get("Content-Length", "").isdecimal():
        total = int(response.headers["Content-Length"])
    if not resumed:
        offset = 0
        _remember(response, part, url)
    name = part.stem
    logger.info("%s: %s %s", name, f"going on at byte {offset:,} of" if resumed else "fetching", _size(total))
    with part.open("ab" if resumed else "wb") as stream:
        reported = time.monotonic()
        while block := response.read(_BLOCK):
            stream.write(block)
            if largest is not None and stream.tell() > largest:
                part.unlink()
                raise UserError(f"{response.url} has more than the {largest:,} bytes that it may have.")
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                logger.info("%s: %s of %s", name, f"{stream.tell():,}", _size(total))
        size = stream.tell()
    if total is not None and size != total:
        if size > total:
            part.unlink()
        raise _BrokenConnectionError(f"{size:,} of {total:,} bytes arrived")


def _remember(response: http.client.HTTPResponse, part: Path, url: str) -> None:
    """Store the version tag of the file and its address; without a tag, a partial file is never resumed."""
    tag = response.headers.get("ETag", "")
    if not tag or tag.startswith("W/"):  # a weak tag does not promise equal bytes
        tag = response.headers.get("Last-Modified", "")
    if tag:
        with whole_file(_validator(part), "w") as stream:
            stream.write(f"{tag}\n{url}")
    else:
        _validator(part).unlink(missing_ok=True)


def _size(total: int | None) -> str:
    return "an unknown number of bytes" if total is None else f"{total:,} bytes"
