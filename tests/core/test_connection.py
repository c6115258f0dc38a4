"""Connection: the root, get, walks, threads, closing, packing."""

from __future__ import annotations

import dataclasses
import gc
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.connection import ROOT_OID, Connection, gen_every_instance, touch_every_reference
from durus.error import (
    BackendError,
    ConnectionClosedError,
    ConnectionStateError,
    ConnectionThreadError,
    CorruptRecordError,
    DurusKeyError,
    ForeignObjectError,
    InvalidOidError,
    NotSupportedError,
    ReadConflictError,
    StorageClosedError,
    StorageReadOnlyError,
    UnknownClassError,
)
from durus.persistent import GHOST, SAVED, Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.serialize import class_pickle, pack_record, seal, unpack_record
from durus.storage import MemoryStorage


class Thing(Persistent):
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Special(Thing):
    pass


@dataclasses.dataclass
class Shown(Persistent):
    """Its __repr__ reads its field."""

    x: int


class ReadOnly(MemoryStorage):
    def begin(self) -> None:
        raise StorageReadOnlyError("opened read-only")

    def new_oid(self) -> bytes:
        raise StorageReadOnlyError("opened read-only")


class Interrupting(MemoryStorage):
    """Calls `handler`, once, while it loads: as the handler of a signal may be called."""

    handler: Callable[[], None] | None = None

    def load(self, oid: bytes) -> bytes:
        record = super().load(oid)
        handler, self.handler = self.handler, None
        if handler is not None:
            handler()
        return record


@pytest.fixture
def connection() -> Connection:
    return Connection(MemoryStorage())


def in_thread(work: Callable[[], object]) -> object:
    """Give what `work` gives or raises in another thread, which has ended then."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - it is handed to the test
            outcome.append(error)

    thread = threading.Thread(target=run, name="the other")
    thread.start()
    thread.join()
    return outcome[0]


# -- opening


def test_the_root_is_made_and_committed_at_once() -> None:
    """Opening an empty storage makes and commits the root."""
    storage = MemoryStorage()
    root = Connection(storage).get_root()
    assert type(root) is PersistentDict
    assert (root._p_oid, root._p_status) == (ROOT_OID, SAVED)
    assert unpack_record(storage.load(ROOT_OID))[0] == ROOT_OID
    assert not Connection(storage).changed


def test_another_class_of_root() -> None:
    """`root_class` makes the root of an empty storage, and changes nothing in another one."""
    storage = MemoryStorage()
    assert type(Connection(storage, root_class=PersistentList).get_root()) is PersistentList
    assert type(Connection(storage, root_class=Thing).get_root()) is PersistentList


def test_a_read_only_storage() -> None:
    """A read-only storage without a root cannot be opened; with one it can be read."""
    with pytest.raises(StorageReadOnlyError):
        Connection(ReadOnly())
    full, readonly = MemoryStorage(), ReadOnly()
    Connection(full).get_root()
    readonly._open_records().update(full.gen_oid_record())
    connection = Connection(readonly)
    assert len(connection.get_root()) == 0
    connection.commit()
    connection.get_root()["x"] = 1
    with pytest.raises(StorageReadOnlyError):
        connection.commit()
    connection.abort()


def test_a_url_opens_a_storage() -> None:
    """A URL, or a path, is opened as `open_storage` does; a bad one is an error."""
    connection = Connection("memory:")
    assert isinstance(connection.get_storage(), MemoryStorage)
    connection.close()
    with pytest.raises(BackendError):
        Connection("no-such-scheme:x")


def test_a_storage_that_was_opened_here_is_closed_when_the_root_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If the root cannot be loaded, a storage that Connection opened itself is closed."""
    storages = []
    for record in (b"", pack_record(ROOT_OID, b"\x80\x02cno\nsuch\nq\0.", b"")):
        storage = MemoryStorage()
        storage._open_records()[ROOT_OID] = record
        storages.append(storage)
    waiting = iter(storages)
    monkeypatch.setattr("durus.connection.open_storage", lambda path: next(waiting))
    with pytest.raises(CorruptRecordError):
        Connection("somewhere")
    with pytest.raises(UnknownClassError):
        Connection(os.fspath(tmp_path))
    for storage in storages:
        with pytest.raises(StorageClosedError):
            storage.sync()


def test_a_storage_that_was_given_stays_open() -> None:
    """If the root cannot be loaded, a storage that was handed in stays open."""
    storage = MemoryStorage()
    storage._open_records()[ROOT_OID] = b""
    with pytest.raises(CorruptRecordError):
        Connection(storage)
    assert storage.load(ROOT_OID) == b""


# -- get


def test_get_takes_numbers_and_bytes(connection: Connection) -> None:
    """An object is found by its oid as number or bytes; get and [] do the same."""
    thing = connection.get_root()["thing"] = Thing(x=1)
    connection.commit()
    assert connection.get(1) is thing
    assert connection.get(thing._p_oid) is thing
    assert connection[1] is thing
    assert connection[thing._p_oid] is thing
    assert connection.get(0) is connection.get_root()
    other = Connection(connection.get_storage())
    assert other.get(1).x == 1
    assert other.get(1) is other.get_root()["thing"]


def test_get_of_what_is_not_stored_is_none(connection: Connection) -> None:
    """An oid that is not stored gives None."""
    assert connection.get(7) is None
    assert connection.get(2**64 - 1) is None
    assert connection[b"12345678"] is None


@pytest.mark.parametrize("oid", [-1, 2**64, b"", b"1234567", "12345678", None, 1.0, bytearray(8)])
def test_get_of_what_is_no_oid(connection: Connection, oid: Any) -> None:
    """What cannot be an oid is an InvalidOidError that shows it."""
    with pytest.raises(InvalidOidError, match="an oid is 8 bytes"):
        connection.get(oid)
    with pytest.raises(InvalidOidError):
        connection.get_stored_pickle(oid)


def test_a_ghost_of_what_is_not_stored(connection: Connection) -> None:
    """Using an object whose record is gone is a KeyError with the oid."""
    thing = connection.get_root()["thing"] = Thing(x=1)
    connection.commit()
    thing._p_set_status_ghost()
    storage = connection.get_storage()
    assert isinstance(storage, MemoryStorage)
    del storage._open_records()[thing._p_oid]
    for _ in range(2):
        with pytest.raises(DurusKeyError) as caught:
            thing.x
        assert caught.value.oid == thing._p_oid
        assert thing._p_status == GHOST


def test_get_stored_pickle(connection: Connection) -> None:
    """The stored pickle is the data of the record, whatever was changed since."""
    thing = connection.get_root()["thing"] = Thing(x=1)
    connection.commit()
    thing.x = 2
    data = connection.get_stored_pickle(thing._p_oid)
    assert connection.get_reader().get_state(data) == {"x": 1}
    with pytest.raises(DurusKeyError):
        connection.get_stored_pickle(b"12345678")


def test_an_error_while_loading_says_of_what(connection: Connection) -> None:
    """An object that cannot be loaded stays a ghost; the error says which it is, and no more."""
    shown = connection.get_root()["shown"] = Shown(1)
    connection.commit()
    state = b"\x80\x04cno_such_module\nThing\n."
    data = seal(shown._p_oid, class_pickle(Shown) + state, b"")
    storage = connection.get_storage()
    assert isinstance(storage, MemoryStorage)
    good = storage.load(shown._p_oid)
    storage._open_records()[shown._p_oid] = pack_record(shown._p_oid, data, b"")
    shown._p_set_status_ghost()
    for _ in range(2):
        with pytest.raises(UnknownClassError, match="no_such_module") as caught:
            shown.x
        assert caught.value.oid == shown._p_oid
        assert caught.value.__notes__ == ["while loading the Shown with oid 1"]
        assert shown._p_status == GHOST
    storage._open_records()[shown._p_oid] = good
    assert shown.x == 1


@pytest.mark.parametrize("kept", [5, {5}])
@pytest.mark.parametrize("by_oid", [True, False])
def test_a_change_while_the_object_is_being_loaded(kept: object, by_oid: bool) -> None:
    """What runs while an object is loaded may load it, and change it: that change is kept."""
    storage = Interrupting()
    connection = Connection(storage)
    thing = connection.get_root()["thing"] = Thing(kept=kept, count=1)
    connection.commit()
    oid = thing._p_oid
    held = []

    def count_up() -> None:
        held.append(connection.get(oid))
        held[0].count += 1

    if by_oid:
        connection = Connection(storage)
        storage.handler = count_up
        thing = connection.get(oid)
    else:
        thing._p_set_status_ghost()
        storage.handler = count_up
    assert (thing.count, thing.kept) == (2, kept)
    assert held == [thing]
    connection.commit()
    assert Connection(storage).get(oid).count == 2


def test_transaction_serial(connection: Connection) -> None:
    """The serial of the transaction grows by one with each commit or abort."""
    serial = connection.get_transaction_serial()
    connection.commit()
    connection.get_root()["x"] = 1
    connection.commit()
    connection.abort()
    assert connection.get_transaction_serial() == serial + 3
    assert connection.get_load_count() == 0
    Connection(connection.get_storage()).get_root()


# -- walks


@pytest.fixture
def forest(connection: Connection) -> Connection:
    """Hold a chain of things, a cycle and garbage."""
    root = connection.get_root()
    root["chain"] = Thing(n=1, next=Special(n=2, next=Thing(n=3, next=None)))
    root["cycle"] = cycle = Special(n=4)
    cycle.me = [cycle, root]
    root["garbage"] = Special(n=5)
    connection.commit()
    del root["garbage"]
    connection.commit()
    return Connection(connection.get_storage())


def test_the_crawler(forest: Connection) -> None:
    """The crawler yields each reachable object once, loaded, the same as get() gives."""
    crawled = list(forest.get_crawler())
    assert sorted(getattr(obj, "n", 0) for obj in crawled) == [0, 1, 2, 3, 4]
    assert all(obj is forest.get(obj._p_oid) for obj in crawled)
    start = forest.get_root()["chain"].next._p_oid
    assert [obj.n for obj in forest.get_crawler(start, batch_size=1)] == [2, 3]
    assert not forest.changed


def test_the_crawler_shows_changes(forest: Connection) -> None:
    """The crawler leaves what is changed as it is in memory."""
    forest.get_root()["chain"].n = 99
    assert sorted(getattr(obj, "n", 0) for obj in forest.get_crawler()) == [0, 2, 3, 4, 99]


def test_the_crawler_checks_proofs(forest: Connection) -> None:
    """The crawler gives no object of a damaged record."""
    oid = forest.get_root()["chain"].next._p_oid
    storage = forest.get_storage()
    assert isinstance(storage, MemoryStorage)
    record = bytearray(storage.load(oid))
    record[-1] ^= 1
    storage._open_records()[oid] = bytes(record)
    with pytest.raises(CorruptRecordError):
        list(Connection(storage).get_crawler())


def test_gen_every_instance(forest: Connection) -> None:
    """Every stored instance of the classes is found, subclasses and garbage included."""
    assert sorted(obj.n for obj in gen_every_instance(forest, Special)) == [2, 4, 5]
    assert sorted(obj.n for obj in gen_every_instance(forest, Thing)) == [1, 2, 3, 4, 5]
    found = list(gen_every_instance(forest, PersistentDict, Special))
    assert len(found) == 4
    assert not list(gen_every_instance(forest, PersistentList))
    assert not list(gen_every_instance(forest))


def test_touch_every_reference(forest: Connection) -> None:
    """What mentions a class is marked as changed: itself, and what refers to it."""
    touch_every_reference(forest, "Special")
    touched = {getattr(obj, "n", 0) for obj in forest.changed.values()}
    assert touched == {0, 1, 2, 4, 5}
    before = dict(forest.get_storage().gen_oid_record())
    forest.commit()
    assert dict(forest.get_storage().gen_oid_record()) == before
    touch_every_reference(forest, "no such word")
    touch_every_reference(forest)
    assert not forest.changed


# -- threads


def test_another_thread_is_refused_in_a_transaction(connection: Connection) -> None:
    """While a transaction is open, another thread's use is an error that names both threads."""
    thing = connection.get_root()["thing"] = Thing(x=1)
    connection.commit()
    thing._p_set_status_ghost()
    connection.get_root()["y"] = 1
    uses: list[Callable[[], object]] = [
        lambda: thing.x,
        thing._p_note_change,
        lambda: setattr(thing, "x", 5),
        lambda: connection.get(1),
        lambda: connection.get(99),
        connection.commit,
        connection.abort,
        connection.shrink_cache,
        connection.pack,
        lambda: connection.get_stored_pickle(ROOT_OID),
        lambda: list(connection.get_crawler()),
        lambda: connection.transaction().__enter__(),
    ]
    for use in uses:
        error = in_thread(use)
        assert isinstance(error, ConnectionThreadError)
        assert "'the other'" in str(error)
        assert threading.current_thread().name in str(error)
    assert list(connection.changed) == [ROOT_OID]
    connection.commit()
    assert in_thread(lambda: thing.x) == 1


def test_another_thread_may_go_on_between_transactions(connection: Connection) -> None:
    """After a commit or an abort any thread may begin the next transaction."""

    def work() -> int:
        connection.get_root()["n"] = connection.get_root().get("n", 0) + 1
        connection.commit()
        return int(connection.get_root()["n"])

    assert work() == 1
    connection.commit()
    assert in_thread(work) == 2


def test_a_block_belongs_to_its_thread(connection: Connection) -> None:
    """From its beginning a transaction block keeps other threads out, and they leave it alone."""
    with connection.transaction() as root:
        assert isinstance(in_thread(lambda: len(root)), ConnectionThreadError)
        error = in_thread(lambda: connection.transaction().__enter__())
        assert isinstance(error, ConnectionStateError)
        root["x"] = 1
    assert in_thread(lambda: connection.get_root()["x"]) == 1


def test_opening_begins_no_transaction() -> None:
    """A connection that was opened in one thread may be used in another at once."""
    connection = Connection(MemoryStorage())
    assert in_thread(lambda: len(connection.get_root())) == 0


def test_a_thread_that_has_ended(connection: Connection) -> None:
    """What a thread left open when it ended can be aborted by another, and not used before."""
    thing = connection.get_root()["thing"] = Thing(n=1)
    connection.commit()
    in_thread(lambda: connection.get_root().update(x=1))
    connection.owner = 2**60 + 1  # no thread has it, as when the number is not used again
    with pytest.raises(ConnectionThreadError, match=r"that has ended .* abort\(\) here"):
        thing.n = 2
    with pytest.raises(ConnectionThreadError):
        connection.commit()
    connection.abort()
    assert dict(connection.get_root()) == {"thing": thing}


# -- closing


def test_a_context_manager_closes(connection: Connection) -> None:
    """At the end of `with` the connection and its storage are closed, without a commit."""
    storage = connection.get_storage()
    with connection as same:
        assert same is connection
        connection.get_root()["x"] = 1
    with pytest.raises(StorageClosedError):
        storage.load(ROOT_OID)
    connection.close()


def test_a_closed_connection_says_so(connection: Connection) -> None:
    """Every use after close() is a ConnectionClosedError that says what to do."""
    root = connection.get_root()
    ghost = root["ghost"] = Thing(x=1)
    connection.commit()
    ghost._p_set_status_ghost()
    root["x"] = 1
    connection.close()
    uses: list[Callable[[], object]] = [
        lambda: root["x"],
        lambda: ghost.x,
        lambda: setattr(ghost, "x", 1),
        lambda: connection.get(1),
        connection.commit,
        connection.abort,
        connection.pack,
        connection.shrink_cache,
        lambda: list(connection.get_crawler()),
        lambda: connection.get_stored_pickle(ROOT_OID),
        lambda: connection.transaction().__enter__(),
    ]
    for use in uses:
        with pytest.raises((ConnectionClosedError, StorageClosedError), match="closed"):
            use()


def test_a_closed_connection_can_be_replaced() -> None:
    """Another connection has objects of its own; those of the closed one do not mix with them."""
    storage = MemoryStorage()
    first = Connection(storage)
    thing = first.get_root()["thing"] = Thing(x=1)
    first.commit()
    first.transaction_serial = -1
    second = Connection(storage)
    assert second.get_root()["thing"] is not thing
    second.get_root()["again"] = thing
    with pytest.raises(ForeignObjectError):
        second.commit()


# -- packing


def test_pack_removes_what_is_not_reachable(connection: Connection) -> None:
    """After a pack what nobody refers to is gone, and what is reachable is as it was."""
    root = connection.get_root()
    root["kept"] = Thing(n=1)
    gone = root["gone"] = Thing(n=2, child=Thing(n=3))
    child = gone.child
    connection.commit()
    del root["gone"]
    connection.commit()
    connection.pack()
    assert root["kept"].n == 1
    assert len(dict(connection.get_storage().gen_oid_record())) == 2
    for obj in (gone, child):
        assert obj._p_status == GHOST
        for _ in range(2):
            with pytest.raises(ReadConflictError):
                obj.n
            with pytest.raises(ReadConflictError):
                obj.n = 5
        assert connection.get(obj._p_oid) is None
    connection.commit()
    root["back"] = gone
    with pytest.raises(ForeignObjectError):
        connection.commit()
    connection.abort()
    root["new"] = Thing(n=9)
    connection.commit()
    assert Connection(connection.get_storage()).get_root()["new"].n == 9


def test_pack_aborts(connection: Connection) -> None:
    """A pack forgets what was not committed."""
    connection.get_root()["x"] = Thing()
    connection.pack()
    assert not connection.get_root()
    assert not connection.changed


def test_a_storage_that_cannot_pack(connection: Connection, monkeypatch: Any) -> None:
    """A storage that cannot be packed says so, and the connection goes on."""

    def refuse(self: MemoryStorage) -> None:
        raise NotSupportedError("cannot be packed")

    monkeypatch.setattr(MemoryStorage, "get_packer", refuse)
    with pytest.raises(NotSupportedError):
        connection.pack()
    connection.get_root()["x"] = 1
    connection.commit()


def test_objects_that_refer_to_nothing_alive(connection: Connection) -> None:
    """Objects that only the storage holds are not kept in memory by looking at them."""
    root = connection.get_root()
    root["things"] = [Thing(n=n) for n in range(50)]
    connection.commit()
    other = Connection(connection.get_storage(), cache_size=0)
    refs = [weakref.ref(obj) for obj in other.get_crawler()]
    other.get_root()._p_set_status_ghost()
    other.commit()
    gc.collect()
    assert [ref() for ref in refs if ref() is not None] == [other.get_root()]
    assert isinstance(other.get_root(), PersistentObject)
