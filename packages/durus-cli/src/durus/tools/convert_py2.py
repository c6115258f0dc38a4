"""A database that was written under Python 2, as a new file that Python 3 reads.

Python 2 had one type for text and for bytes. What a state holds of it is decoded here, except where
only bytes can be meant or where it is no text; nothing is unpickled, and no class is imported.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from durus.backends import open_storage
from durus.error import CorruptionError, CorruptRecordError, DurusKeyError, StorageOpenError
from durus.serialize import ROOT_OID
from durus.storage import Storage
from durus.tools.pickles import (
    Edit,
    Global,
    Items,
    OpenRecord,
    Step,
    Text,
    Unknown,
    apply_edits,
    close_record,
    gen_record_steps,
    global_code,
    open_record,
)

__all__ = ["Report", "convert", "convert_record"]

_MOST_TRANSACTION_BYTES = 32 << 20
_MOST_EXAMPLES = 1000

# Which argument of these has to be bytes.
_BYTES_ARGUMENTS = {
    ("array", "array"): 1,
    ("datetime", "date"): 0,
    ("datetime", "datetime"): 0,
    ("datetime", "time"): 0,
}
# Of these the memo holds nothing but the class.
_PLAIN_CLASS_OPS = {"PROTO", "GLOBAL", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}
_DATE_LENGTHS_BYTES = {4, 10}


@dataclass(slots=True)
class Report:
    """What was done.

    Attributes:
        objects: how many records there are.
        converted: how many of them are not as they were.
        decoded: how many texts were decoded.
        undecoded: how many could not be decoded, or would have become the same as another key, and
            stay bytes.
        examples: of the first of them the oid of the object and the bytes.
    """

    objects: int = 0
    converted: int = 0
    decoded: int = 0
    undecoded: int = 0
    examples: list[tuple[bytes, bytes]] = field(default_factory=list)


def convert(
    source: Storage, path: str, encoding: str = "utf-8", show: Callable[[int], None] | None = None
) -> Report:
    """Write what a storage holds, converted, to a new file of FileStorage, and read it again.

    The oids stay. Until all is written and read again there is no file at `path`: it is made in a
    folder beside it.

    Args:
        source: only read.
        path: where the file is to be.
        encoding: that of the texts of Python 2.
        show: called with the number of records written so far.

    Raises:
        StorageOpenError: something is at `path` already.
        CorruptRecordError: a record is damaged or not understood.
        CorruptionError: what was written is not what is read.
        LookupError: there is no such encoding for text.
    """
    b" ".decode(encoding, "replace")
    _refuse_existing(path)
    parent, name = os.path.split(os.path.abspath(path))
    folder = tempfile.mkdtemp(prefix=f"{name}.converting-", dir=parent)
    try:
        made = os.path.join(folder, name)
        with open_storage(made) as target:
            report, written = _copy(source, target, encoding, show)
        _verify(source, made, written)
        _let_in_who_may_read(source, made)
        _publish(made, path, parent)
    finally:
        shutil.rmtree(folder)
    return report


def _refuse_existing(path: str) -> None:
    if os.path.lexists(path):
        raise StorageOpenError(f"{path!r} exists already; give the name of a new file", path)


@dataclass(slots=True)
class _Sum:
    """What tells whether two storages hold the same records, in whatever order."""

    objects: int = 0
    digest: int = 0

    def add(self, record: bytes) -> None:
        self.objects += 1
        self.digest ^= int.from_bytes(sha256(record).digest())


def _copy(
    source: Storage, target: Storage, encoding: str, show: Callable[[int], None] | None
) -> tuple[Report, _Sum]:
    report, written = Report(), _Sum()
    length_bytes = 0
    target.begin()
    for oid, record in source.gen_oid_record():
        converted = convert_record(record, encoding, report)
        target.store(oid, converted)
        written.add(converted)
        length_bytes += len(converted)
        if length_bytes > _MOST_TRANSACTION_BYTES:
            target.end()
            target.begin()
            length_bytes = 0
        if show is not None:
            show(report.objects)
    target.end()
    return report, written


def _verify(source: Storage, made: str, written: _Sum) -> None:
    read = _Sum()
    with open_storage(made, readonly=True) as storage:
        for _, record in storage.gen_oid_record():
            for step in gen_record_steps(open_record(record)):
                if isinstance(step.given, Text) and isinstance(step.given.value, bytes):
                    raise CorruptRecordError(
                        f"the record of oid {int.from_bytes(record[:8], 'big')} still holds a text"
                        " of Python 2; the new file is given up",
                        oid=record[:8],
                    )
            read.add(record)
        reached, expected = _count_reached(storage), _count_reached(source)
    if read != written or reached != expected:
        raise CorruptionError(
            f"wrote {written.objects} objects and read {read.objects}, or others; of {expected} the"
            f" root now reaches {reached}: the new file is given up"
        )


def _count_reached(storage: Storage) -> int | None:
    """Count what the root reaches; None if an object is missing, as it was before."""
    try:
        return sum(1 for _ in storage.gen_oid_record(ROOT_OID))
    except DurusKeyError:
        return None


def _let_in_who_may_read(source: Storage, made: str) -> None:
    """Let in those whom the old file lets in, if it is one, and the owner anyhow."""
    path = source.describe().path
    if path is not None:
        os.chmod(made, stat.S_IMODE(os.stat(path).st_mode) | stat.S_IRUSR | stat.S_IWUSR)


def _publish(made: str, path: str, parent: str) -> None:
    try:
        # Unlike a rename this never replaces what somebody has put there meanwhile.
        os.link(made, path)
    except FileExistsError:
        _refuse_existing(path)
        raise
    except OSError:
        # A file system without links.
        _refuse_existing(path)
        os.rename(made, path)
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def convert_record(record: bytes, encoding: str, report: Report) -> bytes:
    """Give a record as Python 3 reads it: the same, if Python 3 or nothing of Python 2 made it.

    Args:
        record: the record.
        encoding: that of the texts of Python 2.
        report: is added to.

    Raises:
        CorruptRecordError: it is damaged or not understood.
    """
    opened = open_record(record)
    report.objects += 1
    # Only our own records prove themselves, and those are of Python 3.
    if opened.is_proven:
        for _ in gen_record_steps(opened):
            pass
        return record
    conversion = _Conversion(opened, encoding)
    for step in gen_record_steps(opened):
        conversion.look_at(step)
    if not conversion.is_needed():
        return record
    converted = conversion.record()
    report.converted += 1
    report.decoded += conversion.decoded
    report.undecoded += len(conversion.undecoded)
    room = _MOST_EXAMPLES - len(report.examples)
    report.examples += [(opened.oid, value) for value in conversion.undecoded[:room]]
    return converted


class _Conversion:
    """What is to be replaced in one record."""

    def __init__(self, opened: OpenRecord, encoding: str) -> None:
        self.decoded = 0
        self.undecoded: list[bytes] = []
        self._opened = opened
        self._encoding = encoding
        self._class: Global | None = None
        self._class_ops: set[str] = set()
        # Each time that a text of Python 2 is put on the stack, by the offset.
        self._texts: dict[int, tuple[Text, bytes]] = {}
        # The offsets of those that stay bytes: they have to, or they would be taken for another.
        self._bytes: set[int] = set()
        self._twins: set[int] = set()
        # Of each dictionary its keys, decoded, and where those of Python 2 are put on the stack.
        self._keys: dict[Unknown, dict[str, int | None]] = {}
        self._edits: list[Edit] = []
        self._is_renamed = False

    def look_at(self, step: Step) -> None:
        given = step.given
        if step.start < self._opened.state_start:
            self._class_ops.add(step.op)
            self._class = given if step.op == "GLOBAL" else self._class
        elif step.op == "PROTO":
            self._edits.append((step.start, step.end, b"\x80\x04"))
        if isinstance(given, Text) and isinstance(given.value, bytes) and given.start == step.start:
            self._texts[step.start] = given, given.value
        elif isinstance(given, Global):
            self._rename(step)
        elif step.op == "FRAME":
            self._edits.append((step.start, step.end, b""))
        elif step.op == "MEMOIZE":
            # Counts what the class left in the memo.
            self._class_ops.add(step.op)
        elif step.op == "BINPERSID":
            self._keep_argument(step.taken[0], 0)
        if step.op == "REDUCE":
            self._look_at_call(*step.taken)
        elif step.op in {"SETITEM", "SETITEMS"}:
            self._look_at_keys(step.taken[0], step.taken[1::2])

    def _rename(self, step: Step) -> None:
        module, name = _python3_name(step.given)
        is_renamed = (module, name) != (step.given.module, step.given.name)
        if step.op == "GLOBAL" and is_renamed:
            self._edits.append((step.start, step.end, global_code(module, name)))
            self._is_renamed = True
        elif step.op == "INST" and is_renamed:
            self._edits.append((step.start, step.end, b"i" + global_code(module, name)[1:]))
            self._is_renamed = True
        elif step.op in {"GET", "BINGET", "LONG_BINGET"} and self._is_of_class(step.given):
            # The class is going to leave nothing in the memo.
            self._edits.append((step.start, step.end, global_code(module, name)))

    def _is_of_class(self, found: Global) -> bool:
        return found.origin < self._opened.state_start

    def _keep_argument(self, arguments: Any, index: int) -> None:
        if isinstance(arguments, Items) and index < len(arguments.values):
            value = arguments.values[index]
            if isinstance(value, Text):
                self._bytes.add(value.start)

    def _look_at_call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Global):
            return
        index = _BYTES_ARGUMENTS.get(_python3_name(function))
        if index is not None:
            self._keep_argument(arguments, index)
        elif isinstance(arguments, Items) and arguments.values and _is_date(arguments.values[0]):
            # Of a subclass, which has a name of its own.
            self._keep_argument(arguments, 0)

    def _look_at_keys(self, target: Any, keys: list[Any]) -> None:
        """Find keys that differ, and would not if they were decoded."""
        known = self._keys.setdefault(target, {}) if isinstance(target, Unknown) else {}
        for key in keys:
            if not isinstance(key, Text):
                continue
            if isinstance(key.value, str):
                twin = known.get(key.value)
                if twin is not None:
                    self._twins.add(twin)
                known[key.value] = None
                continue
            text = self._decode(key.value)
            if text in known:
                self._twins.add(key.start)
            elif text is not None:
                known[text] = key.start

    def _decode(self, value: bytes) -> str | None:
        try:
            return value.decode(self._encoding)
        except UnicodeError:
            return None

    def is_needed(self) -> bool:
        return bool(self._texts) or self._is_renamed

    def record(self) -> bytes:
        for text, value in self._texts.values():
            self._add_text_edit(text, value)
        data, start = self._opened.data, self._opened.state_start
        state_edits = [(a - start, b - start, code) for a, b, code in self._edits if a >= start]
        state = apply_edits(data[start:], state_edits)
        if state[:1] != b"\x80":
            state = b"\x80\x04" + state
        proves = self._class is not None and self._class_ops <= _PLAIN_CLASS_OPS
        if self._class is not None and proves:
            head = b"\x80\x04" + global_code(*_python3_name(self._class)) + b"."
        else:
            head = apply_edits(data[:start], [edit for edit in self._edits if edit[0] < start])
        return close_record(self._opened, head + state, len(head), prove=proves)

    def _add_text_edit(self, text: Text, value: bytes) -> None:
        decoded = self._decoded_at(text.start, value)
        if text.start != text.origin:
            if (self._decoded_at(text.origin, value) is None) == (decoded is None):
                return
        elif decoded is not None:
            self.decoded += 1
        elif text.start not in self._bytes:
            self.undecoded.append(value)
        code = _bytes_code(value) if decoded is None else _text_code(decoded)
        self._edits.append((text.start, text.end, code))

    def _decoded_at(self, start: int, value: bytes) -> str | None:
        return None if start in self._bytes or start in self._twins else self._decode(value)


def _text_code(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def _bytes_code(value: bytes) -> bytes:
    if len(value) < 256:
        return b"C" + bytes([len(value)]) + value
    return b"B" + len(value).to_bytes(4, "little") + value


def _is_date(value: Any) -> bool:
    """Tell whether this can only be how `datetime` pickles a date: no text has such a month."""
    return (
        isinstance(value, Text)
        and isinstance(value.value, bytes)
        and len(value.value) in _DATE_LENGTHS_BYTES
        and 1 <= value.value[2] <= 12
    )


def _python3_name(found: Global) -> tuple[str, str]:
    """Give the name in Python 3 of what Python 2's standard library had under another one."""
    name = found.module, found.name
    if name in NAME_MAPPING:
        return NAME_MAPPING[name]
    return IMPORT_MAPPING.get(found.module, found.module), found.name
