"""A database as lines of JSON, and a database from them. `docs/formats/json-lines.md` has the form.

Nothing that the database names is imported or run, in either direction.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from durus.error import (
    DurusKeyError,
    StorageError,
    StorageFormatError,
    StorageOpenError,
    StorageWriteError,
)
from durus.serialize import ROOT_OID, pack_record, seal
from durus.storage import Storage
from durus.tools._json_states import parse_line, shown, to_pickle
from durus.tools._json_values import to_json
from durus.tools._state_graph import Global, Pairs, read_graph
from durus.tools._work_folder import work_folder
from durus.utils import int8_to_str, str_to_int8

__all__ = ["export_lines", "import_into_new_file", "import_lines", "is_blank"]

_FORM = 1

# An import into a new file commits as often as it holds this much.
_BATCH_BYTES = 16_000_000

# Below this zlib saves next to nothing; and what it makes little shorter, it only makes slower.
_COMPRESSION_MINIMUM_BYTES = 4096
_COMPRESSION_WORTH = 0.9

# Storages keep 2**64-1 for themselves.
_LAST_OID_INT = 2**64 - 2

# How many oids a server gives to one client that has not used them.
_MOST_CLAIMS = 1 << 22


def export_lines(storage: Storage, name: str) -> Iterator[bytes]:
    """Yield the lines of an export, each with its newline: a header, each object, a footer.

    The objects are those that the root reaches, the root first, as the storage shows them to one
    transaction. The memory that this takes is that of `Storage.gen_oid_record`.

    Args:
        storage: what to read.
        name: how the header and errors call it.

    Raises:
        DurusKeyError: there is no root, or an object refers to one that is not there.
        CorruptRecordError: a record is damaged, or not of Python 3.
    """
    description = storage.describe()
    committed = description.last_commit_time
    digest = hashlib.sha256()
    count = 0
    header = {
        "durus_export": _FORM,
        "database": name,
        "storage": type(storage).__name__,
        "format": description.format,
        "time": datetime.now(UTC).isoformat(),
        "last_commit_time": None if committed is None else committed.astimezone(UTC).isoformat(),
        "as_of": description.as_of,
        "stored_objects": description.object_count,
    }
    yield _hashed(header, digest)
    for oid, record in storage.gen_oid_record(ROOT_OID):
        klass, state = read_graph(oid, record, name)
        value, shared = to_json(state)
        line = {"oid": str_to_int8(oid), "class": str(klass), "state": value}
        yield _hashed(line | ({"shared": shared} if shared else {}), digest)
        count += 1
    yield _line({"durus_export_end": _FORM, "objects": count, "sha256": digest.hexdigest()})


def _line(value: Any) -> bytes:
    text = json.dumps(
        value, ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
    )
    return text.encode() + b"\n"


def _hashed(value: Any, digest: Any) -> bytes:
    line = _line(value)
    digest.update(line)
    return line


def is_blank(storage: Storage) -> bool:
    """Tell whether a storage holds no object, or nothing but a root that was never used."""
    try:
        record = storage.load(ROOT_OID)
    except DurusKeyError:
        return not any(True for _ in storage.gen_oid_record())
    if any(oid != ROOT_OID for oid, _ in storage.gen_oid_record()):
        return False
    klass, state = read_graph(ROOT_OID, record)
    if klass != Global("durus.persistent_dict", "PersistentDict") or not isinstance(state, Pairs):
        return False
    return all(isinstance(value, Pairs) and not value.pairs for _, value in state.pairs)


def import_into_new_file(
    lines: Iterable[bytes],
    path: str | os.PathLike[str],
    open_: Callable[[str], Storage],
    name: str,
    *,
    show: Callable[[int], None] = lambda done: None,  # noqa: ARG005 - nobody watches
) -> int:
    """Make a database of an export: a file that is there when it is whole, and not before.

    It is written in a folder of its own beside `path`, whose name begins with the file's and
    `.importing-`. What a crash has left of an import into the same file is removed.

    Args:
        lines, name, show: as for `import_lines`.
        path: the file to be made.
        open_: opens a new storage at the path that it is given.

    Returns:
        How many objects there are.

    Raises:
        StorageOpenError: there is something at `path` already.
        StorageWriteError: the system refused.
        StorageFormatError, ...: as `import_lines`.
    """
    _check_free(path)
    target = Path(path)
    folder = target.absolute().parent
    try:
        with work_folder(target, "importing") as made:
            new = made / target.name
            with open_(str(new)) as storage:
                count = import_lines(lines, storage, name, at_once=False, show=show)
            _check_whole(new)
            _move(new, target, folder)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageWriteError(
            f"tried to import {name} to {os.fsdecode(path)!r}, the system says:"
            f" {error.strerror or error}"
        ) from error
    return count


def _check_free(path: str | os.PathLike[str]) -> None:
    if os.path.lexists(path):
        raise StorageOpenError(
            f"there is a {os.fsdecode(path)!r} already; name a new file for the import",
            os.fsdecode(path),
        )


def _check_whole(new: Path) -> None:
    """Refuse to take a file away from another that it needs: SQLite's log."""
    log = new.with_name(new.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise StorageWriteError(f"{str(new)!r} was closed, and part of it still is in {str(log)!r}")


def _move(new: Path, target: Path, folder: Path) -> None:
    """Give the file its name, unless somebody else has taken that meanwhile."""
    try:
        target.hardlink_to(new)
    except FileExistsError:
        _check_free(target)
        raise
    except OSError:
        # A file system without hard links.
        _check_free(target)
        new.rename(target)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def import_lines(
    lines: Iterable[bytes],
    storage: Storage,
    name: str,
    *,
    at_once: bool = True,
    claims_oids: bool = False,
    show: Callable[[int], None] = lambda done: None,  # noqa: ARG005 - nobody watches
) -> int:
    """Store the objects of an export, with their oids.

    Args:
        lines: the lines, each with its newline.
        storage: where to; it must hold nothing that matters (`is_blank`).
        name: how errors call the export.
        at_once: in one transaction, so that on an error nothing is stored. Without it every 16 MB
            are one: then a storage that an error has left half full is to be thrown away.
        claims_oids: ask the storage for new oids up to the highest: a server stores no others.
        show: is told how many objects are done.

    Returns:
        How many objects there are.

    Raises:
        StorageFormatError: the export is cut, changed or malformed; the message has the line.
        StorageWriteError, UnissuedOidError, ...: what the storage raises.
    """
    reader = _Reader(name)
    batch_bytes = 0
    highest = 0
    storage.begin()
    for oid, record in reader.gen_records(lines):
        storage.store(oid, record)
        highest = max(highest, str_to_int8(oid))
        show(reader.count)
        batch_bytes += len(record)
        if batch_bytes > _BATCH_BYTES and not at_once:
            storage.end()
            storage.begin()
            batch_bytes = 0
    if claims_oids:
        _claim(storage, highest)
    storage.end()
    return reader.count


def _claim(storage: Storage, highest: int) -> None:
    for _ in range(_MOST_CLAIMS):
        if str_to_int8(storage.new_oid()) >= highest:
            return


class _Reader:
    """Reads an export from its first line to its last, and believes nothing.

    Attributes:
        count: how many objects were read.
    """

    def __init__(self, name: str) -> None:
        self.count = 0
        self._name = name
        self._line_number = 0
        self._digest = hashlib.sha256()
        self._stored: set[int] = set()
        # Of each object that is referred to and not read yet, the first line that does.
        self._wanted: dict[int, int] = {}

    def gen_records(self, lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) of each object; return only if nothing is missing."""
        has_ended = False
        for line in lines:
            self._line_number += 1
            try:
                if has_ended:
                    raise ValueError("it stands behind the last line of an export")
                value = parse_line(line)
                if self._line_number == 1:
                    _check_header(value)
                elif isinstance(value, dict) and "durus_export_end" in value:
                    self._check_footer(value, line)
                    has_ended = True
                else:
                    yield self._record(value)
            except (ValueError, OverflowError) as error:
                raise self._error(str(error)) from error
            self._digest.update(line)
        if not has_ended:
            raise StorageFormatError(
                f"{self._name} ends after line {self._line_number}, without the last line of an"
                " export: it was cut; export again, nothing was imported",
                self._name,
            )

    def _error(self, text: str) -> StorageFormatError:
        return StorageFormatError(
            f"line {self._line_number} of {self._name} is refused, and nothing was imported:"
            f" {text}",
            self._name,
        )

    def _record(self, value: Any) -> tuple[bytes, bytes]:
        if not isinstance(value, dict) or not {"oid", "class", "state"} <= value.keys():
            raise ValueError('an object is {"oid": ..., "class": ..., "state": ...}')
        unknown = value.keys() - {"oid", "class", "state", "shared"}
        if unknown:
            raise ValueError(f"an object has no {shown(min(unknown))}")
        oid_int, class_name, shared = value["oid"], value["class"], value.get("shared", [])
        if type(oid_int) is not int or not 0 <= oid_int <= _LAST_OID_INT:
            raise ValueError(
                f"an oid is an integer from 0 to {_LAST_OID_INT}, got {shown(oid_int)}"
            )
        if oid_int in self._stored:
            raise ValueError(f"oid {oid_int} is there twice")
        if not isinstance(class_name, str) or not isinstance(shared, list):
            raise ValueError("class is a text, and shared is a list")  # noqa: TRY004 - the input's, not the caller's
        klass = Global.parse(class_name)
        pickled, oids = to_pickle(value["state"], shared)
        self._note(oid_int, oids)
        return _record(int8_to_str(oid_int), klass, pickled, oids)

    def _note(self, oid_int: int, oids: set[bytes]) -> None:
        self.count += 1
        self._stored.add(oid_int)
        self._wanted.pop(oid_int, None)
        for oid in oids:
            referred = str_to_int8(oid)
            if referred not in self._stored:
                self._wanted.setdefault(referred, self._line_number)

    def _check_footer(self, value: dict[str, Any], line: bytes) -> None:
        if value["durus_export_end"] != _FORM:
            raise ValueError(f"it ends an export of form {shown(value['durus_export_end'])}")
        if value.get("objects") != self.count:
            raise ValueError(
                f"it says that there are {shown(value.get('objects'))} objects, and {self.count}"
                " were there: lines are missing"
            )
        # Who changes an export on purpose takes the checksum out.
        if "sha256" in value and value["sha256"] != self._digest.hexdigest():
            raise ValueError(
                "the checksum is wrong: the lines before it are not those that were exported;"
                ' if they were changed on purpose, take "sha256" out of the last line'
            )
        if not line.endswith(b"\n"):
            raise ValueError("the end of the line is missing")
        if 0 not in self._stored:
            raise ValueError("there was no root, the object with oid 0")
        for referred, line_number in self._wanted.items():
            raise ValueError(
                f"line {line_number} refers to oid {referred}, which was not there: lines are"
                " missing"
            )


def _check_header(value: Any) -> None:
    if not isinstance(value, dict) or "durus_export" not in value:
        raise ValueError('no export of Durus begins so, but with {"durus_export": 1, ...}')
    if value["durus_export"] != _FORM or type(value["durus_export"]) is not int:
        raise ValueError(
            f"it is an export of form {shown(value['durus_export'])}, and this Durus reads form"
            f" {_FORM}; install a newer one"
        )


def _record(oid: bytes, klass: Global, pickled: bytes, oids: set[bytes]) -> tuple[bytes, bytes]:
    """Give oid and record, in the form of `durus.serialize` that promises a proof."""
    if len(pickled) >= _COMPRESSION_MINIMUM_BYTES:
        compressed = zlib.compress(pickled)
        if len(compressed) <= _COMPRESSION_WORTH * len(pickled):
            pickled = compressed
    refs = b"".join(sorted(oids - {oid}))
    body = f"{klass.module}\n{klass.name}\n.".encode()
    body = b"\x80\x04c" + body + pickled
    return oid, pack_record(oid, seal(oid, body, refs), refs)
