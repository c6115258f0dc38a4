"""Commits that are all or nothing in memory, and conflicts between sessions."""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import (
    ConflictError,
    ConnectionStateError,
    DurusKeyError,
    ForeignObjectError,
    ReadConflictError,
    StorageReadOnlyError,
    StorageWriteError,
    UnpicklableError,
    WriteConflictError,
)
from durus.persistent import GHOST, SAVED, UNSAVED, Persistent
from durus.persistent_dict import PersistentDict
from durus.serialize import ROOT_OID, split_oids, unpack_record
from durus.storage import MemoryStorage, Storage


class Thing(Persistent):
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Failing(MemoryStorage):
    """Raises `error` in the method named by `fail_in`, before or after it has done its work."""

    def __init__(self) -> None:
        super().__init__()
        self.fail_in = ""
        self.error: BaseException = StorageWriteError("no")
        self.is_late = False

    def _do(self, name: str, work: Callable[[], Any]) -> Any:
        if self.fail_in == name and not self.is_late:
            raise self.error
        result = work()
        if self.fail_in == name:
            raise self.error
        return result

    def begin(self) -> None:
        self._do("begin", super().begin)

    def store(self, oid: bytes, record: bytes) -> None:
        parent = super()
        self._do("store", lambda: parent.store(oid, record))

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        parent = super()
        self._do("end", lambda: parent.end(handle_invalidations))

    def new_oid(self) -> bytes:
        oid: bytes = self._do("new_oid", super().new_oid)
        return oid


class Session(Storage):
    """One of several callers of the same records.

    As a server does, it refuses to load what others changed since the last `sync()`.
    """

    def __init__(self, first: Session | None = None) -> None:
        self.records: dict[bytes, bytes] = first.records if first else {}
        self.sessions: list[Session] = first.sessions if first else []
        self.sessions.append(self)
        self.stale: set[bytes] = set()
        self.pending: dict[bytes, bytes] = {}
        self.is_strict = True
        self.syncs = 0

    def load(self, oid: bytes) -> bytes:
        if self.is_strict and oid in self.stale:
            raise ReadConflictError([oid])
        if oid not in self.records:
            raise DurusKeyError(oid)
        return self.records[oid]

    def begin(self) -> None:
        self.pending = {}

    def store(self, oid: bytes, record: bytes) -> None:
        self.pending[oid] = record

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        if self.stale and handle_invalidations is not None:
            stale, self.stale = self.stale, set()
            handle_invalidations(sorted(stale))
        self.records.update(self.pending)
        for session in self.sessions:
            if session is not self:
                session.stale.update(self.pending)

    def sync(self) -> list[bytes]:
        self.syncs += 1
        stale, self.stale = self.stale, set()
        return sorted(stale)

    def new_oid(self) -> bytes:
        self.sessions[0].counter = oid_int = getattr(self.sessions[0], "counter", -1) + 1
        return oid_int.to_bytes(8, "big")


@pytest.fixture
def storage() -> Failing:
    return Failing()


@pytest.fixture
def connection(storage: Failing) -> Connection:
    return Connection(storage)


@pytest.fixture
def pair() -> tuple[Connection, Connection]:
    """Two connections over the same records, which hold `a`, `b` and `c` under the root."""
    first = Connection(Session())
    for name in "abc":
        first.get_root()[name] = Thing(n=0)
    first.commit()
    storage = first.get_storage()
    assert isinstance(storage, Session)
    second = Connection(Session(storage))
    for connection in (first, second):
        for thing in connection.get_root().values():
            thing.n
        connection.abort()
    return first, second


def picture(connection: Connection, *objects: Any) -> list[Any]:
    """Give what a failed commit must leave as it was."""
    return [
        [(obj._p_status, obj._p_oid, obj._p_connection, contents(obj)) for obj in objects],
        dict(connection.changed),
        connection.get_transaction_serial(),
        len(connection.get_cache()),
        connection.owner,
    ]


def contents(obj: Any) -> dict[str, Any]:
    return dict(obj if isinstance(obj, PersistentDict) else obj.__dict__)


def read_back(connection: Connection) -> dict[str, Any]:
    """Give what a new connection finds under the root, as far as it is Things."""
    root = Connection(connection.get_storage()).get_root()
    return {key: dict(value.__dict__) for key, value in root.items()}


# -- a commit that fails


def test_a_state_that_cannot_be_pickled_changes_nothing(connection: Connection) -> None:
    """When pickling fails, every object is as it was; without the cause the commit works."""
    root = connection.get_root()
    old = root["old"] = Thing(n=1)
    connection.commit()
    old.n = 2
    bad = root["bad"] = Thing(child=Thing(n=3), file=threading.Lock())
    child = bad.child
    before = picture(connection, root, old, bad, child)
    for _ in range(3):
        with pytest.raises(UnpicklableError):
            connection.commit()
        assert picture(connection, root, old, bad, child) == before
    del bad.file
    connection.commit()
    assert [obj._p_status for obj in (root, old, bad, child)] == [SAVED] * 4
    found = read_back(connection)
    assert found["old"] == {"n": 2}
    assert found["bad"]["child"].n == 3


def test_oids_of_a_failed_commit_are_used_by_the_next(
    connection: Connection, storage: Failing
) -> None:
    """What was handed out for new objects is neither lost nor given twice."""
    root = connection.get_root()
    root["list"] = [Thing(n=n) for n in range(5)]
    root["bad"] = threading.Lock()
    for _ in range(3):
        with pytest.raises(UnpicklableError):
            connection.commit()
    del root["bad"]
    connection.commit()
    oids = {thing._p_oid for thing in root["list"]}
    assert oids == {n.to_bytes(8, "big") for n in range(1, 6)}
    for oid, record in storage.gen_oid_record():
        for referred in split_oids(unpack_record(record)[2]):
            assert referred in oids
            storage.load(referred)
        assert oid in oids | {ROOT_OID}


ERRORS = [
    StorageWriteError("disk full"),
    StorageReadOnlyError("read-only"),
    OSError(28, "No space left on device"),
    ConflictError([]),
    WriteConflictError([b"12345678"]),
    MemoryError(),
    KeyboardInterrupt(),
    SystemExit(1),
    ValueError("anything"),
]


@pytest.mark.parametrize("fail_in", ["new_oid", "begin", "store", "end"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_storage_that_refuses_changes_nothing(
    connection: Connection, storage: Failing, fail_in: str, error: BaseException
) -> None:
    """Whatever the storage raises passes through, and every object is as it was."""
    root = connection.get_root()
    old = root["old"] = Thing(n=1)
    connection.commit()
    old.n = 2
    new = root["new"] = Thing(child=Thing(n=3))
    before = picture(connection, root, old, new, new.child)
    storage.fail_in, storage.error = fail_in, error
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            connection.commit()
        assert caught.value is error
        assert picture(connection, root, old, new, new.child) == before
    storage.fail_in = ""
    assert set(read_back(connection)) == {"old"}
    connection.commit()
    found = read_back(connection)
    assert found["old"] == {"n": 2}
    assert found["new"]["child"].n == 3


def test_an_interrupt_after_the_storage_has_committed(
    connection: Connection, storage: Failing
) -> None:
    """Oids that may be stored are not given to other objects, whatever the program does next."""
    root = connection.get_root()
    root["first"] = Thing(name="first")
    storage.fail_in, storage.error, storage.is_late = "end", KeyboardInterrupt(), True
    with pytest.raises(KeyboardInterrupt):
        connection.commit()
    storage.fail_in = ""
    root._p_set_status_ghost()
    connection.abort()
    root["second"] = Thing(name="second")
    connection.commit()
    assert read_back(connection) == {"first": {"name": "first"}, "second": {"name": "second"}}


def test_abort_after_a_failed_commit(connection: Connection, storage: Failing) -> None:
    """An abort after a failed commit leaves new objects without oid, old ones as stored."""
    root = connection.get_root()
    old = root["old"] = Thing(n=1)
    connection.commit()
    old.n, new = 2, Thing(n=3)
    root["new"] = new
    storage.fail_in = "end"
    with pytest.raises(StorageWriteError):
        connection.commit()
    storage.fail_in = ""
    connection.abort()
    assert old.n == 1
    assert "new" not in root
    assert (new.n, new._p_oid, new._p_connection) == (3, None, None)
    connection.commit()
    assert set(read_back(connection)) == {"old"}


def test_a_new_object_may_go_elsewhere_after_a_failed_commit(
    connection: Connection, storage: Failing
) -> None:
    """An object that a failed commit gave up can be stored by another connection."""
    new = connection.get_root()["new"] = Thing(n=1)
    storage.fail_in = "store"
    with pytest.raises(StorageWriteError):
        connection.commit()
    other = Connection(MemoryStorage())
    other.get_root()["new"] = new
    other.commit()
    assert new._p_connection is other
    storage.fail_in = ""
    with pytest.raises(ForeignObjectError):
        connection.commit()
    del connection.get_root()["new"]
    connection.commit()


def test_a_first_commit_that_fails_leaves_the_storage_usable(storage: Failing) -> None:
    """If the root could not be stored, the next Connection makes it, under its own oid."""
    storage.fail_in = "end"
    with pytest.raises(StorageWriteError):
        Connection(storage)
    storage.fail_in = ""
    connection = Connection(storage)
    assert connection.get_root()._p_oid == ROOT_OID
    connection.get_root()["x"] = Thing(n=1)
    connection.commit()
    assert read_back(connection) == {"x": {"n": 1}}


def test_a_getstate_that_fails_changes_nothing(connection: Connection) -> None:
    """What a class's own __getstate__ raises passes through."""
    root = connection.get_root()
    moody = root["moody"] = Moody(Thing(n=1))
    before = picture(connection, root, moody)
    with pytest.raises(LookupError, match="not now"):
        connection.commit()
    assert picture(connection, root, moody) == before
    moody.__dict__["is_calm"] = True
    connection.commit()
    assert read_back(connection)["moody"]["child"].n == 1


class Moody(Persistent):
    def __init__(self, child: Thing) -> None:
        self.child = child

    def __getstate__(self) -> Any:
        if "is_calm" not in self.__dict__:
            raise LookupError("not now")
        return dict(self.__dict__)


class Touching(Persistent):
    """Its __getstate__ changes another object."""

    def __init__(self, other: Thing) -> None:
        self.other = other

    def __getstate__(self) -> Any:
        self.other.n += 1
        return super().__getstate__()


def test_a_getstate_may_change_further_objects(connection: Connection) -> None:
    """What a __getstate__ changes while the commit goes on is stored by the same commit."""
    root = connection.get_root()
    touched = root["touched"] = Thing(n=0)
    touching = root["touching"] = Touching(touched)
    connection.commit()
    touching.x = 1
    connection.commit()
    assert touched._p_status == SAVED
    assert read_back(connection)["touched"] == {"n": touched.n}


def test_foreign_objects_are_refused(connection: Connection) -> None:
    """An object of another Connection cannot be referred to; the error says whose it is."""
    other = Connection(MemoryStorage())
    foreign = other.get_root()["x"] = Thing(n=1)
    other.commit()
    connection.get_root()["x"] = {"deep": [foreign]}
    with pytest.raises(ForeignObjectError, match=r"Thing.*another Connection"):
        connection.commit()
    assert foreign._p_connection is other
    del connection.get_root()["x"]
    connection.commit()


# -- blocks


def test_a_block_commits(connection: Connection) -> None:
    """A transaction block gives the root and commits at its end."""
    with connection.transaction() as root:
        root["x"] = Thing(n=1)
    assert read_back(connection) == {"x": {"n": 1}}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_block_that_raises_aborts(connection: Connection, error: type[BaseException]) -> None:
    """What a block raises passes through, and its changes are forgotten."""
    with pytest.raises(error), connection.transaction() as root:
        root["x"] = Thing(n=1)
        raise error
    assert not connection.changed
    assert "x" not in connection.get_root()
    with connection.transaction() as root:
        root["y"] = Thing(n=2)
    assert read_back(connection) == {"y": {"n": 2}}


def test_a_block_whose_commit_fails_aborts(connection: Connection, storage: Failing) -> None:
    """A block whose commit is refused raises that, and leaves nothing changed."""
    storage.fail_in = "end"
    with pytest.raises(StorageWriteError), connection.transaction() as root:
        root["x"] = Thing(n=1)
    storage.fail_in = ""
    assert not connection.changed
    assert "x" not in connection.get_root()


def test_a_block_does_not_take_over_changes(connection: Connection) -> None:
    """A block refuses to begin with changes from before it, and leaves them."""
    connection.get_root()["x"] = Thing(n=1)
    with pytest.raises(ConnectionStateError, match="before it"), connection.transaction():
        pass
    connection.commit()
    assert read_back(connection) == {"x": {"n": 1}}


def test_a_block_inside_a_block_is_refused(connection: Connection) -> None:
    """A block inside another would forget what the outer one has read."""
    with connection.transaction() as root:
        with pytest.raises(ConnectionStateError, match="inside another"), connection.transaction():
            pass
        root["x"] = Thing(n=1)
    assert read_back(connection) == {"x": {"n": 1}}


def test_a_block_begins_with_the_newest_state(pair: tuple[Connection, Connection]) -> None:
    """A block sees what others committed before it."""
    first, second = pair
    first.get_root()["a"].n = 5
    first.commit()
    with second.transaction() as root:
        assert root["a"].n == 5


# -- conflicts


def test_what_was_read_and_changed_elsewhere_is_a_conflict(
    pair: tuple[Connection, Connection],
) -> None:
    """A commit of changes fails if another commit changed what this transaction read."""
    first, second = pair
    second.get_root()["b"].n = second.get_root()["a"].n + 1
    first.get_root()["a"].n = 7
    first.commit()
    a = second.get_root()["a"]
    for _ in range(2):
        with pytest.raises(WriteConflictError) as caught:
            second.commit()
        assert caught.value.oids == [a._p_oid]
    second.abort()
    assert a.n == 7
    assert second.get_root()["b"].n == 0
    second.get_root()["b"].n = a.n + 1
    second.commit()
    first.abort()
    assert first.get_root()["b"].n == 8


def test_write_skew_is_a_conflict(pair: tuple[Connection, Connection]) -> None:
    """Two transactions that each read what the other writes cannot both commit."""
    first, second = pair
    first.get_root()["a"].n = first.get_root()["b"].n + 1
    second.get_root()["b"].n = second.get_root()["a"].n + 1
    first.commit()
    with pytest.raises(WriteConflictError):
        second.commit()


def test_what_was_only_loaded_is_no_conflict(pair: tuple[Connection, Connection]) -> None:
    """An object that is in memory and was not used in this transaction conflicts with nothing."""
    first, second = pair
    first.get_root()["a"].n = 7
    first.commit()
    a = second.get(second.get_root()["a"]._p_oid)
    assert a._p_status == SAVED
    second.get_root()["b"].n = 1
    second.commit()
    assert a.n == 7


def test_what_get_loads_is_not_used_yet(pair: tuple[Connection, Connection]) -> None:
    """get() loads an object without using it."""
    first, second = pair
    oid = first.get_root()["a"]._p_oid
    a = second.get(oid)
    a._p_set_status_ghost()
    second.commit()
    second.get_crawler().__next__()
    first.get_root()["a"].n = 7
    first.commit()
    second.get_root()["b"].n = 1
    second.commit()
    assert second.get(oid).n == 7


def test_a_commit_without_changes_never_conflicts(pair: tuple[Connection, Connection]) -> None:
    """A transaction that only read ends well whatever others did, and the next sees the newest."""
    first, second = pair
    assert second.get_root()["a"].n == 0
    first.get_root()["a"].n = 7
    first.get_root()["b"].n = 8
    first.commit()
    with pytest.raises(ReadConflictError):
        second.get_root()["b"]._p_set_status_ghost()
        second.get_root()["b"].n
    second.commit()
    assert (second.get_root()["a"].n, second.get_root()["b"].n) == (7, 8)


def test_disjoint_writes_do_not_conflict(pair: tuple[Connection, Connection]) -> None:
    """Changes of different objects all commit."""
    first, second = pair
    a, b = first.get_root()["a"], second.get_root()["b"]
    first.commit()
    second.commit()
    a.n, b.n = 1, 2
    first.commit()
    second.commit()
    first.abort()
    assert [thing.n for thing in first.get_root().values()] == [1, 2, 0]


@pytest.mark.parametrize(
    "change", [lambda obj: obj._p_note_change(), lambda obj: obj._p_set_status_unsaved()]
)
def test_what_is_only_changed_conflicts_too(
    pair: tuple[Connection, Connection], change: Callable[[Any], None]
) -> None:
    """A change counts as an access, however it was noted: no commit is overwritten unseen."""
    first, second = pair
    a = second.get_root()["a"]
    second.commit()
    change(a)
    first.get_root()["a"].n = 7
    first.commit()
    with pytest.raises(WriteConflictError):
        second.commit()


def test_a_read_moves_on_when_nothing_read_is_stale(
    pair: tuple[Connection, Connection],
) -> None:
    """A load that the storage refuses succeeds on the newest state, if that fits what was read."""
    first, second = pair
    assert second.get_root()["c"].n == 0
    a = second.get_root()["a"]
    a._p_set_status_ghost()
    first.get_root()["a"].n = 7
    first.commit()
    assert a.n == 7
    second.get_root()["b"].n = 1
    second.commit()


def test_a_stale_read_fails_until_abort(pair: tuple[Connection, Connection]) -> None:
    """Once something read is stale every load fails until abort: no two states are mixed."""
    first, second = pair
    a, b, c = (second.get_root()[name] for name in "abc")
    second.commit()
    assert a.n == 0
    for obj in (b, c):
        obj._p_set_status_ghost()
    with first.transaction() as root:
        for name in "ab":
            root[name].n = 7
    for _ in range(3):
        with pytest.raises(ReadConflictError) as caught:
            b.n
        assert caught.value.oids == [a._p_oid]
        with pytest.raises(ReadConflictError):
            c.n
        with pytest.raises(ReadConflictError):
            list(second.get_crawler())
        with pytest.raises(ReadConflictError):
            second.get_stored_pickle(c._p_oid)
        assert b._p_status == GHOST
    assert a.n == 0
    a.n = 5
    with pytest.raises(WriteConflictError):
        second.commit()
    assert a.n == 5
    second.abort()
    assert (a.n, b.n, c.n) == (7, 7, 0)
    a.n = 8
    second.commit()


def test_a_conflict_at_the_end_can_be_repeated(pair: tuple[Connection, Connection]) -> None:
    """After a conflict all is as it was, new objects have neither oid nor connection."""
    first, second = pair
    a = second.get_root()["a"]
    a.child = new = Thing(n=1)
    first.get_root()["a"].n = 7
    first.commit()
    before = picture(second, a, new)
    with pytest.raises(WriteConflictError):
        second.commit()
    assert picture(second, a, new) == before
    assert (new._p_oid, new._p_connection) == (None, None)
    second.abort()
    a.child = new
    second.commit()
    first.abort()
    assert first.get_root()["a"].child.n == 1
    assert first.get_root()["a"].n == 7


def test_stale_objects_become_ghosts(pair: tuple[Connection, Connection]) -> None:
    """What others changed is loaded anew at the next use after a commit or an abort."""
    first, second = pair
    a = second.get_root()["a"]
    assert a.n == 0
    first.get_root()["a"].n = 7
    first.commit()
    assert a.n == 0
    second.commit()
    assert a._p_status == GHOST
    assert a.n == 7


def test_a_sync_that_fails_ends_the_transaction(connection: Connection, storage: Failing) -> None:
    """When the storage cannot sync, the error passes and a new transaction has begun."""
    connection.get_root()["x"] = Thing(n=1)
    connection.commit()
    connection.get_root()["x"].n = 2
    serial = connection.get_transaction_serial()

    def fail() -> list[bytes]:
        raise OSError("gone")

    storage.sync = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="gone"):
        connection.abort()
    del storage.sync
    assert connection.get_transaction_serial() == serial + 1
    assert not connection.changed
    assert connection.get_root()["x"].n == 1


def test_a_conflict_holds_nothing_alive(pair: tuple[Connection, Connection]) -> None:
    """What a conflict's traceback mentions can go while the transaction is still open."""
    first, second = pair
    second.get_root()["a"].n
    b = second.get_root()["b"]
    b._p_set_status_ghost()
    with first.transaction() as root:
        root["a"].n = root["b"].n = 7

    class Local:
        pass

    def fail() -> weakref.ref[Local]:
        local = Local()
        with pytest.raises(ReadConflictError):
            b.n
        return weakref.ref(local)

    assert fail()() is None


class ChangesAtEnd:
    """What changes an object when it ends."""

    def __init__(self, thing: Thing) -> None:
        self.thing = thing

    def __del__(self) -> None:
        self.thing.n = "changed at the end"

    def __reduce__(self) -> Any:
        return int, ()


def test_an_end_during_abort_may_change_objects(connection: Connection) -> None:
    """What ends because an abort drops it may change objects: they are aborted as well."""
    root = connection.get_root()
    things = [Thing(n=n) for n in range(10)]
    root["things"] = things
    connection.commit()
    for thing in things[5:]:
        thing.helper = ChangesAtEnd(things[0])
    connection.abort()
    assert not connection.changed
    assert [thing.n for thing in things] == list(range(10))


def test_the_status_of_what_was_committed(connection: Connection) -> None:
    """A commit of an object that became a ghost again stores it as it is stored."""
    thing = connection.get_root()["x"] = Thing(n=1)
    connection.commit()
    thing.n = 2
    thing._p_set_status_ghost()
    connection.commit()
    assert thing._p_status == SAVED
    assert thing.n == 1
    assert Thing()._p_status == UNSAVED


class Serial:
    """Several connections over the same things, beside the list of all states ever committed.

    Each transaction knows what it has read and which of these states that fits.
    """

    def __init__(self, connections: int, things: int) -> None:
        first = Connection(Session(), cache_size=1)
        root = first.get_root()
        for number in range(things):
            root[number] = Thing(n=0)
        first.commit()
        storage = first.get_storage()
        assert isinstance(storage, Session)
        others = [Connection(Session(storage), cache_size=k) for k in range(1, connections)]
        self.connections = [first, *others]
        self.states = [dict.fromkeys(range(things), 0)]
        self.reads: list[dict[int, int]] = [{} for _ in self.connections]
        self.starts = [0 for _ in self.connections]
        self.own: list[dict[int, int]] = [{} for _ in self.connections]
        self.last = 0
        self.counts = dict.fromkeys(("reads", "commits", "conflicts", "read conflicts"), 0)

    def step(self, name: str, who: int, number: int) -> None:
        connection = self.connections[who]
        try:
            if name == "commit":
                self._commit(who)
            elif name == "abort":
                connection.abort()
                self._begin(who)
            elif name == "evict":
                connection.get_root()[number]._p_set_status_ghost() if not self.own[who] else None
            else:
                self._use(name, who, number)
        except ReadConflictError:
            self.counts["read conflicts"] += 1
            assert not self._fits_newest(who)
            connection.abort()
            self._begin(who)

    def _begin(self, who: int) -> None:
        self.reads[who] = {}
        self.own[who] = {}
        self.starts[who] = len(self.states) - 1

    def _fits(self, who: int, state: dict[int, int]) -> bool:
        return all(state[number] == value for number, value in self.reads[who].items())

    def _fits_newest(self, who: int) -> bool:
        return self._fits(who, self.states[-1])

    def _use(self, name: str, who: int, number: int) -> None:
        thing = self.connections[who].get_root()[number]
        found = thing.n
        self.counts["reads"] += 1
        if number in self.own[who]:
            assert found == self.own[who][number]
        else:
            self.reads[who][number] = found
            seen = self.states[self.starts[who] :]
            assert any(self._fits(who, state) for state in seen), "no state holds all these reads"
        if name == "write":
            self.last += 1
            thing.n = self.own[who][number] = self.last

    def _commit(self, who: int) -> None:
        try:
            self.connections[who].commit()
        except WriteConflictError:
            assert self.own[who]
            assert not self._fits_newest(who), "nothing that was read has changed"
            self.counts["conflicts"] += 1
            self.connections[who].abort()
        else:
            if self.own[who]:
                assert self._fits_newest(who), "something that was read has changed"
                self.counts["commits"] += 1
                self.states.append({**self.states[-1], **self.own[who]})
        self._begin(who)


@pytest.mark.parametrize("seed", range(8))
def test_random_transactions_are_serializable(seed: int) -> None:
    """A transaction reads one committed state, and commits if, and only if, that is the newest.

    A read that no one state could hold is refused, and nothing else is.
    """
    choose = random.Random(seed)
    serial = Serial(connections=3, things=4)
    for _ in range(3000):
        name = choose.choice(["read"] * 5 + ["write"] * 2 + ["evict", "commit", "commit", "abort"])
        serial.step(name, choose.randrange(3), choose.randrange(4))
    assert min(serial.counts.values()) > 5, serial.counts
