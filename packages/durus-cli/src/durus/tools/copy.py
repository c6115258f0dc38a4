"""Copying all records of one storage into another, under the oids that they have, or new ones.

A copy into a file is made beside it, as `FILE.copying`, and gets its name when it is whole. What is
copied from where is in `FILE.copying.json`: a copy that was interrupted is found again by it. It
reads everything once more, and writes only what is not there already. So it makes no difference
what was committed in between. Only a copy with new oids begins anew: which object gets which may
hang on every other.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from pickletools import genops
from typing import IO

from durus.backends import file_path, open_storage
from durus.error import (
    CorruptRecordError,
    DurusKeyError,
    ReadConflictError,
    StorageError,
    StorageLockedError,
    StorageOpenError,
    StorageWriteError,
)
from durus.serialize import ROOT_OID, check_proof, pack_record, seal, unpack_record
from durus.storage import Storage, check_record
from durus.tools._new_file import SIDE_FILES, give_name, refuse_existing
from durus.tools._renumbering import RenumberError, gen_renumbered

__all__ = ["Copied", "RenumberError", "copy_records", "copy_to_file", "recompressed"]

Progress = Callable[[int], object]
Change = Callable[[bytes], bytes]

_FORM = 1
_SUFFIX = ".copying"
_BATCH_BYTES = 8 << 20

# To tell of every record takes longer than to read it.
_TELL_EVERY = 256


@dataclass(slots=True)
class Copied:
    """What a copy did.

    Attributes:
        objects: how many there are.
        record_bytes: the length of their records, as copied.
        kept: how many of them an interrupted copy had brought already.
    """

    objects: int = 0
    record_bytes: int = 0
    kept: int = 0


def copy_to_file(
    source: Storage,
    name: str,
    target: str,
    *,
    change: Change | None = None,
    renumber: bool = False,
    verify: bool = False,
    progress: Progress = lambda done: None,  # noqa: ARG005 - nobody watches
) -> Copied:
    """Copy what is committed in a storage into a new file, or go on with a copy into it.

    Args:
        source: a session that nobody else uses, for `sync` is called.
        name: what the source is known by: an absolute path, or a URL. Whoever may use the file at
            this path may use the copy.
        target: a path or the URL of a file.
        change: gives what to store in place of a record, under the same oid.
        renumber: copy what the root reaches, under new oids from 0 on without a gap. The root
            keeps 0, and what is read together gets neighbouring ones. An interrupted copy begins
            anew.
        verify: read both once more, and compare.
        progress: called now and then with how many objects were copied, then compared.

    Raises:
        StorageOpenError: there is something at the target, or an unfinished copy of another
            source, or of another kind.
        RenumberError: an object cannot get a new oid, or not with certainty.
        StorageLockedError: the target is being written.
        StorageError: the source gave up the state that was being read, or what a storage raises.
        StorageWriteError: the system refused. What is copied already stays for the next attempt.
    """
    path = file_path(target)
    if path is None:
        raise StorageOpenError(f"tried to copy to {target!r}, which is no file", target)
    refuse_existing(path, "copy to")
    working = path + _SUFFIX
    try:
        with _noted(working, name, _form_of(target), renumber=renumber) as note:
            if renumber:
                _remove_half(working)
            source.sync()
            try:
                with open_storage(_working_name(target, working)) as storage:
                    # Who resumes or verifies the copy writes to it, even where FROM is read-only.
                    _adopt_mode(name, working, extra=stat.S_IRUSR | stat.S_IWUSR)
                    done = copy_records(
                        source, storage, change=change, renumber=renumber, progress=progress
                    )
            except RenumberError:
                # Nothing goes on with it, and a copy that keeps the oids would be refused.
                _remove_half(working)
                os.remove(note)
                raise
            if verify:
                with open_storage(_working_name(target, working)) as storage:
                    _compare(_gen_records(source, change, renumber=renumber), storage, progress)
            _adopt_mode(name, working)
            give_name(working, path, "copy to")
            os.remove(note)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageWriteError(
            f"tried to copy to {target!r}, the system says: {error.strerror or error}"
        ) from error
    finally:
        # A cache that belongs to a name that is gone, or is made again.
        with suppress(OSError):
            os.remove(f"{working}.index")
    return done


def copy_records(
    source: Storage,
    target: Storage,
    *,
    change: Change | None = None,
    renumber: bool = False,
    progress: Progress = lambda done: None,  # noqa: ARG005 - nobody watches
) -> Copied:
    """Copy all records that a storage lists, the root last.

    Args:
        source: where from.
        target: where to: an empty storage, or one in which this was interrupted.
        change: gives what to store in place of a record, under the same oid.
        renumber: copy what the root reaches, under new oids; into an empty storage only.
        progress: called now and then with how many objects were copied.

    Raises:
        RenumberError: an object cannot get a new oid, or not with certainty.
        StorageError: the source gave up the state that was being read, the target is not empty but
            has to be, or what a storage raises.
    """
    done = Copied()
    begins_anew = next(iter(target.gen_oid_record()), None) is None and not _has_root(target)
    if renumber and not begins_anew:
        raise StorageError(f"tried to renumber into {target}, which is not empty")
    batch: list[tuple[bytes, bytes]] = []
    batch_bytes = 0
    root = None
    for oid, record in _gen_records(source, change, renumber=renumber):
        done.objects += 1
        done.record_bytes += len(record)
        if done.objects % _TELL_EVERY == 0:
            progress(done.objects)
        if oid == ROOT_OID:
            root = record
        elif not begins_anew and _is_there(target, oid, record):
            done.kept += 1
        else:
            batch.append((oid, record))
            batch_bytes += len(record)
            if batch_bytes >= _BATCH_BYTES:
                _store(target, sorted(batch) if renumber else batch)
                batch, batch_bytes = [], 0
    _store(target, sorted(batch) if renumber else batch)
    # Whoever finds a root finds all that it reaches.
    if root is not None:
        _store(target, [(ROOT_OID, root)])
    return done


def recompressed(record: bytes, *, compress: bool) -> bytes:
    """Give a record with its state compressed, where that makes it shorter, or as it is pickled.

    A record of another form than ours and that of Durus 4.3 stays as it is.

    Raises:
        CorruptRecordError: it does not prove itself, or is none.
    """
    is_proven = check_proof(record)
    oid, data, refs = unpack_record(record)
    stop = len(data) - 4 if is_proven else len(data)
    try:
        start = _end_of_pickle(data)
        state = _decompressed(data[start:stop], is_whole=is_proven)
    except (ValueError, zlib.error) as error:
        raise CorruptRecordError(
            f"tried to read the record of oid {int.from_bytes(oid)}, found: {error}", oid=oid
        ) from error
    if state is None:
        return record
    if compress:
        state = min(zlib.compress(state), state, key=len)
    body = data[:start] + state
    return pack_record(oid, seal(oid, body, refs) if is_proven else body, refs)


# The file beside the target.


@contextmanager
def _noted(working: str, name: str, form: str, *, renumber: bool) -> Iterator[str]:
    """Keep other copies out, and note what is copied, before the file is made.

    Yields:
        The path of the note, to be removed when the copy has its name.
    """
    note = f"{working}.json"
    descriptor = os.open(note, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with open(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageLockedError(
                f"tried to write {working!r}, which another copy is writing", working
            ) from None
        _check_note(file, working, name, form, renumber=renumber)
        yield note


def _check_note(file: IO[str], working: str, name: str, form: str, *, renumber: bool) -> None:
    if os.path.lexists(working) and os.lstat(working).st_nlink > 1:
        # A copy that was cut off right after it got its name, which may be another one by now.
        # Going on with it would change a file that somebody uses.
        os.remove(working)
    if not os.path.lexists(working):
        file.truncate(0)
        note = {"durus_copy": _FORM, "from": name, "form": form, "renumbered": renumber}
        json.dump(note, file)
        file.flush()
        os.fsync(file.fileno())
        return
    try:
        note = json.load(file)
        noted, noted_form = note["from"], note["form"]
        is_renumbered = note.get("renumbered", False)
    except (ValueError, KeyError, TypeError):
        noted = noted_form = is_renumbered = None
    if noted != name:
        found = "it is not known what of" if noted is None else f"of {noted!r}"
        raise StorageOpenError(
            f"tried to copy {name!r}, but {working!r} is an unfinished copy, {found}; finish that"
            " or remove it",
            working,
        )
    if noted_form != form:
        raise StorageOpenError(
            f"tried to copy to a {form!r} storage, but {working!r} is an unfinished copy to a"
            f" {noted_form!r} storage; finish that or remove it",
            working,
        )
    if is_renumbered is not renumber:
        had, wanted = (
            ("new oids", "the oids of FROM") if is_renumbered else ("the oids of FROM", "new oids")
        )
        raise StorageOpenError(
            f"tried to copy with {wanted}, but {working!r} is an unfinished copy with {had}; finish"
            " that or remove it",
            working,
        )


def _remove_half(working: str) -> None:
    """Remove an unfinished copy, last of all the file by which it is known."""
    # A storage could take what stands beside it for part of the next one.
    for path in (*(working + suffix for suffix in (*SIDE_FILES, ".index")), working):
        with suppress(FileNotFoundError):
            os.remove(path)


def _form_of(target: str) -> str:
    """Give the scheme of the storage that a target becomes."""
    return "file" if file_path(target) == target else target.partition(":")[0].lower()


def _working_name(target: str, working: str) -> str | Path:
    """Give what opens the file beside the target as the target is to be opened."""
    if file_path(target) == target:
        return Path(working)
    address, question_mark, options = target.partition("?")
    return f"{address}{_SUFFIX}{question_mark}{options}"


def _adopt_mode(name: str, working: str, extra: int = 0) -> None:
    """Let those use a file who may use the one that is copied, if it is one."""
    if os.path.isfile(name):
        os.chmod(working, stat.S_IMODE(os.stat(name).st_mode) | extra)


# Records.


def _gen_records(
    source: Storage, change: Change | None, *, renumber: bool
) -> Iterator[tuple[bytes, bytes]]:
    """Yield what is to be stored, and under which oid."""
    count = 0
    try:
        for oid, record in gen_renumbered(source) if renumber else source.gen_oid_record():
            check_record(oid, record)
            count += 1
            yield oid, record if change is None else change(record)
    except ReadConflictError as error:
        raise StorageError(
            f"tried to read {source}, which after {count} records gave up the state that was being"
            " read because of commits meanwhile; try again, while less is committed"
            + ("" if renumber else ": what is copied stays")
        ) from error


def _store(target: Storage, batch: list[tuple[bytes, bytes]]) -> None:
    target.begin()
    for oid, record in batch:
        target.store(oid, record)
    target.end()


def _is_there(target: Storage, oid: bytes, record: bytes) -> bool:
    try:
        return target.load(oid) == record
    except DurusKeyError:
        return False


def _has_root(target: Storage) -> bool:
    try:
        target.load(ROOT_OID)
    except DurusKeyError:
        return False
    return True


def _compare(records: Iterator[tuple[bytes, bytes]], target: Storage, progress: Progress) -> None:
    """Compare what was to be stored with what is.

    Raises:
        StorageWriteError: the target gives back something else than was stored.
    """
    for count, (oid, record) in enumerate(records, 1):
        if not _is_there(target, oid, record):
            raise StorageWriteError(
                f"copied oid {int.from_bytes(oid)}, but {target} gives back something else: the"
                " disk or the memory of this machine is not to be trusted"
            )
        if count % _TELL_EVERY == 0:
            progress(count)


def _end_of_pickle(data: bytes) -> int:
    """Give where the first pickle in `data` ends.

    Raises:
        ValueError: there is none.
    """
    for opcode, _, position in genops(data):
        if opcode.name == "STOP" and position is not None:
            return position + 1
    raise ValueError("a class without an end")


def _decompressed(state: bytes, *, is_whole: bool) -> bytes | None:
    """Give the pickle of a state, None if it is in neither of the two forms, or more follows.

    Args:
        state: a pickle, compressed or not.
        is_whole: nothing follows it.

    Raises:
        ValueError, zlib.error: it is damaged.
    """
    if state[:1] == b"\x80":
        return state if is_whole or _end_of_pickle(state) == len(state) else None
    if state[:1] != b"\x78":
        return None
    decompressor = zlib.decompressobj()
    plain = decompressor.decompress(state)
    if not decompressor.eof:
        raise ValueError("a compressed state without an end")
    return None if decompressor.unused_data else plain
