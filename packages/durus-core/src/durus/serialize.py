"""The object record: what a storage keeps for each object.

::

    record      oid        8 bytes; the root is 0
                length     u32, of data
                data       class, state and proof
                refs       the oids (8 bytes each) of the persistent objects that the state refers
                           to, sorted, the object itself left out
    data        class      a pickle of the class
                state      a pickle of what `__getstate__` gave, zlib-compressed or not: its first
                           byte is 0x78 or 0x80
                proof      u32, the CRC-32 of oid, class, state and refs, in this order

All integers are unsigned and big-endian. Inside the state a reference to a persistent object is a
persistent id `(oid, class)`.

The class that we write is `80 04 63 module 0a name 0a 2e`: PROTO 4, GLOBAL, STOP. No standard
pickler makes this form, so its first three bytes say that a proof ends `data`. Durus 4.3 writes `80
02 63 module 0a name 0a 71 00 2e` and no proof; it ignores what stands after the end of a state, so
it reads our records. In its records class and state share one memo: the state may refer to the
class as memo entry 0. Any form of pickle is read. Bytes that follow the state of a record which
does not promise a proof are damage.

Example: a `durus.persistent.Persistent` with oid 1 and `x = 2`::

    00 00 00 00 00 00 00 01                                                       oid
    00 00 00 30                                                                   length 48
    80 04 63 64 75 72 75 73 2e 70 65 72 73 69 73 74 65 6e 74 0a                   class
    50 65 72 73 69 73 74 65 6e 74 0a 2e
    80 04 7d 94 8c 01 78 94 4b 02 73 2e                                           state {"x": 2}
    72 f4 be cd                                                                   proof
                                                                                  no refs
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from io import BytesIO
from pickle import Pickler, PicklingError, Unpickler, UnpicklingError, _Pickler, dumps
from struct import Struct
from types import MemberDescriptorType
from typing import Any

from durus.broken import BrokenInstance, BrokenObject, broken_class
from durus.class_finder import ClassFinder
from durus.error import CorruptRecordError, DurusError, UnpicklableError
from durus.persistent import (
    GHOST,
    ConnectionBase,
    PersistentBase,
    PersistentObject,
    PlainReader,
    RecordFile,
    ReferenceReader,
    ReferenceWriter,
    data_slots,
    get_state,
    make_plain_record,
    make_record,
    plain_setstates,
    proof_of,
    read_plain_state,
    set_status,
    split_proven,
)

__all__ = [
    "PICKLE_PROTOCOL",
    "ROOT_OID",
    "ObjectReader",
    "ObjectWriter",
    "WritableConnection",
    "check_proof",
    "class_pickle",
    "extract_class_name",
    "extract_class_path",
    "open_record",
    "pack_record",
    "seal",
    "split_oids",
    "unpack_record",
]

ROOT_OID = b"\0" * 8
PICKLE_PROTOCOL = 4

_HEADER = Struct(">8sL")
_PROOF = Struct(">L")

# PROTO 4, GLOBAL: how the data of a record begins that ends with a proof.
_PROVEN_START = b"\x80\x04c"
_COMPRESSED_START_BYTE = 0x78

# Measured on the states of small objects, documents of 2 KiB and BTree nodes: below this, zlib
# takes longer than the rest of a commit and saves next to nothing.
_COMPRESSION_MINIMUM_BYTES = 4096
_COMPRESSION_PROBE_BYTES = 32768

# The memo of a state full of references has an entry for every 8 bytes.
_LARGE_STATE_BYTES = 2560

# What a pickler raises for what it cannot pickle; other exceptions come from a class.
_UNPICKLABLE = (PicklingError, TypeError, AttributeError, RecursionError)

# How far an UnpicklableError leads to its cause.
_PATH_STEPS = 16

_FRAME_START = b"\x80\x04\x95"
_FRAME_LENGTH = Struct("<Q")

# What a damaged pickle makes the unpickler raise; other exceptions come from the classes it names.
_DAMAGE = (UnpicklingError, EOFError, IndexError, UnicodeDecodeError, OverflowError, zlib.error)

# What both may raise. Of a record that proved itself it comes from a class.
_DAMAGE_OR_CLASS = (ValueError, TypeError, LookupError, AttributeError, MemoryError)


def pack_record(oid: bytes, data: bytes, refs: bytes) -> bytes:
    """Join the parts of a record.

    Args:
        oid: 8 bytes.
        data: class and state, and a proof if it was sealed.
        refs: the oids that the state refers to, sorted and joined.
    """
    return b"".join((oid, _PROOF.pack(len(data)), data, refs))


def unpack_record(record: bytes) -> tuple[bytes, bytes, bytes]:
    """Take a record apart.

    Returns:
        oid, data and refs, as in `pack_record`.

    Raises:
        CorruptRecordError: the lengths do not fit.
    """
    if len(record) < 12:
        raise CorruptRecordError(
            f"tried to read a record, found {len(record)} bytes; the shortest has 12"
        )
    oid, length_bytes = _HEADER.unpack_from(record)
    end = 12 + length_bytes
    if end > len(record) or (len(record) - end) % 8:
        raise CorruptRecordError(
            f"tried to read the record of oid {int.from_bytes(oid, 'big')}, found {len(record)}"
            f" bytes where its data alone claims {length_bytes} and references take 8 each",
            oid=oid,
        )
    return oid, record[12:end], record[end:]


def split_oids(s: bytes) -> list[bytes]:
    """Cut joined oids into a list of 8 bytes each.

    Raises:
        CorruptRecordError: the length is not a multiple of 8.
    """
    if len(s) % 8:
        raise CorruptRecordError(f"tried to split oids of 8 bytes each, found {len(s)} bytes")
    return [s[i : i + 8] for i in range(0, len(s), 8)]


def extract_class_name(record: bytes) -> bytes:
    """Give the name of a record's class, without the module. Nothing is imported.

    Source: durus.serialize of Durus 4.3, which gives `b"?"` where it finds none.
    """
    return _split_class(record)[1]


def extract_class_path(record: bytes) -> str:
    """Give "module.Name" of a record's class, "?" where there is none. Nothing is imported."""
    module, name = _split_class(record)
    return (
        f"{module.decode('utf-8', 'replace')}.{name.decode('utf-8', 'replace')}" if module else "?"
    )


def _split_class(record: bytes) -> tuple[bytes, bytes]:
    parts = record[12:].split(b"\n", 2)
    if len(parts) < 3 or parts[0][:1] != b"\x80" or parts[0][2:3] != b"c":
        return b"", b"?"
    return parts[0][3:], parts[1]


def seal(oid: bytes, body: bytes, refs: bytes) -> bytes:
    """Give the data of a record: `body` and its proof.

    Args:
        oid: 8 bytes.
        body: class and state; the class in the form that promises a proof.
        refs: the oids that the state refers to, sorted and joined.
    """
    return body + _PROOF.pack(proof_of(oid, body, refs))


def check_proof(record: bytes, path: str | None = None) -> bool:
    """Tell whether a record proves itself.

    Args:
        record: the record.
        path: where it came from, for the error.

    Returns:
        True if its proof is right, False if it is a record (of Durus 4.3) that carries none.

    Raises:
        CorruptRecordError: the record is malformed, or its proof is wrong.
    """
    return _is_proven(*unpack_record(record), path)


def open_record(oid: bytes, record: bytes, path: str | None = None) -> tuple[bytes, bytes]:
    """Take apart what was loaded, and check that it is what was stored.

    Args:
        oid: what was asked for.
        record: what came.
        path: where it came from, for the error.

    Returns:
        data and refs.

    Raises:
        CorruptRecordError: the record is malformed, is another's, or its proof is wrong.
    """
    parts = split_proven(oid, record)
    if parts is not None:
        return parts
    found, data, refs = unpack_record(record)
    if found != oid:
        raise CorruptRecordError(
            f"tried to load oid {int.from_bytes(oid, 'big')}{_from(path)}, found the record of"
            f" oid {int.from_bytes(found, 'big')}; restore it from a backup",
            path=path,
            oid=oid,
        )
    _is_proven(oid, data, refs, path)
    return data, refs


def _is_proven(oid: bytes, data: bytes, refs: bytes, path: str | None) -> bool:
    if data[:3] != _PROVEN_START:
        return False
    if data[-4:] != _PROOF.pack(proof_of(oid, data[:-4], refs)):
        raise CorruptRecordError(
            f"the record of oid {int.from_bytes(oid, 'big')}{_from(path)} does not prove itself:"
            " its CRC-32 is wrong; restore it from a backup",
            path=path,
            oid=oid,
        )
    return True


def _from(path: str | None) -> str:
    return f" from {path}" if path else ""


class ObjectWriter:
    """Makes the records of one commit, with one pickler.

    Each new object that a state refers to becomes one of the connection, with a new oid;
    `gen_new_objects` yields it so that it is stored as well.
    """

    def __init__(self, connection: WritableConnection) -> None:
        self._adopted = connection.adopted
        self._chunks = _Chunks()
        self._references = ReferenceWriter(connection, connection.new_oid, self._adopted)
        # Made for the first state that needs it.
        self._pickler: Pickler | None = None
        # Of each class its pickle, and its slots if it leaves __getstate__ as it is.
        self._kinds: dict[type, tuple[bytes, tuple[MemberDescriptorType, ...] | None]] = {}

    def gen_new_objects(self, obj: PersistentObject) -> Iterator[PersistentObject]:
        """Yield `obj`, then each new object that the states taken meanwhile refer to."""
        adopted = self._adopted
        count = len(adopted)
        waiting = [obj]
        while waiting:
            yield waiting.pop()
            if len(adopted) > count:
                waiting += adopted[count:]
                count = len(adopted)

    def get_record(self, obj: PersistentObject) -> bytes:
        """Give the record of an object that has an oid.

        Raises:
            UnpicklableError: the state holds something that cannot be pickled.
            ForeignObjectError: the state refers to an object of another Connection.
        """
        klass: type = type(obj)
        if klass not in self._kinds:
            if isinstance(obj, BrokenObject):
                return pack_record(obj._p_oid, obj.stored_data, obj.stored_refs)
            self._kinds[klass] = class_pickle(klass), _plain_slots(klass)
        pickled_class, slots = self._kinds[klass]
        if slots is not None:
            record: bytes | None = make_plain_record(obj, pickled_class, slots)
            if record is not None:
                return record
        oid = obj._p_oid
        self._references.begin(oid)
        if slots is None:
            state = obj.__getstate__()
        else:
            state = get_state(obj, slots)
            state.pop("__orig_class__", None)
        pickled = self._pickle(obj, state)
        return make_record(oid, pickled_class, pickled, self._references.get_refs())

    def get_state(self, obj: PersistentObject) -> tuple[bytes, bytes]:
        """Pickle an object that has an oid.

        Returns:
            data (sealed) and refs, for `pack_record`.

        Raises:
            UnpicklableError, ForeignObjectError: as `get_record`.
        """
        _, data, refs = unpack_record(self.get_record(obj))
        return data, refs

    def close(self) -> None:
        """Break the cycle between the pickler and this writer."""
        del self._pickler, self._references

    def _pickle(self, obj: PersistentObject, state: object) -> bytes:
        chunks = self._chunks
        chunks.clear()
        pickler, self._pickler = self._pickler, None
        if pickler is None:
            pickler = _make_pickler(chunks, self._references)
        try:
            pickler.dump(state)
        except BaseException as error:
            # Its memo knows what this state began with.
            pickler = _make_pickler(chunks, self._references)
            if not isinstance(error, _UNPICKLABLE):
                raise
            self._pickle_with_broken(obj, state, error)
        pickled = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if len(pickled) < _LARGE_STATE_BYTES:
            # Of a larger one it is given up too: that takes time in proportion to the most that a
            # memo ever held.
            pickler.clear_memo()
            self._pickler = pickler
            return pickled
        if len(pickled) < _COMPRESSION_MINIMUM_BYTES:
            return pickled
        return _shrink(_without_frame(pickled))

    def _pickle_with_broken(self, obj: PersistentObject, state: object, error: Exception) -> None:
        """Try again with a pickler that can name classes which cannot be imported."""
        if broken_class.cache_info().currsize:
            self._chunks.clear()
            self._references.begin(obj._p_oid)
            try:
                _make_broken_pickler(self._chunks, self._references).dump(state)
            except _UNPICKLABLE as second_error:
                error = second_error
            else:
                return
        raise _explain_unpicklable(obj, state, error) from error


class WritableConnection(ConnectionBase):
    """What an ObjectWriter asks of a Connection.

    Attributes:
        adopted: the new objects that an ObjectWriter has made this connection's, in that order.
    """

    __slots__ = ()

    adopted: list[PersistentObject]

    def new_oid(self) -> bytes:
        """Give the oid of a new object."""
        raise NotImplementedError


def _plain_slots(klass: type[PersistentObject]) -> tuple[MemberDescriptorType, ...] | None:
    """Give the slots of a class whose states `get_state` makes as its `__getstate__` would."""
    if (
        klass.__getstate__ is PersistentObject.__getstate__
        and klass.__getattribute__ is PersistentObject.__getattribute__
    ):
        return data_slots(klass)
    return None


class _Chunks(list[bytes]):
    """A file for a pickler, which writes a state in one piece unless it holds very large bytes."""

    write = list.append


class _BrokenPickler(_Pickler):
    """A pickler in Python, and slow, that names a class which cannot be imported as it was stored.

    The one in C imports whatever it names.
    """

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if isinstance(obj, type) and issubclass(obj, (BrokenObject, BrokenInstance)):
            named = b"c%b\n%b\n" % (obj.__module__.encode(), obj.__qualname__.encode())
            self.write(named)  # type: ignore[attr-defined]  # typeshed lacks it
            self.memoize(obj)  # type: ignore[attr-defined]  # typeshed lacks it
        else:
            super().save_global(obj, name)  # type: ignore[misc]  # typeshed lacks it


class _StatePickler(Pickler):
    """A pickler that takes a `persistent_id` of its own."""


def _make_pickler(file: _Chunks, persistent_id: Callable[[Any], Any]) -> Pickler:
    pickler = _StatePickler.__new__(_StatePickler)
    # Before __init__, which looks for it: Python 3.13.0 does so only there.
    pickler.persistent_id = persistent_id  # type: ignore[method-assign]  # as documented
    pickler.__init__(file, PICKLE_PROTOCOL)  # type: ignore[misc]  # not made by calling the class
    return pickler


def _make_broken_pickler(file: _Chunks, persistent_id: Callable[[Any], Any]) -> _Pickler:
    pickler = _BrokenPickler(file, PICKLE_PROTOCOL)
    pickler.persistent_id = persistent_id  # type: ignore[method-assign, assignment]  # as documented
    return pickler


@lru_cache(maxsize=4096)
def class_pickle(klass: type) -> bytes:
    """Give the pickle of a class in the form that promises a proof.

    Raises:
        UnpicklableError: the class is not found under its name, so it could not be loaded again.
    """
    module, name = klass.__module__, klass.__qualname__
    if not issubclass(klass, BrokenObject):
        try:
            dumps(klass, PICKLE_PROTOCOL)
        except (PicklingError, AttributeError) as error:
            raise UnpicklableError(
                f"cannot store a {module}.{name}: the class is not found under this name;"
                " define it at the top level of an importable module"
            ) from error
    return b"%b%b\n%b\n." % (_PROVEN_START, module.encode(), name.encode())


def _without_frame(pickled: bytes) -> bytes:
    """Take out the frame opcode, 9 bytes that only help readers of unbuffered files."""
    if (
        pickled[:3] == _FRAME_START
        and _FRAME_LENGTH.unpack_from(pickled, 3)[0] == len(pickled) - 11
    ):
        return pickled[:2] + pickled[11:]
    return pickled


def _shrink(state: bytes) -> bytes:
    """Compress a pickled state if that pays: not a small one."""
    probe = state[:_COMPRESSION_PROBE_BYTES]
    compressed = zlib.compress(probe)
    if len(compressed) > 0.9 * len(probe):
        return state
    if len(probe) < len(state):
        compressed = zlib.compress(state)
    return compressed if len(compressed) <= 0.9 * len(state) else state


def _explain_unpicklable(
    obj: PersistentObject, state: object, error: Exception
) -> UnpicklableError:
    path, culprit = _find_unpicklable(state)
    klass = type(culprit)
    cannot = "cannot be"
    if isinstance(error, RecursionError):
        cannot = "is nested too deeply to be"
        advice = "leave it out in __getstate__, or keep its parts in persistent objects"
    elif klass.__module__ != "builtins" and not _can_pickle(klass):
        advice = "define its class at the top level of a module that can be imported"
    else:
        advice = "leave it out in __getstate__, or keep what it was made from"
    return UnpicklableError(
        # Not the class's own __repr__, which may do anything.
        f"cannot store {PersistentObject.__repr__(obj)}: {type(obj).__qualname__}{path} is a"
        f" {klass.__module__}.{klass.__qualname__}, which {cannot} pickled ({error!s:.200});"
        f" {advice}",
        path,
    )


def _find_unpicklable(value: object) -> tuple[str, object]:
    """Give the path to a part of a state that cannot be pickled, the innermost of few steps."""
    path = ""
    for _ in range(_PATH_STEPS):
        for step, part in _parts(value, is_state=not path):
            if not _can_pickle(part):
                path, value = path + step, part
                break
        else:
            break
    return path, value


def _parts(value: object, is_state: bool) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield f" key {_show(key)}", key
            yield f".{key}" if is_state else f"[{_show(key)}]", part
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif isinstance(value, (set, frozenset)):
        for part in value:
            yield f" member {_show(part)}", part
    # What a persistent object holds stands in a record of its own.
    elif not isinstance(value, PersistentBase):
        for name, part in getattr(value, "__dict__", {}).items():
            yield f".{name}", part


def _show(value: object) -> str:
    try:
        return f"{value!r:.40}"
    except Exception:  # noqa: BLE001 - a __repr__ may raise anything, and this explains an error
        return f"of {type(value).__qualname__}"


def _can_pickle(value: object) -> bool:
    makers: list[Callable[..., Any]] = [_make_pickler]
    if broken_class.cache_info().currsize:
        makers.append(_make_broken_pickler)
    return any(_can_pickle_with(maker, value) for maker in makers)


def _can_pickle_with(maker: Callable[..., Any], value: object) -> bool:
    try:
        # A reference to a persistent object names its class.
        maker(_Chunks(), lambda o: type(o) if isinstance(o, PersistentBase) else None).dump(value)
    except Exception:  # noqa: BLE001 - whatever it is, this part is a culprit
        return False
    return True


class ObjectReader:
    """Makes objects and states from records, for one Connection.

    Attributes:
        plain: what to ask first; most records need no more.
    """

    def __init__(self, connection: ConnectionBase, find_class: ClassFinder | None = None) -> None:
        """Make a reader.

        Args:
            connection: whose objects the references in a state become.
            find_class: which classes stored data may name; without one, all that can be imported.
        """
        self._find_class = find_class or ClassFinder()
        self._find_object: Callable[[Any], PersistentBase] = ReferenceReader(connection)
        if self._find_class.broken_objects:
            self._find_object = partial(_find_broken_object, self._find_object)
        self.plain = PlainReader(connection, self._find_class, self._find_object, plain_setstates)
        self._load_count = 0

    def get_load_count(self) -> int:
        """Count the states that were read."""
        return self._load_count + self.plain.load_count

    def get_class(self, data: bytes) -> type[PersistentBase]:
        """Give the class that a record's data begins with.

        Raises:
            UnknownClassError: it cannot be imported, or is not trusted.
            CorruptRecordError: there is none, or it is not persistent.
        """
        try:
            start = _find_state(data)
            if start:
                module, name = data[3 : start - 2].decode().split("\n")
                klass = self._find_class(module, name)
            else:
                klass = self._make_unpickler(BytesIO(data)).load()
        except (*_DAMAGE, *_DAMAGE_OR_CLASS) as error:
            # A byte changed in the first three, which say whether a proof follows, leads here.
            raise CorruptRecordError(
                f"a record does not begin with its class: {error!r}"
            ) from error
        if isinstance(klass, type) and issubclass(klass, BrokenInstance):
            klass = klass.persistent_class
        if not isinstance(klass, type) or not issubclass(klass, PersistentBase):
            raise CorruptRecordError(
                f"a record is of {klass!r:.80}, which is not a persistent class"
            )
        if start:
            self.plain.classes[data[:start]] = klass
        return klass

    def get_ghost(self, data: bytes) -> PersistentBase:
        """Give a new ghost of the class that a record's data begins with; it has no oid yet."""
        ghost = PersistentBase.__new__(self.get_class(data))
        set_status(ghost, GHOST)
        return ghost

    def get_state(self, data: bytes, load: bool = True) -> Any:
        """Give the state in a record's data; with `load=False` its pickle, decompressed.

        Raises:
            CorruptRecordError: the data is damaged.
            UnknownClassError: the state names a class that cannot be imported, or is not trusted.
        """
        if not load:
            return self.get_state_pickle(data)
        self._load_count += 1
        state = read_plain_state(data, self._find_class, self._find_object)
        if state is not NotImplemented:
            return state
        start = 0
        try:
            start = _find_state(data)
            return self._read_proven(data, start) if start else self._read_unproven(data)
        except _DAMAGE as error:
            raise CorruptRecordError(f"a record's state is damaged: {error!r}") from error
        except _DAMAGE_OR_CLASS as error:
            if start or isinstance(error, DurusError):
                raise
            raise CorruptRecordError(
                f"a record's state is damaged, or its classes refuse it: {error!r}"
            ) from error

    def get_state_pickle(self, data: bytes) -> bytes:
        """Give the pickle of the state, decompressed.

        Raises:
            CorruptRecordError: the data is damaged.
        """
        end = len(data) - _PROOF.size
        try:
            start = _find_state(data)
            if not start:
                file = BytesIO(data)
                self._make_unpickler(file).load()
                start, end = file.tell(), len(data)
            if data[start] == _COMPRESSED_START_BYTE:
                return _decompress(data, start, end)
            return data[start:end]
        except (*_DAMAGE, *_DAMAGE_OR_CLASS) as error:
            raise CorruptRecordError(f"a record's state is damaged: {error!r}") from error

    def _read_proven(self, data: bytes, start: int) -> Any:
        end = len(data) - _PROOF.size
        if start >= end:
            raise UnpicklingError("there is no state before the proof")
        if data[start] == _COMPRESSED_START_BYTE:
            data, start = _decompress(data, start, end), 0
            end = len(data)
        return self._make_unpickler(RecordFile(data, start, end)).load()

    def _read_unproven(self, data: bytes) -> Any:
        file = BytesIO(data)
        unpickler = self._make_unpickler(file)
        unpickler.load()
        start = file.tell()
        if data[start] == _COMPRESSED_START_BYTE:
            file.truncate(start)
            file.write(_decompress(data, start, len(data)))
            file.seek(start)
        state = unpickler.load()
        if file.read(1):
            raise UnpicklingError("bytes follow the state, and no proof was promised")
        return state

    def _make_unpickler(self, file: BytesIO | RecordFile) -> Unpickler:
        # One for each record: clearing the memo of a used one does not clear its count of entries,
        # by which the pickles that we write refer to them.
        unpickler = _StateUnpickler.__new__(_StateUnpickler)
        unpickler.find_class = self._find_class  # type: ignore[method-assign]  # spares a Python call
        # Before __init__, which looks for it: Python 3.13.0 does so only there.
        unpickler.persistent_load = self._find_object  # type: ignore[method-assign]  # as documented
        unpickler.__init__(file)  # type: ignore[misc]  # not made by calling the class
        return unpickler


class _StateUnpickler(Unpickler):
    """An unpickler that takes a `find_class` and a `persistent_load` of its own."""


def _find_broken_object(find_object: Callable[[Any], PersistentBase], reference: Any) -> Any:
    oid, klass = reference
    return find_object((oid, getattr(klass, "persistent_class", klass)))


def _find_state(data: bytes) -> int:
    """Give where the state starts in data that promises a proof, 0 for other data."""
    if data[:3] != _PROVEN_START:
        return 0
    name = data.find(b"\n") + 1
    end = data.find(b"\n", name) + 1 if name else 0
    if not end:
        raise UnpicklingError("the class has no end")
    return end + 1


def _decompress(data: bytes, start: int, end: int) -> bytes:
    decompressor = zlib.decompressobj()
    state = decompressor.decompress(data[start:end])
    if not decompressor.eof or decompressor.unused_data:
        raise UnpicklingError("the compressed state does not end where it should")
    return state
