"""PersistentList: a list whose changes are noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableSequence
from operator import index as as_index
from typing import Any, ClassVar, Self, SupportsIndex, TypeVar, overload

from durus._containers import copy_with, show
from durus.persistent import UNSAVED, PersistentObject

__all__ = ["PersistentList"]

T = TypeVar("T")


class PersistentList(PersistentObject, MutableSequence[T]):
    """A persistent sequence that takes and gives what a list does.

    It is one object of the database, stored and loaded as a whole, and two transactions that
    change it conflict. A slice, a sum and a product are new objects of the same class, with the
    same further attributes. A change inside a plain list or dict that it holds is not noticed: use
    the persistent containers, or set the item again.

    Attributes:
        data: the list with the contents. Whoever changes it calls `_p_note_change()` first.

    Source: durus.persistent_list of Durus 4.3, where a slice is a plain list.
    """

    __slots__ = ("data",)

    data: list[T]
    data_is: ClassVar[type] = list

    def __init__(self, iterable: Iterable[T] = (), /) -> None:
        self.data = list(_plain(iterable))

    # -- reading ----------------------------------------------------------------------------------

    @overload
    def __getitem__(self, i: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> Self: ...
    def __getitem__(self, i: Any) -> Any:
        if i.__class__ is slice:  # what costs an index least
            return copy_with(self, data=self.data[i])
        return self.data[i]

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[T]:
        return iter(self.data)

    def __reversed__(self) -> Iterator[T]:
        return reversed(self.data)

    def __contains__(self, item: object) -> bool:
        return item in self.data

    def count(self, item: Any) -> int:
        return self.data.count(item)

    def index(self, item: Any, *bounds: SupportsIndex) -> int:
        """Give the first position of `item`, between the optional bounds start and stop.

        Raises:
            ValueError: it is not there.
        """
        return self.data.index(item, *bounds)

    def copy(self) -> Self:
        """Give a new object of the same class, attributes and items."""
        return copy_with(self, data=self.data.copy())

    __copy__ = copy

    def __repr__(self) -> str:
        return show(self, "data")

    # -- comparing and joining --------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return bool(self.data == _plain(other))

    def __ne__(self, other: object) -> bool:
        return bool(self.data != _plain(other))

    def __lt__(self, other: PersistentList[T] | list[T]) -> bool:
        return bool(self.data < _plain(other))

    def __le__(self, other: PersistentList[T] | list[T]) -> bool:
        return bool(self.data <= _plain(other))

    def __gt__(self, other: PersistentList[T] | list[T]) -> bool:
        return bool(self.data > _plain(other))

    def __ge__(self, other: PersistentList[T] | list[T]) -> bool:
        return bool(self.data >= _plain(other))

    __hash__ = None  # type: ignore[assignment]  # as list

    def __add__(self, other: Iterable[T]) -> Self:
        if not isinstance(other, Iterable):
            return NotImplemented
        return copy_with(self, data=[*self.data, *_plain(other)])

    def __radd__(self, other: Iterable[T]) -> Self:
        if not isinstance(other, Iterable):
            return NotImplemented
        return copy_with(self, data=[*_plain(other), *self.data])

    def __mul__(self, n: SupportsIndex) -> Self:
        return copy_with(self, data=self.data * n)

    __rmul__ = __mul__

    # -- changing ---------------------------------------------------------------------------------
    # Each method loads, then does what can fail, then notes the change (which the Connection may
    # refuse), and only then changes `data`.

    @overload
    def __setitem__(self, i: SupportsIndex, item: T) -> None: ...
    @overload
    def __setitem__(self, i: slice, item: Iterable[T]) -> None: ...
    def __setitem__(self, i: Any, item: Any) -> None:
        data = self.data
        if type(i) is slice:
            self._set_slice(i, list(_plain(item)))
            return
        if self._p_status != UNSAVED:
            data[i]
            self._p_note_change()
        data[i] = item

    def _set_slice(self, where: slice, items: list[T]) -> None:
        data = self.data
        if where.step in (None, 1):
            data[where]
        else:
            data.copy()[where] = items  # fails unless both have the same length
        self._p_note_change()
        data[where] = items

    def __delitem__(self, i: SupportsIndex | slice) -> None:
        data = self.data
        found = data[i]
        if type(i) is slice and not found:
            return
        self._p_note_change()
        del data[i]

    def append(self, item: T) -> None:
        data = self.data
        self._p_note_change()
        data.append(item)

    def insert(self, i: SupportsIndex, item: T) -> None:
        data = self.data
        i = as_index(i)
        self._p_note_change()
        data.insert(i, item)

    def extend(self, other: Iterable[T]) -> None:
        items = list(_plain(other))
        data = self.data
        if items:
            self._p_note_change()
            data.extend(items)

    def __iadd__(self, other: Iterable[T]) -> Self:
        self.extend(other)
        return self

    def __imul__(self, n: SupportsIndex) -> Self:
        n = as_index(n)
        data = self.data
        if data and n != 1:
            more = data * (n - 1)
            self._p_note_change()
            if n < 1:
                data.clear()
            data.extend(more)
        return self

    def pop(self, i: SupportsIndex = -1) -> T:
        data = self.data
        if -len(data) <= as_index(i) < len(data):
            self._p_note_change()
        return data.pop(i)

    def remove(self, item: Any) -> None:
        data = self.data
        i = data.index(item)
        self._p_note_change()
        del data[i]

    def clear(self) -> None:
        data = self.data
        if data:
            self._p_note_change()
            data.clear()

    def reverse(self) -> None:
        data = self.data
        if len(data) > 1:
            self._p_note_change()
            data.reverse()

    def sort(self, *, key: Callable[[T], Any] | None = None, reverse: bool = False) -> None:
        """Sort in place and stably. If comparing raises an exception, nothing has changed."""
        data = self.data
        result = sorted(data, key=key, reverse=reverse)  # type: ignore[type-var,arg-type]  # as list.sort, checked when run
        if len(data) > 1:
            self._p_note_change()
            data[:] = result

    def __getslice__(self, i: int, j: int) -> Self:
        """Durus 4.3's name for `self[i:j]`, as are the next two for setting and deleting."""
        return self[max(i, 0) : max(j, 0)]

    def __setslice__(self, i: int, j: int, other: Iterable[T]) -> None:
        self[max(i, 0) : max(j, 0)] = other

    def __delslice__(self, i: int, j: int) -> None:
        del self[max(i, 0) : max(j, 0)]


def _plain(value: Any) -> Any:
    return value.data if isinstance(value, PersistentList) else value
