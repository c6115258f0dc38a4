"""Stand-ins for stored classes that cannot be imported, for tools that must not lose them.

A Connection opened with `broken_objects=True` gives a `BrokenObject` for a persistent object whose
class is missing, and a `BrokenInstance` for a plain one inside a state. Both keep what is stored;
a `BrokenObject` that is marked as changed is stored back byte for byte.
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from durus.persistent import PersistentObject, set_state

__all__ = ["BrokenInstance", "BrokenObject", "broken_class"]


_newobj = copyreg.__newobj__  # type: ignore[attr-defined]  # typeshed lacks it
_newobj_ex = copyreg.__newobj_ex__  # type: ignore[attr-defined]  # typeshed lacks it


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

    # Its own, since what a record holds is not the state of a stand-in.
    def __setstate__(self, state: dict[str, object]) -> None:
        set_state(self, state)

    def __repr__(self) -> str:
        return f"<broken {self.stored_class} {self._p_format_oid()}>"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{self!r} has no attribute {name!r}: it stands in for an object whose class"
            f" {self.stored_class} cannot be imported here; start where it can be, or restore it",
            name=name,
            obj=self,
        )


class BrokenInstance:
    """A plain object inside a state whose class (or factory function) cannot be imported.

    Attributes:
        stored_class: "module.Name" of the missing class.
        stored_args: what it was to be made with.
        stored_kwargs: the same by name.
        stored_call: whether the class or function was to be called, not only its `__new__`.
        stored_state: what its `__setstate__` was to be given, or None.
        stored_items: what was to be appended to it, if it was a list.
        stored_pairs: the keys and values that were to be set in it, if it was a dict.
    """

    stored_class: str
    persistent_class: type[BrokenObject]

    stored_args: tuple[Any, ...] = ()
    stored_kwargs: Mapping[str, Any] = MappingProxyType({})
    stored_call = False
    stored_state: Any = None
    stored_items: Sequence[Any] = ()
    stored_pairs: Sequence[tuple[Any, Any]] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> BrokenInstance:  # noqa: PYI034 - args are stored
        self = object.__new__(cls)
        self.stored_args = args
        self.stored_kwargs = kwargs
        return self

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self.stored_call = True

    def __setstate__(self, state: Any) -> None:
        self.stored_state = state

    def append(self, item: Any) -> None:
        """Take an item of a list."""
        self.__dict__.setdefault("stored_items", []).append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("stored_pairs", []).append((key, value))

    def __reduce__(self) -> tuple[Any, ...]:
        make: Any = type(self)
        args: tuple[Any, ...] = self.stored_args
        if not self.stored_call and self.stored_kwargs:
            make, args = _newobj_ex, (type(self), args, dict(self.stored_kwargs))
        elif not self.stored_call:
            make, args = _newobj, (type(self), *args)
        return (
            make,
            args,
            self.stored_state,
            iter(self.stored_items) if self.stored_items else None,
            iter(self.stored_pairs) if self.stored_pairs else None,
        )

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
