"""FileStorage: the storage contract on a SHELF-1 file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike, fsdecode
from struct import Struct
from struct import error as struct_error
from typing import ClassVar

from durus.error import (
    StorageClosedError,
    StorageError,
    StorageReadOnlyError,
    StorageTransactionError,
    StorageWriteError,
)
from durus.file_storage._commit_record import RESERVED_OID_INT
from durus.file_storage._file import remove
from durus.file_storage._opening import has_magic, open_journal, open_temporary
from durus.storage import Storage, check_record
from durus.utils import int8_to_str

__all__ = ["FileStorage", "TempFileStorage"]

_OID = Struct(">Q")
_RECORD_START = Struct(">QL")


class FileStorage(Storage):
    """A database in one file, which Durus 4.3 can read and write as well.

    One storage at a time has the file open for writing; any number may read beside it, in this or
    in other processes.

    Args:
        filename: the file, made if it is not there; without one, a temporary file that is gone when
            the storage is closed.
        readonly: take no lock and change nothing; `sync()` then follows what a writer commits.
        repair: if the file is damaged, keep what still proves itself; see the package's guide.
        durable: sync each commit to the disk. Without, a loss of power may cost the last commits,
            never the consistency of those before.

    Raises:
        StorageMissingError: there is no such file, and it was to be opened read-only.
        StoragePermissionError: the system does not let this process open it.
        StorageLockedError: another writer has it open.
        StorageOpenError: it cannot be opened for another reason.
        StorageFormatError: it is not a FileStorage database.
        CorruptionError: it is damaged. Nothing was changed.
    """

    is_persistent: ClassVar[bool] = True

    def __init__(
        self,
        filename: str | PathLike[str] | None = None,
        readonly: bool = False,
        repair: bool = False,
        *,
        durable: bool = True,
    ) -> None:
        self._pending: dict[int, bytes] | None = None
        self._is_temporary = filename is None
        self._is_closed = False
        self._durable = durable and filename is not None
        if filename is None:
            self._journal = open_temporary()
            self._filename = self._journal.path
        else:
            self._filename = fsdecode(filename)
            self._journal = open_journal(self._filename, readonly=readonly, durable=durable)
        self._readonly = readonly
        self._next_oid_int = self._journal.next_oid_int

    @classmethod
    def has_format(cls, path: str | PathLike[str]) -> bool:
        """Tell whether the file begins as a FileStorage database does."""
        return has_magic(fsdecode(path))

    def get_filename(self) -> str:
        """Give the file's name as it was given, or that of the temporary file."""
        return self._filename

    @property
    def readonly(self) -> bool:
        """The storage was opened read-only."""
        return self._readonly

    def __str__(self) -> str:
        return f"FileStorage({self._filename!r})"

    def load(self, oid: bytes) -> bytes:
        if self._is_closed:
            self._check_open()
        return self._journal.load(oid)

    def begin(self) -> None:
        self._check_writable()
        self._pending = {}

    def store(self, oid: bytes, record: bytes) -> None:
        pending = self._pending
        if pending is None:
            self._check_open()
            raise StorageTransactionError("store() needs a begin() first")
        try:
            (oid_int,) = _OID.unpack(oid)
            record_oid_int, data_bytes = _RECORD_START.unpack_from(record)
        except (struct_error, TypeError):
            oid_int, record_oid_int, data_bytes = 0, 1, 0
        spare = len(record) - 12 - data_bytes
        if oid_int != record_oid_int or spare < 0 or spare & 7:
            check_record(oid, record)
        if oid_int == RESERVED_OID_INT:
            raise StorageError("tried to store under oid 2**64-1, which commit records have")
        pending[oid_int] = record
        if oid_int >= self._next_oid_int:
            self._next_oid_int = oid_int + 1

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        """Commit as the contract says. This storage is the only writer: nothing is ever invalid."""
        self._check_open()
        pending, self._pending = self._pending, None
        if pending is None:
            raise StorageTransactionError("end() needs a begin() first")
        self._check_writable()
        if pending:
            self._journal.append(pending)

    def sync(self) -> list[bytes]:
        """Move to the newest committed state.

        The writer has it always. A reader follows what was appended; where the file was replaced by
        a pack, it opens the new one.
        """
        self._check_open()
        return []

    def new_oid(self) -> bytes:
        self._check_writable()
        oid_int = max(self._next_oid_int, self._journal.next_oid_int)
        if oid_int >= RESERVED_OID_INT:
            raise StorageError(f"tried to make a new oid, but {self} has used the highest one")
        self._next_oid_int = oid_int + 1
        return int8_to_str(oid_int)

    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) of what is reachable from `start_oid`, or of everything.

        Everything comes in the order of the file, in bounded memory.
        """
        self._check_open()
        if start_oid is not None:
            yield from super().gen_oid_record(start_oid, batch_size)
            return
        yield from self._journal.gen_oid_record()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._pending = None
        self._journal.close()
        if self._is_temporary:
            remove(self._filename)

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageClosedError(f"{self} is closed; open it again")

    def _check_writable(self) -> None:
        self._check_open()
        if self._readonly:
            raise StorageReadOnlyError(f"tried to change {self}, which was opened read-only")
        if self._journal.failure:
            raise StorageWriteError(
                f"tried to change {self}, which refuses since {self._journal.failure}; close it and"
                " open it again"
            )


def TempFileStorage() -> FileStorage:  # noqa: N802 - the name in Durus 4.3
    """Make a FileStorage on a temporary file that is gone when it is closed."""
    return FileStorage()
