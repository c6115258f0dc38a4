"""PersistentDict: a dict whose changes are noticed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, overload

from durus._containers import ListlikeItems, ListlikeKeys, ListlikeValues, copy_with, show
from durus.persistent import DictBase, PersistentObject

if TYPE_CHECKING:
    from _typeshed import SupportsKeysAndGetItem

__all__ = ["PersistentDict"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

_MISSING: Any = object()


class PersistentDict(DictBase, PersistentObject, MutableMapping[K, V]):
    """A persistent mapping that takes and gives what a dict does, in the same order.

    It is one object of the database, stored and loaded as a whole, and two transactions that change
    it conflict. For many entries see `durus.btree.BTree`. A change inside a plain list or dict that
    it holds is not noticed: use the persistent containers, or set the entry again.

    `keys()`, `values()` and `items()` are views of the present contents. Durus 4.3 gave lists, so a
    loop over a view may change the dict, and a view can be indexed and is equal to a list.

    Attributes:
        data: the dict with the contents. Whoever changes it calls `_p_note_change()` first.

    Source: durus.persistent_dict of Durus 4.3.
    """

    __slots__ = ("data",)

    data: dict[K, V]
    data_is: ClassVar[type] = dict

    @overload
    def __init__(self, /) -> None: ...
    @overload
    def __init__(self: PersistentDict[str, V], /, **kwargs: V) -> None: ...
    @overload
    def __init__(self, items: SupportsKeysAndGetItem[K, V], /) -> None: ...
    @overload
    def __init__(
        self: PersistentDict[str, V], items: SupportsKeysAndGetItem[str, V], /, **kwargs: V
    ) -> None: ...
    @overload
    def __init__(self, items: Iterable[tuple[K, V]], /) -> None: ...
    @overload
    def __init__(
        self: PersistentDict[str, V], items: Iterable[tuple[str, V]], /, **kwargs: V
    ) -> None: ...
    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        self.data = _as_dict(args, kwargs)

    @classmethod
    def fromkeys(cls, iterable: Iterable[Any], value: Any = None) -> Self:
        """Make a dict with the same value for each key of `iterable`."""
        new = cls()
        for key in iterable:
            new[key] = value
        return new

    # -- reading ----------------------------------------------------------------------------------

    if TYPE_CHECKING:

        def __getitem__(self, key: K) -> V: ...
        def __setitem__(self, key: K, item: V) -> None: ...
        def __delitem__(self, key: K) -> None: ...

    @overload
    def get(self, key: K) -> V | None: ...
    @overload
    def get(self, key: K, failobj: V) -> V: ...
    @overload
    def get(self, key: K, failobj: T) -> V | T: ...
    def get(self, key: K, failobj: Any = None) -> Any:
        return self.data.get(key, failobj)

    def has_key(self, key: object) -> bool:
        """Tell whether `key` is there: Durus 4.3's name for `in`."""
        return key in self.data

    def __iter__(self) -> Iterator[K]:
        return iter(self.data)

    def __reversed__(self) -> Iterator[K]:
        return reversed(self.data)

    def keys(self) -> DictKeys[K]:
        return DictKeys(self)

    def values(self) -> DictValues[V]:
        return DictValues(self)

    def items(self) -> DictItems[K, V]:
        return DictItems(self)

    def iterkeys(self) -> Iterator[K]:
        """Iterate over the keys: Durus 4.3's name for `iter()`."""
        return iter(self.data)

    def itervalues(self) -> Iterator[V]:
        """Iterate over the values: Durus 4.3's name for `iter(d.values())`."""
        return iter(self.data.values())

    def iteritems(self) -> Iterator[tuple[K, V]]:
        """Iterate over the items: Durus 4.3's name for `iter(d.items())`."""
        return iter(self.data.items())

    def copy(self) -> Self:
        """Give a new object of the same class, attributes and entries."""
        return copy_with(self, data=self.data.copy())

    __copy__ = copy

    def __repr__(self) -> str:
        return show(self, "data")

    # -- comparing and joining --------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PersistentDict):
            return self.data == other.data
        if isinstance(other, Mapping):
            return self.data == dict(other)
        return NotImplemented

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = None  # type: ignore[assignment]  # as dict

    def __or__(self, other: Mapping[K, V]) -> Self:
        if not isinstance(other, Mapping):
            return NotImplemented
        return copy_with(self, data=self.data | _plain(other))

    def __ror__(self, other: Mapping[K, V]) -> Self:
        if not isinstance(other, Mapping):
            return NotImplemented
        return copy_with(self, data=_plain(other) | self.data)

    def __ior__(self, other: Mapping[K, V] | Iterable[tuple[K, V]]) -> Self:
        self.update(other)
        return self

    # -- changing ---------------------------------------------------------------------------------
    # Each method loads, then does what can fail, then notes the change (which the Connection may
    # refuse), and only then changes `data`.

    def clear(self) -> None:
        data = self.data
        if data:
            self._p_note_change()
            data.clear()

    @overload
    def setdefault(self: PersistentDict[K, T | None], key: K, failobj: None = None) -> T | None: ...
    @overload
    def setdefault(self, key: K, failobj: V) -> V: ...
    def setdefault(self, key: Any, failobj: Any = None) -> Any:
        data = self.data
        if key not in data:
            self._p_note_change()
        return data.setdefault(key, failobj)

    @overload
    def pop(self, key: K) -> V: ...
    @overload
    def pop(self, key: K, default: V) -> V: ...
    @overload
    def pop(self, key: K, default: T) -> V | T: ...
    def pop(self, key: K, default: Any = _MISSING) -> Any:
        data = self.data
        if key in data:
            self._p_note_change()
            return data.pop(key)
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[K, V]:
        data = self.data
        if data:
            self._p_note_change()
        return data.popitem()

    @overload
    def update(self, items: SupportsKeysAndGetItem[K, V], /) -> None: ...
    @overload
    def update(
        self: PersistentDict[str, V], items: SupportsKeysAndGetItem[str, V], /, **kwargs: V
    ) -> None: ...
    @overload
    def update(self, items: Iterable[tuple[K, V]], /) -> None: ...
    @overload
    def update(
        self: PersistentDict[str, V], items: Iterable[tuple[str, V]], /, **kwargs: V
    ) -> None: ...
    @overload
    def update(self: PersistentDict[str, V], /, **kwargs: V) -> None: ...
    def update(self, /, *args: Any, **kwargs: Any) -> None:
        new = _as_dict(args, kwargs)
        data = self.data
        if new:
            self._p_note_change()
            data.update(new)


class DictKeys(ListlikeKeys[K]):
    """The keys. Iteration is over those that were there when it began."""

    __slots__ = ()

    def __iter__(self) -> Iterator[K]:
        return iter(list(_data(self)))


class DictValues(ListlikeValues[V]):
    """The values. Iteration is over those that were there when it began."""

    __slots__ = ()

    def __iter__(self) -> Iterator[V]:
        return iter(list(_data(self).values()))

    def __contains__(self, value: object) -> bool:
        return value in _data(self).values()

    def __reversed__(self) -> Iterator[V]:
        return reversed(_data(self).values())


class DictItems(ListlikeItems[K, V]):
    """The items. Iteration is over those that were there when it began."""

    __slots__ = ()

    def __iter__(self) -> Iterator[tuple[K, V]]:
        # A copy of a dict takes less time than a list of its items, which are so many tuples.
        return iter(_data(self).copy().items())

    def __contains__(self, item: object) -> bool:
        entries: Container[object] = _data(self).items()
        return item in entries

    def __reversed__(self) -> Iterator[tuple[K, V]]:
        return reversed(_data(self).items())


def _data(view: Any) -> dict[Any, Any]:
    data: dict[Any, Any] = view._mapping.data
    return data


def _plain(mapping: Mapping[K, V]) -> dict[K, V]:
    return mapping.data if isinstance(mapping, PersistentDict) else dict(mapping)


def _as_dict(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Any, Any]:
    """Give a new dict, built before anything is changed, of what a dict would be made of."""
    if len(args) == 1 and isinstance(args[0], PersistentDict):
        args = (args[0].data,)
    return dict(*args, **kwargs)
