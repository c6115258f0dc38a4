"""Files and directories: open, lock, read, write, sync, replace.

The only module of the file storages that touches the operating system. Every call is made as an
attribute of the name `os` below, so a test can put a stand-in there that records what reaches the
disk, or that fails.

What the callers rely on:

- `write` puts all the bytes there or raises OSError; then some of them may be there.
- When `sync` returns, the bytes written so far and the file's length survive the loss of power.
- When `sync_directory` returns, so do the names that were made, replaced or removed in it.
- After a sync failed nothing that was written since the last good one can be trusted, though it may
  read back well: the system may have dropped it from memory as if it had been written.

Files are read with pread and never mapped: a mapped file that is cut short by somebody else, or on
a disk that fails, kills the process (SIGBUS), where a read gives an error to report.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from durus.error import (
    StorageError,
    StorageLockedError,
    StorageMissingError,
    StorageOpenError,
    StoragePermissionError,
)

__all__ = [
    "File",
    "create_file",
    "create_nameless",
    "create_temporary",
    "directory_of",
    "exists",
    "file_identity",
    "lock_file",
    "open_file",
    "real_path",
    "remove",
    "remover",
    "rename_over",
    "second_name",
    "sync_directory",
    "temporary_directory",
]

# More than any inode changes hands between open and lock; only an error of ours would reach it.
_OPEN_ATTEMPTS = 100

_NO_SECOND_NAME = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
)

# A new name that is made beside a file, until the name is free.
_NAME_ATTEMPTS = 1000

# Linux reads at most 2 GiB less a page at once; of this much it gives all that there is.
_SURE_READ_BYTES = 1 << 30

Identity = tuple[int, int]


class File:
    """One open file, read and written at offsets.

    Attributes:
        path: the name by which it was opened.
        readonly: it was opened for reading only.
    """

    __slots__ = ("__weakref__", "_fd", "path", "readonly")

    def __init__(self, path: str, fd: int, *, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        self._fd = fd

    def read(self, offset: int, length: int) -> bytes:
        """Read at `offset`: `length` bytes, or fewer where the file ends first."""
        data = os.pread(self._fd, length, offset)
        if len(data) == length or length <= _SURE_READ_BYTES:
            return data
        parts = [data]
        while data and len(data) < length:
            offset += len(data)
            length -= len(data)
            data = os.pread(self._fd, length, offset)
            parts.append(data)
        return b"".join(parts)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` at `offset`.

        Raises:
            OSError: the system refused; some of it may be written.
        """
        written = os.pwrite(self._fd, data, offset)
        if written == len(data):
            return
        view = memoryview(data)
        while written < len(view):
            count = os.pwrite(self._fd, view[written:], offset + written)
            if count == 0:
                raise OSError(errno.EIO, "a write wrote nothing", self.path)
            written += count

    def truncate(self, length: int) -> None:
        """Cut or extend the file to `length` bytes."""
        os.ftruncate(self._fd, length)

    def sync(self) -> None:
        """Wait until the contents and the length are on the disk."""
        if hasattr(os, "fdatasync"):
            os.fdatasync(self._fd)
        else:
            os.fsync(self._fd)

    def sync_all(self) -> None:
        """Wait until the contents, the length, the owner and the times are on the disk."""
        os.fsync(self._fd)

    def length(self) -> int:
        """Give the number of bytes in the file now."""
        return os.fstat(self._fd).st_size

    def identity(self) -> Identity:
        """Give what tells this file from others, whatever its name: device and inode."""
        status = os.fstat(self._fd)
        return status.st_dev, status.st_ino

    def mode_and_owner(self) -> tuple[int, int, int]:
        """Give the permission bits, the user and the group."""
        status = os.fstat(self._fd)
        return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid

    def adopt_mode_and_owner(self, other: File) -> None:
        """Take over who may use `other`, as far as the system lets this process."""
        mode, user, group = other.mode_and_owner()
        with suppress(PermissionError):
            if (user, group) != self.mode_and_owner()[1:]:
                os.fchown(self._fd, user, group)
        with suppress(PermissionError):
            os.fchmod(self._fd, mode)

    def try_lock(self) -> bool:
        """Take the exclusive lock that keeps other writers out; false if one has it.

        The lock goes with the open file: it ends when the file is closed, or the process ends.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def is_closed(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        """Close the file and give up its lock. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def real_path(path: str) -> str:
    """Follow links, so that what is put beside the file or in its place goes where the file is."""
    return os.path.realpath(path)


def open_file(path: str, *, readonly: bool, create: bool = False) -> File:
    """Open a regular file.

    Args:
        path: the file.
        readonly: open it for reading only.
        create: make an empty one if there is none.

    Raises:
        StorageOpenError: or one of its kinds, saying what is in the way.
    """
    flags = os.O_CLOEXEC | os.O_NONBLOCK | (os.O_RDONLY if readonly else os.O_RDWR)
    if create:
        flags |= os.O_CREAT
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        _refuse(path, error, readonly=readonly)
    _refuse_irregular(path, mode)
    try:
        fd = os.open(path, flags, 0o666)
    except (OSError, ValueError) as error:
        _refuse(path, error, readonly=readonly)
    file = File(path, fd, readonly=readonly)
    try:
        _refuse_irregular(path, os.fstat(fd).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def lock_file(path: str, *, create: bool = False) -> File:
    """Open a file for writing and lock it against other writers.

    The file that is locked is the one that has the path: one that was replaced between opening and
    locking (a pack does that) is let go, and the new one tried.

    Raises:
        StorageLockedError: another writer has it; the message says who, if the system tells.
        StorageOpenError: or another of its kinds.
    """
    for _ in range(_OPEN_ATTEMPTS):
        file = open_file(path, readonly=False, create=create)
        try:
            if not file.try_lock():
                raise StorageLockedError(_locked_text(path, file.identity()), path)
            if file_identity(path) == file.identity():
                return file
        except BaseException:
            file.close()
            raise
        file.close()
    raise StorageOpenError(f"tried to open {path!r}, which is replaced again and again", path)


def create_file(path: str) -> File:
    """Make a file that does not exist yet, open for reading and writing.

    Raises:
        FileExistsError: it exists.
        OSError: the system refused.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return File(path, os.open(path, flags, 0o666), readonly=False)


def create_temporary(directory: str, prefix: str, suffix: str = "") -> File:
    """Make a file with a new name in `directory`, which only this user may open."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    for _ in range(_NAME_ATTEMPTS):
        path = os.path.join(directory, f"{prefix}{os.urandom(6).hex()}{suffix}")
        try:
            return File(path, os.open(path, flags, 0o600), readonly=False)
        except FileExistsError:
            continue
    raise StorageError(f"tried to make a temporary file in {directory!r}, found no free name")


def directory_of(path: str) -> str:
    """Give the directory that holds `path`."""
    return os.path.dirname(path) or "."


def temporary_directory() -> str:
    """Give the directory for temporary files."""
    return tempfile.gettempdir()


def create_nameless(directory: str) -> File:
    """Make a file that is gone when it is closed, whatever happens."""
    file = create_temporary(directory, ".durus-")
    remove(file.path)
    return file


def file_identity(path: str) -> Identity | None:
    """Give the `identity` of the file that has this path now, or None if there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def exists(path: str) -> bool:
    """Tell whether there is anything at `path`, even a link to nothing."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def rename_over(source: str, target: str) -> None:
    """Give the file at `source` the name `target`, which at every instant names one of the two."""
    os.replace(source, target)


def second_name(path: str, name: str) -> bool:
    """Give the file at `path` one more name.

    Returns:
        False where the file system has no such thing.

    Raises:
        FileExistsError: `name` is taken.
    """
    try:
        os.link(path, name)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_SECOND_NAME:
            raise
        return False
    return True


def remove(path: str) -> None:
    """Remove the name `path`, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remover(path: str) -> Callable[[], None]:
    """Give what removes the name `path`, in this process and in none that it forks."""
    pid = os.getpid()

    def remove_own() -> None:
        if os.getpid() == pid:
            remove(path)

    return remove_own


def sync_directory(path: str) -> None:
    """Wait until the names in the directory that holds `path` are on the disk."""
    fd = os.open(directory_of(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refuse_irregular(path: str, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    kind = kinds.get(stat.S_IFMT(mode), "something else")
    raise StorageOpenError(f"tried to open {path!r} as a database file, found {kind} there", path)


def _refuse(path: str, error: OSError | ValueError, *, readonly: bool) -> NoReturn:
    purpose = "reading" if readonly else "writing"
    attempt = f"tried to open {path!r:.200} for {purpose}"
    if isinstance(error, FileNotFoundError):
        raise StorageMissingError(f"{attempt}, found {_missing_text(path)}", path) from error
    message = f"{attempt}, the system says: {_reason(error)}"
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
        raise StoragePermissionError(message, path) from error
    raise StorageOpenError(message, path) from error


def _missing_text(path: str) -> str:
    directory = os.path.dirname(real_path(path))
    if exists(directory):
        return "no such file"
    return f"no directory {directory!r}; make it first"


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _locked_text(path: str, identity: Identity) -> str:
    """Say who holds the lock on a file, where the system tells (Linux does, in /proc/locks)."""
    pid = _lock_holder_pid(identity)
    holder = "another process" if pid is None else _process_text(pid)
    advice = "open it read-only, end the other writer, or let both use a server: 'durus serve'"
    if pid == os.getpid():
        holder = f"this process ({pid})"
        advice = "use what has it open, a Database for several threads, or close that first"
    return f"tried to open {path!r} for writing, but {holder} has it open for writing; {advice}"


def _process_text(pid: int) -> str:
    command = _read_small(f"/proc/{pid}/cmdline").replace(b"\0", b" ")
    text = command.decode("utf-8", "backslashreplace")
    # Whatever that process was called with, the message stays one line.
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(shown) > 100:
        shown = shown[:97] + "..."
    return f"process {pid} ({shown})" if shown else f"process {pid}"


def _lock_holder_pid(identity: Identity) -> int | None:
    """Find `n: FLOCK ADVISORY WRITE pid major:minor:inode start end`.

    Some file systems show another device there than in a file's status, so an equal device is
    preferred, and not asked for.
    """
    device, inode = identity
    exact = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    alike = None
    for line in _read_small("/proc/locks").decode("ascii", "replace").splitlines():
        words = line.split()
        if len(words) < 6 or words[1] != "FLOCK" or not words[4].isdecimal():
            continue
        if words[5] == exact:
            return int(words[4])
        if words[5].endswith(f":{inode}"):
            alike = int(words[4])
    return alike


def _read_small(path: str) -> bytes:
    """Read a file of the system that may not be there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError:
        return b""
    finally:
        os.close(fd)
