"""A new file gets its name: when it is whole and on the disk, and in the place of nothing."""

from __future__ import annotations

import os

from durus.error import StorageOpenError, StorageWriteError

__all__ = ["SIDE_FILES", "give_name", "refuse_existing", "sync_folder"]

# What SQLite would take for part of the file.
SIDE_FILES = ("-wal", "-shm", "-journal")


def refuse_existing(path: str, attempt: str) -> None:
    """Refuse a name that is taken, or beside which stands what would be taken for part of it.

    Args:
        path: the name.
        attempt: what is being tried, such as "restore to".

    Raises:
        StorageOpenError: it is taken.
    """
    for found in (path, *(path + suffix for suffix in SIDE_FILES)):
        if os.path.lexists(found):
            raise StorageOpenError(
                f"tried to {attempt} {path!r}, but there is {found!r} already; choose another"
                " name, or move that away",
                path,
            )


def give_name(path: str, target: str, attempt: str) -> None:
    """Give a closed file another name, which survives the loss of power when this returns.

    Raises:
        StorageOpenError: the name is taken.
        StorageWriteError: part of the file is in another one.
        OSError: the system refused.
    """
    for suffix in SIDE_FILES:
        if os.path.exists(path + suffix) and os.path.getsize(path + suffix):
            raise StorageWriteError(
                f"tried to {attempt} {target!r}, but there is {path + suffix!r}, which somebody"
                " else keeps open"
            )
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    try:
        # Unlike a rename this never takes the place of what came there meanwhile.
        os.link(path, target)
    except FileExistsError:
        refuse_existing(target, attempt)
        raise
    except OSError:
        # A file system without second names.
        refuse_existing(target, attempt)
        os.rename(path, target)
    else:
        os.remove(path)
    sync_folder(os.path.dirname(os.path.abspath(target)))


def sync_folder(path: str) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
