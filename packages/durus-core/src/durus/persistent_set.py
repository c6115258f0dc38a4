"""PersistentSet: a set whose changes are noticed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Self, TypeVar

from durus._containers import copy_with, show
from durus.persistent import PersistentObject

__all__ = ["PersistentSet"]

T = TypeVar("T")


class PersistentSet(PersistentObject, MutableSet[T]):
    """A persistent set that takes and gives what a set does.

    It is one object of the database, stored and loaded as a whole, and two transactions that
    change it conflict. The operators take sets of any kind and give new objects of the same class,
    with the same further attributes; the methods with names take any iterables.

    Attributes:
        s: the set with the contents. Whoever changes it calls `_p_note_change()` first.

    Source: durus.persistent_set of Durus 4.3.
    """

    __slots__ = ("s",)

    s: set[T]
    s_is: ClassVar[type] = set

    def __init__(self, iterable: Iterable[T] = (), /) -> None:
        self.s = set(_plain(iterable))

    # -- reading ----------------------------------------------------------------------------------

    def __contains__(self, item: object) -> bool:
        return item in self.s

    def __len__(self) -> int:
        return len(self.s)

    def __iter__(self) -> Iterator[T]:
        return iter(self.s)

    def copy(self) -> Self:
        """Give a new object of the same class, attributes and members."""
        return copy_with(self, s=self.s.copy())

    __copy__ = copy

    def __repr__(self) -> str:
        return show(self, "s")

    # -- comparing --------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return self.s == _as_set(other) if isinstance(other, AbstractSet) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return self.s != _as_set(other) if isinstance(other, AbstractSet) else NotImplemented

    def __le__(self, other: AbstractSet[Any]) -> bool:
        return self.s <= _as_set(other) if isinstance(other, AbstractSet) else NotImplemented

    def __lt__(self, other: AbstractSet[Any]) -> bool:
        return self.s < _as_set(other) if isinstance(other, AbstractSet) else NotImplemented

    def __ge__(self, other: AbstractSet[Any]) -> bool:
        return self.s >= _as_set(other) if isinstance(other, AbstractSet) else NotImplemented

    def __gt__(self, other: AbstractSet[Any]) -> bool:
        return self.s > _as_set(other) if isinstance(other, AbstractSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as set

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        """Tell whether no member of `other` is in this set."""
        return self.s.isdisjoint(_plain(other))

    def issubset(self, other: Iterable[Any]) -> bool:
        """Tell whether every member of this set is in `other`."""
        return self.s.issubset(_plain(other))

    def issuperset(self, other: Iterable[Any]) -> bool:
        """Tell whether every member of `other` is in this set."""
        return self.s.issuperset(_plain(other))

    # -- joining ----------------------------------------------------------------------------------

    def union(self, *others: Iterable[T]) -> Self:
        """Give a new set of what is in this or any other."""
        return copy_with(self, s=self.s.union(*map(_plain, others)))

    def intersection(self, *others: Iterable[Any]) -> Self:
        """Give a new set of what is in this and in all others."""
        return copy_with(self, s=self.s.intersection(*map(_plain, others)))

    def difference(self, *others: Iterable[Any]) -> Self:
        """Give a new set of what is in this and in no other."""
        return copy_with(self, s=self.s.difference(*map(_plain, others)))

    def symmetric_difference(self, other: Iterable[T]) -> Self:
        """Give a new set of what is in exactly one of the two."""
        return copy_with(self, s=self.s.symmetric_difference(_plain(other)))

    # The operators give a set of this class where the abstract classes promise only some Set.

    def __or__(self, other: AbstractSet[T]) -> Self:  # type: ignore[override]
        return self.union(other) if isinstance(other, AbstractSet) else NotImplemented

    def __and__(self, other: AbstractSet[Any]) -> Self:
        return self.intersection(other) if isinstance(other, AbstractSet) else NotImplemented

    def __sub__(self, other: AbstractSet[Any]) -> Self:
        return self.difference(other) if isinstance(other, AbstractSet) else NotImplemented

    def __xor__(self, other: AbstractSet[T]) -> Self:  # type: ignore[override]
        return (
            self.symmetric_difference(other) if isinstance(other, AbstractSet) else NotImplemented
        )

    __ror__ = __or__
    __rand__ = __and__
    __rxor__ = __xor__

    def __rsub__(self, other: AbstractSet[T]) -> Self:
        if not isinstance(other, AbstractSet):
            return NotImplemented
        return copy_with(self, s=set(other) - self.s)

    # -- changing ---------------------------------------------------------------------------------
    # Each method loads, then does what can fail, then notes the change (which the Connection may
    # refuse), and only then changes `s`. What changes no member notes nothing.

    def add(self, item: T) -> None:
        members = self.s
        if item not in members:
            self._p_note_change()
            members.add(item)

    def discard(self, item: Any) -> None:
        members = self.s
        if item in members:
            self._p_note_change()
            members.discard(item)

    def remove(self, item: Any) -> None:
        members = self.s
        if item in members:
            self._p_note_change()
        members.remove(item)

    def pop(self) -> T:
        members = self.s
        if members:
            self._p_note_change()
        return members.pop()

    def clear(self) -> None:
        members = self.s
        if members:
            self._p_note_change()
            members.clear()

    def update(self, *others: Iterable[T]) -> None:
        """Add what is in any other."""
        members = self.s
        new = set[T]().union(*map(_plain, others))
        if not new <= members:
            self._p_note_change()
            members |= new

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Remove what is not in all others."""
        self.difference_update(self.s - self.s.intersection(*map(_plain, others)))

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Remove what is in any other."""
        members = self.s
        gone = set[Any]().union(*(members.intersection(_plain(other)) for other in others))
        if gone:
            self._p_note_change()
            members -= gone

    def symmetric_difference_update(self, other: Iterable[T]) -> None:
        """Remove what is in both, add what is in `other` only."""
        members = self.s
        difference = set(_plain(other))
        if difference:
            self._p_note_change()
            members ^= difference

    def __ior__(self, other: AbstractSet[T]) -> Self:  # type: ignore[override]
        if not isinstance(other, AbstractSet):
            return NotImplemented
        self.update(other)
        return self

    def __iand__(self, other: AbstractSet[Any]) -> Self:
        if not isinstance(other, AbstractSet):
            return NotImplemented
        self.intersection_update(other)
        return self

    def __isub__(self, other: AbstractSet[Any]) -> Self:
        if not isinstance(other, AbstractSet):
            return NotImplemented
        self.difference_update(other)
        return self

    def __ixor__(self, other: AbstractSet[T]) -> Self:  # type: ignore[override]
        if not isinstance(other, AbstractSet):
            return NotImplemented
        self.symmetric_difference_update(other)
        return self


def _plain(value: Any) -> Any:
    return value.s if isinstance(value, PersistentSet) else value


def _as_set(other: AbstractSet[Any]) -> set[Any] | frozenset[Any]:
    if isinstance(other, PersistentSet):
        return other.s
    return other if isinstance(other, (set, frozenset)) else set(other)
