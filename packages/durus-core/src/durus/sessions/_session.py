"""One caller's view of a shared storage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from durus.error import ConflictError, StorageClosedError, StorageTransactionError
from durus.sessions._oid_ranges import OidRanges
from durus.sessions._pending_commit import Done, PendingCommit
from durus.storage import Storage, StorageDescription, check_record

if TYPE_CHECKING:
    from durus.sessions._shared import SharedStorage

__all__ = ["Session"]

# How many records of a transaction to examine before other threads may go on.
_EXAMINED_AT_ONCE = 100

Handler = Callable[[list[bytes]], None]
_Commit: TypeAlias = "PendingCommit[Session]"


class Session(Storage):
    """One caller's view of a shared storage.

    One thread at a time may use it; different sessions are independent. `load` gives the state of
    the last `sync()` or commit, or raises ReadConflictError where that is no longer kept. Past
    states, of a storage that keeps its history, are for the caller of the storage itself.

    Attributes:
        view: the serial number of the last commit that it sees.
        packed: the serial number of the last pack that it asked for.
        given: the oids that it was given and has not used, where the storage is shared strictly.
    """

    can_share = True

    def __init__(self, shared: SharedStorage) -> None:
        """Make a session. For `SharedStorage.new_session`."""
        storage = shared.storage
        self.can_pack = storage.can_pack
        self.is_persistent = storage.is_persistent
        self.view = 0
        self.packed = 0
        self.given = OidRanges()
        self._shared = shared
        self._lock = shared._lock
        self._transaction: _Commit | None = None
        self._is_closed = False

    def __str__(self) -> str:
        return str(self._shared.storage)

    def load(self, oid: bytes) -> bytes:
        shared, view = self._shared, self.view
        if view == shared._serial and not self._is_closed:
            # Without the lock, for which threads that read much would stand in line. What is here
            # is what that commit left: before it is replaced, the number changes.
            record = shared._cache.peek(oid)
            if record is not None and view == shared._serial:
                return record
        with self._lock:
            if self._is_closed or shared._is_closed:
                self._check_open()
            return shared._load(self, oid)

    def begin(self) -> None:
        self._check_open()
        self._transaction = PendingCommit(self, is_strict=self._shared._strict)

    def store(self, oid: bytes, record: bytes) -> None:
        self._check_open()
        transaction = self._transaction
        if transaction is None:
            raise StorageTransactionError("store() needs a begin() first")
        check_record(oid, record)
        oid, record = bytes(oid), bytes(record)
        if self._shared._strict:
            with self._lock:
                if not transaction.records:
                    # The session may have moved since begin(), by its own last commit for one.
                    transaction.forget_examined()
                self._shared._examine(transaction, oid, record)
        transaction.records[oid] = record
        transaction.record_bytes += len(record)

    def end(self, handle_invalidations: Handler | None = None) -> None:
        outcome: list[BaseException | None] = []
        try:
            commit = self._queue_commit(handle_invalidations, outcome.append)
        finally:
            self._transaction = None
        if commit is not None:
            try:
                self._shared.flush()
            except BaseException:
                self._shared._withdraw(commit)
                raise
        if outcome[0] is not None:
            raise outcome[0]

    def open_oids(self) -> Collection[bytes]:
        """Give the oids that the open transaction stores."""
        return self._transaction.records.keys() if self._transaction is not None else ()

    def open_bytes(self) -> int:
        """Give how much memory the open transaction takes, about."""
        transaction = self._transaction
        return transaction.record_bytes + transaction.extra_bytes if transaction is not None else 0

    def examine(self, count: int) -> bool:
        """Look up again what was looked up of the open transaction before the session moved.

        Args:
            count: for how many records at most; `submit()` does it for all that are left.

        Returns:
            Whether all is done.

        Raises:
            UnissuedOidError: an oid is new, and not this session's.
        """
        transaction = self._transaction
        if transaction is None or not self._shared._strict:
            return True
        with self._lock:
            if transaction.view != self.view:
                transaction.forget_examined()
            unexamined = transaction.unexamined
            for oid in unexamined[-count:]:
                self._shared._examine(transaction, oid, transaction.records[oid])
            del unexamined[-count:]
        return not unexamined

    def submit(self, handle_invalidations: Handler | None, done: Done) -> None:
        """End the transaction without waiting for the disk.

        It is validated now, and what `end()` raises before it writes is raised now; then the
        transaction is still open. Until it is done this session may load, and sees its old
        snapshot.

        Args:
            handle_invalidations: as for `end()`.
            done: called once, by the thread that calls `SharedStorage.flush()`, with None when the
                transaction is durable or with the error; at once if there is nothing to store.
        """
        self._queue_commit(handle_invalidations, done)

    def _queue_commit(self, handle: Handler | None, done: Done) -> _Commit | None:
        """Validate and queue the transaction; None if there was nothing to store."""
        self._check_open()
        transaction = self._transaction
        if transaction is None:
            raise StorageTransactionError("end() needs a begin() first")
        if not transaction.records:
            self._end_empty(handle)
            self._transaction = None
            done(None)
            return None
        transaction.done = done
        while not self.examine(_EXAMINED_AT_ONCE):
            pass
        told: set[bytes] = set()
        told_until = self.view
        while True:
            with self._lock:
                self._shared._take_news()
                news = self._shared._add(transaction, told, told_until)
                told_until = self._shared._last_serial
            if news is None:
                self._transaction = None
                return transaction
            # Without the lock: a handler makes ghosts, and what ends by that may load others.
            told |= news
            if handle is not None:
                handle(sorted(news))

    def _end_empty(self, handle: Handler | None) -> None:
        shared = self._shared
        told_until = self.view
        while True:
            with self._lock:
                stale = shared._log.oids_since(told_until)
                if stale is None:
                    raise ConflictError
                if handle is None:
                    return
                if not stale:
                    shared._move(self, shared._serial)
                    return
                told_until = shared._serial
            handle(sorted(stale))

    def sync(self) -> list[bytes] | None:
        with self._lock:
            self._check_open()
            shared = self._shared
            shared._take_news()
            if self.view == shared._serial:
                return []
            stale = shared._log.oids_since(self.view)
            shared._move(self, shared._serial)
        return None if stale is None else list(stale)

    def new_oid(self) -> bytes:
        return self.new_oids(1)[0]

    def new_oids(self, count: int) -> list[bytes]:
        """Give as many oids as `count` says, each as `new_oid()` would."""
        with self._lock:
            self._check_open()
            return self._shared._give_oids(self, count)

    def describe(self) -> StorageDescription:
        with self._lock:
            self._check_open()
            return self._shared.storage.describe()

    def new_session(self) -> Session:
        self._check_open()
        return self._shared.new_session()

    def get_packer(self) -> Iterator[object]:
        self._check_open()
        if not self.can_pack:
            return super().get_packer()
        return self._gen_pack(self._shared.get_packer())

    def _gen_pack(self, packer: Iterator[object]) -> Iterator[object]:
        yield from packer
        self.note_pack()

    def only_removed(self, oids: Iterable[bytes]) -> set[bytes]:
        """Give those of `oids` that packs removed since the view, and nobody has stored again.

        Without those that the open transaction stores or refers to. To have read one is no
        conflict, though `end()` tells that it is stale: a pack changes nothing that can be reached.
        """
        shared, transaction = self._shared, self._transaction
        if shared.storage.can_share:
            # What others stored beside it comes with the same news.
            return set()
        with self._lock:
            removed = shared._log.removed_since(self.view).intersection(oids)
            if removed:
                removed -= shared._pending.keys()
                removed -= shared._log.stored_since(self.view)
        if removed and transaction is not None:
            removed -= transaction.records.keys()
            removed -= transaction.refs()
        return removed

    def note_pack(self) -> None:
        """Know of the packs up to now, as the one who asked for them.

        What it removed is there for an old snapshot that may have reached it, if there was room for
        it. The rest is gone for the one to whom the pack is due, and a conflict for the others.
        """
        self.packed = self._shared._serial

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._transaction = None
            self._shared._remove_session(self)

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageClosedError(f"this session of {self} is closed; make another")
        self._shared._check_open()
