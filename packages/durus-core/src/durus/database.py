"""Database: a Connection for each thread of a program, and transactions that are run again.

::

    db = Database("app.durus")
    with db.transaction() as root:  # commits at its end, or aborts if it raises
        root["n"] = 1
    db.run(count_visit, "alice")  # count_visit(root, "alice"), again if it is in conflict

Each thread has a Connection on a session of its own, so that threads see each other's commits and
never each other's changes. A storage that can be shared (a server) makes the sessions; any other
one gets them from `durus.sessions.SharedStorage`.

Three parts of the life of a Connection here need care:

- *A thread ends* without saying so. What stands in its `threading.local` dies with it, and gives
  the Connection back: up to `max_idle` of those wait, cache and all, for the next new thread.
- *The Database is closed* while other threads work. Blocks that are open end first; a Connection
  is never closed under a commit.
- *The process forks.* The child has a copy of everything and the parent's files and sockets. It
  uses none of them, and drops no reference to them, for what ends with a storage's last one might
  speak to the parent's server. It opens new ones where that is right, and else says what is wrong.
"""

from __future__ import annotations

import os
import sys
import threading
from _thread import get_ident
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from random import SystemRandom
from time import sleep
from typing import Any, Self, TypeVar
from weakref import WeakSet, ref

from durus.backends import open_storage
from durus.connection import Connection
from durus.error import (
    ConflictError,
    ConnectionClosedError,
    ConnectionForkError,
    ConnectionStateError,
    DurusError,
)
from durus.persistent import PersistentObject
from durus.sessions import SharedStorage
from durus.storage import Storage

__all__ = ["Database"]

T = TypeVar("T")

# Before the first retry of run() at most this much, then twice as much each time. A commit takes
# about as long as the first; whoever still conflicts after the longest meets many others.
_FIRST_WAIT_S = 0.002
_LONGEST_WAIT_S = 0.5

# From this retry on it runs alone: the waits have not helped. Earlier would cost more than it
# gives: who waits for the end of another meets all the others that do so too.
_ALONE_FROM = 8

# Not the module's own generator, whose numbers a program may have seeded for itself.
_random = SystemRandom()


class Database:
    """A storage that the threads of a program share, with a Connection for each of them.

    Its methods may be called from any thread. Used as a context manager it closes itself.
    """

    def __init__(
        self,
        storage: Storage | str | os.PathLike[str],
        cache_size: int = 100_000,
        root_class: type[PersistentObject] | None = None,
        *,
        trust: Iterable[str] | None = None,
        broken_objects: bool = False,
        max_idle: int = 8,
    ) -> None:
        """Open a database; in an empty storage, make and commit the root.

        Args:
            storage: a Storage, which only this Database may use from now on, or a path or URL as
                `durus.backends.open_storage` takes it.
            cache_size: how many loaded objects to keep, for each thread.
            root_class: as for Connection.
            trust: as for Connection.
            broken_objects: as for Connection.
            max_idle: how many Connections of threads that have ended to keep for new threads.

        Raises:
            StorageError, BackendError: what `open_storage` raises.
            StorageReadOnlyError: the storage is read-only and has no root.
        """
        self._cache_size = cache_size
        self._root_class = root_class
        self._trust = None if trust is None else list(trust)
        self._broken_objects = broken_objects
        self._max_idle = max_idle
        self._url = None if isinstance(storage, Storage) else storage
        self._storage = storage if isinstance(storage, Storage) else open_storage(storage)
        self._where = str(self._storage)
        self._shared = None if self._storage.can_share else SharedStorage(self._storage)
        self._opener_pid = os.getpid()
        self._is_inherited = False
        self._inheritance: list[object] = []
        self._is_closing = self._is_closed = False
        self._prepare()
        try:
            self.connection()
        except BaseException:
            if self._url is not None:
                self._close_storage()
            raise
        _every_database.add(self)

    def _prepare(self) -> None:
        """Make what belongs to one process: locks, and the Connections that they guard."""
        self._lock = threading.Condition(threading.Lock())
        self._local = threading.local()
        self._connections: set[_ThreadConnection] = set()
        self._idle: list[_ThreadConnection] = []
        self._users: list[int] = []  # the threads that are inside of something
        # Each held while the storage does what one thread at a time may ask of it.
        self._opening = threading.Lock()
        self._packing = threading.Lock()
        self._closing = threading.Lock()
        self._turns = _Turns()

    def __repr__(self) -> str:
        return f"Database({self._where!r})"

    # -- transactions

    def connection(self) -> Connection:
        """Give the Connection of the calling thread, opened when the thread first asks for it.

        Raises:
            ConnectionClosedError: the Database is closed.
            ConnectionForkError: another process opened it, and it cannot be opened anew in this.
            StorageError: the storage cannot be reached.
        """
        lease: _Lease | None = getattr(self._local, "lease", None)
        if lease is not None and lease.connection.transaction_serial >= 0:
            return lease.connection
        with self._use("open a Connection"):
            connection = self._reuse() or self._open_connection()
            self._local.lease = _Lease(self, connection)
        return connection

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Give the root of this thread's Connection; commit at the end, abort if the block raises.

        The block begins with the newest committed state.

        Raises:
            ConflictError: at the end, if something that the block used has changed; see `run()`.
            CommitUnknownError: at the end, if the server was lost before its answer came: the
                commit was made, or it was not.
            ConnectionStateError: this thread's Connection has uncommitted changes from before the
                block, or is inside another block.
            ConnectionClosedError, ConnectionForkError: as `connection()`.
        """
        with self._use("begin a transaction"):
            connection = self.connection()
            try:
                with connection.transaction() as root:
                    yield root
            finally:
                # Until the next block, which begins with the newest state, nobody reads this one.
                connection.get_storage().rest()

    def run(self, function: Callable[..., T], *args: Any, retries: int = 10) -> T:
        """Call `function(root, *args)` in a transaction, again as often as it is in conflict.

        Each attempt begins with the newest committed state. Between them it waits: a random time,
        up to 2 ms before the first retry, twice as long each time after, at most half a second.
        From the eighth retry on it runs alone among the calls of `run()` here: it lets those under
        way end, and others begin after it; each waits for that half a second at most. So all
        threads get through that change one object all the time, as long as no other program does.

        Args:
            function: what to do. It may be called several times, so it has no effects but those on
                persistent objects, and gets all that it needs from the root.
            args: what it is given after the root.
            retries: how often to try again after the first attempt.

        Returns:
            What `function` returned in the attempt that was committed.

        Raises:
            ConflictError: the last attempt was in conflict as well.
            CommitUnknownError: as `transaction()`. Never tried again: it might be done twice.
            Exception: what `function` raises; nothing is committed.
        """
        attempt = 0
        while True:
            try:
                with self._turns.take(alone=attempt >= _ALONE_FROM), self.transaction() as root:
                    return function(root, *args)
            except ConflictError as error:
                if attempt >= retries:
                    error.add_note(f"run() tried {attempt + 1} times")
                    raise
            sleep(_random.uniform(0, min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)))
            attempt += 1

    def pack(self) -> None:
        """Remove from the storage what the root does not reach, while other threads go on.

        A pack that is called during another one waits for it. A transaction that is open meanwhile
        gets a ReadConflictError where it reads what only its older state reaches.

        Raises:
            NotSupportedError: the storage cannot be packed.
            StorageReadOnlyError: it was opened read-only.
        """
        with self._use("pack"), self._packing:
            if self._shared is not None:
                for _ in self._shared.get_packer():
                    pass
                return
            with self._new_session() as session:
                session.pack()

    def close(self, timeout_s: float | None = None) -> None:
        """Close every Connection and the storage. A second call does nothing.

        No new transaction begins from now on. The blocks that are open in other threads, and packs,
        end first. A Connection that a thread uses without a block is closed as soon as it is
        not in the middle of a commit or abort; its uncommitted changes are forgotten.

        Args:
            timeout_s: how long to wait for those blocks. After that their Connections are closed as
                well: they can commit no more, and get a ConnectionClosedError.

        Raises:
            ConnectionStateError: the calling thread is inside a block of its own.
        """
        if get_ident() in self._users:
            raise ConnectionStateError(
                f"tried to close {self!r} inside one of its own transaction blocks; close it after"
                " the block"
            )
        with self._closing:
            with self._lock:
                self._is_closing = True
                self._lock.wait_for(lambda: not self._users, timeout_s)
                if self._is_closed:
                    return
                self._is_closed = True
                connections, self._connections = self._connections, set()
                self._idle.clear()
            with ExitStack() as stack:
                stack.callback(self._close_storage)
                for connection in connections:
                    stack.callback(connection.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- who is inside

    @contextmanager
    def _use(self, what: str) -> Iterator[None]:
        """Keep the Database from being closed meanwhile."""
        ident = get_ident()
        with self._lock:
            self._refuse_to(what)
            self._users.append(ident)
        try:
            yield
        finally:
            with self._lock:
                if ident in self._users:  # not if the block forked, and this is the child
                    self._users.remove(ident)
                if not self._users:
                    self._lock.notify_all()

    def _refuse_to(self, what: str) -> None:
        if self._is_closing:
            raise ConnectionClosedError(
                f"tried to {what}, but {self!r} is closed; open another Database"
            )
        if self._is_inherited and not self._can_open_anew():
            raise ConnectionForkError(
                f"process {os.getpid()} tried to {what} in {self!r}, which process"
                f" {self._opener_pid} opened before it forked; only one of them can have it open:"
                " open it after the fork, or let both use a server by its URL"
            )

    def _can_open_anew(self) -> bool:
        return self._url is not None and self._shared is None

    # -- Connections

    def _open_connection(self) -> _ThreadConnection:
        session = self._new_session()
        try:
            connection = _ThreadConnection(
                session,
                self._cache_size,
                self._root_class,
                trust=self._trust,
                broken_objects=self._broken_objects,
            )
        except BaseException:
            session.close()
            raise
        with self._lock:
            # close() waits for this thread, but not for ever.
            if not self._is_closed:
                self._connections.add(connection)
                return connection
        connection.close()
        raise ConnectionClosedError(f"{self!r} was closed while a Connection was opened")

    def _new_session(self) -> Storage:
        with self._opening:
            if self._shared is not None:
                return self._shared.new_session()
            if self._is_inherited and self._url is not None:
                self._storage = open_storage(self._url)
                self._opener_pid = os.getpid()
                self._is_inherited = False
            return self._storage.new_session()

    def _reuse(self) -> _ThreadConnection | None:
        """Give the Connection of a thread that has ended, moved to the newest state."""
        with self._lock:
            if not self._idle:
                return None
            connection = self._idle.pop()
        try:
            connection.abort()
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def _take_back(self, connection: _ThreadConnection) -> None:
        """Keep the Connection of a thread that has ended for the next one, or close it."""
        connection.owner = 0
        with self._lock:
            is_kept = self._has_room()
        try:
            if is_kept:
                connection.abort()
        except DurusError:
            # Closed meanwhile, or the storage is out of reach: the next that needs it is told.
            is_kept = False
        with self._lock:
            if is_kept and self._has_room():
                self._idle.append(connection)
                return
        self._drop(connection)

    def _has_room(self) -> bool:
        return not self._is_closing and len(self._idle) < self._max_idle

    def _drop(self, connection: _ThreadConnection) -> None:
        with self._lock:
            self._connections.discard(connection)
        connection.close()

    def _close_storage(self) -> None:
        if self._is_inherited:
            return
        if self._shared is not None:
            self._shared.close()
        else:
            self._storage.close()

    def _become_child(self) -> None:
        """Put aside what the parent owns. Called in a process that was just forked."""
        self._inheritance += [self._storage, self._connections, self._local]
        self._is_inherited = True
        self._prepare()


class _Turns:
    """Lets attempts of `run()` go on side by side, or one of them alone.

    What an attempt does may wait for another thread that wants a turn, so nobody waits for one
    longer than `_LONGEST_WAIT_S`: then it begins all the same, and has its conflict if it must.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._running = 0
        self._alone = 0  # of those that run or wait to: how many want to be alone
        self._pid = os.getpid()

    @contextmanager
    def take(self, *, alone: bool) -> Iterator[None]:
        with self._changed:
            self._alone += alone
            try:
                self._changed.wait_for(
                    lambda: not (self._running if alone else self._alone), _LONGEST_WAIT_S
                )
            except BaseException:
                self._alone -= alone
                self._changed.notify_all()
                raise
            self._running += 1
        try:
            yield
        finally:
            # In the child of a fork the lock may be held by a thread that is not there.
            if self._pid == os.getpid():
                with self._changed:
                    self._running -= 1
                    self._alone -= alone
                    self._changed.notify_all()


class _ThreadConnection(Connection):
    """A Connection that is not closed in the middle of a commit."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._busy = threading.RLock()
        super().__init__(*args, **options)

    def commit(self) -> None:
        with self._busy:
            super().commit()

    def abort(self) -> None:
        with self._busy:
            super().abort()

    def close(self) -> None:
        with self._busy:
            super().close()


class _Lease:
    """What a thread holds of a Database; it dies with the thread."""

    __slots__ = ("_database", "_pid", "connection")

    def __init__(self, database: Database, connection: _ThreadConnection) -> None:
        self._database = ref(database)
        self._pid = os.getpid()
        self.connection = connection

    def __del__(
        self,
        # At the end of the interpreter the modules may be gone before this.
        is_finalizing: Callable[[], bool] = sys.is_finalizing,
        getpid: Callable[[], int] = os.getpid,
    ) -> None:
        # A fork ends all other threads in the child, before anything else runs there.
        if is_finalizing() or self._pid != getpid():
            return
        database = self._database()
        if database is not None and self.connection.transaction_serial >= 0:
            database._take_back(self.connection)


_every_database: WeakSet[Database] = WeakSet()


def _become_children() -> None:
    for database in _every_database:
        database._become_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_become_children)
