"""What sessions over one storage share: the queue of commits, the log of those made, the lock."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from itertools import islice, repeat
from typing import TypeAlias

from durus.error import (
    ConflictError,
    DurusKeyError,
    ReadConflictError,
    StorageClosedError,
    StorageTransactionError,
    UnissuedOidError,
    WriteConflictError,
)
from durus.serialize import ROOT_OID
from durus.sessions._commit_log import CommitLog, LoggedCommit
from durus.sessions._oid_supply import OidSupply
from durus.sessions._pending_commit import PendingCommit, added_refs, refs_of
from durus.sessions._record_cache import RecordCache
from durus.sessions._session import Session
from durus.storage import Removal, Storage, check_oid
from durus.utils import str_to_int8

__all__ = ["SharedStorage"]

_HISTORY_BYTES = 64 << 20
_LOG_OIDS = 200_000

# How many bytes of records to have at hand for sessions that read the same objects.
_CACHE_BYTES = 16 << 20

# What an entry of a set or dict of oids takes, about.
_ENTRY_BYTES = 100

_NO_MORE = object()  # of a pack's steps

# How many records to hand to the storage before others may load in between.
_STORE_BATCH = 500

# In how many records to look for what a pack is to leave to snapshots, before others may go on.
_RESCUE_BATCH = 200

_Commit: TypeAlias = "PendingCommit[Session]"


class SharedStorage:
    """A storage and the sessions over it.

    The methods may be called from any thread.

    Args:
        storage: from now on used only through this.
        strict: trust no session: refuse a commit that stores an oid which is neither stored nor was
            given to that session, or refers to an oid that is neither stored nor in the commit. For
            callers in other processes. Oids that a session was given and did not use are given to
            others once it is closed.
        history_bytes: how many bytes of overwritten records to keep for the snapshots of sessions.
            One that needs more gets ReadConflictError.
        log_oids: how many changed oids to keep for sessions that have not synced. One that needs
            more is told by its `sync()` that all may have changed.

    Attributes:
        storage: the one beneath.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        strict: bool = False,
        history_bytes: int = _HISTORY_BYTES,
        log_oids: int = _LOG_OIDS,
    ) -> None:
        self.storage = storage
        self._strict = strict
        self._history_bytes = history_bytes
        # Who writes to the storage, or packs it. Taken before the other one, and held for as long
        # as the disk takes.
        self._writer = threading.Lock()
        # All that follows, and whatever of the storage may not be used by two threads at once.
        # One thread may take it twice: to take memory may end objects, whose end may load others.
        self._lock = threading.RLock()
        self._sessions: OrderedDict[Session, None] = OrderedDict()  # the oldest snapshot first
        self._log = CommitLog(log_oids, history_bytes)
        self._cache = RecordCache(_CACHE_BYTES)
        self._serial = 0  # of the last commit that is durable
        self._last_serial = 0  # of the last one that was queued
        self._queue: list[_Commit] = []
        self._unfinished: list[_Commit] = []  # queued or being written, in the order of serials
        self._pending: dict[bytes, _Commit] = {}  # the same by oid
        self._is_closed = False
        self._oids = OidSupply(storage)
        self._given_up: list[Iterator[object]] = []  # packs that wait to be closed

    def new_session(self) -> Session:
        """Give one more session, which sees the newest committed state.

        Raises:
            StorageClosedError: the storage was closed.
        """
        session = Session(self)
        if self._strict:
            self._add_session(session)
            return session
        # The commits of a single session keep no overwritten records: none may be under way now.
        with self._writer:
            while True:
                self._flush()
                with self._lock:
                    if not self._queue:
                        self._add_session(session)
                        return session

    def flush(self) -> None:
        """Commit what is queued, with one sync, and tell each `done`.

        When it returns, whatever was queued before the call is done: by this thread or by another.
        """
        with self._writer:
            self._flush()

    def get_packer(self) -> Iterator[object]:
        """Pack the storage in bounded steps, one a `next()`; sessions go on between them.

        Raises:
            NotSupportedError, StorageReadOnlyError, StorageTransactionError: as `get_packer()` of
                the storage.
        """
        with self._writer, self._lock:
            self._check_open()
            self._close_given_up()
            packer = iter(self.storage.get_packer())
        return self._gen_pack(packer)

    def _gen_pack(self, packer: Iterator[object]) -> Iterator[object]:
        rescued: dict[bytes, bytes] = {}
        try:
            while True:
                with self._writer:
                    is_last, step = self._step(packer, rescued)
                if is_last:
                    return
                if isinstance(step, Removal):
                    yield from self._gen_rescue(step, rescued)
                else:
                    yield step
        finally:
            # This may be the garbage collector's call, in a thread that has the locks already, or
            # has one that must be taken after the other: it must not wait for either.
            self._given_up.append(packer)
            if self._writer.acquire(blocking=False):
                try:
                    if self._lock.acquire(blocking=False):
                        try:
                            self._close_given_up()
                        finally:
                            self._lock.release()
                finally:
                    self._writer.release()

    def _gen_rescue(self, removal: Removal, rescued: dict[bytes, bytes]) -> Iterator[None]:
        """Load what is to be removed and can still be reached by what was overwritten."""
        with self._lock:
            waiting = deque(self._log.get_overwritten())
        size_bytes = 0
        while waiting and size_bytes <= self._history_bytes:
            with self._lock:
                self._check_open()
                for _ in range(min(len(waiting), _RESCUE_BATCH)):
                    for ref in refs_of(waiting.popleft()):
                        if ref in rescued or not removal.includes(ref):
                            continue
                        record = self._find(ref)
                        if record is not None:
                            rescued[ref] = record
                            waiting.append(record)
                            size_bytes += len(record)
            yield

    def _close_given_up(self) -> None:
        while self._given_up:
            close = getattr(self._given_up.pop(), "close", None)
            if close is not None:
                close()

    def close(self) -> None:
        """Commit what is queued and close the storage. A second call does nothing."""
        with self._writer:
            self._flush()
            with self._lock:
                self._is_closed = True
                self._cache.clear()
                self._sessions.clear()
                self._close_given_up()
                self.storage.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageClosedError(f"{self.storage} is closed; open it again")

    def _add_session(self, session: Session) -> None:
        with self._lock:
            self._check_open()
            session.view = self._serial
            self._sessions[session] = None

    # What the sessions ask, each with the lock held.

    def _load(self, session: Session, oid: bytes) -> bytes:
        if session.view == self._serial and not self._pending:
            return self._load_newest(oid)
        check_oid(oid)
        if session.view < self._log.start:
            raise ReadConflictError([oid])
        change = self._log.first_change(oid, session.view) or self._pending.get(oid)
        if change is None:
            return self._load_newest(oid)
        if change.overwritten is None or oid not in change.overwritten:
            if change.is_pack and change.serial <= session.packed:
                return self.storage.load(oid)
            raise ReadConflictError([oid])
        record = change.overwritten[oid]
        if record is None:
            raise DurusKeyError(oid)
        return record

    def _load_newest(self, oid: bytes) -> bytes:
        """Load what no commit under way changes."""
        if len(self._sessions) < 2:
            return self.storage.load(oid)
        record = self._cache.get(oid)
        if record is None:
            record = self.storage.load(oid)
            self._cache.put(oid, record)
        return record

    def _move(self, session: Session, serial: int) -> None:
        """Let a session see everything up to a commit, which is among the newest."""
        session.view = serial
        self._sessions.move_to_end(session)
        self._forget_seen()

    def _forget_seen(self) -> None:
        """Forget of the log what every session sees."""
        oldest = next(iter(self._sessions), None)
        self._log.forget_until(self._serial if oldest is None else oldest.view)

    def _take_news(self, rescued: Mapping[bytes, bytes] | None = None) -> None:
        """Log what the storage itself has to tell: of a pack, or of a writer in another process.

        Args:
            rescued: records of what a pack removes, for snapshots.
        """
        if self._unfinished:
            # Their serial numbers come before that of the news, and so must they in the log.
            return
        oids = self.storage.sync()
        if oids is not None and not oids:
            return
        self._last_serial += 1
        self._serial = self._last_serial
        if oids is not None:
            needed = {oid: rescued[oid] for oid in rescued.keys() & oids} if rescued else None
            self._log.add(LoggedCommit(self._serial, oids, needed, is_pack=True))
            self._cache.forget(oids)
            return
        # All may have changed, and oids that were given are void: every session is to be told so.
        self._log.forget_all(self._serial)
        self._cache.clear()
        self._oids.forget()
        for session in self._sessions:
            session.given.clear()

    def _add(self, commit: _Commit, told: set[bytes], told_until: int) -> set[bytes] | None:
        """Queue a commit, unless there is news that its session has not been told yet.

        Args:
            commit: what to queue; it gets its serial number.
            told: the stale oids that the session was told.
            told_until: the serial number up to which.

        Returns:
            The news, or None if the commit is in the queue.

        Raises:
            ConflictError: it stores what others changed, or refers to what is not there.
        """
        self._check_open()
        news = self._log.oids_since(told_until)
        if news is None:
            raise WriteConflictError
        for other in reversed(self._unfinished):
            if other.serial <= told_until:
                break
            news.update(other.records)
        if news:
            return news
        records = commit.records
        if told and not told.isdisjoint(records):
            raise WriteConflictError(sorted(told.intersection(records)))
        self._check_removed(commit)
        if self._strict:
            self._check_examined(commit)
        elif len(self._sessions) > 1:
            commit.overwritten = {oid: self._find(oid) for oid in records}
        self._last_serial += 1
        commit.serial = self._last_serial
        self._queue.append(commit)
        self._unfinished.append(commit)
        self._pending.update(dict.fromkeys(records, commit))
        return None

    def _check_removed(self, commit: _Commit) -> None:
        """Refuse references to what a pack removed: the caller may hold it and not have used it."""
        removed = self._log.removed_since(commit.session.view)
        if not removed:
            return
        missing = {oid for oid in commit.refs() & removed if self._find(oid) is None}
        if missing:
            raise WriteConflictError(sorted(missing))

    def _examine(self, commit: _Commit, oid: bytes, record: bytes) -> None:
        """Look up what must be known of a record before a session that is not trusted commits it.

        What is found stays true for as long as the session does not move: whatever else changes is
        news to it, and a conflict.

        Raises:
            UnissuedOidError: the oid is new, and not its session's.
        """
        old = self._find(oid)
        overwritten = commit.overwritten
        if overwritten is not None and oid not in overwritten:
            overwritten[oid] = old
            commit.extra_bytes += _ENTRY_BYTES
            if old is not None:
                commit.extra_bytes += len(old)
                commit.overwritten_bytes += len(old)
                if commit.overwritten_bytes > self._history_bytes:
                    # More than the log would keep.
                    commit.extra_bytes -= commit.overwritten_bytes
                    commit.overwritten = None
        if old is None and oid != ROOT_OID:
            if str_to_int8(oid) in commit.session.given:
                commit.new_oids.add(oid)
            elif not self._may_have_changed(oid, commit.view):
                raise UnissuedOidError(oid)
        for ref in added_refs(record, old):
            if ref != oid and ref not in commit.records and self._find(ref) is None:
                commit.absent.add(ref)
                commit.extra_bytes += _ENTRY_BYTES

    def _may_have_changed(self, oid: bytes, serial: int) -> bool:
        """Tell whether an oid is news to a snapshot: to store under it is a conflict then."""
        return serial < self._log.start or self._log.first_change(oid, serial) is not None

    def _check_examined(self, commit: _Commit) -> None:
        missing = commit.absent.difference(commit.records)
        # One may have been referred to by a record that was stored again, without it.
        if missing and (missing := missing & commit.refs()):
            raise WriteConflictError(sorted(missing))
        commit.session.given.discard_oids(commit.new_oids)

    def _find(self, oid: bytes) -> bytes | None:
        try:
            return self.storage.load(oid)
        except DurusKeyError:
            return None

    def _withdraw(self, commit: _Commit) -> None:
        """Take a commit out of the queue, or wait for its outcome if it has left it."""
        with self._lock:
            if commit in self._queue:
                self._queue.remove(commit)
                self._drop(commit)
                self._give_back(commit)
                return
        with self._writer:
            pass

    def _give_oids(self, session: Session, count: int) -> list[bytes]:
        self._check_open()
        if not self._strict:
            # Whoever chose an oid of his own has it until he ends his transaction.
            chosen = session.open_oids()
            fresh = (self.storage.new_oid() for _ in repeat(None))
            unused = (oid for oid in fresh if oid not in chosen and oid not in self._pending)
            return list(islice(unused, count))
        return self._oids.give(session.given, count)

    def _remove_session(self, session: Session) -> None:
        if self._sessions.pop(session, self) is self:
            return
        self._oids.spare.take_all(session.given)
        self._forget_seen()

    # Writing, each with the writer's lock held.

    def _flush(self) -> None:
        with self._lock:
            self._close_given_up()
            group, self._queue = self._queue, []
        if group:
            self._commit(group)

    def _commit(self, group: list[_Commit]) -> None:
        try:
            self._write(group)
        except Exception as error:  # noqa: BLE001 - each caller gets what is his
            if len(group) == 1:
                self._finish(group, error)
                return
            self._commit_each(group)
        except BaseException as error:
            is_written = self._is_written(group)
            self._finish(group, None if is_written else StorageTransactionError(f"{error!r} came"))
            raise
        else:
            self._finish(group, None)

    def _commit_each(self, group: list[_Commit]) -> None:
        """Commit one after the other: what is wrong with one says nothing about the others."""
        for i, commit in enumerate(group, 1):
            try:
                self._commit([commit])
            except BaseException as error:
                self._finish(group[i:], StorageTransactionError(f"{error!r} came"))
                raise

    def _write(self, group: list[_Commit]) -> None:
        """Store the commits as one transaction; others load meanwhile, if the storage allows."""
        storage, lock = self.storage, self._lock
        records = (item for commit in group for item in commit.records.items())
        if not storage.can_load_meanwhile:
            with lock:
                self._check_open()
                storage.begin()
                for oid, record in records:
                    storage.store(oid, record)
                storage.end(_refuse_news)
            return
        with lock:
            self._check_open()
            storage.begin()
        while batch := list(islice(records, _STORE_BATCH)):
            with lock:
                for oid, record in batch:
                    storage.store(oid, record)
        storage.end(_refuse_news)

    def _is_written(self, group: list[_Commit]) -> bool:
        oid, record = next(iter(group[-1].records.items()))
        with self._lock:
            return self._find(oid) == record

    def _finish(self, group: list[_Commit], error: BaseException | None) -> None:
        with self._lock:
            for commit in group:
                self._drop(commit)
                if error is not None:
                    self._give_back(commit)
                    continue
                self._serial = commit.serial
                self._cache.forget(commit.records)
                logged = LoggedCommit(commit.serial, tuple(commit.records), commit.overwritten)
                self._log.add(logged)
                if commit.session in self._sessions:
                    self._move(commit.session, commit.serial)
            self._forget_seen()
        for commit in group:
            commit.done(error)

    def _drop(self, commit: _Commit) -> None:
        self._unfinished.remove(commit)
        for oid in commit.records:
            del self._pending[oid]

    def _give_back(self, commit: _Commit) -> None:
        """Let the session of a commit that failed use its new oids again."""
        if not commit.new_oids:
            return
        is_there = commit.session in self._sessions
        owner = commit.session.given if is_there else self._oids.spare
        owner.add_oids(commit.new_oids)

    def _step(
        self, packer: Iterator[object], rescued: Mapping[bytes, bytes]
    ) -> tuple[bool, object]:
        """Do one step of a pack; tell whether it was the last, and give what it yielded.

        What is queued was validated against the state before: it is written before the step.
        """
        while True:
            self._flush()
            with self._lock:
                if self._queue:
                    continue
                self._check_open()
                step = next(packer, _NO_MORE)
                # At once: what is gone must not look to a snapshot as if it had never been.
                self._take_news(rescued)
                return step is _NO_MORE, step


def _refuse_news(oids: list[bytes]) -> None:
    """Commit nothing over what the sessions were not told: of a writer beside this storage.

    They learn it when they sync. What a pack of their own removed they were told already.
    """
    raise ConflictError(oids)
