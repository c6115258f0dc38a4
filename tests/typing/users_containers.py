"""Containers as users use them. mypy strict must accept it, and refuse each line that is marked.

A line that must be refused carries a `type: ignore` with the code of the error; strict mode refuses
one that is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence, MutableSet
from dataclasses import dataclass
from typing import TypeVar, assert_type

from durus.btree import BNode32, BTree
from durus.connection import Connection
from durus.persistent import ComputedAttribute, Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet

K = TypeVar("K")
V = TypeVar("V")


class User(Persistent):
    def __init__(self, name: str) -> None:
        self.name = name
        self.tags: PersistentSet[str] = PersistentSet()
        self.total = ComputedAttribute()


class Counter(Persistent):
    count: int = 0


class Pixel(PersistentObject):
    __slots__ = ("x", "y")

    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y


@dataclass
class Point(Persistent):
    x: int
    y: int = 0


class Users(PersistentDict[str, User]):
    title: str = ""

    def by_tag(self, tag: str) -> Iterator[User]:
        return (user for user in self.values() if tag in user.tags)


class Registry(PersistentDict[K, V]):
    def first(self) -> V:
        return next(self.itervalues())


class Index(BTree[str, User]):
    def __init__(self) -> None:
        super().__init__(BNode32)
        self.hits = 0

    def __getitem__(self, key: str) -> User:
        self.hits += 1
        return super().__getitem__(key)


def use_objects() -> None:
    user = User("ann")
    assert_type(user.name, str)
    user.name = "bob"
    user.name = 3  # type: ignore[assignment]
    print(user.nmae)  # type: ignore[attr-defined]
    user.nmae = "ann"  # type: ignore[attr-defined]
    User()  # type: ignore[call-arg]
    User(3)  # type: ignore[arg-type]
    Counter().count += 1
    Counter(1)  # type: ignore[call-arg]
    assert_type(Pixel(1, 2).x, int)
    assert_type(Point(1).y, int)
    Point("a")  # type: ignore[arg-type]
    user._p_note_change()
    assert_type(user._p_is_ghost(), bool)


def use_dicts(user: User) -> None:
    users: PersistentDict[str, User] = PersistentDict()
    users["ann"] = user
    users["ann"] = 3  # type: ignore[assignment]
    users[1] = user  # type: ignore[index]
    users.update({"ann": 3})  # type: ignore[dict-item]
    users.update({"ann": user})
    users.update([("ann", user)], bob=user)
    users |= {"ann": user}
    assert_type(users["ann"], User)
    assert_type(users.get("ann"), User | None)
    assert_type(users.get("ann", 0), User | int)
    assert_type(users.pop("ann"), User)
    assert_type(users.pop("ann", None), User | None)
    assert_type(users.setdefault("ann", user), User)
    assert_type(users.popitem(), tuple[str, User])
    assert_type(users | {"bob": user}, PersistentDict[str, User])
    assert_type(users.copy(), PersistentDict[str, User])
    assert_type(list(users.items()), list[tuple[str, User]])
    assert_type(list(users.keys()), list[str])
    assert_type(users.values()[0], User)
    assert_type(PersistentDict({"a": 1}), PersistentDict[str, int])
    assert_type(PersistentDict([(1, "a")]), PersistentDict[int, str])
    assert_type(PersistentDict(a=1), PersistentDict[str, int])
    PersistentDict(3)  # type: ignore[call-overload]
    plain: dict[str, User] = users  # type: ignore[assignment]
    mapping: Mapping[str, User] = users
    mutable: MutableMapping[str, User] = users
    print(plain, mapping, mutable)


def use_subclasses(user: User) -> None:
    users = Users(ann=user)
    users.title = "all"
    assert_type(users.copy(), Users)
    assert_type(users["ann"], User)
    assert_type(list(users.by_tag("x")), list[User])
    registry: Registry[str, int] = Registry({"a": 1})
    assert_type(registry.first(), int)
    assert_type(Index()["ann"], User)


def use_lists() -> None:
    numbers = PersistentList([1, 2])
    assert_type(numbers, PersistentList[int])
    assert_type(numbers[0], int)
    assert_type(numbers[1:], PersistentList[int])
    numbers.append("a")  # type: ignore[arg-type]
    numbers[0] = "a"  # type: ignore[call-overload]
    numbers[0:1] = [3]
    numbers += (4, 5)
    numbers.extend(numbers)
    numbers.sort(key=lambda number: -number, reverse=True)
    assert_type(numbers + numbers, PersistentList[int])
    assert_type(numbers * 2, PersistentList[int])
    assert_type(numbers.pop(), int)
    mutable: MutableSequence[int] = numbers
    print(mutable)


def use_sets() -> None:
    numbers = PersistentSet([1])
    numbers.add("x")  # type: ignore[arg-type]
    numbers |= {3}
    numbers |= [3]  # type: ignore[arg-type]
    numbers.update([1], {2})
    assert_type(numbers | {2}, PersistentSet[int])
    assert_type(numbers.union([3]), PersistentSet[int])
    assert_type(numbers & {"x"}, PersistentSet[int])
    mutable: MutableSet[int] = numbers
    print(mutable)


def use_trees(user: User) -> None:
    users: BTree[int, User] = BTree(BNode32)
    users[1] = user
    users["a"] = user  # type: ignore[index]
    BTree(3)  # type: ignore[arg-type]
    for key, value in users.items_range(1, 3, closed_end=True):
        assert_type(key, int)
        assert_type(value, User)
    assert_type(users.get(3), User | None)
    assert_type(users.pop(3, None), User | None)
    assert_type(users.get_min_item(), tuple[int, User])
    assert_type(next(iter(reversed(users))), int)
    words: BTree[str, bool] = BTree()
    words.add("durus")


def use_a_connection() -> None:
    with Connection("app.durus") as connection:
        root: PersistentDict[str, User] = connection.get_root()
        root["ann"] = User("ann")
        connection.commit()
        Connection(3)  # type: ignore[arg-type]
