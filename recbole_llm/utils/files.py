"""Files that appear whole or not at all, and databases that processes share."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from recbole_llm.errors import NoRoomError, UserError
from recbole_llm.utils.yaml import where_published

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

BUSY_SECONDS = 60.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # neither the user's mistake nor a bug
_PARTIAL = re.compile(r"\..+\.\d+-[0-9a-f]{6}")  # hidden names of whole_file and hidden_folder
_YOUNG = 60.0  # seconds in which a new file may not be locked yet


def is_no_room(error: BaseException) -> bool:
    """Whether an error says that a disk cannot be written, so that no run is at fault."""
    return isinstance(error, NoRoomError) or (isinstance(error, OSError) and error.errno in NO_ROOM)


def check_file(option: str, path: Path) -> Path:
    """The path that an option gives, which must be that of a file.

    Raises:
        UserError: there is no such file, or a folder of that name.
    """
    if path.is_dir():
        raise UserError(f"{option}={path} is a folder; give the name of a file.")
    if not path.is_file():
        raise UserError(f"{option}={path}: there is no such file.{where_published(path)}")
    return path


class _Watched(io.FileIO):
    """A file that remembers why it could not be written: libraries raise errors of their own instead."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


@contextmanager
def whole_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A stream whose contents get the name ``path`` only when the block ends without an error.

    Until then they have a hidden name beside it; an error, or a kill, leaves an older file of that name as it
    was. Two writers never mix.

    Args:
        path: the file to write; its folder is created.
        mode: ``wb``, or ``w`` for UTF-8 text with plain line ends.

    Raises:
        UserError: there is a folder of that name, or its own folder cannot be made.
        NoRoomError: the disk is full.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file.")
    make_folder(path.parent)
    _remove_abandoned(path.parent.absolute())
    partial = _partial_name(path)
    raw: _Watched | None = None
    try:
        raw = _Watched(partial, "w")
        _lock(raw.fileno())
        buffered = io.BufferedWriter(raw)
        stream: IO[Any] = buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8", newline="\n")
        with _closed_whatever_comes(stream, raw):
            yield stream
            stream.flush()
            os.fsync(raw.fileno())
        partial.replace(path)
    except Exception as error:
        cause = raw.error if raw is not None and raw.error is not None else error
        if isinstance(cause, OSError) and (cause.errno in NO_ROOM or _is_of_numpy(cause)):
            raise NoRoomError(path, cause.strerror or "no room is left") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def hidden_folder(path: Path) -> Iterator[Path]:
    """A new folder with a hidden name beside ``path``, which is removed when the block ends.

    One that a killed process left there is removed by the next process that writes beside it.

    Args:
        path: what is made in the folder; its parent is created.

    Raises:
        UserError: the parent cannot be created.
    """
    make_folder(path.parent)
    _remove_abandoned(path.parent.absolute())
    hidden = _partial_name(path)
    hidden.mkdir()
    descriptor = os.open(hidden, os.O_RDONLY) if fcntl is not None else None
    try:
        if descriptor is not None:
            _lock(descriptor)
        yield hidden
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name ``path`` only when the block ends without an error.

    If another process was first, its folder stays.

    Args:
        path: the folder to make; its parent is created.

    Raises:
        UserError: the parent cannot be created.
    """
    with hidden_folder(path) as partial:
        yield partial
        if not path.exists():
            with suppress(FileExistsError, NotADirectoryError):
                partial.replace(path)


def _partial_name(path: Path) -> Path:
    """A hidden name beside a path, which ``_PARTIAL`` recognises."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}")


@contextmanager
def _closed_whatever_comes(stream: IO[Any], raw: _Watched) -> Iterator[None]:
    """Close a stream after the block; of several errors, the first one is raised."""
    try:
        yield
    except BaseException:
        raw.close()  # not the stream, which would write the rest of its buffer
        raise
    stream.close()


def _is_of_numpy(error: OSError) -> bool:
    """Whether numpy could not write all of an array: its error has numbers of elements, but no ``errno``."""
    return error.errno is None and " requested and " in str(error)


def _lock(descriptor: int) -> bool:
    """Try to lock a file without waiting; returns whether it is locked now."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@cache
def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; each process does so once.

    A writer locks its file as long as it lives, so a file that can be locked has lost its writer.
    """
    for path in folder.glob(".*"):
        try:
            if not _PARTIAL.fullmatch(path.name) or time.time() - path.stat().st_mtime < _YOUNG:
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if _lock(descriptor):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    logger.info("removed %s, which a command that was killed left unfinished", path)
            finally:
                os.close(descriptor)
        except OSError as error:
            logger.debug("%s stays: %s", path, error)


@contextmanager
def one_process_at_a_time(folder: Path, what: str = "") -> Iterator[None]:
    """A block that only one process at a time enters for a folder; the others wait.

    The lock ends with its process, even if that is killed. There is no lock on Windows, or on file systems that
    cannot lock folders (some network ones).

    Args:
        folder: the folder to lock; created if it is missing.
        what: what the lock protects, for the message to waiting processes; without it there is no message.
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


def check_name(name: str, what: str) -> str:
    """A name that becomes part of a path, refused if it could leave its folder.

    Args:
        name: the name, for example of a dataset.
        what: what to blame in the message, such as ``--dataset=..``.

    Raises:
        UserError: it is empty, ``.`` or ``..``, or has a slash, a backslash or a character that is not printable.
    """
    if name in ("", ".", "..") or not name.isprintable() or any(mark in name for mark in "/\\"):
        raise UserError(f"{what}: {name!r} is no name of a file or folder; what is written would leave its folder.")
    return name


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def make_folder(path: Path) -> None:
    """Make a folder that will be written to.

    Raises:
        UserError: it cannot be made or written to.
        NoRoomError: the disk is full.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise NoRoomError(path, error.strerror) from error
        raise UserError(f"the folder {path} cannot be made: {error.strerror}.") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"the folder {path} cannot be written to.")


def open_database(path: Path, schema: str, **options: Any) -> sqlite3.Connection:
    """An SQLite file with write-ahead logging, which several processes may use at once.

    SQLite does not wait while another process switches a new file to write-ahead logging, but reports the file
    as locked at once. So the switch is tried again.

    Args:
        path: the file; created with its folder.
        schema: statement that creates the table if it is missing.
        **options: options of ``sqlite3.connect``.

    Raises:
        UserError: the file is not a database, or stays locked.
        NoRoomError: the disk is full.
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
        raise database_error(path, error) from error
    return connection


def database_error(path: Path, error: sqlite3.Error) -> UserError | NoRoomError:
    """The error of an SQLite file that cannot be used."""
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return NoRoomError(path, error)
    advice = "repair it (sqlite3's .recover), or move it away and start again"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        advice = "another process holds it: run the same command again when that has ended"
    elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        advice = "it and its folder have to be readable and writable"
    return UserError(f"{path} cannot be used ({error}); {advice}.")
