"""FolderStorage: each transaction is a file, which is never changed once it has its name.

A folder holds::

    lock                 who has this one locked may use the folder
    unfinished           what a commit was writing when it ended early; of no worth
    0000000000000007.pack     the first file: all that the root reached when it was packed
    0000000000000008.commit   the records of a later transaction, and so on, without a gap

New numbers count up; without a pack the first file is 1. What has a lesser number than the last
pack is of no worth. A file is::

    8 bytes    b"DFOLDER1"
    8 bytes    the next oid to give
    4 bytes    how many records follow; for each of them
      4 bytes    its length
      4 bytes    its CRC-32
      the record

Integers are unsigned and big-endian. A commit writes `unfinished`, syncs it, gives it its name, and
syncs the folder. So what has a name is whole, whenever the power fails, and a file that is not was
damaged later.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple
from zlib import crc32

from durus.error import (
    CorruptionError,
    DurusKeyError,
    StorageClosedError,
    StorageError,
    StorageFormatError,
    StorageLockedError,
    StorageMissingError,
    StorageOpenError,
    StorageReadOnlyError,
    StorageTransactionError,
    StorageWriteError,
)
from durus.serialize import ROOT_OID
from durus.storage import Storage, StorageDescription, check_oid, check_record
from durus.utils import int8_to_str

__all__ = ["FolderStorage"]

_HEADER = struct.Struct(">8sQL")
_RECORD = struct.Struct(">LL")
_MAGIC = b"DFOLDER1"
_LOCK, _UNFINISHED = "lock", "unfinished"
_OID_BYTES = 8


class _Place(NamedTuple):
    """Where a record is: in which file, from which byte on, how long, and what proves it."""

    path: str
    offset: int
    length: int
    crc: int


class FolderStorage(Storage):
    """A database in a folder, for one writer or several readers, one thread at a time in each.

    Args:
        path: the folder; made if it is not there.
        readonly: refuse to write, and share the folder with others who do so.

    Raises:
        StorageOpenError: it cannot be opened or made; StorageMissingError if there is none to read.
        StorageLockedError: another storage has it open.
        StorageFormatError: it is a folder of something else.
        CorruptionError: a file is damaged, or missing.
    """

    can_pack = True
    can_open_readonly = True

    def __init__(self, path: str, *, readonly: bool = False) -> None:
        self._folder = os.path.abspath(path)
        self._readonly = readonly
        self._places: dict[bytes, _Place] = {}
        self._pending: dict[bytes, bytes] | None = None
        self._removed: set[bytes] = set()  # by a pack, and not told yet
        self._next_oid_int = 0
        self._last_number = 0
        self._failure = ""
        self._lock_fd: int | None = self._open_folder()
        try:
            self._read_folder()
        except OSError as error:
            self.close()
            raise StorageOpenError(f"cannot open {self._folder!r}: {error}", path) from error
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return f"FolderStorage({self._folder!r})"

    # -- the contract

    def load(self, oid: bytes) -> bytes:
        self._check_open()
        check_oid(oid)
        place = self._places.get(oid)
        if place is None:
            raise DurusKeyError(oid)
        record = _read(place.path, place.offset, place.length)
        if crc32(record) != place.crc:
            raise CorruptionError(
                f"the record of oid {int.from_bytes(oid, 'big')} in {place.path!r} is damaged;"
                " restore the file from a backup",
                path=place.path,
                offset=place.offset,
                oid=oid,
            )
        return record

    def begin(self) -> None:
        self._check_writable()
        self._pending = {}

    def store(self, oid: bytes, record: bytes) -> None:
        self._check_open()
        if self._pending is None:
            raise StorageTransactionError("store() needs a begin() first")
        check_record(oid, record)
        self._pending[bytes(oid)] = bytes(record)

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        self._check_open()
        pending, self._pending = self._pending, None
        if pending is None:
            raise StorageTransactionError("end() needs a begin() first")
        if self._removed and handle_invalidations is not None:
            handle_invalidations(list(self._removed))
            self._removed.clear()
        if pending:
            self._places |= self._write_file("commit", pending.values(), len(pending))

    def sync(self) -> list[bytes]:
        self._check_open()
        removed, self._removed = self._removed, set()
        return list(removed)

    def new_oid(self) -> bytes:
        self._check_writable()
        while True:
            oid = int8_to_str(self._next_oid_int)
            self._next_oid_int += 1
            if oid not in self._places and oid not in (self._pending or ()):
                return oid

    # -- what has a default, and is better known here

    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        if start_oid is not None:
            yield from super().gen_oid_record(start_oid, batch_size)
            return
        self._check_open()
        for oid in list(self._places):
            yield oid, self.load(oid)

    def describe(self) -> StorageDescription:
        self._check_open()
        return StorageDescription(
            format="folder-1", path=self._folder, object_count=len(self._places)
        )

    def get_packer(self) -> Iterator[object]:
        """Pack in one step: whoever else uses the storage waits for it."""
        self._check_writable()
        if ROOT_OID not in self._places:
            return
        kept = [oid for oid, _ in self.gen_oid_record(ROOT_OID)]
        places = self._write_file("pack", map(self.load, kept), len(kept))
        self._removed |= self._places.keys() - places.keys()
        self._places = places
        self._remove_old_files()
        yield len(kept)

    def close(self) -> None:
        self._pending = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)  # and with it the lock
            self._lock_fd = None

    # -- opening

    def _open_folder(self) -> int:
        """Give the descriptor of the locked lock file."""
        flags, lock = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, fcntl.LOCK_EX
        if self._readonly:
            flags, lock = os.O_RDONLY | os.O_CLOEXEC, fcntl.LOCK_SH
        try:
            if not self._readonly and not os.path.isdir(self._folder):
                os.mkdir(self._folder)
                _sync_folder(os.path.dirname(self._folder))
            names = os.listdir(self._folder)
            if names and _LOCK not in names:
                raise StorageFormatError(
                    f"{self._folder!r} holds other files ({names[0]!r}); name an empty folder, or"
                    " one that is not there",
                    self._folder,
                )
            fd = os.open(os.path.join(self._folder, _LOCK), flags, 0o666)
        except FileNotFoundError as error:
            raise StorageMissingError(f"there is no {self._folder!r}", self._folder) from error
        except OSError as error:
            raise StorageOpenError(
                f"cannot open {self._folder!r}: {error}", self._folder
            ) from error
        try:
            fcntl.flock(fd, lock | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise StorageLockedError(
                f"another storage has {self._folder!r} open; close that one, or use a server",
                self._folder,
            ) from error
        return fd

    def _read_folder(self) -> None:
        found = self._numbered_files()
        packs = [number for number, name in found.items() if name.endswith(".pack")]
        first = max(packs, default=1)
        numbers = sorted(number for number in found if number >= first)
        for expected, number in enumerate(numbers, first):
            if number != expected:
                raise CorruptionError(
                    f"{self._folder!r} has no file {expected} and has {number}: restore what is"
                    " missing from a backup",
                    path=self._folder,
                )
            self._read_file(os.path.join(self._folder, found[number]))
            self._last_number = number
        if self._readonly:
            return
        # The last commit may have been named and not yet synced when its process was killed.
        _sync_folder(self._folder)
        self._remove_old_files()

    def _numbered_files(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for name in os.listdir(self._folder):
            match = re.fullmatch(r"(\d{16})\.(commit|pack)", name)
            if match:
                found[int(match[1])] = name
        return found

    def _read_file(self, path: str) -> None:
        """Note where the records of a file are, and have each prove itself.

        A damaged oid would else leave an older record in the place of the newest, without a word.
        """
        data = _read(path, 0, None)
        offset = 0
        try:
            magic, self._next_oid_int, count = _HEADER.unpack_from(data)
            is_good = magic == _MAGIC
            offset = _HEADER.size
            for _ in range(count):
                length, crc = _RECORD.unpack_from(data, offset)
                offset += _RECORD.size
                record = data[offset : offset + length]
                is_good = is_good and crc32(record) == crc
                self._places[record[:_OID_BYTES]] = _Place(path, offset, length, crc)
                offset += length
        except struct.error:
            is_good = False
        if not is_good or offset != len(data):
            raise CorruptionError(f"{path!r} is damaged; restore it from a backup", path=path)

    # -- writing

    def _write_file(self, kind: str, records: Iterable[bytes], count: int) -> dict[bytes, _Place]:
        """Add a file that is durable when this returns; give the places of its records.

        Raises:
            StorageWriteError: the system refused.
        """
        number = self._last_number + 1
        path = os.path.join(self._folder, f"{number:016d}.{kind}")
        unfinished = os.path.join(self._folder, _UNFINISHED)
        places: dict[bytes, _Place] = {}
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            fd = os.open(unfinished, flags, 0o666)
            try:
                offset = _write(fd, _HEADER.pack(_MAGIC, self._next_oid_int, count))
                for record in records:
                    crc = crc32(record)
                    offset += _write(fd, _RECORD.pack(len(record), crc))
                    places[record[:_OID_BYTES]] = _Place(path, offset, len(record), crc)
                    offset += _write(fd, record)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            # It has no name yet, and the next one to be written begins anew.
            raise StorageWriteError(f"cannot write {unfinished!r}: {error}") from error
        try:
            os.rename(unfinished, path)
            _sync_folder(self._folder)
        except OSError as error:
            # Whether it has its name is known after the next opening. To go on now could build on
            # what is not there then.
            self._failure = f"cannot give {path!r} its name for good: {error}"
            self._take_back(path)
            raise StorageWriteError(self._failure) from error
        self._last_number = number
        return places

    def _take_back(self, path: str) -> None:
        """Remove a file that nobody was told of, as far as the system still does anything."""
        with suppress(OSError):  # the failure is told already
            os.unlink(path)
            _sync_folder(self._folder)

    def _remove_old_files(self) -> None:
        """Remove what stands before the last pack, if the system lets us; it does no harm."""
        found = self._numbered_files()
        packs = [number for number, name in found.items() if name.endswith(".pack")]
        for number, name in found.items():
            if number < max(packs, default=0):
                with suppress(OSError):
                    os.unlink(os.path.join(self._folder, name))

    def _check_open(self) -> None:
        if self._lock_fd is None:
            raise StorageClosedError(f"{self} is closed; open another")

    def _check_writable(self) -> None:
        self._check_open()
        if self._readonly:
            raise StorageReadOnlyError(f"{self} was opened read-only")
        if self._failure:
            raise StorageWriteError(f"{self._failure}; open the storage again to go on")


def _sync_folder(path: str) -> None:
    """Have the names in a folder outlive the loss of power."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> int:
    """Write all of `data`, and give its length. The system may take a part at a time."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
    return len(data)


def _read(path: str, offset: int, length: int | None) -> bytes:
    """Give bytes of a file, from `offset` on; as many as there are, or `length` at most.

    Raises:
        StorageError: the system refused.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise StorageError(f"cannot read {path!r}: {error}") from error
