"""Copying a database while it is in use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from durus.error import StorageOpenError, StorageWriteError
from durus.file_storage._file import (
    File,
    create_temporary,
    directory_of,
    exists,
    remove,
    rename_over,
    second_name,
    sync_directory,
)
from durus.file_storage._format import CHUNK_BYTES, DamageError, copy_range
from durus.file_storage._journal import Journal

__all__ = ["copy_journal"]

Progress = Callable[[int, int], object]


def copy_journal(journal: Journal, path: str, progress: Progress | None) -> None:
    """Copy what is committed now into a new file.

    What is there never changes, for a file grows only at its end, and a pack makes another file. So
    commits and packs may go on meanwhile. The copy gets its name when all of it is on the disk.

    Raises:
        StorageOpenError: there is something at `path`.
        StorageWriteError: the system refused; nothing is left of the copy.
        CorruptionError: the file is shorter than what was committed.
    """
    _refuse_existing(path)
    try:
        copy = create_temporary(directory_of(path), ".durus-copy-")
    except OSError as error:
        raise _write_error(path, error) from error
    try:
        _copy_in_pieces(journal, copy, progress)
        if not second_name(copy.path, path):
            # A file system without second names: nothing can be refused and named in one go.
            _refuse_existing(path)
            rename_over(copy.path, path)
        remove(copy.path)
        _sync_name(path)
    except FileExistsError:
        _refuse_existing(path)
        raise
    except DamageError as damage:
        raise journal.corruption(damage) from damage
    except StorageOpenError:
        raise
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        copy.close()
        with suppress(OSError):
            remove(copy.path)


def _copy_in_pieces(journal: Journal, copy: File, progress: Progress | None) -> None:
    total = journal.tip.end
    done = 0
    copy.adopt_mode_and_owner(journal.file)
    while done < total:
        stop = min(done + CHUNK_BYTES, total)
        copy_range(journal.file, done, stop, copy, done)
        done = stop
        if progress is not None:
            progress(done, total)
    copy.sync_all()


def _sync_name(path: str) -> None:
    try:
        sync_directory(path)
    except OSError:
        with suppress(OSError):
            remove(path)
        raise


def _refuse_existing(path: str) -> None:
    if exists(path):
        raise StorageOpenError(
            f"tried to copy to {path!r}, where there is something already; choose another name",
            path,
        )


def _write_error(path: str, error: OSError) -> StorageWriteError:
    return StorageWriteError(
        f"tried to copy to {path!r}, the system says: {error.strerror or error}; nothing of the"
        " copy is left"
    )
