"""Files that appear whole or not at all, and databases that processes share."""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from recbole_llm.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

BUSY_SECONDS = 60.0


@contextmanager
def whole_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A stream whose contents get the name ``path`` when the block ends without an error.

    Until then they have a hidden name beside it; after an error, or a kill, an older file of that name is
    still what it was. Two writers never mix.

    Args:
        path: the file to be; its folder is made.
        mode: ``wb``, or ``w`` for UTF-8 text with plain line ends.

    Raises:
        UserError: there is a folder of that name, or its own folder cannot be made.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file.")
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}")
    text: dict[str, str] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with partial.open(mode, **text) as stream:  # type: ignore[call-overload]
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def one_process_at_a_time(folder: Path, what: str = "") -> Iterator[None]:
    """A block that only one process enters for a folder; the others wait for it.

    The lock goes with its process, a killed one too. File systems that cannot lock folders (some network
    ones) get none.

    Args:
        folder: what is locked; made where it is missing.
        what: names it in the message to those who wait; without it there is no message.
    """
    make_folder(folder)
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if what:
                logger.info("another process is at %s; waiting for it", what)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            logger.debug("%s cannot be locked: %s", folder, error)
        yield
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder that will be written to.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {path} cannot be made: {error.strerror}.") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"the folder {path} cannot be written to.")


def open_database(path: Path, schema: str, **options: Any) -> sqlite3.Connection:
    """An SQLite file with write-ahead logging, which several processes may use at once.

    SQLite does not wait while another process switches a new file to write-ahead logging; it says at once
    that the file is locked. So the switch is tried again.

    Args:
        path: the file; made with its folder.
        schema: statement that makes the table where it is missing.
        **options: of ``sqlite3.connect``.

    Raises:
        UserError: the file is no database, or stays locked.
    """
    make_folder(path.parent)
    give_up = time.monotonic() + BUSY_SECONDS
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, **options)
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > give_up:
                    raise
                time.sleep(0.01)
        connection.execute(schema)
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{path} cannot be used ({error}); mend it (sqlite3's .recover), or move it away and start again."
        ) from error
    return connection
