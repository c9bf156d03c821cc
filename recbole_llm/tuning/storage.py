"""Where studies are kept: Optuna's storages, and a server for machines that do not see the driver's files."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file
from sqlalchemy.exc import SQLAlchemyError

from recbole_llm.errors import NoRoomError, UserError
from recbole_llm.utils.files import NO_ROOM, database_error, make_folder, open_database
from recbole_llm.utils.text import reason_of

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with Study.optimize")

HEARTBEAT_SECONDS, GRACE_SECONDS = 15, 60
OPEN_ATTEMPTS = 5
REACH_SECONDS = 30.0
SERVER = "grpc://"
_PIECE = 4096  # bytes of a journal that are read at once


@dataclass(frozen=True)
class Storage:
    """An open storage, and the address by which another process can open it."""

    address: str
    backend: BaseStorage


def storage_address(given: str | None, results: Path) -> str:
    """The address of the storage that a user names.

    Args:
        given: an SQLAlchemy address, or the path of an SQLite file (``.sqlite3``, ``.db``) or of a journal (``.log``,
            ``.journal``); by default ``studies.sqlite3`` in ``results``.
        results: the results folder.

    Raises:
        UserError: ``given`` is none of these.
    """
    given = given or str(results / "studies.sqlite3")
    if "://" in given:
        return given
    path = Path(given).absolute()
    if path.suffix not in (".log", ".journal", ".sqlite3", ".db"):
        raise UserError(f"--storage={given}: give an address (postgresql://...), a .sqlite3 or a .log file.")
    return str(path)


def open_storage(address: str) -> Storage:
    """Open a storage; missing files and tables are made.

    Args:
        address: from :func:`storage_address` or :func:`served`.

    Raises:
        UserError: the storage cannot be used.
        NoRoomError: the disk is full.
    """
    if address.startswith(SERVER):
        return Storage(address, _server_at(address))
    if "://" in address:
        return Storage(address, _database(address))
    path = Path(address)
    make_folder(path.parent)
    if path.suffix in (".log", ".journal"):
        return Storage(address, _journal(path))
    open_database(path, "SELECT 1").close()  # write-ahead logging: readers and writers do not block each other
    return Storage(address, _database(f"sqlite:///{path}"))


@contextmanager
def storage_errors(storage: Storage) -> Iterator[None]:
    """A block in which storage errors become one-line user errors.

    Raises:
        UserError: the storage is damaged, has other tables, or cannot be reached any more.
        NoRoomError: the disk is full.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise _storage_error(storage.address, error) from error


def _storage_error(address: str, error: BaseException) -> UserError | NoRoomError:
    """The error of a storage that cannot be used."""
    cause: BaseException | None = error
    while isinstance(cause, (StorageInternalError, SQLAlchemyError)):
        inner = getattr(cause, "orig", None) or cause.__cause__
        if inner is None:
            break
        cause = inner
    place = (_without_password(address) if "://" in address else address).removeprefix("sqlite:///")
    if isinstance(cause, sqlite3.Error):
        full = database_error(Path(place), cause)
        if isinstance(full, NoRoomError):
            return full
    reason = reason_of(cause or error)
    return UserError(
        f"--storage={place} is no storage of searches that can be used ({reason}): move it away, or name another one."
    )


class _Journal(JournalFileBackend):
    """A journal whose lines are written completely or not at all.

    If a process was killed or ran out of disk space in the middle of a line, Optuna would append to the half line, and
    neither could be read.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines.

        Raises:
            NoRoomError: the disk is full; nothing was written.
        """
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        path = Path(self._file_path)
        with get_lock_file(self._lock), path.open("r+b", buffering=0) as stream:
            end = _end_of_lines(stream)
            try:
                stream.truncate(end)
                stream.seek(end)
                written = stream.write(text)
                os.fsync(stream.fileno())
            except OSError as error:
                stream.truncate(end)
                if error.errno in NO_ROOM:
                    raise NoRoomError(path, error.strerror) from error
                raise
            if written < len(text):
                stream.truncate(end)
                raise NoRoomError(path, os.strerror(errno.ENOSPC))


def _end_of_lines(stream: IO[bytes]) -> int:
    """Position at which the last complete line of a file ends."""
    place = stream.seek(0, os.SEEK_END)
    while place:
        begin = max(0, place - _PIECE)
        stream.seek(begin)
        piece = stream.read(place - begin)
        if b"\n" in piece:
            return begin + piece.rindex(b"\n") + 1
        place = begin
    return 0


def _journal(path: Path) -> BaseStorage:
    """Open a journal.

    Raises:
        UserError: the file is not a journal; it is not changed.
    """
    backend = _Journal(str(path))
    with path.open("rb") as stream:
        begin = stream.read(_PIECE)
    if begin and not re.match(rb'\{[^\n]*"op_code"', begin):
        raise _not_a_journal(path)
    try:
        return optuna.storages.JournalStorage(backend)
    except OSError:
        raise
    except Exception as error:  # lines that are not a journal's can raise anything
        raise _not_a_journal(path) from error


def _not_a_journal(path: Path) -> UserError:
    return UserError(f"--storage={path} is not a journal of searches: move it away, or name another one.")


def _database(address: str) -> BaseStorage:
    engine = {"connect_args": {"timeout": 60}} if address.startswith("sqlite") else {"pool_pre_ping": True}
    for attempt in range(OPEN_ATTEMPTS):
        try:
            return RDBStorage(
                address, engine_kwargs=engine, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS
            )
        except Exception as error:  # drivers of databases raise many types
            if attempt + 1 == OPEN_ATTEMPTS:
                raise _storage_error(address, error) from error
            time.sleep(0.2)  # another process may have been making the same tables
    raise AssertionError


def _server_at(address: str) -> BaseStorage:
    host, _, port = address.removeprefix(SERVER).rpartition(":")
    proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
    try:
        proxy.wait_server_ready(REACH_SECONDS)
    except ConnectionError as error:
        raise UserError(
            f"a worker cannot reach the search at {host}:{port}: start the search on a machine of the cluster."
        ) from error
    return proxy


@contextmanager
def served(storage: Storage, host: str) -> Iterator[str]:
    """Serve a storage to jobs that do not share this machine's files; yields the server's address.

    Args:
        storage: what to serve.
        host: under which the jobs reach this machine. The server listens there without a password, as Ray itself does.
    """
    from optuna.storages._grpc.server import make_server  # loads gRPC, which only searches on a cluster need

    with socket.create_server((host, 0)) as probe:
        port = probe.getsockname()[1]
    server: Any = make_server(storage.backend, host, port)
    server.start()
    try:
        yield f"{SERVER}{host}:{port}"
    finally:
        server.stop(None)


def _without_password(address: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return str(make_url(address))  # shows *** in place of the password
    except ArgumentError:
        return address.partition("://")[0] + "://..."
