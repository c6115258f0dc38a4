"""A stored state as a graph of plain values, exactly as it was pickled, with nothing imported.

What the unpickler would make of a class stands here as a `Made`: which class or function, and what
it was to be given. Sets and dicts keep the order in which they were stored, and every value that
the state refers to twice is one object in the graph.

None, bool, int, float, complex, str, bytes, bytearray, list and tuple stand for themselves, and so
does `timezone.utc`, of which there is only one.
"""

from __future__ import annotations

import pickle
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from io import BytesIO
from typing import Any, ClassVar

from durus.error import CorruptRecordError
from durus.serialize import check_proof, open_record
from durus.utils import str_to_int8

__all__ = ["Global", "Made", "Members", "Pairs", "Reference", "read_graph"]

# No module of an application is called so, and Python 3 still writes these names at protocol 2.
_PYTHON2_MODULES = frozenset({"__builtin__", "copy_reg"})


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function, by name."""

    module: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Global:
        """Take apart "module.Name", or "module:Outer.Inner".

        Raises:
            ValueError: no class can be called so.
        """
        module, _, name = text.rpartition(":" if ":" in text else ".")
        if not module or not name or "\n" in text:
            raise ValueError(f'a class is named as "module.Name", got {text!r:.80}')
        text.encode()
        return cls(module, name)

    def __str__(self) -> str:
        is_nested = "." in self.name or ":" in self.module
        return f"{self.module}{':' if is_nested else '.'}{self.name}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A persistent object, in its place.

    Attributes:
        oid: 8 bytes.
        klass: the class that is stored with the reference.
    """

    oid: bytes
    klass: Global


@dataclass(eq=False, slots=True)
class Pairs:
    """A dict: its keys and values in the order in which they are set."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))


@dataclass(eq=False, slots=True)
class Members:
    """A set, or a frozenset: its members in the order in which they are added."""

    items: list[Any]
    is_frozen: bool = False


@dataclass(eq=False, slots=True)
class Made:
    """An object of any other class.

    Attributes:
        maker: the class or function: a `Global`, or a `Made` that gives one.
        args: what it is made with.
        kwargs: the same by name, or None.
        is_called: `maker(*args)` makes it; else `maker.__new__(maker, *args)` does.
        items: what is appended to it.
        pairs: the keys and values that are set in it.
        has_state: it is given `state` after all that.
        state: the same.
    """

    maker: Any
    args: tuple[Any, ...] = ()
    kwargs: Pairs | None = None
    is_called: bool = False
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    has_state: bool = False
    state: Any = None

    def append(self, item: Any) -> None:
        """Take an item of a list."""
        self.items.append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))


def read_graph(oid: bytes, record: bytes, path: str | None = None) -> tuple[Global, Any]:
    """Give class and state of a record.

    Args:
        oid: what was asked for.
        record: what came.
        path: where it came from, for the error.

    Raises:
        CorruptRecordError: the record is damaged, or no pickler of Python 3 has made it.
    """
    data, _ = open_record(oid, record, path)
    if check_proof(record, path):
        data = data[:-4]
    try:
        return _read(data)
    except Exception as error:
        # Damage makes an unpickler raise anything, and here no class has a say.
        raise CorruptRecordError(
            f"the record of oid {str_to_int8(oid)}{f' from {path}' if path else ''} cannot be"
            f" read: {error!s:.200}; 'durus check' tells what is damaged, and what Python 2 wrote"
            " 'durus convert-py2' makes readable",
            path=path,
            oid=oid,
        ) from error


def _read(data: bytes) -> tuple[Global, Any]:
    file = BytesIO(data)
    unpickler = _GraphUnpickler(file)
    klass = unpickler.load()
    if not isinstance(klass, Global):
        raise pickle.UnpicklingError("it does not begin with its class")
    start = file.tell()
    if data[start : start + 1] == b"\x78":
        file.truncate()
        decompressor = zlib.decompressobj()
        file.write(decompressor.decompress(data[start:]))
        if not decompressor.eof or decompressor.unused_data:
            raise pickle.UnpicklingError("the compressed state does not end where it should")
        file.seek(start)
    # The same unpickler: the state may refer to what the class left in the memo.
    state = unpickler.load()
    if file.read(1):
        raise pickle.UnpicklingError("bytes follow the state")
    return klass, state


class _GraphUnpickler(pickle._Unpickler):  # the one in C makes dicts and sets of its own
    """An unpickler that calls and imports nothing."""

    stack: list[Any]
    append: Callable[[Any], None]

    def find_class(self, module: str, name: str) -> Any:
        if module in _PYTHON2_MODULES:
            module, name = NAME_MAPPING.get(
                (module, name), (IMPORT_MAPPING.get(module, module), name)
            )
        found = Global(module, name)
        # Nothing that can be imported fails this.
        if Global.parse(str(found)) != found:
            raise pickle.UnpicklingError(f"it names {module!r:.80} {name!r:.80} as a class")
        return found

    def persistent_load(self, pid: Any) -> Reference:
        if not isinstance(pid, tuple) or len(pid) != 2:
            raise pickle.UnpicklingError(f"a reference is (oid, class), got {pid!r:.80}")
        oid, klass = pid
        if not isinstance(oid, bytes) or len(oid) != 8 or not isinstance(klass, Global):
            raise pickle.UnpicklingError(f"a reference is (oid, class), got {pid!r:.80}")
        return Reference(oid, klass)

    def _instantiate(self, klass: Any, args: list[Any]) -> None:
        self.append(Made(klass, tuple(args), is_called=bool(args)))

    def _pop_mark(self) -> list[Any]:
        items: list[Any] = self.pop_mark()  # type: ignore[attr-defined]  # typeshed lacks it
        return items

    def _load_empty_dict(self) -> None:
        self.append(Pairs())

    def _load_dict(self) -> None:
        items = self._pop_mark()
        self.append(Pairs(list(zip(items[::2], items[1::2], strict=True))))

    def _load_empty_set(self) -> None:
        self.append(Members([]))

    def _load_frozenset(self) -> None:
        items = self._pop_mark()
        self.append(Members(items, is_frozen=True))

    def _load_additems(self) -> None:
        items = self._pop_mark()
        found = self.stack[-1]
        if not isinstance(found, Members) or found.is_frozen:
            raise pickle.UnpicklingError(f"it adds to a {type(found).__name__} as to a set")
        found.items.extend(items)

    def _load_reduce(self) -> None:
        args = _checked_args(self.stack.pop())
        self.stack[-1] = _called(self.stack[-1], args)

    def _load_newobj(self) -> None:
        args = _checked_args(self.stack.pop())
        self.stack[-1] = Made(_checked_maker(self.stack[-1]), args)

    def _load_newobj_ex(self) -> None:
        kwargs = self.stack.pop()
        args = _checked_args(self.stack.pop())
        if not isinstance(kwargs, Pairs):
            raise pickle.UnpicklingError("it makes an object with keywords that are no dict")
        self.stack[-1] = Made(_checked_maker(self.stack[-1]), args, kwargs)

    def _load_build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if not isinstance(made, Made):
            raise pickle.UnpicklingError(f"it gives a state to a {type(made).__name__}")
        made.has_state, made.state = True, state

    def _load_extension(self) -> None:
        raise pickle.UnpicklingError("it names a class by a number that only its writer knew")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.EMPTY_DICT[0]: _load_empty_dict,
        pickle.DICT[0]: _load_dict,
        pickle.EMPTY_SET[0]: _load_empty_set,
        pickle.FROZENSET[0]: _load_frozenset,
        pickle.ADDITEMS[0]: _load_additems,
        pickle.REDUCE[0]: _load_reduce,
        pickle.NEWOBJ[0]: _load_newobj,
        pickle.NEWOBJ_EX[0]: _load_newobj_ex,
        pickle.BUILD[0]: _load_build,
        pickle.EXT1[0]: _load_extension,
        pickle.EXT2[0]: _load_extension,
        pickle.EXT4[0]: _load_extension,
    }


def _checked_args(args: Any) -> tuple[Any, ...]:
    if not isinstance(args, tuple):
        raise pickle.UnpicklingError(
            f"it makes an object with a {type(args).__name__} of arguments"
        )
    return args


def _checked_maker(maker: Any) -> Any:
    if not isinstance(maker, (Global, Made)):
        raise pickle.UnpicklingError(f"it uses a {type(maker).__name__} as a class")
    return maker


def _called(maker: Any, args: tuple[Any, ...]) -> Any:
    """Give what a call makes: a plain value where a pickler had no other way to write one."""
    simplify = _SIMPLER.get(maker) if isinstance(maker, Global) else None
    if simplify is not None:
        try:
            value = simplify(*args)
        except (TypeError, ValueError, LookupError):
            value = None
        if value is not None:
            return value
    return Made(_checked_maker(maker), args, is_called=True)


def _set(items: Any = (), *, is_frozen: bool = False) -> Members | None:
    if isinstance(items, Members):
        items = items.items
    return Members(list(items), is_frozen) if isinstance(items, (list, tuple)) else None


def _frozenset(items: Any = ()) -> Members | None:
    return _set(items, is_frozen=True)


def _encoded(text: Any, codec: Any = None) -> bytes | None:
    if isinstance(text, str) and codec in {"latin1", "latin-1"}:
        return text.encode("latin-1")
    return None


def _bytes(*args: Any) -> bytes | None:
    return _encoded(*args) if args else b""


def _bytearray(*args: Any) -> bytearray | None:
    content = args[0] if args and isinstance(args[0], bytes) else _bytes(*args)
    return None if content is None else bytearray(content)


def _complex(real: Any, imaginary: Any) -> complex | None:
    if isinstance(real, float) and isinstance(imaginary, float):
        return complex(real, imaginary)
    return None


def _attribute(owner: Any, name: Any) -> Global | None:
    """Give a nested class: protocol 2 has no name for one."""
    if isinstance(owner, Global) and isinstance(name, str) and name.isidentifier():
        return Global(owner.module, f"{owner.name}.{name}")
    return None


def _utc(offset: Any) -> Any:
    is_zero = (
        isinstance(offset, Made)
        and offset.is_called
        and offset.maker == Global("datetime", "timedelta")
        and offset.args == (0, 0, 0)
    )
    return UTC if is_zero else None


_SIMPLER: dict[Global, Callable[..., Any]] = {
    Global("_codecs", "encode"): _encoded,
    Global("builtins", "bytearray"): _bytearray,
    Global("builtins", "bytes"): _bytes,
    Global("builtins", "complex"): _complex,
    Global("builtins", "frozenset"): _frozenset,
    Global("builtins", "getattr"): _attribute,
    Global("builtins", "set"): _set,
    Global("datetime", "timezone"): _utc,
}
