"""The hot parts in Python: the twin of `_speedups`, with the same names and behaviour.

`durus.persistent` chooses between the two once, at import. What holds for one holds for the other:
the tests run against both.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable, Iterator
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary
from zlib import crc32

from durus.error import ForeignObjectError, InvalidOidError

__all__ = [
    "GHOST",
    "SAVED",
    "UNSAVED",
    "Cache",
    "ConnectionBase",
    "DictBase",
    "PersistentBase",
    "PlainReader",
    "RecordFile",
    "ReferenceReader",
    "ReferenceWriter",
    "clear_state",
    "get_state",
    "make_plain_record",
    "make_record",
    "proof_of",
    "read_plain_state",
    "set_state",
    "split_proven",
]

UNSAVED = 1
SAVED = 0
GHOST = -1

# Asked for by isinstance(), repr() and the loading itself: reading them must not load anything.
_NAMES_THAT_LOAD_NOTHING = frozenset({"__class__", "__repr__", "__setstate__"})

# How the data of a record begins that ends with a proof.
_PROVEN_START = b"\x80\x04c"

_FRAME_START = b"\x80\x04\x95"

_get = object.__getattribute__
_set = object.__setattr__


class PersistentBase:
    """What the Connection keeps about an object, and the interception of attribute access.

    Attributes:
        _p_connection: the Connection that the object belongs to, or None while it is new.
        _p_oid: 8 bytes, or None while it is new.
        _p_serial: the connection's `transaction_serial` when the object was last used.
        _p_status: GHOST, SAVED or UNSAVED.
    """

    __slots__ = ("__weakref__", "_p_connection", "_p_oid", "_p_serial", "_p_status")

    _p_connection: Any  # a ConnectionBase or None; Any because its subclass adds what callers use
    _p_oid: Any  # bytes, or None while the object is new; most callers know which
    _p_serial: int
    _p_status: int

    # Type checkers would take every name for an attribute of every object, and every argument for
    # one of every class. They are told what PersistentObject has instead.
    if TYPE_CHECKING:

        def _p_load_state(self) -> None: ...
        def _p_set_status_ghost(self) -> None: ...
        def __setstate__(self, state: Any) -> None: ...

    else:
        # What __init__ is called with belongs to the subclass, not to this.
        def __new__(cls, *_args: Any, **_kwargs: Any) -> PersistentBase:  # noqa: PYI034
            self = object.__new__(cls)
            _set(self, "_p_connection", None)
            _set(self, "_p_oid", None)
            _set(self, "_p_serial", 0)
            _set(self, "_p_status", UNSAVED)
            return self

        def __getattribute__(self, name: str) -> Any:
            if name[:3] != "_p_" and name not in _NAMES_THAT_LOAD_NOTHING:
                _note_use(self)
            return _get(self, name)

        def __setattr__(self, name: str, value: object) -> None:
            if name[:3] == "_p_":
                _check_protocol_value(name, value)
                if name == "_p_oid":
                    _leave_cache(self, value)
            else:
                self._p_note_change()
            _set(self, name, value)

        def __delattr__(self, name: str) -> None:
            if name[:3] != "_p_":
                self._p_note_change()
            elif name in PersistentBase.__slots__:
                raise AttributeError(f"{name} cannot be deleted")
            object.__delattr__(self, name)

    def _p_note_change(self) -> None:
        """Note that the object's state changes, loading it first if it is a ghost.

        To be called when a plain container inside the object is changed in place.
        """
        _note_use(self)
        if _get(self, "_p_status") == SAVED:
            connection = _get(self, "_p_connection")
            if connection is not None:
                connection.note_change(self)
            _set(self, "_p_status", UNSAVED)


def _note_use(obj: PersistentBase) -> None:
    if _get(obj, "_p_status") == GHOST:
        obj._p_load_state()
    connection = _get(obj, "_p_connection")
    if connection is not None and _get(obj, "_p_serial") != connection.transaction_serial:
        connection.note_access(obj)


def _check_protocol_value(name: str, value: object) -> None:
    if (
        name == "_p_oid"
        and value is not None
        and not (isinstance(value, bytes) and len(value) == 8)
    ):
        raise InvalidOidError(value)
    if name == "_p_connection" and value is not None and not isinstance(value, ConnectionBase):
        raise TypeError(f"_p_connection is a Connection or None, got {value!r:.80}")
    if name in ("_p_serial", "_p_status") and not isinstance(value, int):
        raise TypeError(f"{name} is an integer, got {value!r:.80}")
    if name == "_p_status" and value not in (GHOST, SAVED, UNSAVED):
        raise ValueError(f"_p_status is GHOST, SAVED or UNSAVED, got {value!r}")


def _leave_cache(obj: PersistentBase, oid: object) -> None:
    """Under its old oid an object must not be found any more once it has another."""
    old = _get(obj, "_p_oid")
    connection = _get(obj, "_p_connection")
    if old not in (None, oid) and connection is not None and connection.cache.get(old) is obj:
        del connection.cache[old]


class DictBase(PersistentBase):
    """The operators of a PersistentDict, on the dict in its attribute `data`.

    Each loads, then does what can fail, then notes the change (which the Connection may refuse),
    and only then changes `data`.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        data: dict[Any, Any]

    def __getitem__(self, key: Any) -> Any:
        data = self.data
        try:
            return data[key]
        except KeyError:
            missing = getattr(type(self), "__missing__", None)
            # The second look raises again if the error came from comparing keys.
            if missing is None or key in data:
                raise
        return missing(self, key)

    def __setitem__(self, key: Any, item: Any) -> None:
        data = self.data
        if _get(self, "_p_status") != UNSAVED:
            hash(key)
            self._p_note_change()
        data[key] = item

    def __delitem__(self, key: Any) -> None:
        data = self.data
        data[key]
        self._p_note_change()
        del data[key]

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, key: object) -> bool:
        return key in self.data


class ConnectionBase:
    """The part of a Connection that every first access of an object in a transaction goes through.

    Attributes:
        transaction_serial: grows by one with each commit or abort; negative once it is closed,
            or in a process that was forked from the one that opened it.
        cache: the objects that are in memory, by oid.
        changed: oid to object, for the stored objects with changes to commit.
        owner: the identifier of the thread whose transaction is open, 0 between transactions.
    """

    __slots__ = ("__dict__", "__weakref__", "cache", "changed", "owner", "transaction_serial")

    def __init__(self, cache: Cache) -> None:
        self.transaction_serial = 1
        self.cache = cache
        self.changed: dict[bytes, Any] = {}  # of PersistentObject, which is defined above this
        self.owner = 0

    def note_access(self, obj: PersistentBase) -> None:
        """Note that the open transaction has used `obj`."""
        self.claim()
        _set(obj, "_p_serial", self.transaction_serial)
        self.cache.note_use(obj)

    def note_change(self, obj: PersistentBase) -> None:
        """Note that `obj` is to be stored by the next commit."""
        self.claim()
        oid = _get(obj, "_p_oid")
        if oid is not None:
            self.changed[oid] = obj

    def claim(self) -> None:
        """Make the calling thread the owner of the open transaction.

        Raises:
            ConnectionStateError: what `refuse()` finds: closed, or another thread is the owner.
        """
        ident = get_ident()
        if self.owner != ident or self.transaction_serial < 0:
            if self.owner != 0 or self.transaction_serial < 0:
                self.refuse()
            self.owner = ident

    def refuse(self) -> None:
        """Raise what keeps the calling thread from using this connection. For the subclass."""
        raise NotImplementedError


class Cache:
    """The objects of one Connection that are in memory, each once, by oid.

    Every object is held weakly. Those that are not ghosts are held strongly as well, in the order
    of their last use, until `shrink()` makes ghosts of the longest unused.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._objects: WeakValueDictionary[bytes, PersistentBase] = WeakValueDictionary()
        self._recent: dict[bytes, PersistentBase] = {}

    # Any: the objects are those of PersistentObject, which is defined above this module.
    def get(self, oid: bytes) -> Any:
        """Give the object in memory under `oid`, or None."""
        return self._objects.get(oid)

    def get_instance(
        self, oid: bytes, klass: type[PersistentBase], connection: ConnectionBase
    ) -> Any:
        """Give the object in memory under `oid`, or a new ghost of `klass`."""
        found = self._objects.get(oid)
        if found is not None:
            return found
        ghost = PersistentBase.__new__(klass)
        found = self._objects.get(oid)
        if found is not None:
            # Taking memory ran the garbage collector; what that ended asked for the same oid.
            return found
        _set(ghost, "_p_oid", oid)
        _set(ghost, "_p_connection", connection)
        _set(ghost, "_p_status", GHOST)
        self._objects[oid] = ghost
        return ghost

    def __setitem__(self, oid: bytes, obj: PersistentBase) -> None:
        """Put `obj` under `oid` and nowhere else, in place of what was there."""
        if self._objects.get(oid) is obj:
            return
        _leave_cache(obj, None)
        self._recent.pop(oid, None)
        _set(obj, "_p_oid", oid)
        self._objects[oid] = obj

    def __delitem__(self, oid: bytes) -> None:
        """Forget the object under `oid`, if there is one."""
        self._objects.pop(oid, None)
        self._recent.pop(oid, None)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def count_recent(self) -> int:
        """Count the objects that are held strongly."""
        return len(self._recent)

    def note_use(self, obj: PersistentBase) -> None:
        """Make `obj` the last that `shrink()` would take; nothing if it is not in this cache."""
        oid = _get(obj, "_p_oid")
        if self._objects.get(oid) is obj:
            self._recent.pop(oid, None)
            self._recent[oid] = obj

    def shrink(self, transaction_serial: int) -> int:
        """Make ghosts of the longest unused objects until `size` are left.

        Objects that are unsaved, or were used in the transaction `transaction_serial`, stay.

        Returns:
            How many objects became ghosts. The time taken is in proportion to it.
        """
        count = 0
        excess = len(self._recent) - self.size
        while excess > 0 and self._recent:
            oid, obj = next(iter(self._recent.items()))
            if _get(obj, "_p_serial") == transaction_serial:
                break
            # An unsaved object is held by the Connection; its commit puts it back here.
            del self._recent[oid]
            excess -= 1
            if _get(obj, "_p_status") == SAVED:
                obj._p_set_status_ghost()
                count += 1
        return count


class ReferenceWriter:
    """The `persistent_id` of a pickler: a persistent object inside a state becomes (oid, class).

    Attributes:
        oids: the oids that were referred to since `begin()`, the object itself left out.
    """

    def __init__(
        self,
        connection: ConnectionBase,
        new_oid: Callable[[], bytes],
        adopted: list[Any],
    ) -> None:
        """Make the `persistent_id` of one pickler.

        Args:
            connection: the Connection whose objects may be referred to. An object that has none
                yet becomes one of its.
            new_oid: gives the oid of such an object.
            adopted: gets each such object.
        """
        self._connection = connection
        self._new_oid = new_oid
        self._adopted = adopted
        self._own_oid: bytes | None = None
        self.oids: set[bytes] = set()

    def begin(self, oid: bytes | None) -> None:
        """Start to collect the references of the object `oid`."""
        self._own_oid = oid
        self.oids = set()

    def get_refs(self) -> bytes:
        """Give the oids that were referred to, sorted and joined."""
        return b"".join(sorted(self.oids)) if self.oids else b""

    def __call__(self, obj: Any) -> tuple[bytes, type] | None:
        if not issubclass(type(obj), PersistentBase):
            return None
        connection = _get(obj, "_p_connection")
        if connection is None:
            oid = self._adopt(obj)
        elif connection is self._connection and _get(obj, "_p_oid") is not None:
            oid = _get(obj, "_p_oid")
        else:
            raise ForeignObjectError(
                f"tried to store a reference to {type(obj).__qualname__} {_get(obj, '_p_oid')!r},"
                " which belongs to another Connection; get it from this one by its oid,"
                " or copy its contents into a new object"
            )
        if oid != self._own_oid:
            self.oids.add(oid)
        return oid, type(obj)

    def _adopt(self, obj: PersistentBase) -> bytes:
        oid = self._new_oid()
        _check_protocol_value("_p_oid", oid)
        _set(obj, "_p_oid", oid)
        # The list first: what is in it is undone when the commit fails.
        self._adopted.append(obj)
        _set(obj, "_p_connection", self._connection)
        self._connection.cache[oid] = obj
        return oid


def get_state(obj: PersistentBase, slots: tuple[Any, ...]) -> dict[str, Any]:
    """Give a new dict of all attributes: what is in `__dict__`, and the given slots that are set.

    It counts as a use of the object.
    """
    _note_use(obj)
    try:
        state = dict(_get(obj, "__dict__"))
    except AttributeError:
        state = {}  # the class has slots only
    for descriptor in slots:
        try:
            state[descriptor.__name__] = descriptor.__get__(obj)
        except AttributeError:
            continue  # the slot is not set
    return state


def set_state(obj: PersistentBase, state: dict[str, object]) -> None:
    """Set attributes as they were stored: slots through their descriptors, the rest in `__dict__`.

    No `__setattr__` is called, so that frozen classes load, and nothing is noted as changed.
    """
    if not isinstance(state, dict):
        raise TypeError(f"the state of a {type(obj).__qualname__} is a dict, got {state!r:.80}")
    cls = type(obj)
    rest = {}
    for name, value in state.items():
        descriptor = _find_member(cls, name)
        if descriptor is None:
            rest[name] = value
        else:
            descriptor.__set__(obj, value)
    if rest:
        _get(obj, "__dict__").update(rest)


def _find_member(cls: type, name: str) -> Any:
    """Give the slot descriptor of `name` in `cls`, or None."""
    for base in cls.__mro__:
        if name in base.__dict__:
            found = base.__dict__[name]
            # A state that names `_p_oid` and its kin must not reach them.
            return found if type(found) is _MemberDescriptor and name[:3] != "_p_" else None
    return None


_MemberDescriptor = type(PersistentBase.__dict__["_p_oid"])


def clear_state(obj: PersistentBase, slots: tuple[Any, ...]) -> list[Any]:
    """Take away all attributes: what is in `__dict__`, and the given slots.

    Returns:
        What they held: its end may use the object, which has to be a ghost by then.
    """
    held = []
    for descriptor in slots:
        try:
            held.append(descriptor.__get__(obj))
        except AttributeError:
            continue  # the slot was not set
        descriptor.__delete__(obj)
    try:
        attributes = _get(obj, "__dict__")
    except AttributeError:
        return held  # the class has slots only
    held.append(attributes.copy())
    attributes.clear()
    return held


def proof_of(oid: bytes, body: bytes, refs: bytes) -> int:
    """Give the CRC-32 of a record's oid, body (class and state) and references."""
    return crc32(refs, crc32(body, crc32(oid)))


def make_record(oid: bytes, klass: bytes, state: bytes, refs: bytes) -> bytes:
    """Give the record of what was pickled, with its proof; `durus.serialize` draws it.

    The frame opcode of the state's pickle is left out: 9 bytes that only help readers of unbuffered
    files.

    Raises:
        OverflowError: it is too long for a record.
    """
    if state[:3] == _FRAME_START and int.from_bytes(state[3:11], "little") == len(state) - 11:
        state = state[:2] + state[11:]
    body = klass + state
    length_bytes = (len(body) + 4).to_bytes(4, "big")
    return b"".join((oid, length_bytes, body, proof_of(oid, body, refs).to_bytes(4, "big"), refs))


def make_plain_record(_obj: PersistentBase, _klass: bytes, _slots: tuple[Any, ...]) -> bytes | None:
    """Give None: leave every state to a pickler. The twin spares small ones that."""
    return None


def split_proven(oid: bytes, record: bytes) -> tuple[bytes, bytes] | None:
    """Give data and refs of a record, if it is that of `oid`, promises a proof and has it right.

    None is for every other record. `durus.serialize` draws the record.
    """
    if not isinstance(oid, bytes) or not isinstance(record, bytes):
        return None
    end = 12 + int.from_bytes(record[8:12], "big")
    length = len(record)
    if end < 19 or end > length or (length - end) & 7 or record[:8] != oid:
        return None
    data, refs = record[12:end], record[end:]
    if data[:3] != _PROVEN_START:
        return None
    if int.from_bytes(data[-4:], "big") != proof_of(oid, data[:-4], refs):
        return None
    return data, refs


def read_plain_state(
    _data: bytes,
    _find_class: Callable[[str, str], Any],
    _find_object: Callable[[Any], PersistentBase],
) -> Any:
    """Give NotImplemented: leave every state to an Unpickler. The twin spares most of them that."""
    return NotImplemented


class PlainReader:
    """Makes objects of a Connection from records that prove themselves and hold what is usual.

    This one finds none usual, and leaves them to the Connection.

    Attributes:
        classes: the pickle of a class, as records that promise a proof begin with, to that class.
        load_count: how many objects were loaded.
    """

    def __init__(
        self,
        _connection: ConnectionBase,
        _find_class: Callable[[str, str], Any],
        _find_object: Callable[[Any], PersistentBase],
        _setstates: set[Callable[[Any, Any], None]],
    ) -> None:
        self.classes: dict[bytes, type[PersistentBase]] = {}
        self.load_count = 0

    def load(self, _obj: PersistentBase, _record: bytes) -> bool:
        """Load a ghost; False if nothing was done."""
        return False

    def get(self, _oid: bytes, _record: bytes) -> Any:
        """Give the object that a record is of, loaded; None if nothing was done."""
        return None


class RecordFile:
    """What an unpickler reads a state from: the bytes from `start` to `end` of `data`.

    `peek` shows all that is left, so that the unpickler asks once and not for each opcode.
    """

    def __init__(self, data: bytes, start: int, end: int) -> None:
        if not 0 <= start <= end <= len(data):
            raise ValueError("start and end lie outside the data")
        self._data = data
        self._position = start
        self._end = end

    def peek(self, length: int, /) -> bytes:
        """Give all that is left, and stay."""
        return self._data[self._position : self._end]

    def read(self, length: int, /) -> bytes:
        """Give the next bytes, at most `length`; all that is left if it is negative."""
        start = self._position
        self._position = self._end if length < 0 else min(start + length, self._end)
        return self._data[start : self._position]

    def readline(self) -> bytes:
        """Give the bytes up to and with the next newline, or all that is left."""
        newline = self._data.find(b"\n", self._position, self._end)
        return self.read(-1 if newline < 0 else newline + 1 - self._position)


class ReferenceReader:
    """The `persistent_load` of an unpickler: (oid, class) becomes the object of a Connection."""

    def __init__(self, connection: ConnectionBase) -> None:
        self._connection = connection

    def __call__(self, reference: object) -> Any:
        if not isinstance(reference, tuple) or len(reference) != 2:
            raise UnpicklingError(f"a reference is (oid, class), got {reference!r:.80}")
        oid, klass = reference
        if not isinstance(oid, bytes) or len(oid) != 8:
            raise UnpicklingError(f"a reference has an oid of 8 bytes, got {oid!r:.80}")
        if not isinstance(klass, type) or not issubclass(klass, PersistentBase):
            raise UnpicklingError(f"a reference has a persistent class, got {klass!r:.80}")
        return self._connection.cache.get_instance(oid, klass, self._connection)
