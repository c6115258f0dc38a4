"""How SQLite is asked: connections, the wait for its locks, and its errors as ours."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from time import monotonic, sleep
from typing import TypeVar

from durus.error import (
    CorruptionError,
    StorageError,
    StorageFormatError,
    StorageLockedError,
    StorageMissingError,
    StorageOpenError,
    StoragePermissionError,
    StorageWriteError,
)

__all__ = [
    "Engine",
    "check_path",
    "connect",
    "rollback",
    "run",
    "translated",
    "translation",
    "writing",
]

T = TypeVar("T")

# What SQLite itself keeps of the file in memory, for each session.
_CACHE_KIB = 8 << 10

# What stays of the WAL file when all of it is in the database.
_WAL_BYTES = 16 << 20

# SQLite's own wait sleeps a millisecond or more where a commit takes a fraction of one.
_FIRST_WAIT_S = 0.0001
_LONGEST_WAIT_S = 0.002

# Not the module's own generator, whose numbers a program may have seeded for itself.
_random = SystemRandom()


@dataclass(frozen=True)
class Engine:
    """What all connections to one database have in common.

    Attributes:
        path: the file, absolute.
        readonly: nothing may be changed.
        durable: sync each commit.
        lock_timeout_s: how long to wait for another process.
    """

    path: str
    readonly: bool
    durable: bool
    lock_timeout_s: float


def check_path(path: str, *, readonly: bool) -> None:
    """Refuse what SQLite would refuse with fewer words, or wait for, or make by mistake."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        if not path:
            raise StorageOpenError("cannot open a storage: the path is empty", path) from None
        if readonly:
            raise StorageMissingError(
                f"there is no file {path!r} to open read-only", path
            ) from error
        if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise StorageMissingError(
                f"cannot make {path!r}: there is no such directory", path
            ) from error
        return
    except PermissionError as error:
        raise StoragePermissionError(f"no permission to reach {path!r}", path) from error
    except (OSError, ValueError) as error:
        raise StorageOpenError(f"cannot open {path!r:.200}: {error}", path) from error
    if not stat.S_ISREG(status.st_mode):
        raise StorageOpenError(f"cannot open {path!r}: it is not a regular file", path)
    if not os.access(path, os.R_OK if readonly else os.R_OK | os.W_OK):
        verb = "read" if readonly else "write"
        raise StoragePermissionError(f"no permission to {verb} {path!r}", path)


def connect(
    engine: Engine,
    *,
    readonly: bool | None = None,
    durable: bool | None = None,
    create: bool = False,
) -> sqlite3.Connection:
    """Open one more connection. Only if told to, it makes the file when that is written to."""
    readonly = engine.readonly if readonly is None else readonly
    durable = engine.durable if durable is None else durable
    mode = "ro" if readonly else "rwc" if create else "rw"
    uri = f"{Path(engine.path).as_uri()}?mode={mode}"
    # A session may go from thread to thread, one at a time; SQLite is built to allow that.
    db = sqlite3.connect(uri, timeout=0, isolation_level=None, check_same_thread=False, uri=True)
    try:
        # Even to ask for the first of these SQLite may have to wait, for another's recovery.
        run(engine, lambda: _configure(db, durable=durable))
    except BaseException:
        db.close()
        raise
    return db


def _configure(db: sqlite3.Connection, *, durable: bool) -> None:
    # Without FULL a commit in the WAL is not synced, but what is there stays consistent.
    db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    db.execute("PRAGMA cell_size_check = ON")


def run(engine: Engine, ask: Callable[[], T]) -> T:
    """Ask SQLite something for which it may need a lock, again and again until the time is up.

    Raises:
        StorageLockedError: another process had the lock all the time.
    """
    deadline = monotonic() + engine.lock_timeout_s
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            return ask()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            if monotonic() >= deadline:
                raise StorageLockedError(
                    f"waited {engine.lock_timeout_s:g} s for the lock of {engine.path!r}, which"
                    f" another session or program holds ({_said(error)}); try again",
                    engine.path,
                ) from error
        sleep(_random.uniform(wait_s / 2, wait_s))
        wait_s = min(wait_s * 1.5, _LONGEST_WAIT_S)


@contextmanager
def writing(engine: Engine, db: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock, and commit at the end of the block; nothing is kept if it raises."""
    run(engine, lambda: db.execute("BEGIN IMMEDIATE"))
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        rollback(db)
        raise


def rollback(db: sqlite3.Connection) -> None:
    """End a transaction, if SQLite has not done so itself because of an error."""
    if db.in_transaction:
        with suppress(sqlite3.Error):  # the error that led here says more
            db.execute("ROLLBACK")


@contextmanager
def translated(path: str, what: str) -> Iterator[None]:
    """Raise an error of ours in the place of SQLite's."""
    try:
        yield
    except sqlite3.Error as error:
        raise translation(error, path, what) from error


def translation(error: sqlite3.Error, path: str, what: str, oid: bytes | None = None) -> Exception:
    """Give the error of ours that says what SQLite's means here."""
    code = getattr(error, "sqlite_errorcode", None)
    said = f"tried to {what} {path!r}: {_said(error)}"
    match code and code & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StorageLockedError(f"{said}; another program has it locked", path)
        case sqlite3.SQLITE_CORRUPT:
            return CorruptionError(
                f"{said}; the file is damaged: restore a backup, or see what"
                " `sqlite3 FILE .recover` can read",
                path=path,
                oid=oid,
            )
        case sqlite3.SQLITE_NOTADB:
            return StorageFormatError(f"{said}; it is no SQLite database, or it is damaged", path)
        case sqlite3.SQLITE_CANTOPEN:
            if not Path(path).parent.is_dir():
                return StorageMissingError(f"{said}; there is no such directory", path)
            return StorageOpenError(
                f"{said}; SQLite makes files beside it and needs a directory that may be written",
                path,
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return StoragePermissionError(
                f"{said}; the file or its directory may not be written", path
            )
        case sqlite3.SQLITE_FULL:
            return StorageWriteError(f"{said}; the disk is full, nothing was committed")
        case sqlite3.SQLITE_IOERR:
            return StorageWriteError(f"{said}; the system failed to read or write")
        case _:
            return StorageError(said)


def _said(error: sqlite3.Error) -> str:
    return f"{error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})"
