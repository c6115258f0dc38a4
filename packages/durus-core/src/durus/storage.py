"""The storage contract, the storage in memory, and walks over all records.

A storage keeps records (see `durus.serialize` for their form) under oids and replaces them in
transactions. It never looks into a record further than its oid and its references.
`durus.testing.StorageTests` is this contract as tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Self

from durus.error import (
    CorruptRecordError,
    DurusKeyError,
    InvalidOidError,
    NotSupportedError,
    StorageClosedError,
    StorageTransactionError,
)
from durus.serialize import ROOT_OID, extract_class_name, split_oids, unpack_record
from durus.utils import int8_to_str

__all__ = [
    "Damage",
    "MemoryStorage",
    "Removal",
    "Storage",
    "StorageDescription",
    "check_oid",
    "check_record",
    "gen_oid_class",
    "gen_referring_oid_record",
    "get_census",
    "get_reference_index",
]


@dataclass(frozen=True, slots=True)
class Removal:
    """What a pack says before it removes the first record.

    Attributes:
        includes: tells whether the record of an oid is going to be removed, unless a commit needs
            it before; to be called until the next step.
    """

    includes: Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that a storage finds damaged in what only it knows of.

    Attributes:
        text: what was found.
        oid: the object concerned, 8 bytes, or None.
        offset: where in the file, in bytes, or None.
    """

    text: str
    oid: bytes | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class StorageDescription:
    """What a storage can tell of itself without a walk over its records.

    Attributes:
        format: the name of the format, such as "SHELF-1", or None where there is none.
        path: the file, or None where it is no file.
        size_bytes: the length of the file, or None.
        object_count: how many objects are stored, garbage included, or None.
        transaction_count: transactions since the last pack, or since the beginning; None where it
            keeps no count.
        last_commit_time: when the last transaction was committed, aware of its time zone; None
            where that is not stored, as in what Durus 4.3 wrote.
        as_of: the serial of the past commit that it was opened `at`; None is the newest state. The
            rest tells of then, as far as it is known.
    """

    format: str | None = None
    path: str | None = None
    size_bytes: int | None = None
    object_count: int | None = None
    transaction_count: int | None = None
    last_commit_time: datetime | None = None
    as_of: int | None = None


class Storage(ABC):
    """Records by oid, replaced in transactions, for one caller at a time.

    An oid is 8 bytes, big-endian. A record is bytes: oid, length, data, references. A transaction
    is `begin()`, `store()` for each record, `end()`. Unless a back-end says otherwise, one thread
    at a time may call, and after `close()` every call raises `StorageClosedError`.

    Attributes:
        can_pack: `pack()` and `get_packer()` remove unreachable records. Where false, both raise
            `NotSupportedError`.
        can_share: `new_session()` gives further sessions over the same data. Where false, it raises
            `NotSupportedError`, and `durus.sessions` can share the storage instead.
        can_open_readonly: the class takes `readonly=True`; a storage opened so refuses every write
            with `StorageReadOnlyError`.
        is_persistent: what `end()` acknowledged is there when the same place is opened again.
        can_load_meanwhile: one thread may `load()` while another is in `end()`, and gets the
            record of before, or of after. Else a caller with several threads waits.
        keeps_history: `gen_commits()`, `load_as_of()` and `gen_changes()` read past states. Where
            false, they raise `NotSupportedError`.
        can_open_at: the class takes `at=`, a serial that `gen_commits()` yields or a time (see
            `durus.moment.serial_at`), where history is kept. A storage opened so gives the state
            of then, knows no later commit, and refuses every write with `StorageReadOnlyError`.

    They are attributes of the class; of an instance, where it passes on what another storage can,
    or where what is stored decides.
    """

    can_pack: bool = False
    can_share: bool = False
    can_open_readonly: ClassVar[bool] = False
    is_persistent: bool = True
    can_load_meanwhile: bool = False
    keeps_history: bool = False
    can_open_at: ClassVar[bool] = False

    @classmethod
    def has_format(cls, path: str) -> bool:  # noqa: ARG003 - for those that override it
        """Tell by its first bytes whether an existing, non-empty file is one that this class opens.

        `durus.backends` asks it to judge a bare path, and takes a class that overrides it for one
        whose first argument is a path. The default is for storages that are not files.
        """
        return False

    @abstractmethod
    def load(self, oid: bytes) -> bytes:
        """Give the committed record of `oid`; what is stored but not ended is not seen.

        Raises:
            DurusKeyError: no record is stored under `oid`.
            InvalidOidError: `oid` is not 8 bytes.
            CorruptionError: the record is there and damaged.
        """

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction, and forget one that was begun and not ended.

        Raises:
            StorageReadOnlyError: the storage was opened read-only.
            StorageWriteError: an earlier failure left the storage unable to keep a promise.
        """

    @abstractmethod
    def store(self, oid: bytes, record: bytes) -> None:
        """Add a record to the transaction; a later one for the same oid replaces it.

        Raises:
            StorageTransactionError: there was no `begin()`.
            InvalidOidError: `oid` is not 8 bytes.
            CorruptRecordError: `record` is not a record of `oid`.
        """

    @abstractmethod
    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        """Commit the transaction. When it returns, the transaction survives the loss of power.

        All of the transaction is kept, or on any error nothing of it: then the transaction is
        forgotten, what was committed before stays, and the storage works on or refuses further
        writes with `StorageWriteError`.

        Args:
            handle_invalidations: called before anything is written, with the oids that the next
                `sync()` would have returned, if there are any. What it raises (usually
                ConflictError) passes through and nothing is committed. Oids that this session has
                never loaded may be left to the next `sync()`: they can be no conflict.

        Raises:
            StorageTransactionError: there was no `begin()`.
            StorageWriteError: the system refused; nothing is acknowledged.
            ConflictError: another session changed what this transaction read or stores.
        """

    @abstractmethod
    def sync(self) -> list[bytes] | None:
        """Move to the newest committed state.

        Returns:
            The oids whose records other sessions changed, or a pack removed, and that neither an
            earlier `sync()` returned nor an `end()` told its handler; each once. None if they are
            not known (a server was lost and found again, or this session has slept too long): then
            every record may have changed, and an oid that was given and not stored is void.
        """

    def rest(self) -> None:
        """Give back what it costs others that this session sees one state; its caller pauses.

        A `load` before the next `sync()` may raise ReadConflictError. The default does nothing.
        """

    @abstractmethod
    def new_oid(self) -> bytes:
        """Give an oid that is not stored, not pending and was not given before in this opening.

        Raises:
            StorageReadOnlyError: the storage was opened read-only.
        """

    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the record of each oid, in order. The default loads one by one.

        Raises:
            DurusKeyError: on reaching an oid that is not stored.
        """
        for oid in oids:
            yield self.load(oid)

    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) of what is reachable from `start_oid`, each object once.

        Args:
            start_oid: where to begin. Without one, a storage that can list its records yields all
                of them, garbage included; the default begins at the root, if there is one.
            batch_size: how many records to ask `bulk_load` for at once.

        The default remembers every oid that it has seen: some 100 bytes of memory an object.

        Raises:
            DurusKeyError: on reaching an oid that is not stored.
        """
        if start_oid is None and not _has_record(self, ROOT_OID):
            return
        first = ROOT_OID if start_oid is None else start_oid
        seen = {first}
        waiting = deque([first])
        while waiting:
            batch = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
            for oid, record in zip(batch, self.bulk_load(batch), strict=True):
                for referred in split_oids(unpack_record(record)[2]):
                    if referred not in seen:
                        seen.add(referred)
                        waiting.append(referred)
                yield oid, record

    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        """Yield serial and time of each commit as of which the data can be read, oldest first.

        Serials ascend. Times are aware of their zone; they are those of the clock, which may have
        been set back between two commits. The last commit is that of an `end()` or a pack, be it
        another session's, and later than what the last `sync()` moved to or the same. Those that
        are too old, or that a pack forgot, are left out.

        What somebody wrote who knows nothing of commits (Durus 4.3) is a commit of its own, or
        belongs to the next one: then the newest state has none until there is a next one.

        Raises:
            NotSupportedError: `keeps_history` is false.
        """
        raise NotSupportedError(f"{type(self).__name__} keeps no history")

    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        """Give the record of `oid` as it was right after a commit. What `load` gives stays.

        Args:
            oid: 8 bytes.
            serial: a commit that `gen_commits` yields.

        Raises:
            DurusKeyError: there was none, or nothing referred to it and a pack removed it.
            StorageError: `serial` is no commit that `gen_commits` yields, or none any more.
            InvalidOidError: `oid` is not 8 bytes.
            CorruptionError: what tells of the past is damaged.
            NotSupportedError: `keeps_history` is false.
        """
        raise NotSupportedError(f"{type(self).__name__} keeps no history")

    def gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) of what a commit stored, each object once. A pack stores nothing.

        What was stored since the commit before by somebody who knows nothing of commits belongs to
        this one, as in `gen_commits`.

        Args:
            serial: a commit that `gen_commits` yields.

        Raises:
            StorageError: `serial` is no commit that `gen_commits` yields, or none any more.
            CorruptionError: what tells of the past is damaged.
            NotSupportedError: `keeps_history` is false; or a pack has kept the state as of this
                commit, but not what the commit stored.
        """
        raise NotSupportedError(f"{type(self).__name__} keeps no history")

    def describe(self) -> StorageDescription:
        """Tell what is known without a walk over the records. The default knows nothing."""
        return StorageDescription()

    def gen_damage(self) -> Iterator[Damage]:
        """Read everything that is stored beside the records themselves, and yield what is damaged.

        That is what only the storage knows of: the proofs of its transactions, its index, its
        tables. It changes nothing, goes on after each damage, and takes a time in proportion to
        what is stored. Whether the records are right is for the caller to see. The default knows
        of nothing that could be damaged, and yields nothing.

        Raises:
            StorageClosedError: the storage is closed; the default has nothing to look at then.
        """
        return iter(())

    def new_session(self) -> Storage:
        """Give one more independent session over the same data, for another thread or client.

        Raises:
            NotSupportedError: `can_share` is false.
        """
        raise NotSupportedError(f"{type(self).__name__} serves one caller: it has no sessions")

    def get_packer(self) -> Iterator[object]:
        """Give an iterator that packs in small steps, one a `next()`; commits may go on between.

        What it yields is how many objects it has kept so far, or anything but an int. Before it
        removes anything it may yield a `Removal`: then those who still read older states keep the
        records that they need. A pack that does not costs them a ReadConflictError.

        What is committed between two steps stays. If it refers to garbage, then either its `end()`
        is told that the garbage is gone, or the garbage stays. An iterator that is dropped before
        its end leaves everything that the root reaches as it was.

        Raises:
            NotSupportedError: `can_pack` is false.
            StorageReadOnlyError: the storage was opened read-only.
        """
        raise NotSupportedError(f"{type(self).__name__} cannot be packed")

    def pack(self) -> None:
        """Remove every record that the root does not reach. Without a root, remove nothing.

        Raises:
            NotSupportedError: `can_pack` is false.
            StorageReadOnlyError: the storage was opened read-only.
        """
        for _ in self.get_packer():
            pass

    def close(self) -> None:
        """Give back what the storage holds. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class MemoryStorage(Storage):
    """Records in a dictionary, gone with the process. For tests and for caches."""

    can_pack = True
    is_persistent = False
    can_load_meanwhile = True

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] | None = {}
        self._pending: dict[bytes, bytes] | None = None
        self._removed: set[bytes] = set()
        self._next_oid_int = 0

    def load(self, oid: bytes) -> bytes:
        check_oid(oid)
        try:
            return self._open_records()[oid]
        except KeyError:
            raise DurusKeyError(oid) from None

    def begin(self) -> None:
        self._open_records()
        self._pending = {}

    def store(self, oid: bytes, record: bytes) -> None:
        self._open_records()
        pending = self._pending
        if pending is None:
            raise StorageTransactionError("store() needs a begin() first")
        check_record(oid, record)
        pending[bytes(oid)] = bytes(record)

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        records = self._open_records()
        pending, self._pending = self._pending, None
        if pending is None:
            raise StorageTransactionError("end() needs a begin() first")
        if self._removed and handle_invalidations is not None:
            handle_invalidations(list(self._removed))
            self._removed.clear()
        records.update(pending)

    def sync(self) -> list[bytes]:
        self._open_records()
        removed, self._removed = self._removed, set()
        return list(removed)

    def new_oid(self) -> bytes:
        # Counting up past what is stored, not from the highest stored oid: that may be the last.
        records = self._open_records()
        pending = self._pending or {}
        while True:
            oid = int8_to_str(self._next_oid_int)
            self._next_oid_int += 1
            if oid not in records and oid not in pending:
                return oid

    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        if start_oid is not None:
            yield from super().gen_oid_record(start_oid, batch_size)
            return
        yield from list(self._open_records().items())

    def get_packer(self) -> Iterator[object]:
        """Pack in two steps: a dictionary of records in memory is walked at once."""
        records = self._open_records()
        if ROOT_OID not in records:
            return
        reachable = {oid for oid, _ in self.gen_oid_record(ROOT_OID)}
        garbage = records.keys() - reachable
        yield Removal(garbage.__contains__)
        # What was committed meanwhile may refer to some of it.
        reachable = {oid for oid, _ in self.gen_oid_record(ROOT_OID)}
        garbage = (garbage - reachable) & records.keys()
        for oid in garbage:
            del records[oid]
        self._removed |= garbage
        yield len(reachable)

    def close(self) -> None:
        self._records = None
        self._pending = None

    def _open_records(self) -> dict[bytes, bytes]:
        if self._records is None:
            raise StorageClosedError("this MemoryStorage is closed; make another")
        return self._records


def _has_record(storage: Storage, oid: bytes) -> bool:
    try:
        storage.load(oid)
    except DurusKeyError:
        return False
    return True


def check_oid(oid: bytes) -> None:
    """Refuse what is not an oid.

    Raises:
        InvalidOidError: `oid` is not 8 bytes.
    """
    if not isinstance(oid, bytes) or len(oid) != 8:
        raise InvalidOidError(oid)


def check_record(oid: bytes, record: bytes) -> None:
    """Refuse a record that no storage should keep.

    Raises:
        InvalidOidError: `oid` is not 8 bytes.
        CorruptRecordError: `record` is malformed, or is the record of another oid.
    """
    check_oid(oid)
    found = unpack_record(record)[0]
    if found != oid:
        raise CorruptRecordError(
            f"tried to store a record under oid {int.from_bytes(oid, 'big')}, but it says that it"
            f" is the record of oid {int.from_bytes(found, 'big')}",
            oid=oid,
        )


def gen_oid_class(storage: Storage, *classes: str | bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (oid, class name) of all records, or of those whose class name is one of `classes`.

    Source: durus.storage of Durus 4.3, where the names are those of `extract_class_name`: without
    the module. Nothing is imported.
    """
    wanted = {name.encode() if isinstance(name, str) else name for name in classes}
    for oid, record in storage.gen_oid_record():
        class_name = extract_class_name(record)
        if not wanted or class_name in wanted:
            yield oid, class_name


def get_census(storage: Storage) -> dict[bytes, int]:
    """Count the records of each class name."""
    census: dict[bytes, int] = {}
    for _, class_name in gen_oid_class(storage):
        census[class_name] = census.get(class_name, 0) + 1
    return census


def get_reference_index(storage: Storage) -> dict[bytes, list[bytes]]:
    """Give the oids that refer to each oid. Takes memory in proportion to the references."""
    index: dict[bytes, list[bytes]] = {}
    for oid, record in storage.gen_oid_record():
        for referred in split_oids(unpack_record(record)[2]):
            index.setdefault(referred, []).append(oid)
    return index


def gen_referring_oid_record(
    storage: Storage, referred_oid: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """Yield (oid, record) of every record that refers to `referred_oid`."""
    check_oid(referred_oid)
    for oid, record in storage.gen_oid_record():
        if referred_oid in split_oids(unpack_record(record)[2]):
            yield oid, record
