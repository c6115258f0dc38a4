"""A stored state as plain values: how `durus.inspection` reads one."""

from __future__ import annotations

import copyreg
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from pickle import Unpickler, UnpicklingError
from pickletools import genops, markobject
from typing import Any
from uuid import UUID

from durus.class_finder import ClassFinder
from durus.error import CorruptRecordError, UnknownClassError
from durus.serialize import _decompress, check_proof, unpack_record

__all__ = ["UNTRUSTING", "Instance", "InstanceClass", "Reference", "ValueFinder", "read_values"]

_COMPRESSED_START = b"x"

# The hash of one level takes some 100 bytes of a stack of 8 MiB, or less in a thread.
_DEEPEST_TUPLE = 10_000
_TUPLE_CODES = (b"\x85", b"\x86", b"\x87", b"t")


@dataclass(frozen=True, slots=True)
class Reference:
    """A persistent object, where a state refers to it.

    Attributes:
        oid: 8 bytes.
        class_name: "module.Name" as the reference names it; the object's record may name another.
    """

    oid: bytes
    class_name: str

    def __reduce__(self) -> tuple[Any, ...]:
        return Reference, (self.oid, self.class_name)

    def __setstate__(self, state: object) -> None:
        raise UnpicklingError("stored data changes a reference")

    def __repr__(self) -> str:
        return f"<{self.class_name} {int.from_bytes(self.oid, 'big')}>"


class _Fixed(type):
    """A class that stored data cannot set attributes of."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise TypeError(f"stored data sets {name!r:.80} of the class {cls.__name__}")


class InstanceClass(_Fixed):
    """What a class or function is that a state names and that was not imported.

    Where a state holds it as a value, it stays one of these.
    """

    class_name: str

    def __repr__(cls) -> str:
        return f"<class {cls.class_name}>"


class Instance(metaclass=InstanceClass):
    """An object in a state that is no builtin value, of a class that was not imported.

    Attributes:
        class_name: "module.Name" of the class, or of the function that would have made it.
        args: what it was to be made with, a tuple.
        kwargs: the same by name.
        state: what its `__setstate__` was to be given: usually a dict of its attributes, or a
            tuple of two (those in its `__dict__`, and those in slots); None if there is none.
        items: what was to be appended to it, a list, empty unless it is one.
        pairs: the keys and values that were to be set in it, a list, empty unless it is a dict.
    """

    __slots__ = ("args", "items", "kwargs", "pairs", "state")

    class_name = "?"

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: Any
    items: list[Any]
    pairs: list[tuple[Any, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Instance:  # noqa: PYI034 - args are kept
        self = object.__new__(cls)
        self.args, self.kwargs, self.state, self.items, self.pairs = args, kwargs, None, [], []
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """Take an item of a list."""
        self.items.append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))

    def __repr__(self) -> str:
        return f"<a {self.class_name}>"


def read_values(record: bytes, find_class: ValueFinder) -> tuple[str, Any]:
    """Give the class name and the state of a record.

    Raises:
        CorruptRecordError: as `durus.inspection.read_state`.
    """
    oid, data, _ = unpack_record(record)
    body = data[:-4] if check_proof(record) else data
    try:
        try:
            return _unpickle(body, find_class, "utf-8", "surrogateescape")
        except Exception as error:
            if isinstance(error, UnpicklingError) or body[:2] > b"\x80\x02":
                raise
            return _unpickle(body, find_class, "latin-1", "strict")
    except Exception as error:  # a damaged or hostile pickle may raise anything
        raise CorruptRecordError(
            f"the state of oid {int.from_bytes(oid, 'big')} cannot be read: {error!r:.400};"
            " restore it from a backup",
            oid=oid,
        ) from error


def _unpickle(body: bytes, find_class: ValueFinder, encoding: str, errors: str) -> tuple[str, Any]:
    file = BytesIO(body)
    depths = _TupleDepths()
    depths.check(body, 0)
    # One for both: in the records of Durus 4.3 class and state share a memo.
    unpickler = _Unpickler(file, find_class, encoding, errors)
    class_name = _class_name(unpickler.load())
    start = file.tell()
    if body[start : start + 1] == _COMPRESSED_START:
        state = _decompress(body, start, len(body))
        depths.check(state, 0)
        file.truncate(start)
        file.write(state)
        file.seek(start)
    else:
        depths.check(body, start)
    state = unpickler.load()
    if file.read(1):
        raise UnpicklingError("bytes follow the state")
    return class_name, state


class _TupleDepths:
    """Refuses pickles in which tuples are nested so deeply that their hash overflows the C stack.

    As a key or a member of a set such a tuple would end the process; Python has no check there. A
    pickle is looked at only if it has the bytes for as many tuples: that takes time.
    """

    def __init__(self) -> None:
        self._memo: dict[Any, int] = {}

    def check(self, pickled: bytes, start: int) -> None:
        """Raise UnpicklingError if the pickle at `start` nests tuples too deeply."""
        if len(pickled) - start <= _DEEPEST_TUPLE:
            return
        if sum(pickled.count(code, start) for code in _TUPLE_CODES) > _DEEPEST_TUPLE:
            self._check(BytesIO(pickled[start:]))

    def _check(self, file: BytesIO) -> None:
        # Of each value on the stack of the unpickler how deep it is; a mark is None.
        stack: list[int | None] = []
        for opcode, argument, _ in genops(file):
            name = opcode.name
            if name.startswith("TUPLE"):
                count = int(name[5:]) if name[5:] else _count_to_mark(stack)
                parts = [depth or 0 for depth in stack[len(stack) - count :]]
                del stack[len(stack) - count - (name == "TUPLE") :]
                stack.append(1 + max(parts, default=0))
                if stack[-1] == _DEEPEST_TUPLE:
                    raise UnpicklingError(f"tuples are nested {_DEEPEST_TUPLE:,} deep")
            elif name.endswith("PUT"):
                self._memo[argument] = stack[-1] or 0
            elif name == "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1] or 0
            elif name.endswith("GET"):
                stack.append(self._memo.get(argument, 0))
            elif name == "DUP":
                stack.append(stack[-1])
            else:
                before = opcode.stack_before
                if markobject in before:
                    del stack[len(stack) - _count_to_mark(stack) - 1 :]
                    before = before[: before.index(markobject)]
                del stack[len(stack) - len(before) :]
                stack.extend(None if each is markobject else 0 for each in opcode.stack_after)


def _count_to_mark(stack: list[int | None]) -> int:
    """Count the values above the last mark."""
    for count, depth in enumerate(reversed(stack)):
        if depth is None:
            return count
    raise UnpicklingError("a mark was expected")


class _Unpickler(Unpickler):
    """Gives a Reference for each persistent object."""

    def __init__(self, file: BytesIO, find_class: ValueFinder, encoding: str, errors: str) -> None:
        super().__init__(file, encoding=encoding, errors=errors)
        self._find = find_class
        self._encoding, self._errors = encoding, errors

    def find_class(self, module: str, name: str) -> Any:
        return self._find(module, name)

    def persistent_load(self, pid: Any) -> Reference:
        if not isinstance(pid, tuple) or len(pid) != 2:
            raise UnpicklingError(f"a reference is (oid, class), got {pid!r:.80}")
        oid, klass = pid
        if isinstance(oid, str):  # of Python 2
            oid = oid.encode(self._encoding, self._errors)
        if not isinstance(oid, bytes) or len(oid) != 8:
            raise UnpicklingError(f"a reference has an oid of 8 bytes, got {oid!r:.80}")
        return Reference(oid, _class_name(klass))


def _class_name(klass: Any) -> str:
    if isinstance(klass, InstanceClass):
        return klass.class_name
    if not isinstance(klass, type):
        raise UnpicklingError(f"a class was expected, got {klass!r:.80}")
    return f"{klass.__module__}.{klass.__qualname__}"


class ValueFinder:
    """What a name in a state means here: a class of values, a trusted one, or a stand-in."""

    def __init__(self, trust: Iterable[str] | None) -> None:
        self._find_class = ClassFinder(trust)

    def __call__(self, module: str, name: str) -> Any:
        if module.startswith("durus."):
            # Those of persistent objects are only named.
            return _stand_in(module, name)
        try:
            found = self._find_class(module, name)
            return _CAREFUL.get(found, found)
        except UnknownClassError:
            return _stand_in(module, name)


@lru_cache(maxsize=4096)
def _stand_in(module: str, name: str) -> InstanceClass:
    return InstanceClass(
        name.rpartition(".")[2] or "?",
        (Instance,),
        {"__slots__": (), "class_name": f"{module}.{name}"},
    )


# What stored data could do with the classes of values that is more than to make a small value: set
# attributes of those that are written in Python, and have a huge value made from a short record.
# With a range it could make others huge, so that is an Instance.


@dataclass(frozen=True, slots=True)
class _Maker:
    """Stands for a class or function, and looks at its arguments first."""

    name: str
    make: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.make(*args)

    def __repr__(self) -> str:
        return f"<class {self.name!r}>"

    def __setstate__(self, state: object) -> None:
        raise UnpicklingError(f"stored data changes {self.name}")


class _Uuid(UUID, metaclass=_Fixed):
    __slots__ = ()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Without a check this would be a UUID that cannot even be shown.
        UUID.__init__(self, int=state["int"])

    def __repr__(self) -> str:
        return f"UUID('{self}')"


def _make_fraction(*args: Any) -> Fraction:
    if args and isinstance(args[0], str) and "e" in args[0].lower():
        raise UnpicklingError("a fraction is stored with an exponent")
    return Fraction(*args)


def _make_bytes(*args: Any) -> bytes:
    _refuse_number(*args)
    return bytes(*args)


def _make_bytearray(*args: Any) -> bytearray:
    _refuse_number(*args)
    return bytearray(*args)


def _refuse_number(*args: Any) -> None:
    if args and isinstance(args[0], int):
        raise UnpicklingError("bytes are stored as a number of zeros")


def _make_slice(*args: Any) -> slice:
    # Slices have a hash from Python 3.12 on, which goes as deep as they are nested.
    if any(isinstance(arg, (slice, tuple)) for arg in args):
        raise UnpicklingError("a slice is stored of slices or tuples")
    return slice(*args)


def _make_new(cls: Any, *args: Any) -> Any:
    return cls.__new__(cls, *args)


def _reconstruct(cls: Any, base: Any, state: Any) -> Any:
    # What the pickles of protocol 0 and 1 ask for does not go with a stand-in.
    if isinstance(cls, InstanceClass):
        return cls() if state is None else cls(state)
    return base.__new__(cls, *([] if base is object else [state]))


_CAREFUL: dict[Any, Any] = {
    range: _stand_in("builtins", "range"),
    UUID: _Uuid,
    Counter: _Maker("collections.Counter", Counter),
    Fraction: _Maker("fractions.Fraction", _make_fraction),
    slice: _Maker("slice", _make_slice),
    bytes: _Maker("bytes", _make_bytes),
    bytearray: _Maker("bytearray", _make_bytearray),
    copyreg.__newobj__: _Maker("copyreg.__newobj__", _make_new),  # type: ignore[attr-defined]  # typeshed lacks it
    copyreg._reconstructor: _Maker("copyreg._reconstructor", _reconstruct),  # type: ignore[attr-defined]  # typeshed lacks it
}

UNTRUSTING = ValueFinder(())
