"""Persistent objects and their three states.

A *ghost* (GHOST) has an oid and no attributes: the first access loads them. A *saved* object
(SAVED) is as it is stored. An *unsaved* one (UNSAVED) is new or has changes that the next commit
stores::

                  first access                 first change
        GHOST ------------------> SAVED ------------------> UNSAVED
          ^                        | ^                         | |
          |   evicted, or stale    | |         commit          | |
          +------------------------+ +-------------------------+ |
          +------------------------------------------------------+
                                 abort

`_p_*` names, `__class__`, `__repr__` and `__setstate__` load nothing. Every other attribute loads a
ghost and counts as an access; setting or deleting one counts as a change. What happens inside a
plain list or dict that an attribute holds is not seen: call `_p_note_change()`, or use the
persistent containers. Source: the behaviour of durus.persistent in Durus 4.3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import wraps
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from durus.error import ConnectionStateError

if TYPE_CHECKING or os.environ.get("DURUS_PURE_PYTHON", "0") not in ("", "0"):
    from durus import _pure as _hot
else:
    try:
        from durus import _speedups as _hot
    except ImportError:
        from durus import _pure as _hot

__all__ = [
    "GHOST",
    "SAVED",
    "UNSAVED",
    "ComputedAttribute",
    "ConnectionBase",
    "Persistent",
    "PersistentBase",
    "PersistentObject",
]

GHOST = _hot.GHOST
SAVED = _hot.SAVED
UNSAVED = _hot.UNSAVED
Cache = _hot.Cache
ConnectionBase = _hot.ConnectionBase
DictBase = _hot.DictBase
PersistentBase = _hot.PersistentBase
PlainReader = _hot.PlainReader
RecordFile = _hot.RecordFile
ReferenceReader = _hot.ReferenceReader
ReferenceWriter = _hot.ReferenceWriter
get_state = _hot.get_state
make_plain_record = _hot.make_plain_record
make_record = _hot.make_record
proof_of = _hot.proof_of
read_plain_state = _hot.read_plain_state
set_state = _hot.set_state
split_proven = _hot.split_proven

# The setters themselves: a class may have a __setattr__ of its own, which is not for `_p_*`.
set_connection = PersistentBase.__dict__["_p_connection"].__set__
set_oid = PersistentBase.__dict__["_p_oid"].__set__
set_serial = PersistentBase.__dict__["_p_serial"].__set__
set_status = PersistentBase.__dict__["_p_status"].__set__


class PersistentObject(PersistentBase):
    """A persistent object whose state is in `__slots__`, and in `__dict__` where there is one."""

    __slots__ = ()

    def __getstate__(self) -> Any:
        """Give what is stored: a new dict of the slots that are set and of `__dict__`.

        A subclass may return anything that pickles and that its `__setstate__` takes.
        """
        state = get_state(self, data_slots(type(self)))
        # `Box[int]()` sets it: how the object was made, not what it holds.
        state.pop("__orig_class__", None)
        return state

    def __setstate__(self, state: Any) -> None:
        """Set the attributes in `state`, a dict as `__getstate__` gives it, or None for none."""
        if state is not None:
            set_state(self, state)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._p_format_oid()}>"

    def _p_format_oid(self) -> str:
        """Give the oid as text, or the address in memory of an object that has none."""
        oid = self._p_oid
        return f"@{id(self):x}" if oid is None else str(int.from_bytes(oid, "big"))

    def _p_is_ghost(self) -> bool:
        return self._p_status == GHOST

    def _p_is_saved(self) -> bool:
        return self._p_status == SAVED

    def _p_is_unsaved(self) -> bool:
        return self._p_status == UNSAVED

    def _p_load_state(self) -> None:
        """Load the attributes of a ghost.

        Raises:
            ConnectionStateError: it was made a ghost and belongs to no Connection.
        """
        connection = self._p_connection
        if connection is None:
            # An AttributeError would say that an attribute is missing.
            raise ConnectionStateError(
                f"tried to load {PersistentObject.__repr__(self)}, which belongs to no Connection;"
                " only stored objects can be made ghosts"
            )
        connection.load_state(self)

    def _p_set_status_ghost(self) -> None:
        """Drop the attributes; the next access loads them again."""
        held = _hot.clear_state(self, data_slots(type(self)))
        set_status(self, GHOST)
        # Not earlier: what the attributes held may use this object when it ends.
        del held

    def _p_set_status_saved(self) -> None:
        """Say that the object is as it is stored."""
        set_status(self, SAVED)

    def _p_set_status_unsaved(self) -> None:
        """Say that the object has changes to commit."""
        if self._p_status == GHOST:
            self._p_load_state()
        connection = self._p_connection
        if connection is not None:
            # An access as well: a commit of what others changed meanwhile is a conflict.
            connection.note_access(self)
            connection.note_change(self)
        set_status(self, UNSAVED)

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        """Undo what attrs writes into a class that passes by the rules above; attrs calls this.

        Its `__setattr__`, for fields with a converter or validator, is `object`'s in the end: a
        change would not be noted. Its `__getstate__` knows nothing but the fields.
        """
        for name in ("__getstate__", "__setstate__"):
            if getattr(cls.__dict__.get(name), "__module__", None) == "attr._make":
                delattr(cls, name)
        own = cls.__dict__.get("__setattr__")
        if own is object.__setattr__:
            cls.__setattr__ = PersistentBase.__setattr__  # type: ignore[method-assign]
        elif own is not None and cls.__dict__.get("__attrs_own_setattr__"):
            cls.__setattr__ = _note_before(own)  # type: ignore[method-assign]

    def _p_gen_data_slots(self) -> Iterator[str]:
        """Yield the names of the slots that hold state."""
        for descriptor in data_slots(type(self)):
            yield descriptor.__name__


# Every `__setstate__` that does with a dict what `set_state` does, unless that has a `_count`.
plain_setstates: set[Callable[[Any, Any], None]] = {PersistentObject.__setstate__}


def _note_before(set_attribute: Callable[[Any, str, Any], None]) -> Any:
    """Give a `__setattr__` that notes the change and then does what `set_attribute` does."""

    @wraps(set_attribute)
    def __setattr__(self: PersistentObject, name: str, value: object) -> None:  # noqa: N807
        if name[:3] != "_p_":
            self._p_note_change()
        set_attribute(self, name, value)

    return __setattr__


class Persistent(PersistentObject):
    """The usual base of an application's classes: ordinary attributes, all of them stored."""

    __slots__ = ("__dict__",)


class ComputedAttribute(PersistentObject):
    """A value that is computed when it is asked for, kept in memory, and never stored.

    `invalidate()` makes every Connection compute it anew after the next commit.
    """

    __slots__ = ("value",)

    value: Any

    def __getstate__(self) -> None:
        return None

    def _p_load_state(self) -> None:
        """Become saved without a value: nothing of it is stored."""
        self._p_set_status_saved()

    def invalidate(self) -> None:
        """Forget the value, here at once and in other Connections when this is committed."""
        self._p_note_change()
        if hasattr(self, "value"):
            del self.value

    def get(self, compute: Callable[[], Any]) -> Any:
        """Give the value, calling `compute` (without arguments) if it is not known."""
        try:
            return self.value
        except AttributeError:
            value = compute()
        # Through the descriptor: keeping a computed value is not a change to store.
        ComputedAttribute.__dict__["value"].__set__(self, value)
        return value


_slots_of_class: WeakKeyDictionary[type, tuple[MemberDescriptorType, ...]] = WeakKeyDictionary()


def data_slots(cls: type) -> tuple[MemberDescriptorType, ...]:
    """Give the descriptors of the slots that hold state, base classes first."""
    try:
        return _slots_of_class[cls]
    except KeyError:
        found = tuple(
            value
            for base in reversed(cls.__mro__)
            for name, value in base.__dict__.items()
            if type(value) is MemberDescriptorType and name[:3] != "_p_"
        )
        _slots_of_class[cls] = found
        return found
