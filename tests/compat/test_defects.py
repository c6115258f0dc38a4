"""Defects of Durus 4.3 that ours must not repeat, as far as the object layer and files show them.

Each was reproduced with 4.3. What concerns crashes, the inner life of BTree, the command or the
server is tested where those are.
"""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import compat_files
import pytest
from compat_behaviour import SharedRecords, SharedStorage
from compat_model import Person
from compat_sides import Side

from durus.btree import BNode, BNode4, BTree
from durus.connection import ROOT_OID, Connection
from durus.error import (
    ConflictError,
    DurusError,
    DurusKeyError,
    InvalidOidError,
    ReadConflictError,
    WriteConflictError,
)
from durus.persistent import Persistent, PersistentObject
from durus.persistent_list import PersistentList
from durus.serialize import split_oids, unpack_record
from durus.storage import MemoryStorage, Storage
from durus.utils import int8_to_str


class SlottedPersistent(Persistent):
    """A Persistent with slots beside its `__dict__`."""

    __slots__ = ("__private", "public")

    def __init__(self) -> None:
        self.public = "slot"
        self.__private = "private slot"
        self.free = "in the dict"

    def get_private(self) -> str:
        return self.__private


class PrivateSlots(PersistentObject):
    """Slots whose names the compiler mangles, in two classes of one line."""

    __slots__ = ("__secret",)

    def __init__(self) -> None:
        self.__secret = "base"

    def get_base_secret(self) -> str:
        return self.__secret


class MorePrivateSlots(PrivateSlots):
    """A second slot that is written alike."""

    __slots__ = ("__secret",)

    def __init__(self) -> None:
        super().__init__()
        self.__secret = "derived"

    def get_secret(self) -> str:
        return self.__secret


@dataclasses.dataclass(slots=True, eq=False)
class SlottedData(PersistentObject):
    """A dataclass that makes its own slots."""

    name: str
    size: int = 3


@dataclasses.dataclass(eq=False)
class Data(Persistent):
    """A dataclass with a `__dict__`."""

    name: str
    size: int = 3


def _each_storage(directory: Path) -> list[Storage]:
    return [
        MemoryStorage(),
        compat_files.open_file("SHELF-1", str(directory / "shelf.durus")),
        compat_files.open_file("DFS20", str(directory / "dfs20.durus")),
    ]


@pytest.fixture(params=["memory", "SHELF-1", "DFS20"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A storage of each kind."""
    kind = str(request.param)
    opened: Storage
    if kind == "memory":
        opened = MemoryStorage()
    else:
        opened = compat_files.open_file(kind, str(tmp_path / "it.durus"))
    yield opened
    opened.close()


def test_a_commit_that_cannot_pickle_leaves_no_dangling_oids(storage: Storage) -> None:
    """After a failed commit a later one stores every object that it refers to."""
    connection = Connection(storage)
    root = connection.get_root()
    root["new"] = new = Person("new")
    root["bad"] = lambda: None
    with pytest.raises(DurusError):
        connection.commit()
    assert new._p_oid is None
    assert new._p_connection is None
    del root["bad"]
    root["newer"] = Person("newer", friend=new)
    connection.commit()
    records = dict(storage.gen_oid_record())
    referred = {oid for record in records.values() for oid in split_oids(unpack_record(record)[2])}
    assert referred <= records.keys()
    assert Connection(storage).get_root()["newer"].friend.name == "new"


def test_a_failed_commit_does_not_leak_into_the_next(storage: Storage) -> None:
    """A second `begin()` forgets what was stored since the first."""
    connection = Connection(storage)
    connection.get_root()["x"] = 1
    connection.commit()
    before = dict(storage.gen_oid_record())
    storage.begin()
    storage.store(int8_to_str(7), int8_to_str(7) + before[ROOT_OID][8:])
    storage.begin()
    storage.end()
    assert dict(storage.gen_oid_record()) == before
    with pytest.raises(DurusKeyError):
        storage.load(int8_to_str(7))


def test_a_second_read_after_a_read_conflict_is_one_too() -> None:
    """Until `abort()`, what conflicts stays in conflict: no transaction sees two states at once."""
    shared = SharedRecords()
    one = Connection(SharedStorage(shared))
    root = one.get_root()
    root["a"], root["b"] = Person("a"), Person("b")
    one.commit()
    two = Connection(SharedStorage(shared))
    assert two.get_root()["a"].name == "a"
    ghost = two.get_root()["b"]
    root["a"].name = root["b"].name = "changed"
    one.commit()
    for _ in range(3):
        with pytest.raises(ReadConflictError):
            ghost.name
        assert two.get_root()["a"].name == "a"
    with pytest.raises(WriteConflictError):
        two.get_root()["c"] = 1
        two.commit()
    two.abort()
    assert (ghost.name, two.get_root()["a"].name) == ("changed", "changed")


@pytest.mark.parametrize("format", ["SHELF-1", "DFS20"])
def test_every_object_that_a_pack_removed_is_invalidated(format: str, tmp_path: Path) -> None:
    """Each of them is a ghost in the next transaction, and using one is a ReadConflictError."""
    storage = compat_files.open_file(format, str(tmp_path / "it.durus"))
    connection = Connection(storage)
    root = connection.get_root()
    root["people"] = people = PersistentList(Person(str(n)) for n in range(300))
    connection.commit()
    held = list(people)
    del root["people"]
    connection.commit()
    connection.pack()
    connection.abort()
    for person in held:
        assert person._p_is_ghost()
        with pytest.raises(ReadConflictError):
            person.name
        connection.abort()
    storage.close()


def test_errors_can_be_shown() -> None:
    """str() of an error of a missing oid works, whatever the oid is."""
    assert "5" in str(DurusKeyError(int8_to_str(5)))
    assert str(DurusKeyError(b"short"))
    assert str(ConflictError([int8_to_str(5)]))
    assert str(ConflictError())
    again = pickle.loads(pickle.dumps(ConflictError([int8_to_str(5)])))
    assert again.oids == [int8_to_str(5)]


def test_checks_are_not_asserts(tmp_path: Path) -> None:
    """Bad arguments are refused under `python -O` too."""
    script = """
import sys
from durus.connection import Connection
from durus.file_storage import FileStorage
from durus.storage import MemoryStorage

assert not __debug__ or sys.exit("not optimized")
def refused(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "accepted"

storage = FileStorage(sys.argv[1])
connection = Connection(storage)
print(refused(lambda: storage.load(b"short")))
print(refused(lambda: storage.store(b"12345678", b"not a record")))
storage.begin()
print(refused(lambda: storage.store(b"12345678", b"not a record")))
print(refused(lambda: connection.get("text")))
storage.close()
print(refused(lambda: storage.load(bytes(8))))
"""
    done = subprocess.run(
        [sys.executable, "-O", "-c", script, str(tmp_path / "it.durus")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        "InvalidOidError",
        "StorageTransactionError",
        "CorruptRecordError",
        "InvalidOidError",
        "StorageClosedError",
    ]
    assert done.stderr == ""


def test_an_oid_of_another_length_is_refused() -> None:
    """An oid is eight bytes; what is not is an error that says so, and a ValueError."""
    connection = Connection(MemoryStorage())
    for oid in (b"", b"1234567", b"123456789"):
        with pytest.raises(InvalidOidError) as refused:
            connection.get(oid)
        assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("kind", [SlottedPersistent, PrivateSlots, MorePrivateSlots])
def test_slots_keep_their_values(kind: type[Any], storage: Storage) -> None:
    """Slots of a Persistent, and private ones of either base, are stored and loaded."""
    connection = Connection(storage)
    connection.get_root()["it"] = kind()
    connection.commit()
    connection = Connection(storage)
    again = connection.get_root()["it"]
    for _ in range(2):
        if kind is SlottedPersistent:
            found = (again.public, again.get_private(), again.free)
            assert found == ("slot", "private slot", "in the dict")
        else:
            assert again.get_base_secret() == "base"
        if kind is MorePrivateSlots:
            assert again.get_secret() == "derived"
        again._p_set_status_ghost()


@pytest.mark.parametrize("kind", [Data, SlottedData])
def test_dataclasses_keep_their_fields(kind: type[Any], storage: Storage) -> None:
    """A dataclass, with slots of its own or not, is stored and loaded whole."""
    connection = Connection(storage)
    connection.get_root()["it"] = kind("name", size=7)
    connection.commit()
    again = Connection(storage).get_root()["it"]
    assert (again.name, again.size) == ("name", 7)


def test_slices_of_lists_are_persistent_lists() -> None:
    """A slice of a PersistentList is one."""
    part = PersistentList([1, 2, 3])[1:]
    assert type(part) is PersistentList
    assert part == [2, 3]


def test_importing_prints_nothing_and_sets_no_handler() -> None:
    """The application decides what is logged, and where."""
    script = (
        "import logging, durus.connection, durus.file_storage, durus.btree;"
        "assert not logging.getLogger('durus').handlers;"
        "assert not logging.getLogger().handlers;"
        "assert logging.getLogger('durus').level == logging.NOTSET"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout + done.stderr == b""


def test_trees_of_degree_2_that_upstream_deleted_from(
    upstream: Side, ours: Side, format: str, tmp_path: Path
) -> None:
    """4.3 may leave such a tree out of shape; ours reads what is in it and changes it correctly."""
    file = {"format": format, "path": str(tmp_path / "it.durus")}
    upstream.call("compat_files:delete_from_degree_2", **file)
    theirs = upstream.call("compat_files:read_trees", **file)
    mine = ours.call("compat_files:read_trees", **file)
    assert mine == theirs
    expected = ours.call("compat_files:empty_trees", **file)
    assert expected == [[1000, 1001]] * len(theirs)
    assert upstream.call("compat_files:read_trees", **file) == expected


def test_a_node_that_left_a_tree_is_no_conflict(tmp_path: Path) -> None:
    """A pack that removes what deletions joined away refuses no later commit to the tree."""
    for storage in _each_storage(tmp_path):
        connection = Connection(storage)
        root = connection.get_root()
        for node in (BNode, BNode4):
            tree = root[node.__name__] = BTree(node)
            tree.update((key, key) for key in range(200))
            connection.commit()
            assert len(tree) == 200
            for key in range(0, 200, 2):
                del tree[key]
            connection.commit()
            connection.pack()
            assert len(tree) == 100
            tree[1000] = 1
            connection.commit()
        storage.close()
