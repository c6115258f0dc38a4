"""Connection: the objects of one program, kept in a storage.

A Connection maps each oid to at most one object in memory, loads objects when they are first used,
and stores the changed ones when it commits. A transaction begins with the first use of an object
after a `commit()` or `abort()`, and belongs to the thread that made it.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
from _thread import get_ident
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, TypeVar
from weakref import WeakSet

from durus.backends import open_storage
from durus.broken import BrokenObject
from durus.class_finder import ClassFinder
from durus.error import (
    ConflictError,
    ConnectionClosedError,
    ConnectionForkError,
    ConnectionStateError,
    ConnectionThreadError,
    CorruptionError,
    CorruptRecordError,
    DurusError,
    DurusKeyError,
    InvalidOidError,
    ReadConflictError,
    UnknownClassError,
    WriteConflictError,
)
from durus.persistent import (
    GHOST,
    SAVED,
    UNSAVED,
    Cache,
    ConnectionBase,
    PersistentBase,
    PersistentObject,
    set_connection,
    set_oid,
    set_serial,
    set_status,
)
from durus.persistent_dict import PersistentDict
from durus.serialize import (
    ROOT_OID,
    ObjectReader,
    ObjectWriter,
    WritableConnection,
    open_record,
)
from durus.storage import Storage
from durus.utils import as_bytes, int8_to_str

__all__ = ["ROOT_OID", "Connection", "gen_every_instance", "touch_every_reference"]

T = TypeVar("T")

# What `transaction_serial` is once a Connection cannot be used any more.
_CLOSED = -1
_FORKED = -2


class Summary(Protocol):
    """What an object keeps in memory about many others: the number of items in a BTree.

    Attributes:
        serial: the last transaction that has used it, and by that has read all that it is about.
        oids: what it is about, as far as that is stored.
    """

    serial: int
    oids: set[bytes]

    def note_stale(self, oids: Iterable[bytes]) -> Iterable[bytes]:
        """Take note that the states of `oids` were replaced, and tell which of them matter."""


class Connection(WritableConnection):
    """Persistent objects in a storage, for one thread at a time.

    Used as a context manager it closes itself and the storage at the end, without a commit::

        with Connection("app.durus") as connection:
            connection.get_root()["greeting"] = "hello"
            connection.commit()
    """

    def __init__(
        self,
        storage: Storage | str | os.PathLike[str],
        cache_size: int = 100_000,
        root_class: type[PersistentObject] | None = None,
        *,
        trust: Iterable[str] | None = None,
        broken_objects: bool = False,
    ) -> None:
        """Open a connection; in an empty storage, make and commit the root.

        Args:
            storage: a Storage, which only this connection may use from now on, or a path or URL as
                `durus.backends.open_storage` takes it.
            cache_size: how many loaded objects to keep when a transaction ends.
            root_class: the class of the root that is made in an empty storage; without one
                PersistentDict.
            trust: names that stored data may use: classes ("shop.models.Order") and the packages or
                modules that define them ("shop"). Without it, whatever can be imported, as in Durus
                4.3: then open only files that you would run. It limits names, not what stored
                data does with the classes that they name.
            broken_objects: give a stand-in (`durus.broken`) for an object whose class cannot be
                imported, instead of an UnknownClassError.

        Raises:
            StorageError, BackendError: what `open_storage` raises.
            StorageReadOnlyError: the storage is read-only and has no root.
        """
        super().__init__(Cache(cache_size))
        opened_here = not isinstance(storage, Storage)
        self._storage = open_storage(storage) if not isinstance(storage, Storage) else storage
        self._where = str(self._storage)
        self._reader = ObjectReader(self, ClassFinder(trust, broken_objects))
        self.adopted: list[PersistentObject] = []
        self._spare_oids: list[bytes] = []
        self._stale: set[bytes] = set()
        self.summaries: WeakSet[Summary] = WeakSet()
        self._conflict: ConflictError | None = None
        self._is_in_block = False
        self._pid = os.getpid()
        try:
            self._root = self._open_root(root_class or PersistentDict)
        except BaseException:
            if opened_here:
                self._storage.close()
            raise
        _every_connection.add(self)

    def _open_root(self, root_class: type[PersistentObject]) -> PersistentObject:
        root: PersistentObject | None = self.get(ROOT_OID)
        if root is None:
            root = root_class()
            oid = self._storage.new_oid()
            if oid != ROOT_OID:
                # The first was given to one whose commit of a root failed: nobody else needs it.
                self._spare_oids.append(oid)
            self._adopt_as(root, ROOT_OID)
            self.changed[ROOT_OID] = root
            try:
                self.commit()
            except ConflictError:
                root = self._get_root_of_another(root)
        self.owner = 0
        return root

    def _get_root_of_another(self, ours: PersistentObject) -> PersistentObject:
        """Give the root that another session made while this one was making its own."""
        self.abort()
        del self.cache[ROOT_OID]
        set_oid(ours, None)
        set_connection(ours, None)
        root: PersistentObject | None = self.get(ROOT_OID)
        if root is None:
            raise DurusKeyError(ROOT_OID)
        return root

    # -- objects

    def get_root(self) -> Any:
        """Give the root object, from which everything that is kept can be reached."""
        return self._root

    def get_reader(self) -> ObjectReader:
        """Give the reader of this connection's records."""
        return self._reader

    def get_storage(self) -> Storage:
        """Give the storage."""
        return self._storage

    def get(self, oid: int | bytes) -> Any:
        """Give the object that is stored under `oid` (a number, or 8 bytes), or None.

        The same oid gives the same object for as long as it is in memory.

        Raises:
            InvalidOidError: `oid` is neither.
            ReadConflictError: the object is newer than what this transaction sees.
        """
        self.claim()
        oid = _as_oid(oid)
        found = self.cache.get(oid)
        if found is not None:
            return found
        try:
            record = self._load(oid)
        except DurusKeyError:
            return None
        return self._make_object(oid, record)

    def __getitem__(self, oid: int | bytes) -> Any:
        """Give the object under `oid`, in memory or a ghost of the stored one, or None."""
        return self.get(oid)

    def get_crawler(
        self, start_oid: bytes = ROOT_OID, batch_size: int = 100
    ) -> Iterator[PersistentObject]:
        """Yield every object that is reachable from `start_oid`, loaded, each once."""
        for oid, record in self._storage.gen_oid_record(start_oid, batch_size):
            self.claim()
            self._refuse_after_conflict()
            obj = self.cache.get(oid)
            if obj is None:
                obj = self._make_object(oid, record)
            elif obj._p_status == GHOST:
                self._load_object(obj, record)
            yield obj

    def get_stored_pickle(self, oid: bytes) -> bytes:
        """Give the data of the record of `oid`: class and state as they are stored.

        Raises:
            DurusKeyError: no record is stored under `oid`.
        """
        self.claim()
        oid = _as_oid(oid)
        return open_record(oid, self._load(oid), self._where)[0]

    def load_state(self, obj: PersistentObject) -> None:
        """Load the attributes of a ghost of this connection.

        Raises:
            DurusKeyError: its record is not stored.
            ReadConflictError: it is newer than what this transaction sees.
            CorruptRecordError: its record is damaged.
            UnknownClassError: its state names a class that cannot be imported, or is not trusted.
        """
        self.claim()
        self._load_object(obj, self._load(obj._p_oid))

    def _load(self, oid: bytes) -> bytes:
        """Give what the storage has under `oid`; whether it is a good record is not checked."""
        if self._conflict is not None:
            self._refuse_after_conflict()
        try:
            return self._storage.load(oid)
        except ReadConflictError as conflict:
            # What was read so far is also the newest state if none of it has changed since: then
            # the transaction moves on to that.
            self._note_stale(self._sync())
            self._refuse_after_conflict(conflict)
            return self._storage.load(oid)

    def _make_object(self, oid: bytes, record: bytes) -> Any:
        """Give the object that `record` is of, which is not in memory, loaded."""
        obj = self._reader.plain.get(oid, record)
        if obj is None:
            data, refs = open_record(oid, record, self._where)
            obj = self.cache.get_instance(oid, self._get_class(oid, data), self)
            self._set_state(obj, data, refs)
        return obj

    def _load_object(self, obj: PersistentBase, record: bytes) -> None:
        if not self._reader.plain.load(obj, record):
            self._set_state(obj, *open_record(obj._p_oid, record, self._where))

    def _refuse_after_conflict(self, cause: ReadConflictError | None = None) -> None:
        """Once something that this transaction used is stale, whatever it reads may not fit it."""
        if self._conflict is not None:
            raise ReadConflictError(self._conflict.oids) from cause

    def _get_class(self, oid: bytes, data: bytes) -> type[PersistentBase]:
        try:
            return self._reader.get_class(data)
        except DurusError as error:
            self._locate(error, oid)
            raise

    def _locate(self, error: BaseException, oid: bytes | None) -> None:
        """Say in an error that comes from a record's data whose it is and where it came from."""
        if isinstance(error, (CorruptionError, UnknownClassError)) and error.oid is None:
            error.oid = oid
        if isinstance(error, CorruptionError) and error.path is None:
            error.path = self._where

    def _set_state(self, obj: PersistentBase, data: bytes, refs: bytes) -> None:
        serial = obj._p_serial
        try:
            if isinstance(obj, BrokenObject):
                state: Any = {"stored_data": data, "stored_refs": refs}
            else:
                state = self._reader.get_state(data)
            if obj._p_status != GHOST:
                # What ran meanwhile, a signal's handler or a `__del__`, has loaded it, and may have
                # changed it.
                serial = obj._p_serial
                return
            # Unsaved meanwhile, so that an own __setstate__ may set attributes.
            set_status(obj, UNSAVED)
            set_serial(obj, self.transaction_serial)
            obj.__setstate__(state)
            set_status(obj, SAVED)
        except BaseException as error:
            obj._p_set_status_ghost()
            # Not the class's own __repr__, which may load.
            oid_int = int.from_bytes(obj._p_oid, "big")
            error.add_note(f"while loading the {type(obj).__qualname__} with oid {oid_int}")
            self._locate(error, obj._p_oid)
            if isinstance(error, AttributeError):
                # It would look as if the attribute that was asked for were missing.
                raise CorruptRecordError(
                    f"the stored state of oid {oid_int} does not fit its class: {error!r}",
                    path=self._where,
                    oid=obj._p_oid,
                ) from error
            raise
        finally:
            set_serial(obj, serial)
        self.cache.note_use(obj)

    # -- transactions

    def commit(self) -> None:
        """Store all changes since the last commit or abort, and begin a new transaction.

        When it returns the changes are durable. If it raises, nothing is stored, every object is as
        it was before the call, and the commit can be tried again once the cause is gone. Without
        changes it only moves on to the newest state, and never fails for a conflict.

        Raises:
            WriteConflictError: something that this transaction used has changed; `abort()` first.
            UnpicklableError: a changed or new object holds something that cannot be pickled.
            ForeignObjectError: it refers to an object of another Connection.
            StorageError: the storage refused.
        """
        self.claim()
        if self.changed:
            self._commit_changes()
            self._begin_transaction()
        else:
            self._move_to_newest()

    def abort(self) -> None:
        """Forget all changes since the last commit or abort, and begin a new transaction.

        Changed objects become ghosts; objects that were never stored keep their attributes. A
        transaction whose thread has ended may be aborted by any other.
        """
        if self.owner not in (0, get_ident()) and self.owner not in sys._current_frames():
            self.owner = 0
        self.claim()
        oids = list(self.changed)
        # What ends with the attributes of one may change others.
        while self.changed:
            self.changed.popitem()[1]._p_set_status_ghost()
        if oids:
            for summary in list(self.summaries):
                summary.note_stale(oids)
        self._move_to_newest()

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Give the root, and commit at the end of the block; abort if the block raises.

        Raises:
            ConnectionStateError: there are uncommitted changes from before the block, or it stands
                inside another block of this connection.
        """
        if self._is_in_block:
            raise ConnectionStateError(
                "tried to begin a transaction block inside another one of the same Connection;"
                " do all in one block, or use a second Connection"
            )
        self.claim()
        if self.changed:
            raise ConnectionStateError(
                f"tried to begin a transaction block with {len(self.changed)} changed objects from"
                " before it; commit() or abort() them first"
            )
        self.abort()
        self.claim()
        self._is_in_block = True
        try:
            yield self._root
            self.commit()
        except BaseException:
            self.abort()
            raise
        finally:
            self._is_in_block = False

    def get_transaction_serial(self) -> int:
        """Give the number of this transaction: it grows by one with each commit or abort."""
        return self.transaction_serial

    def new_oid(self) -> bytes:
        """Give the oid of a new object, one that a failed commit did not need if there is any."""
        return self._spare_oids.pop() if self._spare_oids else self._storage.new_oid()

    def _adopt_as(self, obj: PersistentObject, oid: bytes) -> None:
        set_oid(obj, oid)
        set_connection(obj, self)
        self.cache[oid] = obj

    def _commit_changes(self) -> None:
        if self._conflict is not None:
            raise WriteConflictError(self._conflict.oids) from self._conflict
        is_ending = False
        objects: list[PersistentObject] = []
        try:
            records = self._pickle_changes(objects)
            self._storage.begin()
            store = self._storage.store
            for record in records:
                store(record[:8], record)
            is_ending = True
            self._storage.end(self._handle_invalidations)
        except BaseException as error:
            # An interrupt may come when all is stored: then the oids must not mean other objects.
            self._undo_adoptions(keep_oids=not is_ending or isinstance(error, ConflictError))
            raise
        self.adopted.clear()
        note_use = self.cache.note_use
        for obj in objects:
            obj._p_set_status_saved()
            note_use(obj)
        self.changed.clear()

    def _pickle_changes(self, objects: list[PersistentObject]) -> list[bytes]:
        """Give the records of each changed object and each new one that they refer to.

        Args:
            objects: gets those objects, in the same order.
        """
        records: list[bytes] = []
        pickled: set[bytes] = set()
        writer = ObjectWriter(self)
        try:
            # A __getstate__ may change further objects.
            while len(pickled) < len(self.changed):
                waiting = [oid for oid in self.changed if oid not in pickled]
                pickled.update(waiting)
                for oid in waiting:
                    for obj in writer.gen_new_objects(self.changed[oid]):
                        records.append(writer.get_record(obj))
                        objects.append(obj)
        finally:
            writer.close()
        return records

    def _undo_adoptions(self, *, keep_oids: bool) -> None:
        for obj in self.adopted:
            oid = obj._p_oid
            del self.cache[oid]
            set_oid(obj, None)
            set_connection(obj, None)
            set_serial(obj, 0)
            if keep_oids:
                self._spare_oids.append(oid)
        self.adopted.clear()

    def _handle_invalidations(self, oids: list[bytes]) -> None:
        """Refuse a commit if one of `oids`, which others changed, was used by this transaction."""
        self._note_stale(oids)
        if self._conflict is not None:
            raise WriteConflictError(self._conflict.oids)

    def _note_stale(self, oids: Collection[bytes]) -> None:
        """Make ghosts of stale objects; those that this transaction has used are its conflict."""
        conflicts = []
        for oid in oids:
            obj = self.cache.get(oid)
            if obj is None:
                continue
            if obj._p_serial == self.transaction_serial:
                conflicts.append(oid)
            elif obj._p_status == SAVED:
                obj._p_set_status_ghost()
        for summary in list(self.summaries):
            found = summary.note_stale(oids)
            if summary.serial == self.transaction_serial:
                conflicts.extend(found)
        if conflicts:
            # They keep the attributes of the state that this transaction sees until it is aborted.
            self._stale.update(conflicts)
            self._conflict = ReadConflictError(sorted(self._stale))

    def _sync(self) -> Collection[bytes]:
        """Move the storage to the newest state, and give what is stale by that."""
        oids = self._storage.sync()
        if oids is not None:
            return oids
        # Nobody knows what has changed, nor whose the oids are that were given before.
        self._spare_oids.clear()
        in_memory = {obj._p_oid for obj in self.cache}
        return in_memory.union(*(summary.oids for summary in self.summaries))

    def _move_to_newest(self) -> None:
        try:
            self._stale.update(self._sync())
        finally:
            stale, self._stale = self._stale, set()
            for oid in stale:
                obj = self.cache.get(oid)
                if obj is not None and obj._p_status == SAVED:
                    obj._p_set_status_ghost()
            if stale:
                for summary in list(self.summaries):
                    summary.note_stale(stale)
            self._conflict = None
            self._begin_transaction()

    def _begin_transaction(self) -> None:
        self.transaction_serial += 1
        self.owner = 0
        self.cache.shrink(self.transaction_serial)

    def refuse(self) -> None:
        """Raise what keeps the calling thread from using this connection.

        Raises:
            ConnectionClosedError: it was closed.
            ConnectionForkError: this process was forked from the one that opened it.
            ConnectionThreadError: another thread's transaction is open in it.
        """
        if self.transaction_serial == _FORKED:
            raise ConnectionForkError(
                f"process {os.getpid()} tried to use a Connection that process"
                f" {self._pid} opened before it forked; both on one file or socket would"
                " damage each other's work: open another Connection after the fork"
            )
        if self.transaction_serial < 0:
            raise ConnectionClosedError(
                "this Connection is closed; its objects can no longer be used: open another and get"
                " them there"
            )
        names = [thread.name for thread in threading.enumerate() if thread.ident == self.owner]
        if self.owner in sys._current_frames():
            owner = f"thread {names[0] if names else self.owner!r}"
            advice = "or commit() or abort() there first"
        else:
            owner = "a thread that has ended"
            advice = "and commit() or abort() before it ends; abort() here gives up what it began"
        raise ConnectionThreadError(
            f"thread {threading.current_thread().name!r} tried to use a Connection in which {owner}"
            f" has an open transaction; give each thread a Connection of its own, {advice}"
        )

    # -- cache, packing, closing

    def get_cache(self) -> Cache:
        """Give the cache."""
        return self.cache

    def get_cache_count(self) -> int:
        """Count the objects in memory, ghosts included."""
        return len(self.cache)

    def get_cache_size(self) -> int:
        """Give how many loaded objects are kept when a transaction ends."""
        return self.cache.size

    def set_cache_size(self, size: int) -> None:
        """Set how many loaded objects to keep when a transaction ends."""
        self.cache.size = size

    def shrink_cache(self) -> None:
        """Make ghosts of the longest unused objects beyond the cache size.

        Those that are unsaved, or used in this transaction, stay.
        """
        self.claim()
        self.cache.shrink(self.transaction_serial)

    def get_load_count(self) -> int:
        """Count the states that this connection has loaded."""
        return self._reader.get_load_count()

    def pack(self) -> None:
        """Abort, then remove from the storage whatever the root does not reach.

        Objects in memory that were removed become ghosts, whose use is a ReadConflictError.

        Raises:
            NotSupportedError: the storage cannot be packed.
        """
        self.abort()
        self._storage.pack()
        # Others may have committed during the pack.
        self._note_stale(self._sync())
        for obj in self.cache:
            oid = obj._p_oid
            try:
                self._storage.load(oid)
            except DurusKeyError:
                obj._p_set_status_ghost()
                del self.cache[oid]
                set_connection(obj, _removed)

    def close(self) -> None:
        """Forget all changes and close the storage. A second call does nothing.

        Nor does the first in a process that was forked meanwhile: the storage is its parent's.
        """
        if self.transaction_serial < 0:
            return
        self.transaction_serial = _CLOSED
        self.changed.clear()
        self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Removed(ConnectionBase):
    """What the objects belong to whose records a pack has removed.

    They can be neither used nor, since they are not the Connection's any more, referred to.
    """

    __slots__ = ()

    def load_state(self, obj: PersistentObject) -> None:
        raise ReadConflictError([obj._p_oid])


_removed = _Removed(Cache(0))

_every_connection: WeakSet[Connection] = WeakSet()


def _refuse_in_child() -> None:
    """Mark each Connection in a process that was just forked: the file or socket is the parent's.

    That costs the use of objects nothing, where a look at the process's number would.
    """
    for connection in _every_connection:
        if connection.transaction_serial >= 0:
            connection.transaction_serial = _FORKED


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_refuse_in_child)


def _as_oid(oid: int | bytes) -> bytes:
    if isinstance(oid, int):
        try:
            return int8_to_str(oid)
        except struct.error:
            raise InvalidOidError(oid) from None
    if not isinstance(oid, bytes) or len(oid) != 8:
        raise InvalidOidError(oid)
    return oid


def gen_every_instance(connection: Connection, *classes: type[T]) -> Iterator[T]:
    """Yield every stored object that is an instance of one of `classes`.

    Source: durus.connection of Durus 4.3. Records of other classes are not loaded, but
    their classes are imported.
    """
    reader = connection.get_reader()
    for oid, record in connection.get_storage().gen_oid_record():
        data, _ = open_record(oid, record)
        if issubclass(reader.get_class(data), classes):
            yield connection.get(oid)


def touch_every_reference(connection: Connection, *words: str) -> None:
    """Mark as changed every stored object whose class or state mentions one of `words`.

    The commit that follows stores them anew: with new names, after a class was renamed.
    Source: durus.connection of Durus 4.3.
    """
    reader = connection.get_reader()
    sought = [as_bytes(word) for word in words]
    for oid, record in connection.get_storage().gen_oid_record():
        data, _ = open_record(oid, record)
        if any(word in data or word in reader.get_state_pickle(data) for word in sought):
            connection.get(oid)._p_note_change()
