"""What refers to objects whose classes are missing can be changed and stored, and loses nothing."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from durus.connection import Connection
from durus.error import UnpicklableError
from durus.persistent import Persistent
from durus.serialize import extract_class_path
from durus.storage import MemoryStorage
from durus.utils import int8_to_str


class Plain:
    """An object inside a state."""


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that can be taken away."""
    module = ModuleType("passing_shop")
    module.Order = type("Order", (Persistent,), {"__module__": "passing_shop"})  # type: ignore[attr-defined]
    module.Size = type("Size", (Plain,), {"__module__": "passing_shop"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "passing_shop", module)
    return module


@pytest.fixture
def storage(shop: ModuleType) -> MemoryStorage:
    """A storage whose root refers to an Order that refers to a plain Size."""
    storage = MemoryStorage()
    connection = Connection(storage)
    root = connection.get_root()
    root["order"] = shop.Order()
    root["size"] = shop.Size()
    root["size"].width = 3
    root["order"].n = 5
    connection.commit()
    return storage


def test_a_neighbour_of_broken_objects_can_be_stored(
    storage: MemoryStorage, shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that refers to missing classes, and holds some, is stored with their names."""
    monkeypatch.delitem(sys.modules, "passing_shop")
    connection = Connection(storage, broken_objects=True)
    root = connection.get_root()
    root["later"] = 1
    root["new"] = Persistent()
    root["order"]._p_note_change()
    connection.commit()
    assert extract_class_path(storage.load(int8_to_str(1))) == "passing_shop.Order"

    monkeypatch.setitem(sys.modules, "passing_shop", shop)
    again = Connection(storage).get_root()
    assert (type(again["order"]), again["order"].n) == (shop.Order, 5)
    assert (type(again["size"]), again["size"].width) == (shop.Size, 3)
    assert (again["later"], type(again["new"])) == (1, Persistent)


def test_what_cannot_be_pickled_is_still_refused(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside broken objects as without them, an attribute that cannot be stored is named."""
    monkeypatch.delitem(sys.modules, "passing_shop")
    connection = Connection(storage, broken_objects=True)
    connection.get_root()["call"] = lambda: None
    with pytest.raises(UnpicklableError, match="cannot be pickled"):
        connection.commit()
    connection.abort()
    assert "call" not in connection.get_root()
