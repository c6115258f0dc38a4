"""What the persistent containers share: copies, views and how they show themselves."""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterator, KeysView, ValuesView
from itertools import islice
from operator import index as as_index
from reprlib import Repr
from typing import Any, SupportsIndex, TypeVar, overload

from durus.persistent import PersistentObject

__all__ = ["ListlikeItems", "ListlikeKeys", "ListlikeValues", "copy_with", "show"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
Container = TypeVar("Container", bound=PersistentObject)


def copy_with(container: Container, **state: object) -> Container:
    """Give a new object of the same class and attributes, except for those in `state`.

    `__init__` is not called: a subclass may have given it other parameters.
    """
    new = PersistentObject.__new__(type(container))
    whole = container.__getstate__()
    # Together, so that an own __setstate__ never holds what the two would share.
    new.__setstate__({**whole, **state} if isinstance(whole, dict) else whole)
    for name, value in state.items():
        setattr(new, name, value)
    return new


def show(container: PersistentObject, slot: str) -> str:
    """Give the class, the oid and, when it is in memory, the beginning of what is in `slot`.

    Nothing is loaded by it and it counts as no access: a debugger or a log that shows an object
    must not cause a conflict. Persistent objects inside are named only, so that the size of the
    text does not depend on what else happens to be in memory.
    """
    name = PersistentObject.__repr__(container)
    if container._p_is_ghost():
        return name
    try:
        contents = object.__getattribute__(container, slot)
    except AttributeError:  # made, and not yet set up
        return name
    if isinstance(contents, set):
        contents = list(contents)  # in brackets, as Durus 4.3 shows a set
    return f"{name[:-1]} {_brief.repr(contents)}>"


class _BriefRepr(Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 100
        self.maxstring = self.maxother = self.maxlong = 200

    def repr_instance(self, x: Any, level: int) -> str:
        if issubclass(type(x), PersistentObject):
            return PersistentObject.__repr__(x)
        return super().repr_instance(x, level)

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """In the dict's own order, which the base class does not keep."""
        if level <= 0 < len(x):
            return "{...}"
        pieces = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}"
            for key, value in islice(x.items(), self.maxdict)
        ]
        if len(x) > self.maxdict:
            pieces.append("...")
        return f"{{{', '.join(pieces)}}}"


_brief = _BriefRepr()


class _ListReading(Collection[T]):
    """A view that reads like the list that Durus 4.3 gave: by index, and equal to a list."""

    __slots__ = ()

    _mapping: Any  # the base classes' slot, which typeshed does not tell

    @overload
    def __getitem__(self, index: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> T | list[T]:
        if isinstance(index, slice):
            return list(self)[index]
        position = as_index(index)
        # From the nearer end: the first and the last of a large mapping must not cost a whole walk.
        items, steps = (iter(self), position) if position >= 0 else (reversed(self), ~position)
        for item in islice(items, steps, None):
            return item
        raise IndexError(f"index {position} is beyond the {len(self)} in this view")

    def __reversed__(self) -> Iterator[T]:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if isinstance(other, list):
            return list(self) == other
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # as every view

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class ListlikeKeys(_ListReading[K], KeysView[K]):
    """The keys of a mapping, as it is when they are looked at."""

    __slots__ = ()

    def __iter__(self) -> Iterator[K]:
        return iter(self._mapping)

    def __reversed__(self) -> Iterator[K]:
        found: Iterator[K] = reversed(self._mapping)
        return found


class ListlikeItems(_ListReading[tuple[K, V]], ItemsView[K, V]):
    """The (key, value) pairs of a mapping, as it is when they are looked at. Subclasses iterate."""

    __slots__ = ()


class ListlikeValues(_ListReading[V], ValuesView[V]):
    """The values of a mapping, as it is when they are looked at. Subclasses iterate."""

    __slots__ = ()
