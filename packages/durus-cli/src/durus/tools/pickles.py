"""Pickles as instructions: what they name is found and replaced, and nothing is unpickled.

A pickle is a program for a machine with a stack and a memo. `gen_steps` follows it with stand-ins
on the stack: of all values only texts, bytes, tuples and the names of classes are known, which is
what it takes to see what each instruction takes. An edit replaces instructions by others of the
same effect on stack and memo, so that whatever follows still finds its own.
"""

from __future__ import annotations

import pickletools
import re
import zlib
from codecs import escape_decode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any, NamedTuple

from durus.error import CorruptRecordError
from durus.serialize import check_proof, pack_record, seal, unpack_record

__all__ = [
    "Bytes",
    "Edit",
    "Global",
    "Items",
    "OpenRecord",
    "Step",
    "Text",
    "Unknown",
    "apply_edits",
    "close_record",
    "gen_record_steps",
    "gen_steps",
    "global_code",
    "open_record",
]

_PROOF_BYTES = 4
_COMPRESSED_START = b"x"

# What is on the stack never changes, but is not frozen: that would take longer to make than all the
# rest of an instruction.

# Replaces the bytes from the first offset up to the second.
Edit = tuple[int, int, bytes]


@dataclass(slots=True, eq=False)
class Text:
    """A text on the stack.

    Attributes:
        value: str, or bytes if it is what Python 2 called `str`.
        origin: the offset of the instruction that made it.
        start: that of the instruction that put it on the stack: the same, or one that fetched it
            from the memo.
        end: the end of that instruction.
    """

    value: str | bytes
    origin: int
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Bytes:
    """Bytes on the stack.

    Attributes:
        value: the same.
        origin: the offset of the instruction that made them, or that made the text which
            `_codecs.encode` takes: protocol 2 has no bytes.
    """

    value: bytes
    origin: int


@dataclass(slots=True, eq=False)
class Global:
    """A class or function on the stack, by its name."""

    module: str
    name: str
    origin: int


@dataclass(slots=True, eq=False)
class Items:
    """A tuple on the stack."""

    values: tuple[Any, ...]  # of what may be on the stack


class Unknown:
    """A list, dictionary or set on the stack: one and the same while it is filled."""

    __slots__ = ()


class _Mark:
    """Where a group of values on the stack begins."""


_MARK = _Mark()


class Step(NamedTuple):
    """One instruction.

    Attributes:
        op: its name in `pickletools`.
        start: its offset.
        end: the offset of the next one.
        taken: what it took from the stack; what it took down to a mark follows the rest.
        given: what it put on the stack, or of INST the class; None is something of which nothing
            is known.
    """

    op: str
    start: int
    end: int
    taken: list[Any]
    given: Any


class _Op(NamedTuple):
    name: str
    argument_bytes: int  # as in pickletools: negative means that it is found in the argument
    lines: int
    takes: int
    takes_group: bool
    gives: int
    is_known: bool


def _make_op(code: pickletools.OpcodeInfo) -> _Op:
    # What MEMOIZE takes it puts back.
    before, after = ([], []) if code.name == "MEMOIZE" else (code.stack_before, code.stack_after)
    takes_group = pickletools.markobject in before
    argument = code.arg
    lines = 0
    if argument is not None and argument.n == pickletools.UP_TO_NEWLINE:
        lines = 2 if argument is pickletools.stringnl_noescape_pair else 1
    return _Op(
        code.name,
        0 if argument is None else argument.n,
        lines,
        before.index(pickletools.markobject) if takes_group else len(before),
        takes_group,
        len(after),
        code.name in _KNOWN,
    )


_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_UNICODE = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
_PYTHON2_STRING = {"SHORT_BINSTRING", "BINSTRING"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"}
_MAKES_CONTAINER = {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "LIST", "DICT"}
_CHANGES_FIRST = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
# Those that put something on the stack of which something is known.
_KNOWN = (
    _UNICODE
    | _BYTES
    | _PYTHON2_STRING
    | _GETS
    | _TUPLES
    | _MAKES_CONTAINER
    | _CHANGES_FIRST
    | {"GLOBAL", "INST", "STACK_GLOBAL", "REDUCE", "DUP", "READONLY_BUFFER", "UNICODE", "STRING"}
)

_OPS = {ord(code.code): _make_op(code) for code in pickletools.opcodes}

# In place of `Step(...)`, which takes twice as long.
_make_step = tuple.__new__

# The class in a record, as Durus writes it and as Durus 4.3 did.
_PLAIN_CLASS = re.compile(rb"\x80[\x02-\x05]c[^\n]*\n[^\n]*\n(?:q.)?\.", re.DOTALL)


def gen_steps(data: bytes, start: int = 0, memo: dict[int, Any] | None = None) -> Iterator[Step]:
    """Follow the pickle at `start`, up to its STOP.

    Args:
        data: holds the pickle; what follows it is not looked at.
        start: its offset.
        memo: what an earlier pickle left for it; it is added to.

    Raises:
        UnpicklingError: it is damaged, or does what no pickler of Durus does.
    """
    memo = {} if memo is None else memo
    stack: list[Any] = []
    position = start
    while True:
        op, argument, end = _read(data, position)
        name = op.name
        given = None
        if op.takes_group or name == "POP":
            taken = _take(stack, op)
        elif op.takes:
            taken = stack[-op.takes :]
            if len(taken) < op.takes or _MARK in taken:
                raise UnpicklingError("an instruction finds too little on the stack")
            del stack[-op.takes :]
        else:
            taken = []
        if op.is_known:
            given = _given(name, argument, taken, memo, position, end)
        elif name == "MEMOIZE":
            memo[len(memo)] = _top(stack)
        elif name in _PUTS:
            memo[_number(name, argument)] = _top(stack)
        elif name == "PERSID":
            raise UnpicklingError("a reference is written as a text, which Durus does not do")
        if op.gives == 1:
            # INST makes an instance of the class that it names.
            stack.append(None if name == "INST" else _MARK if name == "MARK" else given)
        elif op.gives:
            stack.extend([given] * op.gives)
        yield _make_step(Step, (name, position, end, taken, given))
        if name == "STOP":
            if stack:
                raise UnpicklingError("a pickle leaves values on the stack")
            return
        position = end


def _read(data: bytes, position: int) -> tuple[_Op, bytes, int]:
    """Give the instruction at an offset, its argument, and where the next one starts."""
    try:
        op = _OPS[data[position]]
    except IndexError:
        raise UnpicklingError("a pickle ends before its STOP") from None
    except KeyError:
        raise UnpicklingError(f"there is no instruction {data[position]:#04x}") from None
    start = position + 1
    if not op.argument_bytes:
        return op, b"", start
    if op.lines:
        end = start
        for _ in range(op.lines):
            end = data.find(b"\n", end) + 1
            if not end:
                raise UnpicklingError("a pickle ends inside a line")
        return op, data[start : end - 1], end
    if op.argument_bytes >= 0:
        end = start + op.argument_bytes
    else:
        width = _LENGTH_BYTES[op.argument_bytes]
        length = int.from_bytes(data[start : start + width], "little")
        start += width
        end = start + length
    if end > len(data):
        raise UnpicklingError("a pickle ends inside an instruction")
    return op, data[start:end], end


def _number(name: str, argument: bytes) -> int:
    if name not in {"PUT", "GET"}:
        return int.from_bytes(argument, "little")
    try:
        return int(argument)
    except ValueError:
        raise UnpicklingError(f"the memo has no entry {argument!r:.40}") from None


def _top(stack: list[Any]) -> Any:
    if not stack or stack[-1] is _MARK:
        raise UnpicklingError("an instruction finds nothing on the stack")
    return stack[-1]


def _take(stack: list[Any], op: _Op) -> list[Any]:
    if op.name == "POP" and stack and stack[-1] is _MARK:
        stack.pop()
        return []
    group: list[Any] = []
    if op.takes_group:
        while stack and stack[-1] is not _MARK:
            group.append(stack.pop())
        if not stack:
            raise UnpicklingError("an instruction finds no mark on the stack")
        stack.pop()
        group.reverse()
    count = op.takes
    if count == 0:
        return group
    taken = stack[-count:]
    if len(taken) < count or _MARK in taken:
        raise UnpicklingError("an instruction finds too little on the stack")
    del stack[-count:]
    return taken + group


def _given(
    name: str, argument: bytes, taken: list[Any], memo: dict[int, Any], start: int, end: int
) -> Any:
    if name in _UNICODE:
        return Text(argument.decode("utf-8", "surrogatepass"), start, start, end)
    if name in _BYTES:
        return Bytes(argument, start)
    if name in _PYTHON2_STRING:
        return Text(argument, start, start, end)
    if name in _GETS:
        return _fetched(memo, _number(name, argument), start, end)
    if name in _TUPLES:
        return Items(tuple(taken))
    if name in {"GLOBAL", "INST"}:
        module, _, attribute = argument.partition(b"\n")
        return Global(_decoded(module), _decoded(attribute), start)
    if name == "STACK_GLOBAL":
        return _stacked(taken, start)
    if name == "REDUCE":
        return _member(taken, start) or _encoded(taken)
    if name in _CHANGES_FIRST or name in {"DUP", "READONLY_BUFFER"}:
        return taken[0]
    if name in _MAKES_CONTAINER:
        return Unknown()
    if name == "UNICODE":
        return Text(argument.decode("raw-unicode-escape"), start, start, end)
    if name == "STRING":
        return Text(_unquoted(argument), start, start, end)
    return None


def _fetched(memo: dict[int, Any], number: int, start: int, end: int) -> Any:
    try:
        found = memo[number]
    except KeyError:
        raise UnpicklingError(f"the memo has no entry {number}") from None
    if isinstance(found, Text):
        return Text(found.value, found.origin, start, end)
    return found


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise UnpicklingError(f"the name {name!r:.80} of a class is not UTF-8") from None


def _stacked(taken: list[Any], start: int) -> Global:
    module, name = taken
    if not (isinstance(module, Text) and isinstance(name, Text)):
        raise UnpicklingError("the name of a class is not a text")
    if not (isinstance(module.value, str) and isinstance(name.value, str)):
        raise UnpicklingError("the name of a class is a text of Python 2")
    return Global(module.value, name.value, start)


def _member(taken: list[Any], start: int) -> Global | None:
    """Give the class that `getattr(class, name)` gives: how protocol 2 names a nested class."""
    function, arguments = taken
    if not (isinstance(function, Global) and isinstance(arguments, Items)):
        return None
    if function.name != "getattr" or len(arguments.values) != 2:
        return None
    owner, name = arguments.values
    if not (isinstance(owner, Global) and isinstance(name, Text)):
        return None
    member = name.value if isinstance(name.value, str) else _decoded(name.value)
    return Global(owner.module, f"{owner.name}.{member}", start)


def _encoded(taken: list[Any]) -> Bytes | None:
    """Give the bytes that `_codecs.encode(text, "latin1")` gives: how protocol 2 writes bytes."""
    function, arguments = taken
    if not (isinstance(function, Global) and isinstance(arguments, Items)):
        return None
    if (function.module, function.name) != ("_codecs", "encode") or len(arguments.values) != 2:
        return None
    text, codec = arguments.values
    if not (isinstance(text, Text) and isinstance(codec, Text)):
        return None
    if not isinstance(text.value, str) or codec.value not in {"latin1", "latin-1"}:
        return None
    try:
        return Bytes(text.value.encode("latin-1"), text.origin)
    except UnicodeEncodeError:
        return None


def _unquoted(argument: bytes) -> bytes:
    if len(argument) < 2 or argument[:1] not in {b"'", b'"'} or argument[-1:] != argument[:1]:
        raise UnpicklingError("a text of Python 2 is not between quotes")
    try:
        return escape_decode(argument[1:-1])[0]
    except ValueError as error:
        raise UnpicklingError(f"a text of Python 2 is damaged: {error}") from None


def global_code(module: str, name: str) -> bytes:
    """Give the instruction that puts a class on the stack by its name."""
    return b"c%b\n%b\n" % (module.encode(), name.encode())


def apply_edits(data: bytes, edits: Iterable[Edit]) -> bytes:
    """Give `data` with each edit done; none may overlap another."""
    parts: list[bytes] = []
    position = 0
    for start, end, replacement in sorted(edits):
        parts += data[position:start], replacement
        position = end
    parts.append(data[position:])
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class OpenRecord:
    """A record, taken apart as far as its pickles.

    Attributes:
        oid: 8 bytes.
        data: the pickle of the class and that of the state, decompressed.
        state_start: the offset of the second.
        refs: the oids that the state refers to, joined.
        is_proven: it carries a proof.
        is_compressed: its state was compressed.
    """

    oid: bytes
    data: bytes
    state_start: int
    refs: bytes
    is_proven: bool
    is_compressed: bool


def open_record(record: bytes) -> OpenRecord:
    """Take a record apart.

    Raises:
        CorruptRecordError: it is malformed, does not prove itself, or its class or its compressed
            state is damaged.
    """
    is_proven = check_proof(record)
    oid, data, refs = unpack_record(record)
    data = data[:-_PROOF_BYTES] if is_proven else data
    try:
        state_start = _end_of_class(data)
        is_compressed = data[state_start : state_start + 1] == _COMPRESSED_START
        if is_compressed:
            data = data[:state_start] + _decompress(data[state_start:])
    except (UnpicklingError, UnicodeDecodeError, zlib.error) as error:
        raise _damaged(oid, error) from error
    return OpenRecord(oid, data, state_start, refs, is_proven, is_compressed)


def _end_of_class(data: bytes) -> int:
    plain = _PLAIN_CLASS.match(data)
    if plain is not None:
        return plain.end()
    end = 0
    for step in gen_steps(data):
        end = step.end
    return end


def _decompress(compressed: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    state = decompressor.decompress(compressed)
    if not decompressor.eof or decompressor.unused_data:
        raise UnpicklingError("the compressed state does not end where it should")
    return state


def close_record(
    opened: OpenRecord, data: bytes, state_start: int, *, prove: bool = False
) -> bytes:
    """Make a record again; what was compressed is compressed, what was proven proves itself.

    Args:
        opened: what it was.
        data: its new pickles.
        state_start: the offset of the second in `data`.
        prove: let it prove itself even if it did not; its class has the form that promises that.
    """
    if opened.is_compressed:
        data = data[:state_start] + zlib.compress(data[state_start:])
    if opened.is_proven or prove:
        data = seal(opened.oid, data, opened.refs)
    return pack_record(opened.oid, data, opened.refs)


def gen_record_steps(opened: OpenRecord) -> Iterator[Step]:
    """Follow the pickle of the class, then that of the state: both use one memo.

    In records of Durus 4.3 the state refers to the class as entry 0. In those that we write the
    class leaves nothing in the memo.

    Raises:
        CorruptRecordError: one is damaged, or does what no pickler of Durus does.
    """
    memo: dict[int, Any] = {}
    try:
        yield from gen_steps(opened.data, 0, memo)
        end = opened.state_start
        for step in gen_steps(opened.data, opened.state_start, memo):
            yield step
            end = step.end
        if end != len(opened.data):
            raise UnpicklingError("bytes follow the state")
    except (UnpicklingError, UnicodeDecodeError) as error:
        raise _damaged(opened.oid, error) from error


def _damaged(oid: bytes, error: Exception) -> CorruptRecordError:
    return CorruptRecordError(
        f"the record of oid {int.from_bytes(oid, 'big')} is not understood: {error}", oid=oid
    )
