"""Users' code that must type-check as it stands.

Where a line carries an ignore, mypy must object to it: an ignore that is not needed is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import assert_type

from durus.backends import open_storage
from durus.btree import BTree
from durus.connection import Connection, gen_every_instance
from durus.error import ConflictError, DurusKeyError
from durus.file_storage import FileStorage
from durus.persistent import Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.storage import MemoryStorage, Storage


class User(Persistent):
    """Attributes of a persistent class are those that it declares."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.friends: PersistentSet[User] = PersistentSet()


@dataclass
class Point(Persistent):
    """A dataclass may be persistent."""

    x: int
    y: int


class Slim(PersistentObject):
    """So may a class of slots."""

    __slots__ = ("value",)
    value: int


def attributes(user: User, point: Point) -> None:
    """Attributes keep their types, and unknown ones are errors."""
    assert_type(user.name, str)
    assert_type(point.x, int)
    user.name = 1  # type: ignore[assignment]
    user.nickname = "al"  # type: ignore[attr-defined]
    Point("1", 2)  # type: ignore[arg-type]


def containers() -> None:
    """Containers know what they hold."""
    users: PersistentDict[str, User] = PersistentDict()
    users["al"] = User("Al")
    assert_type(users["al"], User)
    assert_type(users.get("bo"), User | None)
    assert_type(list(users.items()), list[tuple[str, User]])
    users[1] = User("Bo")  # type: ignore[index]
    users["bo"] = "Bo"  # type: ignore[assignment]

    numbers = PersistentList([1, 2, 3])
    assert_type(numbers[0], int)
    numbers.append(4)
    numbers.append("5")  # type: ignore[arg-type]

    names = PersistentSet(["al", "bo"])
    assert_type(sorted(names), list[str])
    names.add(1)  # type: ignore[arg-type]

    readings: BTree[int, float] = BTree()
    readings[1] = 20.5
    assert_type(readings[1], float)
    readings["1"] = 20.5  # type: ignore[index]


def connections(path: Path, storage: Storage) -> None:
    """A connection takes a storage, a path or a URL, and is a context manager."""
    Connection(MemoryStorage())
    Connection("app.durus", cache_size=10)
    Connection(FileStorage("app.durus", readonly=True))
    Connection(3)  # type: ignore[arg-type]
    with Connection(path) as connection:
        with connection.transaction() as root:
            root["n"] = 1
        try:
            connection.commit()
        except ConflictError as error:
            assert_type(error.oids, list[bytes])
            connection.abort()
        for user in gen_every_instance(connection, User):
            assert isinstance(user, User)
            user.name = "Al"
    try:
        assert_type(storage.load(bytes(8)), bytes)
    except DurusKeyError:
        storage.close()
    assert_type(open_storage("memory:"), Storage)
    storage.load("0")  # type: ignore[arg-type]
