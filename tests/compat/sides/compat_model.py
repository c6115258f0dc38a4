"""Classes of an imagined application, importable beside Durus 4.3 and beside ours.

Their module and names are what the databases of these tests (the golden files too) hold, so none of
them may be renamed. Everything here uses only what both versions offer.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from durus.btree import BTree
from durus.persistent import ComputedAttribute, Persistent, PersistentObject
from durus.persistent_dict import PersistentDict

# The states here hold whatever an application puts there, hence the `Any` below.


class Person(Persistent):
    """State in `__dict__`, with a default that stands in the class and not in the record."""

    title = "none"

    def __init__(self, name: str, **attributes: Any) -> None:
        self.name = name
        for attribute, value in attributes.items():
            setattr(self, attribute, value)


class Point(PersistentObject):
    """State in `__slots__`; a slot that was never set stays out of the record."""

    __slots__ = ["x", "y"]

    x: Any
    y: Any


class Point3(Point):
    """Slots on top of inherited slots."""

    __slots__ = ["z"]

    z: Any


class Loose(PersistentObject):
    """PersistentObject without `__slots__`: it has a `__dict__` after all."""


class Vault(Persistent):
    """What is stored differs from what is used."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.opened = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"hidden": self.secret[::-1], "kind": "vault"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # An empty state is how Durus takes the attributes away.
        if not state:
            super().__setstate__(state)
        else:
            super().__setstate__({"secret": state["hidden"][::-1], "opened": -1})


class Tuplet(Persistent):
    """A state that is not a dictionary."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __getstate__(self) -> Any:
        return tuple(self.values)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__({"values": state} if state else {})


class Employee(Persistent):
    """An object with a value that is computed once and forgotten on demand."""

    def __init__(self, name: str, wages: list[int]) -> None:
        self.name = name
        self.wages = wages
        self.total = ComputedAttribute()

    def get_total(self) -> Any:
        return self.total.get(lambda: sum(self.wages))


class Plain:
    """Not persistent: pickled into the state of whatever holds it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def twice(self) -> Any:
        return self.value * 2


class Mixed(Plain, Persistent):
    """The pattern `class S(Plain, Persistent)`."""


class Shelf(Persistent, MutableMapping[Any, Any]):
    """The pattern of Persistent with MutableMapping."""

    def __init__(self) -> None:
        self.inner: dict[Any, Any] = {}

    def __getitem__(self, key: Any) -> Any:
        return self.inner[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.inner[key] = value
        self._p_note_change()

    def __delitem__(self, key: Any) -> None:
        del self.inner[key]
        self._p_note_change()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)

    __hash__ = Persistent.__hash__


class Registry(PersistentDict):
    """A subclass of PersistentDict that has attributes of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.owner = "nobody"
        self.history: list[Any] = []


class SlottedRegistry(PersistentDict):
    """A subclass of PersistentDict whose own attribute is a slot."""

    __slots__ = ["owner"]

    owner: Any


class Catalog(BTree):
    """A subclass of BTree that has attributes of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.label = "catalog"
