"""The storage contract on a journal, and FileStorage: on one of SHELF-1."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from os import PathLike, fsdecode
from struct import Struct
from struct import error as struct_error
from typing import ClassVar
from weakref import finalize

from durus.error import (
    DurusKeyError,
    StorageClosedError,
    StorageError,
    StorageOpenError,
    StorageReadOnlyError,
    StorageTransactionError,
    StorageWriteError,
)
from durus.file_storage._as_of import open_as_of
from durus.file_storage._checking import gen_damage
from durus.file_storage._commit_record import RESERVED_OID_INT
from durus.file_storage._copying import copy_journal
from durus.file_storage._file import remover
from durus.file_storage._format import CHUNK_BYTES, DamageError, Format
from durus.file_storage._history import History, gen_commits_back
from durus.file_storage._journal import FIRST_UNCOUNTED_OID_INT, Journal
from durus.file_storage._opening import follow_writer, has_magic, open_journal, open_temporary
from durus.file_storage._packer import Packer
from durus.file_storage._shelf import SHELF
from durus.serialize import ROOT_OID, check_proof
from durus.storage import Damage, Removal, Storage, StorageDescription, check_oid, check_record
from durus.utils import int8_to_str

__all__ = ["FileStorage", "JournalStorage", "TempFileStorage"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OID = Struct(">Q")
_RECORD_START = Struct(">QL")


class JournalStorage(Storage):
    """What the storages on one file have in common; each says its format."""

    _format: ClassVar[Format]

    can_pack = True
    can_load_meanwhile = True
    keeps_history = True
    can_open_readonly: ClassVar[bool] = True
    can_open_at: ClassVar[bool] = True

    def __init__(
        self,
        filename: str | PathLike[str] | None = None,
        readonly: bool = False,
        repair: bool = False,
        *,
        durable: bool = True,
        at: datetime | int | str | None = None,
    ) -> None:
        self._pack_steps: Generator[int | Removal, None, None] | None = None
        self._removed = array("Q")
        self._history: History | None = None
        self._pending: dict[int, bytes] | None = None
        self._is_temporary = filename is None
        self._is_closed = False
        self._durable = durable and filename is not None
        self._is_past = at is not None
        if at is not None:
            self._filename, self._journal = _open_past(filename, self._format, at, repair=repair)
        elif filename is None:
            self._journal = open_temporary(self._format)
            self._filename = self._journal.path
            self._remove_file = finalize(self, remover(self._filename))
        else:
            self._filename = fsdecode(filename)
            self._journal = open_journal(
                self._filename,
                self._format,
                readonly=readonly,
                durable=durable,
                repair=repair,
            )
        self._readonly = readonly or self._is_past
        self._next_oid_int = self._journal.next_oid_int

    @classmethod
    def has_format(cls, path: str | PathLike[str]) -> bool:
        """Tell whether the file begins as a database of this class does."""
        return has_magic(fsdecode(path), cls._format)

    def get_filename(self) -> str:
        """Give the file's name as it was given, or that of the temporary file."""
        return self._filename

    @property
    def readonly(self) -> bool:
        """The storage was opened read-only, or as of a past commit."""
        return self._readonly

    def __str__(self) -> str:
        return f"{type(self).__name__}({self._filename!r})"

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
        pending[oid_int] = record if type(record) is bytes else bytes(record)
        if self._next_oid_int <= oid_int < FIRST_UNCOUNTED_OID_INT:
            self._next_oid_int = oid_int + 1

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        """Commit as the contract says; what a pack removed is all that can ever be invalid."""
        self._check_open()
        pending, self._pending = self._pending, None
        if pending is None:
            raise StorageTransactionError("end() needs a begin() first")
        self._check_writable()
        if self._removed and handle_invalidations is not None:
            handle_invalidations(self._removed_oids())
            self._removed = array("Q")
        if pending:
            self._journal.append(pending)

    def sync(self) -> list[bytes]:
        """Move to the newest committed state.

        The writer has it always. A reader follows what was appended; where the file was replaced by
        a pack, it opens the new one. Who opened a past state stays there.

        Raises:
            StorageError: the commit as of which it was opened was never acknowledged, and its
                writer has taken it back.
        """
        self._check_open()
        if self._is_past:
            self._check_past()
            return []
        if self._readonly:
            journal, changed = follow_writer(self._journal)
            self._move_to(journal)
            return [int8_to_str(oid_int) for oid_int in changed]
        if not self._removed:
            return []
        removed = self._removed_oids()
        self._removed = array("Q")
        return removed

    def _check_past(self) -> None:
        if not self._journal.is_current():
            serial = self._journal.tip.serial
            raise StorageError(
                f"{self} was opened as of commit {serial}, which could not be synced, and was taken"
                " back by its writer; open another one"
            )

    def new_oid(self) -> bytes:
        journal = self._journal
        if self._is_closed or self._readonly or journal.failure:
            self._check_writable()
        oid_int = max(self._next_oid_int, journal.next_oid_int)
        if oid_int >= FIRST_UNCOUNTED_OID_INT:
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

    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        """Yield serial and time of each commit since the last pack, and of what that kept.

        What Durus 4.3 wrote in between belongs to the next commit of ours; until there is one, the
        newest state is not among them. Its pack begins the serials anew.

        This takes time in proportion to the number of commits, and keeps 16 bytes of each.

        Raises:
            CorruptionError: the commit records do not lead to each other.
        """
        self._check_open()
        found = self._past().gen_commits()
        return ((serial, _EPOCH + timedelta(microseconds=time_us)) for serial, time_us in found)

    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        """Give the record of `oid` as it was right after a commit. What `load` gives stays.

        The first call for an object that was stored again later reads the journal, from the last
        pack to that commit. What it finds serves all later calls, and takes 16 bytes for each
        record that took another's place, beside 128 MiB at most.

        Args:
            oid: 8 bytes.
            serial: a commit that `gen_commits` yields.

        Raises:
            DurusKeyError: there was none, or nothing referred to it and a pack removed it.
            StorageError: `serial` is no commit that `gen_commits` yields, or none any more.
            InvalidOidError: `oid` is not 8 bytes.
            CorruptionError: the journal is damaged between the last pack and that commit.
        """
        check_oid(oid)
        self._check_open()
        (oid_int,) = _OID.unpack(oid)
        offset = self._past().find(oid_int, serial)
        if not offset:
            raise DurusKeyError(oid)
        return self._journal.read_record(offset, oid_int)

    def gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) of what a commit stored, in the order of the file.

        Only that part of the file is read. What a pack kept of the last commit before it does not
        tell what that had stored.

        Args:
            serial: a commit that `gen_commits` yields.

        Raises:
            StorageError: `serial` is no commit that `gen_commits` yields, or none any more.
            NotSupportedError: the file was packed at this commit.
            CorruptionError: the journal is damaged there.
        """
        self._check_open()
        journal = self._journal
        for oid_int, offset in self._past().find_changes(serial).items():
            yield _OID.pack(oid_int), journal.read_record(offset, oid_int)

    def _past(self) -> History:
        if self._history is None:
            self._history = History(self._journal)
        return self._history

    def _move_to(self, journal: Journal) -> None:
        """Go on with another journal, where the file was replaced."""
        if journal is not self._journal:
            self._forget_history()
            self._journal = journal

    def _forget_history(self) -> None:
        if self._history is not None:
            self._history.close()
            self._history = None

    def describe(self) -> StorageDescription:
        """Tell what is known without a walk over the records.

        The number of objects is not known in a packed file without an index file; the time of the
        last commit is not, if Durus 4.3 made it.
        """
        self._check_open()
        journal = self._journal
        time_us = 0 if journal.tip.unproven else journal.tip.time_us
        return StorageDescription(
            format=self._format.name,
            path=self._filename,
            size_bytes=journal.tip.end,
            object_count=journal.object_count(),
            transaction_count=journal.tip.transactions,
            last_commit_time=_EPOCH + timedelta(microseconds=time_us) if time_us else None,
            as_of=journal.tip.serial if self._is_past else None,
        )

    def gen_damage(self) -> Iterator[Damage]:
        """Read the whole file and its index file, and yield what is damaged, or torn at the end.

        Of a file that an index file serves, a damage that lies before where the index ends is no
        hindrance to opening it. All the others are: see what opening raises.

        That takes bounded memory, up to 64 MiB for the oids.
        """
        self._check_open()
        return gen_damage(self._journal)

    def copy(
        self, path: str | PathLike[str], progress: Callable[[int, int], object] | None = None
    ) -> None:
        """Copy the committed state to a new file, while commits may go on.

        Args:
            path: the new file. It appears when it is whole and on the disk.
            progress: called now and then with the bytes copied and the bytes to copy.

        Raises:
            StorageOpenError: there is something at `path`.
            StorageWriteError: the system refused; nothing is left of the copy.
        """
        self._check_open()
        copy_journal(self._journal, fsdecode(path), progress)

    def gen_commit_ends(self) -> Iterator[tuple[int, datetime, int]]:
        """Yield the commits of `gen_commits`, the newest first, and where each of them ends.

        A backup takes it from here, for a file grows only at its end. Until the next `sync()` or
        `end()` the file of this storage is as long as `describe()` says.

        Yields:
            Serial, time, and file offset: a file that is cut there ends with this commit.

        Raises:
            CorruptionError: the commit records do not lead to each other.
            StorageError: the system does not let us read.
        """
        self._check_open()
        try:
            for serial, time_us, end in gen_commits_back(self._journal):
                yield serial, _EPOCH + timedelta(microseconds=time_us), end
        except OSError as error:
            raise self._read_error(error) from error

    def gen_bytes(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield what the file holds between two offsets, in chunks of at most 1 MiB.

        It is the file that this storage has open, whatever has taken its name meanwhile.

        Raises:
            CorruptionError: the file ends before `stop`.
            StorageError: the system does not let us read.
        """
        self._check_open()
        journal = self._journal
        try:
            while start < stop:
                chunk = journal.file.read(start, min(CHUNK_BYTES, stop - start))
                if not chunk:
                    raise journal.corruption(DamageError(start, "the end of the file"))
                yield chunk
                start += len(chunk)
        except OSError as error:
            raise self._read_error(error) from error

    def _read_error(self, error: OSError) -> StorageError:
        return StorageError(
            f"tried to read {self._filename!r}, the system says: {error.strerror or error}"
        )

    def get_packer(self) -> Iterator[object]:
        """Give an iterator that packs in steps of a few milliseconds, and yields how many it kept.

        The file as it was is kept as `FILE.prepack`. One pack at a time.

        Raises:
            StorageReadOnlyError: the storage was opened read-only.
            StorageTransactionError: a pack is running.
            StorageWriteError: the system refused; everything is as it was.
            CorruptionError: something that the root reaches is damaged; everything is as it was.
        """
        self._check_can_pack()
        return self._gen_pack()

    def _gen_pack(self) -> Iterator[object]:
        self._check_can_pack()
        if not self._journal.find(0):
            self._journal.check_missing(0)
            return
        self._commit_what_has_no_serial()
        next_oid_int = max(self._next_oid_int, self._journal.next_oid_int)
        keeps_prepack = not self._is_temporary
        packer = Packer(self._journal, next_oid_int, keeps_prepack=keeps_prepack)
        steps = self._pack_steps = packer.gen_steps()
        try:
            for count in steps:
                yield count
                self._check_open()
        finally:
            steps.close()
            self._pack_steps = None
            if packer.is_done and packer.new is not None:
                self._move_to(packer.new)
                self._removed.extend(packer.removed)

    def _commit_what_has_no_serial(self) -> None:
        """Make a commit of the root as it is, if what was written last has no commit record.

        The base takes over serial and time of the last commit. Of that of before what Durus 4.3
        wrote it would say something else than was stored then.
        """
        if self._journal.tip.unproven:
            record = self._journal.load(ROOT_OID)
            check_proof(record, self._filename)
            self._journal.append({0: record})

    def _check_can_pack(self) -> None:
        self._check_writable()
        if self._pack_steps is not None:
            raise StorageTransactionError(f"tried to pack {self}, which is being packed already")

    def _removed_oids(self) -> list[bytes]:
        """Give what packs removed since the last sync, and no later commit stored again."""
        find = self._journal.find
        return [int8_to_str(oid_int) for oid_int in set(self._removed) if not find(oid_int)]

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._pending = None
        if self._pack_steps is not None:
            self._pack_steps.close()
        self._forget_history()
        self._journal.close()
        if self._is_temporary:
            self._remove_file()

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


class FileStorage(JournalStorage):
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
        at: open it read-only, as it was right after a past commit: the one with this serial, or the
            last one at this time or before, see `durus.moment.serial_at`. `gen_commits` tells which
            there are. `sync()` stays there; what others commit or pack meanwhile changes nothing.

    To open a past state takes a walk over the commits, and a reading of the journal from the last
    pack to then; not that if the index file is no later. Memory: 16 bytes a commit, and some 100
    bytes for each object that was stored in between.

    Raises:
        StorageMissingError: there is no such file, and it was to be opened read-only.
        StoragePermissionError: the system does not let this process open it.
        StorageLockedError: another writer has it open.
        StorageOpenError: it cannot be opened for another reason, or has no such past commit.
        BackendError: `at` is text, and neither a serial nor a time.
        StorageFormatError: it is not a FileStorage database.
        CorruptionError: it is damaged. Nothing was changed.
    """

    _format = SHELF


def TempFileStorage() -> FileStorage:  # noqa: N802 - the name in Durus 4.3
    """Make a FileStorage on a temporary file that is gone when it is closed."""
    return FileStorage()


def _open_past(
    filename: str | PathLike[str] | None, format: Format, at: datetime | int | str, *, repair: bool
) -> tuple[str, Journal]:
    if filename is None:
        raise StorageOpenError("tried to open a temporary file as of a past commit: it has none")
    path = fsdecode(filename)
    if repair:
        raise StorageOpenError(f"tried to repair {path!r}, which was opened as of {at}", path)
    return path, open_as_of(path, format, at)
