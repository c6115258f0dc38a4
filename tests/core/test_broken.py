"""Objects whose class cannot be imported: they load, keep what is stored, and store it back."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from durus.broken import BrokenInstance, BrokenObject, broken_class
from durus.connection import Connection
from durus.error import UnknownClassError, UnpicklableError
from durus.persistent import Persistent
from durus.serialize import extract_class_path
from durus.storage import MemoryStorage

SHOP = """
import enum
from collections import OrderedDict, namedtuple
from durus.persistent import Persistent

class Order(Persistent):
    pass

class Special:
    class Order(Persistent):
        pass

class Plain:
    pass

class Stack(list):
    pass

class Register(OrderedDict):
    pass

class Tags(set):
    pass

class Colour(enum.Enum):
    RED = 1

Point = namedtuple("Point", "x y")

class Named:
    def __new__(cls, *, name):
        self = object.__new__(cls)
        self.name = name
        return self
    def __getnewargs_ex__(self):
        return (), {"name": self.name}

def make(number):
    made = Made()
    made.number = number
    return made

class Made:
    def __reduce__(self):
        return make, (self.number,)
"""


class Shop:
    """A module that can be taken away and brought back."""

    def __init__(self) -> None:
        self.module = ModuleType("lost_shop")
        self.show()
        exec(SHOP, self.module.__dict__)

    def show(self) -> None:
        sys.modules["lost_shop"] = self.module

    def hide(self) -> None:
        sys.modules.pop("lost_shop", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.hide()


@pytest.fixture
def storage(shop: Shop) -> MemoryStorage:
    """Hold objects of every kind whose classes are gone."""
    storage = MemoryStorage()
    connection = Connection(storage)
    root = connection.get_root()
    root["order"] = order = shop.Order()
    order.note = "x" * 10_000
    order.next = special = shop.Special.Order()
    special.order = order
    plain = shop.Plain()
    plain.order = order
    stack = shop.Stack([1, order])
    stack.label = "s"
    root["plain"] = {
        "plain": plain,
        "same": plain,
        "stack": stack,
        "register": shop.Register([("b", 1), ("a", order)]),
        "tags": shop.Tags({1, 2}),
        "colour": shop.Colour.RED,
        "point": shop.Point(1, order),
        "named": shop.Named(name="n"),
        "made": shop.make(7),
        "class": shop.Plain,
        "persistent class": shop.Order,
        "here": OrderedDict(a=order),
    }
    connection.commit()
    shop.hide()
    return storage


def check(storage: MemoryStorage, shop: Shop) -> None:
    """See that nothing of what `storage` held is lost."""
    shop.show()
    root = Connection(storage).get_root()
    order = root["order"]
    assert type(order) is shop.Order
    assert order.next.order is order
    assert type(order.next) is shop.Special.Order
    found = root["plain"]
    assert found["plain"].order is order
    assert found["same"] is found["plain"]
    assert type(found["stack"]) is shop.Stack
    assert (found["stack"], found["stack"].label) == ([1, order], "s")
    assert list(found["register"].items()) == [("b", 1), ("a", order)]
    assert type(found["register"]) is shop.Register
    assert found["tags"] == {1, 2}
    assert found["colour"] is shop.Colour.RED
    assert found["point"] == shop.Point(1, order)
    assert found["named"].name == "n"
    assert found["made"].number == 7
    assert found["class"] is shop.Plain
    assert found["persistent class"] is shop.Order
    assert found["here"]["a"] is order


def test_without_leave_a_missing_class_is_an_error(storage: MemoryStorage) -> None:
    """By default a class that cannot be imported is a clear error that names it."""
    with pytest.raises(UnknownClassError, match=r"lost_shop\.\w+, which cannot be imported"):
        Connection(storage)


def test_broken_objects_load(storage: MemoryStorage) -> None:
    """A stand-in says what it stands for and holds what is stored."""
    connection = Connection(storage, broken_objects=True)
    order = connection.get_root()["order"]
    assert isinstance(order, BrokenObject)
    assert repr(order) == "<broken lost_shop.Order 1>"
    assert order.stored_class == "lost_shop.Order"
    assert order.stored_data == connection.get_stored_pickle(order._p_oid)
    with pytest.raises(
        AttributeError, match=r"'price': .* class lost_shop.Order cannot be imported"
    ):
        order.price
    plain = connection.get_root()["plain"]["plain"]
    assert isinstance(plain, BrokenInstance)
    assert repr(plain) == "<broken lost_shop.Plain>"
    assert plain.stored_state == {"order": order}
    assert plain.stored_args == ()


def test_broken_objects_are_found_by_oid_and_by_crawling(storage: MemoryStorage) -> None:
    """get() and the crawler give stand-ins too, the same ones."""
    connection = Connection(storage, broken_objects=True)
    order = connection.get(1)
    assert order is connection.get_root()["order"]
    crawled = {repr(obj) for obj in connection.get_crawler() if isinstance(obj, BrokenObject)}
    assert crawled == {"<broken lost_shop.Order 1>", "<broken lost_shop.Special.Order 2>"}
    other = Connection(storage, broken_objects=True)
    assert repr(other.get(2)) == "<broken lost_shop.Special.Order 2>"


def test_broken_objects_are_stored_back_byte_for_byte(storage: MemoryStorage, shop: Shop) -> None:
    """A stand-in that is marked as changed leaves its record as it was."""
    connection = Connection(storage, broken_objects=True)
    before = dict(storage.gen_oid_record())
    for oid in (1, 2):
        connection.get(oid)._p_note_change()
    connection.commit()
    assert dict(storage.gen_oid_record()) == before
    check(storage, shop)


def test_what_refers_to_broken_objects_can_be_changed(storage: MemoryStorage, shop: Shop) -> None:
    """A state that holds stand-ins of every kind is stored with nothing lost."""
    connection = Connection(storage, broken_objects=True)
    root = connection.get_root()
    for count in range(3):
        root["count"] = count
        connection.commit()
        root._p_set_status_ghost()
    assert extract_class_path(storage.load(b"\0" * 7 + b"\1")) == "lost_shop.Order"
    check(storage, shop)


def test_new_objects_beside_broken_ones(storage: MemoryStorage, shop: Shop) -> None:
    """A new object that a state with stand-ins refers to is stored once, with its references."""
    connection = Connection(storage, broken_objects=True)
    root = connection.get_root()
    root["new"] = new = Persistent()
    new.order = root["order"]
    connection.commit()
    assert len(dict(storage.gen_oid_record())) == 4
    check(storage, shop)
    other = Connection(storage)
    assert other.get_root()["new"].order is other.get(1)


def test_what_cannot_be_pickled_is_still_an_error(storage: MemoryStorage) -> None:
    """Beside stand-ins too the part that cannot be pickled is named."""
    connection = Connection(storage, broken_objects=True)
    connection.get_root()["bad"] = lambda: 1
    with pytest.raises(UnpicklableError) as caught:
        connection.commit()
    assert "bad" in caught.value.path


def test_the_same_class_has_one_stand_in() -> None:
    """One missing class, one stand-in, with the name of what it stands for."""
    cls = broken_class("lost", "Outer.Inner")
    assert cls is broken_class("lost", "Outer.Inner")
    assert (cls.__module__, cls.__qualname__, cls.__name__) == ("lost", "Outer.Inner", "Inner")
    assert cls.persistent_class.__qualname__ == "Outer.Inner"


def test_a_class_that_comes_back(storage: MemoryStorage, shop: Shop) -> None:
    """Once the class is there again a new connection has the real objects."""
    Connection(storage, broken_objects=True).get_root()["order"].stored_class
    check(storage, shop)
