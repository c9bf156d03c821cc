"""Where studies are kept, and how a trial whose process died gets back into their queue."""

from __future__ import annotations

import copy
import time
import warnings
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial

from recbole_llm.errors import UserError
from recbole_llm.utils.files import make_folder, open_database

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with Study.optimize")

HEARTBEAT_SECONDS, GRACE_SECONDS = 15, 60
OPEN_ATTEMPTS = 5
MAX_RETRIES = 5  # of a trial whose process died


class _Retry(RetryHeartbeatStaleTrialCallback):
    """Puts a lost trial back into the queue, where it belongs to nobody: its owner is gone."""

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        queued = copy.copy(trial)
        queued.user_attrs = {name: value for name, value in trial.user_attrs.items() if name != "owner"}
        super().__call__(study, queued)


RETRY = _Retry(max_retry=MAX_RETRIES)


def open_storage(address: str | None, results: Path) -> BaseStorage:
    """Where studies are kept.

    Args:
        address: an SQLAlchemy address, or the path of an SQLite file (``.sqlite3``, ``.db``) or of a journal
            (``.log``, ``.journal``); by default ``studies.sqlite3`` in ``results``.
        results: the results folder.

    Raises:
        UserError: the storage cannot be used.
    """
    address = address or str(results / "studies.sqlite3")
    if "://" not in address:
        path = Path(address)
        if path.suffix in (".log", ".journal"):
            from optuna.storages.journal import JournalFileBackend

            make_folder(path.parent)
            return optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        if path.suffix not in (".sqlite3", ".db"):
            raise UserError(f"--storage={address}: give an address (postgresql://...), a .sqlite3 or a .log file.")
        open_database(path, "SELECT 1").close()  # write-ahead logging: readers and writers do not block each other
        address = f"sqlite:///{path}"
    for attempt in range(OPEN_ATTEMPTS):
        try:
            return _database(address)
        except Exception as error:  # whatever the database's driver raises
            if attempt + 1 == OPEN_ATTEMPTS:
                raise UserError(f"--storage={_without_password(address)}: {type(error).__name__}.") from error
            time.sleep(0.2)  # another process may have been making the same tables
    raise AssertionError


def _database(address: str) -> BaseStorage:
    engine = {"connect_args": {"timeout": 60}} if address.startswith("sqlite") else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(
        address,
        engine_kwargs=engine,
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
        heartbeat_stale_trial_callback=RETRY,
    )


def _without_password(address: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return str(make_url(address))  # shows *** in its place
    except ArgumentError:
        return address.partition("://")[0] + "://..."
