"""A copy of a database that is in use."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace

from durus.error import StorageOpenError, StorageWriteError
from durus.sqlite_storage._engine import Engine, connect, run, translated

__all__ = ["copy_database"]

_PAGES_AT_ONCE = 256


def copy_database(engine: Engine, path: str, progress: Callable[[int, int], object] | None) -> None:
    """Copy the newest state to `path`, which appears when it is whole and on the disk.

    Raises:
        StorageOpenError: there is something at `path`.
        StorageWriteError: the system refused.
    """
    if os.path.lexists(path):
        raise StorageOpenError(f"tried to copy to {path!r}, but there is something already", path)
    working = f"{path}.new"
    try:
        # What a crash left of an earlier one.
        _remove(working)
        with translated(path, "copy to"):
            _copy(engine, working, progress)
        _sync(working)
        # Unlike a rename this never takes the place of what came there meanwhile.
        os.link(working, path)
        _sync(os.path.dirname(os.path.abspath(path)))
    except OSError as error:
        if isinstance(error, (StorageOpenError, StorageWriteError)):
            raise
        raise StorageWriteError(f"tried to copy to {path!r}: {error}") from error
    finally:
        _remove(working)


def _copy(engine: Engine, path: str, progress: Callable[[int, int], object] | None) -> None:
    def tell(_status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress((total - remaining) * page_bytes, total * page_bytes)

    target_engine = replace(engine, path=os.path.abspath(path), readonly=False)
    with (
        closing(connect(engine, readonly=True)) as source,
        closing(connect(target_engine, create=True)) as target,
    ):
        # In one snapshot. Else SQLite begins again whenever somebody commits.
        source.execute("BEGIN")
        sql = "SELECT count(*) FROM sqlite_schema"
        run(engine, lambda: source.execute(sql).fetchone())
        (page_bytes,) = source.execute("PRAGMA page_size").fetchone()
        source.backup(target, pages=_PAGES_AT_ONCE, progress=tell, sleep=0)
        # One file, which can be read where nothing can be written.
        target.execute("PRAGMA journal_mode = DELETE")


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            os.remove(path + suffix)
