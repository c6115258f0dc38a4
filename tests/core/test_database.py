"""Database: real files, real threads, real forks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from durus import database as database_module
from durus.connection import Connection
from durus.database import Database, _Lease
from durus.error import (
    BackendError,
    CommitUnknownError,
    ConflictError,
    ConnectionClosedError,
    ConnectionStateError,
    ConnectionThreadError,
    NotSupportedError,
    StorageClosedError,
    StorageDisconnectedError,
    StorageWriteError,
    UntrustedClassError,
)
from durus.persistent import Persistent
from durus.serialize import ROOT_OID
from durus.sessions import Session, SharedStorage
from durus.storage import MemoryStorage, Storage

needs_files = pytest.mark.skipif(
    find_spec("durus.file_storage") is None,
    reason="durus-filestorage is not installed; the environments with every package have it",
)


class Thing(Persistent):
    n = 0


class Stopping(MemoryStorage):
    """Where asked to, waits in `end` for `may_end`, and says so by `is_ending`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_stopping = False
        self.is_ending = threading.Event()
        self.may_end = threading.Event()

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        if self.is_stopping:
            self.is_ending.set()
            self.may_end.wait()
        super().end(handle_invalidations)


class Server(Session):
    """Shared by nature, as a server is: whoever opens it gets a session, in any process."""

    opened: list[Server] = []  # noqa: RUF012 - emptied by its fixture

    def __init__(self) -> None:
        self.shared = SharedStorage(MemoryStorage())
        super().__init__(self.shared)
        self.pid = os.getpid()
        self.error: BaseException | None = None
        Server.opened.append(self)

    def new_session(self) -> Session:
        assert self.pid == os.getpid(), "the child uses what its parent opened"
        return self.shared.new_session()

    def close(self) -> None:
        assert self.pid == os.getpid(), "the child closes what its parent opened"
        self.shared.close()


class Started:
    """A function that runs in a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self.thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self.thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self.future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised by result()
            self.future.set_exception(error)

    def result(self) -> Any:
        """Wait for the thread's end, and give or raise what its function did."""
        self.thread.join()
        return self.future.result()


def in_thread(function: Callable[[], Any]) -> Any:
    return Started(function).result()


def in_child(function: Callable[[], object]) -> str:
    """Fork, and give what the function returns in the child, as text, or the error's name."""
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        # From 3.12 on: there are threads. That it is safe nevertheless is what is tried here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            try:
                text = str(function())
            except Exception as error:  # noqa: BLE001
                text = f"{type(error).__name__}: {error}"
            os.write(write_end, text.encode())
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        text = pipe.read().decode()
    assert os.waitpid(pid, 0)[1] == 0
    return text


def add_one(root: Any) -> int:
    root["n"] = root.get("n", 0) + 1
    return int(root["n"])


@pytest.fixture
def database() -> Iterator[Database]:
    """A Database in memory."""
    with Database(MemoryStorage()) as made:
        yield made


@pytest.fixture
def server_url(monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a Server; each process has one of its own, for want of a real one."""

    def open_storage(url: str) -> Storage:
        assert url == "server:"
        return Server()

    Server.opened.clear()
    monkeypatch.setattr(database_module, "open_storage", open_storage)
    return "server:"


# -- a Connection for each thread


def test_each_thread_has_its_own_connection(database: Database) -> None:
    """A thread gets the same Connection each time, and no other thread gets that one."""
    ours = database.connection()
    assert database.connection() is ours
    theirs = in_thread(lambda: (database.connection(), database.connection()))
    assert theirs[0] is theirs[1]
    assert theirs[0] is not ours
    assert ours.get_root() is not theirs[0].get_root()


def test_threads_see_commits_and_not_changes(database: Database) -> None:
    """What a thread has changed is seen by others after its commit, at their next transaction."""
    root = database.connection().get_root()
    root["n"] = 1

    def read() -> Any:
        with database.transaction() as their_root:
            return their_root.get("n")

    assert in_thread(read) is None
    database.connection().commit()
    assert in_thread(read) == 1


def test_a_connection_that_was_closed_is_replaced(database: Database) -> None:
    """A thread that closes its Connection gets another, and the storage stays open."""
    database.connection().close()
    with database.transaction() as root:
        root["x"] = 1
    assert in_thread(lambda: dict(database.connection().get_root())) == {"x": 1}


def test_a_connection_of_another_thread(database: Database) -> None:
    """A thread that uses another's Connection inside its transaction is told so."""
    with database.transaction() as root:
        with pytest.raises(ConnectionThreadError):
            in_thread(lambda: root.get("n"))
        root["n"] = 1


@needs_files
def test_what_a_connection_takes_each_connection_gets(tmp_path: Path) -> None:
    """Cache size, root class and the limits on classes hold for the Connection of each thread."""
    path = tmp_path / "a.durus"
    with Database(path, 7, Thing) as database:
        assert type(database.connection().get_root()) is Thing
        assert in_thread(lambda: database.connection().get_cache_size()) == 7
        with database.transaction() as root:
            root.thing = Thing()
    trust = iter([f"{Thing.__module__}.Thing"])
    with Database(path, trust=trust) as database:
        for _ in range(2):
            assert in_thread(lambda: database.connection().get_root().thing.n) == 0


def test_a_storage_that_can_be_shared_makes_the_sessions(server_url: str) -> None:
    """Where the storage has sessions of its own, each thread's Connection has one of those."""
    with Database(server_url) as database:
        assert database.run(add_one) == 1
        assert in_thread(lambda: database.run(add_one)) == 2
        [server] = Server.opened
        session = database.connection().get_storage()
        assert isinstance(session, Session)
        assert session._shared is server.shared


def test_two_sessions_make_the_root_at_once() -> None:
    """Of two programs that open an empty storage at once, one makes the root and both have it."""
    session = SharedStorage(MemoryStorage()).new_session()
    first: list[Connection] = []

    def new_oid() -> bytes:
        if not first:
            first.append(Connection(session.new_session(), root_class=Thing))
        return Session.new_oid(session)

    session.new_oid = new_oid  # type: ignore[method-assign] # what happens between two of its calls
    second = Connection(session)
    assert type(second.get_root()) is Thing
    first[0].get_root().n = 5
    first[0].commit()
    second.abort()
    assert second.get_root().n == 5
    assert second.get(ROOT_OID) is second.get_root()


@needs_files
def test_a_storage_that_cannot_be_opened_is_not_left_open(tmp_path: Path) -> None:
    """If the first Connection fails, a storage that was opened for it is closed again."""
    path = tmp_path / "a.durus"
    with Database(path) as database, database.transaction() as root:
        root["thing"] = Thing()
    with pytest.raises(UntrustedClassError):
        Database(path, trust=["nowhere"])
    Database(path).close()
    storage = MemoryStorage()
    with pytest.raises(TypeError):
        Database(storage, root_class=4)  # type: ignore[arg-type] # the mistake that is tried
    assert storage.new_oid()
    with pytest.raises(BackendError):
        Database("nothing-of-the-kind:")


# -- blocks


def test_a_block_commits_or_aborts(database: Database) -> None:
    """A block commits at its end, and leaves nothing behind if it raises."""
    with database.transaction() as root:
        root["a"] = 1
    with pytest.raises(ZeroDivisionError), database.transaction() as root:
        root["a"] = 2
        raise ZeroDivisionError
    with database.transaction() as root:
        assert dict(root) == {"a": 1}


def test_blocks_do_not_nest(database: Database) -> None:
    """A block inside a block, or after uncommitted changes, is refused, and the outer goes on."""
    with database.transaction() as root:
        root["a"] = 1
        with pytest.raises(ConnectionStateError), database.transaction():
            pass
        with pytest.raises(ConnectionStateError):
            database.run(add_one)
    database.connection().get_root()["a"] = 2
    with pytest.raises(ConnectionStateError), database.transaction():
        pass
    database.connection().abort()
    with database.transaction() as root:
        assert dict(root) == {"a": 1}


def test_readers_never_conflict(database: Database) -> None:
    """A block that only reads sees the state of its beginning and ends without a conflict."""
    with database.transaction() as root:
        root["a"], root["b"] = Thing(), Thing()
    with database.transaction() as root:
        assert root["a"].n == 0

        def change(their_root: Any) -> None:
            their_root["a"].n = their_root["b"].n = 1

        in_thread(lambda: database.run(change))
        assert (root["a"].n, root["b"].n) == (0, 0)
    with database.transaction() as root:
        assert (root["a"].n, root["b"].n) == (1, 1)


# -- run


def test_run_gives_what_the_function_returns(database: Database) -> None:
    """The function gets the root and the arguments, and its changes are committed."""

    def put(root: Any, key: str, value: int) -> str:
        root[key] = value
        return "done"

    assert database.run(put, "k", 3) == "done"
    assert in_thread(lambda: database.connection().get_root()["k"]) == 3


def conflicting(database: Database, times: int) -> Callable[[Any], int]:
    """Make a function that meets the commit of another thread, for so many calls."""
    calls = []

    def function(root: Any) -> int:
        root["n"] = root.get("n", 0) + 1
        calls.append(1)
        if len(calls) <= times:
            in_thread(lambda: database.run(add_one))
        return len(calls)

    return function


def test_run_tries_again_after_a_conflict(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function is called again on the newest state, after waits that grow and are random."""
    waits: list[float] = []
    monkeypatch.setattr(database_module, "sleep", waits.append)
    monkeypatch.setattr(database_module, "_ALONE_FROM", 99)  # the other thread is waited for
    assert database.run(conflicting(database, 10)) == 11
    with database.transaction() as root:
        assert root["n"] == 11
    limits = [min(0.002 * 2**i, 0.5) for i in range(10)]
    assert all(0 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))
    assert len(set(waits)) > 1


def test_run_gets_through_however_many_want_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that change one object all the time need few attempts each, without any wait."""
    monkeypatch.setattr(database_module, "sleep", lambda seconds: None)
    failed: list[ConflictError] = []

    def add_one_slowly(root: Any) -> None:
        n = root.get("n", 0)
        threading.Event().wait(0.001)
        root["n"] = n + 1

    def count() -> None:
        for _ in range(20):
            try:
                database.run(add_one_slowly)
            except ConflictError as error:
                failed.append(error)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with database.transaction() as root:
        assert root["n"] == 160


def test_run_alone_waits_for_no_thread_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that runs alone may wait for another thread's run()."""
    monkeypatch.setattr(database_module, "sleep", lambda seconds: None)
    monkeypatch.setattr(database_module, "_LONGEST_WAIT_S", 0.01)
    monkeypatch.setattr(database_module, "_ALONE_FROM", 1)
    assert database.run(conflicting(database, 6)) == 7


def test_run_alone_lets_those_under_way_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that is to run alone begins after those that began before it."""
    monkeypatch.setattr(database_module, "sleep", lambda seconds: None)
    monkeypatch.setattr(database_module, "_LONGEST_WAIT_S", 60)
    monkeypatch.setattr(database_module, "_ALONE_FROM", 1)
    with database.transaction() as root:
        root["a"], root["b"] = Thing(), Thing()
    is_under_way = threading.Event()
    others: list[Started] = []

    def change_slowly(root: Any) -> None:
        root["b"].n = 1
        is_under_way.set()
        threading.Event().wait(0.05)

    def change_elsewhere() -> None:
        with database.transaction() as root:
            root["a"].n = 1

    def change_both(root: Any) -> int:
        root["a"].n += 1
        if not others:
            others.append(Started(lambda: database.run(change_slowly)))
            is_under_way.wait()
            in_thread(change_elsewhere)
        root["b"].n += 1
        return int(root["b"].n)

    assert database.run(change_both) == 2
    others[0].result()


def test_a_fork_while_a_thread_takes_its_turn(server_url: str) -> None:
    """In the child nobody waits for what that thread held: not the block, and not run()."""
    with Database(server_url) as database:
        block = database._turns.take(alone=True)

        def work() -> int:
            block.__exit__(None, None, None)
            return database.run(add_one)

        block.__enter__()
        with database._turns._changed:
            assert in_child(work) == "1"
        block.__exit__(None, None, None)
        assert database.run(add_one) == 1


def test_run_gives_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many retries the conflict is raised; nothing of the attempts is stored."""
    monkeypatch.setattr(database_module, "sleep", lambda seconds: None)
    for retries in (2, 0):
        with pytest.raises(ConflictError) as caught:
            database.run(conflicting(database, 100), retries=retries)
        assert caught.value.__notes__ == [f"run() tried {retries + 1} times"]
    with database.transaction() as root:
        assert root["n"] == 4  # of the other thread


def test_run_repeats_nothing_but_conflicts(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may have been committed, what was lost, and what the function raises: tried once."""
    errors = [CommitUnknownError("?"), StorageDisconnectedError("?"), StorageWriteError("?")]
    with Database(server_url) as database:
        database.run(add_one)
        for error in errors:
            calls: list[int] = []

            def function(root: Any, calls: list[int] = calls) -> None:
                root["n"] = 0
                calls.append(1)

            def end(self: Session, handle: object = None, error: Exception = error) -> None:
                raise error

            with monkeypatch.context() as patch:
                patch.setattr(Session, "end", end)
                with pytest.raises(type(error)):
                    database.run(function)
            assert calls == [1]
        with pytest.raises(ZeroDivisionError):
            database.run(lambda root: root["n"] / 0)
        assert database.run(add_one) == 2


@pytest.mark.parametrize(
    "scheme",
    [
        pytest.param("file:", marks=needs_files),
        pytest.param("file2:", marks=needs_files),
        "memory:",
    ],
)
def test_threads_lose_no_update(tmp_path: Path, scheme: str) -> None:
    """Eight threads that count in one place by run() lose and double nothing; it is all on disk."""
    url = scheme if scheme == "memory:" else f"{scheme}{tmp_path / 'a.durus'}"
    with Database(url) as database:
        barrier = threading.Barrier(8)

        def count() -> None:
            barrier.wait()
            for _ in range(25):
                database.run(add_one, retries=1000)

        threads = [Started(count) for _ in range(8)]
        for thread in threads:
            thread.result()
        with database.transaction() as root:
            assert root["n"] == 200
    if scheme != "memory:":
        with Connection(url) as connection:
            assert connection.get_root()["n"] == 200


# -- threads that end


def test_the_next_thread_gets_a_warm_cache(database: Database) -> None:
    """A new thread gets the Connection, with its objects in memory, of one that has ended."""
    with database.transaction() as root:
        root["thing"] = Thing()

    def read() -> tuple[int, int]:
        with database.transaction() as their_root:
            assert their_root["thing"].n in {0, 7}
        return id(database.connection()), database.connection().get_load_count()

    first, loads = in_thread(read)
    assert in_thread(read) == (first, loads)
    with database.transaction() as root:
        root["thing"].n = 7
    second, more_loads = in_thread(read)
    assert (second, more_loads) == (first, loads + 1)


def test_what_an_ended_thread_left_is_forgotten(database: Database) -> None:
    """Changes that a thread did not commit before it ended reach nobody."""
    in_thread(lambda: database.connection().get_root().update(lost=1))

    def look() -> dict[str, int]:
        root = database.connection().get_root()
        root["kept"] = 1
        database.connection().commit()
        return dict(root)

    assert in_thread(look) == {"kept": 1}


@pytest.mark.parametrize("max_idle", [0, 1, 3])
def test_idle_connections_are_limited(max_idle: int) -> None:
    """Of threads that have ended, no more than `max_idle` Connections stay open."""
    with Database(MemoryStorage(), max_idle=max_idle) as database:
        barrier = threading.Barrier(5)

        def work() -> Connection:
            connection = database.connection()
            barrier.wait()
            return connection

        connections = [thread.result() for thread in [Started(work) for _ in range(5)]]
        closed = [connection for connection in connections if connection.transaction_serial < 0]
        assert len(set(connections)) == 5
        assert len(closed) == 5 - max_idle
        for connection in closed:
            with pytest.raises(StorageClosedError):
                connection.get_storage().load(ROOT_OID)
        database.run(add_one)


def test_a_thread_ends_while_the_server_is_gone(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Connection that cannot be aborted is closed when its thread ends; the next is a new one."""

    def sync(self: Session) -> list[bytes]:
        raise StorageDisconnectedError("the server is gone")

    with Database(server_url) as database:
        with monkeypatch.context() as patch:

            def work() -> Connection:
                connection = database.connection()
                patch.setattr(Session, "sync", sync)
                return connection

            connection = in_thread(work)
            assert connection.transaction_serial < 0
        assert in_thread(database.connection) is not connection


def test_an_idle_connection_whose_server_is_gone(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new thread is told that the server is gone, and gets a Connection when it is back."""

    def sync(self: Session) -> list[bytes]:
        raise StorageDisconnectedError("the server is gone")

    with Database(server_url) as database:
        in_thread(database.connection)
        with monkeypatch.context() as patch:
            patch.setattr(Session, "sync", sync)
            with pytest.raises(StorageDisconnectedError):
                in_thread(database.connection)
        assert in_thread(lambda: database.run(add_one)) == 1


# -- pack


@needs_files
def test_pack_while_others_commit(tmp_path: Path) -> None:
    """A pack removes garbage, loses nothing that is committed meanwhile, and stops nobody."""
    path = tmp_path / "a.durus"
    with Database(path) as database:
        with database.transaction() as root:
            root["garbage"] = [Thing() for _ in range(2000)]
            root["kept"] = [Thing() for _ in range(2000)]
        with database.transaction() as root:
            garbage = root["garbage"][0]._p_oid
            del root["garbage"]
        is_packed = threading.Event()
        barrier = threading.Barrier(3)

        def commit() -> int:
            barrier.wait()
            count = 0
            while not is_packed.is_set():
                database.run(add_one, retries=1000)
                count += 1
            return count

        threads = [Started(commit) for _ in range(2)]
        barrier.wait()
        for _ in range(3):
            database.pack()
        is_packed.set()
        counted = sum(thread.result() for thread in threads)
        with database.transaction() as root:
            assert root.get("n", 0) == counted
            assert len(root["kept"]) == 2000
        assert in_thread(lambda: database.connection().get(garbage)) is None
    with Connection(path) as connection:
        assert connection.get_root().get("n", 0) == counted


def test_a_storage_that_cannot_be_packed() -> None:
    """Where the storage cannot be packed, pack() says so."""

    class Unpackable(MemoryStorage):
        can_pack = False

        def get_packer(self) -> Iterator[object]:
            return Storage.get_packer(self)

    with Database(Unpackable()) as database, pytest.raises(NotSupportedError):
        database.pack()


def test_a_pack_by_the_server(server_url: str) -> None:
    """Where the storage makes the sessions, it packs by one of them."""
    with Database(server_url) as database:
        with database.transaction() as root:
            root["thing"] = thing = Thing()
        oid = thing._p_oid
        database.run(lambda root: root.pop("thing") and None)
        database.pack()
        assert in_thread(lambda: database.connection().get(oid)) is None


# -- closing


@needs_files
def test_after_close(tmp_path: Path) -> None:
    """A closed Database says so, its Connections too, and its file may be opened at once."""
    path = tmp_path / "a.durus"
    database = Database(path)
    root = database.connection().get_root()
    database.close()
    database.close()
    uses: list[Callable[[], object]] = [
        database.connection,
        database.pack,
        lambda: database.run(add_one),
        lambda: database.transaction().__enter__(),
        lambda: root.get("n"),
    ]
    for use in uses:
        with pytest.raises(ConnectionClosedError, match="closed"):
            use()
        with pytest.raises(ConnectionClosedError, match="closed"):
            in_thread(use)
    Database(path).close()


def test_close_waits_for_blocks(database: Database) -> None:
    """Blocks that are open in other threads end and commit; new ones are refused meanwhile."""
    storage = MemoryStorage()
    storage.close = lambda: None  # type: ignore[method-assign] # to look into it after close()
    database = Database(storage)
    is_inside, may_end = threading.Event(), threading.Event()

    def work() -> None:
        with database.transaction() as root:
            root["n"] = 1
            is_inside.set()
            may_end.wait()

    worker = Started(work)
    is_inside.wait()
    closer = Started(database.close)
    while not database._is_closing:
        pass
    with pytest.raises(ConnectionClosedError):
        database.run(add_one)
    assert not closer.future.done()
    may_end.set()
    worker.result()
    closer.result()
    assert Connection(storage).get_root()["n"] == 1


def test_close_with_a_limit(database: Database) -> None:
    """After its timeout close() closes the Connections of open blocks: they commit no more."""
    is_inside, may_end = threading.Event(), threading.Event()

    def work() -> None:
        with database.transaction() as root:
            root["n"] = 1
            is_inside.set()
            may_end.wait()

    worker = Started(work)
    is_inside.wait()
    database.close(timeout_s=0)
    may_end.set()
    with pytest.raises(ConnectionClosedError):
        worker.result()


def test_close_inside_a_block(database: Database) -> None:
    """A thread that closes the Database inside its own block is told so, and can go on."""
    with database.transaction() as root:
        with pytest.raises(ConnectionStateError, match="after the block"):
            database.close()
        root["n"] = 1
    assert database.run(add_one) == 2


def test_close_waits_for_a_commit_without_a_block() -> None:
    """A commit that is under way is finished, whole, before its Connection is closed."""
    storage = Stopping()
    database = Database(storage)

    def work() -> None:
        connection = database.connection()
        connection.get_root()["n"] = 1
        storage.is_stopping = True
        connection.commit()

    worker = Started(work)
    storage.is_ending.wait()
    closer = Started(database.close)
    while not database._is_closed:
        pass
    assert not closer.future.done()
    storage.may_end.set()
    worker.result()
    closer.result()
    with pytest.raises(ConnectionClosedError):
        database.connection()


@needs_files
def test_many_threads_while_it_closes(tmp_path: Path) -> None:
    """Threads that work while it is closed finish a transaction or are told; no count is lost."""
    for attempt in range(10):
        path = tmp_path / f"{attempt}.durus"
        database = Database(path)
        started = threading.Semaphore(0)

        def work(database: Database = database, started: Any = started) -> int:
            count = 0
            try:
                while True:
                    database.run(add_one, retries=1000)
                    count += 1
                    started.release()
            except ConnectionClosedError:
                return count

        threads = [Started(work) for _ in range(4)]
        started.acquire()
        closers = [Started(database.close) for _ in range(2)]
        for closer in closers:
            closer.result()
        counted = sum(thread.result() for thread in threads)
        with Connection(path) as connection:
            assert connection.get_root()["n"] == counted


@needs_files
def test_a_program_that_ends_without_close(tmp_path: Path) -> None:
    """A program that just ends, threads and all, says nothing and loses nothing."""
    program = """if True:
        import sys, threading
        from durus.database import Database
        database = Database(sys.argv[1])
        held = database.connection().get_root()
        def add(root, name):
            root[name] = 1
        threads = [threading.Thread(target=database.run, args=(add, n)) for n in range(3)]
        for thread in threads:
            thread.start()
        threading.Thread(target=lambda: [database.connection(), threading.Event().wait()],
            daemon=True).start()
    """
    path = tmp_path / "a.durus"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with Connection(path) as connection:
        assert sorted(connection.get_root()) == [0, 1, 2]


def test_what_a_thread_holds_may_outlive_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of the interpreter their names may be None before the last thread's hold ends."""
    with Database(MemoryStorage()) as database:
        held: Any = database.connection()
    lease = _Lease(database, held)
    for name in ("sys", "os"):
        monkeypatch.setattr(database_module, name, None)
    lease.__del__()


# -- forks


@needs_files
def test_a_child_does_not_use_its_parents_file(tmp_path: Path) -> None:
    """In a child process a Database on a file says whose it is, whatever is tried."""
    with Database(tmp_path / "a.durus") as database:
        database.run(add_one)
        root = database.connection().get_root()
        uses: list[Callable[[], object]] = [
            database.connection,
            database.pack,
            lambda: database.run(add_one),
            lambda: database.transaction().__enter__(),
            lambda: in_thread(database.connection),
        ]
        for use in uses:
            said = in_child(use)
            assert said.startswith("ConnectionForkError: process ")
            assert str(tmp_path / "a.durus") in said
            assert f"process {os.getpid()} opened" in said
            assert "open it after the fork" in said
        assert in_child(lambda: root["n"]).startswith("ConnectionForkError")
        assert in_child(database.close) == "None"
        assert database.run(add_one) == 2
    with Connection(tmp_path / "a.durus") as connection:
        assert connection.get_root()["n"] == 2


@needs_files
def test_a_child_of_a_block(tmp_path: Path) -> None:
    """A block in which the process forks is its parent's: in the child it cannot commit."""
    path = tmp_path / "a.durus"
    with Database(path) as database:
        block = database.transaction()
        root = block.__enter__()
        root["n"] = 1
        assert in_child(lambda: block.__exit__(None, None, None)).startswith("ConnectionForkError")
        assert in_child(lambda: root.update(n=2)).startswith("ConnectionForkError")
        assert in_child(database.close) == "None"
        block.__exit__(None, None, None)
    with Connection(path) as connection:
        assert dict(connection.get_root()) == {"n": 1}


@needs_files
def test_a_child_while_other_threads_work(tmp_path: Path) -> None:
    """A fork during other threads' transactions blocks neither process, and loses nothing."""
    path = tmp_path / "a.durus"
    with Database(path) as database:
        is_over = threading.Event()
        started = threading.Semaphore(0)

        def work() -> int:
            count = 0
            while not is_over.is_set():
                database.run(add_one, retries=1000)
                count += 1
                started.release()
            return count

        threads = [Started(work) for _ in range(3)]
        started.acquire()
        for _ in range(10):
            assert in_child(database.connection).startswith("ConnectionForkError")
            assert in_child(database.close) == "None"
        is_over.set()
        counted = sum(thread.result() for thread in threads)
    with Connection(path) as connection:
        assert connection.get_root()["n"] == counted


def test_a_child_connects_to_the_server_anew(server_url: str) -> None:
    """In a child process a Database on a server opens it again, and leaves its parent's alone."""
    with Database(server_url) as database:
        database.run(add_one)
        ours = database.connection()
        thread_may_end = threading.Event()
        thread = Started(lambda: (database.connection(), thread_may_end.wait()))

        def work() -> list[object]:
            is_other = database.connection() is not ours
            counts = [database.run(add_one), in_thread(lambda: database.run(add_one))]
            grandchild = in_child(lambda: (database.run(add_one), len(Server.opened)))
            database.pack()
            database.close()
            return [is_other, *counts, grandchild, len(Server.opened)]

        # The stand-in for a server begins empty in each process.
        assert in_child(work) == "[True, 1, 2, '(1, 3)', 2]"
        assert in_child(database.close) == "None"
        assert in_child(lambda: ours.get_root()["n"]).startswith("ConnectionForkError")
        thread_may_end.set()
        thread.result()
        assert database.run(add_one) == 2
        assert len(Server.opened) == 1


def test_a_child_of_a_database_made_of_a_storage() -> None:
    """A Database that was given a storage object cannot open it anew in a child, and says so."""
    with Database(Server()) as database:
        assert in_child(database.connection).startswith("ConnectionForkError")
        assert database.run(add_one) == 1


@needs_files
def test_a_child_does_not_use_its_parents_connection(tmp_path: Path) -> None:
    """A Connection says so in a child process, whatever is tried; closing it there does nothing."""
    path = tmp_path / "a.durus"
    with Connection(path) as connection:
        root = connection.get_root()
        root["thing"] = thing = Thing()
        root["ghost"] = ghost = Thing()
        connection.commit()
        ghost._p_set_status_ghost()
        assert thing.n == 0
        root["x"] = 1
        uses: list[Callable[[], object]] = [
            connection.commit,
            connection.abort,
            connection.pack,
            lambda: connection.get(1),
            lambda: connection.transaction().__enter__(),
            lambda: list(connection.get_crawler()),
            lambda: thing.n,
            lambda: ghost.n,
            lambda: setattr(thing, "n", 1),
            lambda: root["x"],
            lambda: root.update(x=2),
            thing._p_note_change,
        ]
        for use in uses:
            said = in_child(use)
            assert said.startswith("ConnectionForkError: process ")
            assert f"process {os.getpid()} opened before it forked" in said
        assert in_child(connection.close) == "None"
        assert in_child(lambda: Connection(path)).startswith("StorageLockedError")
        connection.commit()
        assert root["x"] == 1


@needs_files
def test_a_child_may_open_its_own(tmp_path: Path) -> None:
    """A Connection that a child opens after the fork works there, and so does a Database."""

    def work() -> int:
        with Database(tmp_path / "b.durus") as ours:
            ours.run(add_one)
        with Connection(tmp_path / "b.durus") as connection:
            return int(connection.get_root()["n"])

    with Database(tmp_path / "a.durus") as database:
        assert in_child(work) == "1"
        assert database.run(add_one) == 1
