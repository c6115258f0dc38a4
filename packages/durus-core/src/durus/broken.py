"""Stand-ins for stored classes that cannot be imported, for tools that must not lose them.

A Connection opened with `broken_objects=True` gives a `BrokenObject` for a persistent object whose
class is missing, and a `BrokenInstance` for a plain one inside a state. Both keep what is stored;
a `BrokenObject` that is marked as changed is stored back byte for byte.
"""

from __future__ import annotations

import copyreg
from functools import cache
from typing import Any

from durus.persistent import PersistentObject

__all__ = ["BrokenInstance", "BrokenObject", "broken_class"]


class BrokenObject(PersistentObject):
    """A persistent object whose class cannot be imported.

    Attributes:
        stored_class: "module.Name" of the missing class.
        stored_data: the data of its record: class, state and proof.
        stored_refs: the references of its record, 8 bytes each.
    """

    __slots__ = ("stored_data", "stored_refs")

    stored_class: str
    stored_data: bytes
    stored_refs: bytes

    def __repr__(self) -> str:
        return f"<broken {self.stored_class} {self._p_format_oid()}>"


class BrokenInstance:
    """A plain object inside a state whose class (or factory function) cannot be imported.

    Attributes:
        stored_class: "module.Name" of the missing class.
        stored_args: what it was to be made with.
        stored_state: what its `__setstate__` was to be given, or None.
    """

    stored_class: str
    persistent_class: type[BrokenObject]

    def __new__(cls, *args: Any, **_kwargs: Any) -> BrokenInstance:  # noqa: PYI034 - args are stored
        self = object.__new__(cls)
        self.stored_args = args
        self.stored_state = None
        return self

    stored_args: tuple[Any, ...]
    stored_state: Any

    def __setstate__(self, state: Any) -> None:
        self.stored_state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg.__newobj__, (type(self), *self.stored_args), self.stored_state  # type: ignore[attr-defined]  # typeshed lacks it

    def __repr__(self) -> str:
        return f"<broken {self.stored_class}>"


@cache
def broken_class(module: str, name: str) -> type[BrokenInstance]:
    """Give the stand-in for the class `name` of `module`; the same one each time.

    Its `persistent_class` stands in where the stored data uses the class for a persistent object.
    """
    stored_class = f"{module}.{name}"
    identity = {"__module__": module, "__qualname__": name, "stored_class": stored_class}
    last_name = name.rpartition(".")[2]
    persistent = type(last_name, (BrokenObject,), {**identity, "__slots__": ()})
    return type(last_name, (BrokenInstance,), {**identity, "persistent_class": persistent})
