"""A folder in which one process makes a file; those that dead processes have left are removed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["work_folder"]

# What tempfile puts behind the prefix.
_RANDOM = "[a-z0-9_]{8}"


@contextmanager
def work_folder(target: Path, purpose: str) -> Iterator[Path]:
    """Give a new folder beside a file that is to be made; it is removed at the end.

    It is locked. The system drops the lock with its process, however that dies; so what nobody
    holds is of nobody, and who makes the same file next removes it.

    Args:
        target: the file. What is made in the folder has names that begin with its name.
        purpose: stands in the folder's name, behind that of the file.

    Raises:
        OSError: there is no such place, or nothing can be made there.
    """
    parent = target.absolute().parent
    prefix = f"{target.name}.{purpose}-"
    with suppress(OSError):
        _remove_left(parent, prefix, target.name)
    made, descriptor = _make(parent, prefix)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(descriptor)


def _make(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make a folder and lock it. Between the two another process may take it for left."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            descriptor = _open(made)
        except FileNotFoundError:
            continue
        # Where the file system has no locks, nobody else gets one either, and removes nothing.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if made.exists():
            return made, descriptor
        os.close(descriptor)


def _remove_left(parent: Path, prefix: str, name: str) -> None:
    for found in parent.iterdir():
        if not re.fullmatch(re.escape(prefix) + _RANDOM, found.name):
            continue
        try:
            descriptor = _open(found)
        except OSError:
            continue
        # Refused while somebody works there.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A person may have a folder of such a name.
            if all(inner.name.startswith(name) for inner in found.iterdir()):
                shutil.rmtree(found, ignore_errors=True)
        os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
