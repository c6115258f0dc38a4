"""Pieces of a storage that is no growing file: the records that differ, or each commit since.

::

    entry    length   u32, of what follows: 8 for an object that is gone, else at least 12
             bytes    its oid, or a record as in durus.serialize

    commit   zero     u32: 0; it ends the entries of a commit
             serial   u64
             time     i64, microseconds since 1970 in UTC
             count    u64, how many objects there are after it
             state    16 bytes, the sum of the hashes of their records

The data of a piece is entries, to its end. Where its method is "records", each oid is in it once.
Where that is "commits", the entries of each commit end with that commit, and an oid is in it once
for each. In memory are some 200 bytes for each object, or 300 where commits are told of: what it
was in the piece before is known by a hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from struct import Struct
from typing import Any, NamedTuple

from durus.error import CorruptionError, DurusKeyError, ReadConflictError, StorageError
from durus.storage import Storage, check_record
from durus.tools._backup_folder import CHUNK_BYTES, Break, Catalog, Piece, gen_data

__all__ = [
    "OID_BYTES",
    "CommitEnd",
    "Moment",
    "RecordSource",
    "State",
    "find_record",
    "hash_of",
    "in_chunks",
    "pack_entry",
    "restore_records",
]

Progress = Callable[[int], object]

OID_BYTES = 8

_LENGTH = Struct(">L")
_COMMIT_END = Struct(">QqQ16s")
_HASH_BYTES = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# To tell of every record takes longer than to read it.
_TELL_EVERY = 256

# A commit of what is restored.
_BATCH_BYTES = 8 << 20


class Moment(NamedTuple):
    """A commit: its serial, and when it was."""

    serial: int
    time: datetime


@dataclass(frozen=True, slots=True)
class CommitEnd:
    """What ends the entries of a commit.

    Attributes:
        serial: of the commit.
        time: when it was.
        count: how many objects there are after it.
        state: a proof of their records.
    """

    serial: int
    time: datetime
    count: int
    state: str

    def pack(self) -> bytes:
        time_us = (self.time - _EPOCH) // timedelta(microseconds=1)
        state = bytes.fromhex(self.state)
        return _LENGTH.pack(0) + _COMMIT_END.pack(self.serial, time_us, self.count, state)


class State:
    """How many records there are, and a proof of them that does not hang on their order.

    Attributes:
        count: of the records.
    """

    def __init__(self, count: int = 0, text: str = "0") -> None:
        self.count = count
        self._sum = int(text, 16)

    def add(self, found: bytes) -> None:
        """Take note of a record by its hash."""
        self.count += 1
        self._sum += int.from_bytes(found)

    def remove(self, found: bytes) -> None:
        """Take note that a record is gone, by its hash."""
        self.count -= 1
        self._sum -= int.from_bytes(found)

    def as_text(self) -> str:
        return f"{self._sum % (1 << 8 * _HASH_BYTES):0{2 * _HASH_BYTES}x}"

    def check(self, name: str, count: int, text: str) -> None:
        """Compare with what was backed up.

        Raises:
            CorruptionError: it is something else.
        """
        if (self.count, self.as_text()) != (count, text):
            raise CorruptionError(
                f"piece {name} and those before do not make the {count:,} records that were"
                " backed up"
            )


class RecordSource:
    """The records that are backed up.

    Args:
        storage: the storage, which is moved to its newest state; its session sees that one.
        progress: is told how many records were read.

    Attributes:
        storage: the same.
        commit: the commit after which the records are as they are read; None if that is not known.
        before: the hash of each record as of the last piece, by oid.
        state: of the records that were read.
    """

    method = "records"

    def __init__(self, storage: Storage, progress: Progress) -> None:
        self.storage = storage
        self.before: dict[bytes, bytes] = {}
        self.state = State()
        self._progress = progress
        self._is_changed = False
        with self.one_state():
            self.commit = _sync(storage)

    def follow(self, catalog: Catalog, chain: list[Piece]) -> Break | None:
        """Go on after the last piece of a chain; give why that is impossible, if it is."""
        try:
            for piece in chain:
                for entry in _gen_entries(catalog, piece):
                    if isinstance(entry, CommitEnd):
                        continue
                    if len(entry) == OID_BYTES:
                        self.before.pop(entry, None)
                    else:
                        self.before[entry[:OID_BYTES]] = hash_of(entry)
        except CorruptionError as error:
            self.before = {}
            return Break(str(error))
        return None

    def gen_chunks(self) -> Iterator[bytes]:
        """Yield the data of the piece.

        Raises:
            StorageError: the session's state is not to be had any more.
        """
        return in_chunks(self._gen_packed())

    def facts(self, last: Piece | None) -> dict[str, Any] | None:
        """Give what the manifest says of the data, None if nothing has changed."""
        if last is not None and not self._is_changed:
            return None
        serial, time = self.commit or (None, None)
        return {
            "start": 0,
            "end": self.state.count,
            "state": self.state.as_text(),
            "first_serial": serial,
            "first_time": time,
            "last_serial": serial,
            "last_time": time,
        }

    def gen_records(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield oid, record and hash of all there is, and sum them up in `state`.

        Raises:
            StorageError: the session's state is not to be had any more.
        """
        self.state = state = State()
        with self.one_state():
            for oid, record in self.storage.gen_oid_record():
                check_record(oid, record)
                found = hash_of(record)
                state.add(found)
                if state.count % _TELL_EVERY == 0:
                    self._progress(state.count)
                yield oid, record, found

    def _gen_packed(self) -> Iterator[bytes]:
        """Yield the entries of what differs."""
        gone = set(self.before)
        for oid, record, found in self.gen_records():
            gone.discard(oid)
            if self.before.get(oid) != found:
                self._is_changed = True
                yield pack_entry(record)
        for oid in sorted(gone):
            self._is_changed = True
            yield pack_entry(oid)

    @contextmanager
    def one_state(self) -> Iterator[None]:
        """Say what it means that the storage gave up the state that is read.

        Raises:
            StorageError: it did.
        """
        try:
            yield
        except ReadConflictError as error:
            raise StorageError(
                f"tried to back up {self.storage}, which gave up the state that was being read"
                f" because of commits meanwhile: {error.__class__.__name__} after"
                f" {self.state.count} records; try again while less is committed, or back up the"
                " file itself"
            ) from error


def _sync(storage: Storage) -> Moment | None:
    """Move to the newest state, and tell after which commit it was so, if that is known.

    It was none before those that are told of before the sync, nor after those that are told of
    after it. Which of these it was is seen by what they stored.
    """
    try:
        known = list(storage.gen_commits()) if storage.keeps_history else []
    except StorageError:
        known = []
    storage.sync()
    if not known:
        return None
    try:
        news = [commit for commit in storage.gen_commits() if commit[0] > known[-1][0]]
        if not news and storage.describe().last_commit_time is None:
            # Durus 4.3 wrote last, which belongs to a commit that is still to come.
            return None
        changed = {oid for serial, _ in news for oid, _ in storage.gen_changes(serial)}
        seen = {oid: find_record(storage.load, oid) for oid in changed}
        for serial, time in [*reversed(news), known[-1]]:
            then = {oid: find_record(storage.load_as_of, oid, serial) for oid in changed}
            if then == seen:
                return Moment(serial, time)
    except (StorageError, DurusKeyError):
        # What is damaged in the past, or forgotten by now, is none of the present.
        pass
    return None


def restore_records(
    catalog: Catalog,
    chain: list[Piece],
    storage: Storage,
    is_wanted: Callable[[int, datetime], bool] | None,
    progress: Progress,
) -> tuple[int | None, datetime]:
    """Store what the pieces of a chain hold into an empty storage, and read it back.

    Args:
        catalog: where the pieces are.
        chain: a full piece, and those after it.
        storage: where to.
        is_wanted: told serial and time of each commit in the last piece; the newest that it accepts
            is to be the last one. Without it, all that the pieces hold is restored.
        progress: is told how many bytes of the pieces were read.

    Returns:
        Serial and time of the commit; None and when it was backed up, if that is not known.

    Raises:
        CorruptionError: a piece is not what was written, or other records are read back.
        StorageError: no commit is accepted.
    """
    last = chain[-1]
    serial, time = last.last_serial, last.last_time or last.made
    goal = last.end, last.state
    if is_wanted is not None and last.method == "commits":
        found = _find_commit(catalog, last, is_wanted)
        serial, time, goal = found.serial, found.time, (found.count, found.state)
    state = State()
    seen: set[bytes] = set()
    read_count = read_bytes = batch_bytes = 0
    storage.begin()
    # From the newest on: the first that is found of an object is what it was in the end.
    for piece in reversed(chain):
        for entry in _gen_newest(catalog, piece, serial if piece is last else None):
            oid = entry[:OID_BYTES]
            read_count += 1
            read_bytes += _LENGTH.size + len(entry)
            if read_count % _TELL_EVERY == 0:
                progress(read_bytes)
            if oid in seen:
                continue
            seen.add(oid)
            if len(entry) == OID_BYTES:
                continue
            storage.store(oid, entry)
            state.add(hash_of(entry))
            batch_bytes += len(entry)
            if batch_bytes > _BATCH_BYTES:
                storage.end()
                storage.begin()
                batch_bytes = 0
    storage.end()
    state.check(last.name, *goal)
    stored = State()
    for _, record in storage.gen_oid_record():
        stored.add(hash_of(record))
    stored.check(last.name, *goal)
    return serial, time


def pack_entry(data: bytes) -> bytes:
    """Make an entry of a record, or of the oid of an object that is gone."""
    return _LENGTH.pack(len(data)) + data


def in_chunks(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Put short pieces of bytes together to such as are worth a write."""
    chunk = bytearray()
    for part in parts:
        chunk += part
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


def find_record(load: Callable[..., bytes], *key: bytes | int) -> bytes | None:
    """Give what `load` gives, None where there is no such record."""
    try:
        return load(*key)
    except DurusKeyError:
        return None


def hash_of(record: bytes) -> bytes:
    """Give what a record is known by."""
    return blake2b(record, digest_size=_HASH_BYTES).digest()


def _find_commit(
    catalog: Catalog, piece: Piece, is_wanted: Callable[[int, datetime], bool]
) -> CommitEnd:
    """Give the newest commit in a piece that is accepted."""
    found = None
    for entry in _gen_entries(catalog, piece):
        if isinstance(entry, CommitEnd) and is_wanted(entry.serial, entry.time):
            found = entry
    if found is None:
        raise StorageError(
            f"none of the commits in piece {piece.name} is the one that is asked for; it has those"
            f" from {piece.first_serial} to {piece.last_serial} that the history told"
        )
    return found


def _gen_newest(catalog: Catalog, piece: Piece, last_serial: int | None) -> Iterator[bytes]:
    """Yield the last entry of each object in a piece, up to a commit."""
    if piece.method != "commits":
        yield from (each for each in _gen_entries(catalog, piece) if isinstance(each, bytes))
        return
    # Where each object is last: then it is read again.
    places: dict[bytes, int] = {}
    for place, entry in enumerate(_gen_entries(catalog, piece)):
        if isinstance(entry, bytes):
            places[entry[:OID_BYTES]] = place
        elif entry.serial == last_serial:
            break
    for place, entry in enumerate(_gen_entries(catalog, piece)):
        if isinstance(entry, bytes) and places.get(entry[:OID_BYTES]) == place:
            yield entry


def _gen_entries(catalog: Catalog, piece: Piece) -> Iterator[bytes | CommitEnd]:
    """Yield the entries of a piece, and check at its end that it is what was written."""
    held = bytearray()
    for chunk in gen_data(catalog, piece):
        held += chunk
        start = 0
        while start + _LENGTH.size <= len(held):
            (length_bytes,) = _LENGTH.unpack_from(held, start)
            stop = start + _LENGTH.size + (length_bytes or _COMMIT_END.size)
            if stop > len(held):
                break
            found = bytes(held[start + _LENGTH.size : stop])
            yield found if length_bytes else _unpack_end(found)
            start = stop
        del held[:start]
    if held:
        raise CorruptionError(f"piece {piece.name} ends inside an entry")


def _unpack_end(data: bytes) -> CommitEnd:
    serial, time_us, count, state = _COMMIT_END.unpack(data)
    return CommitEnd(serial, _EPOCH + timedelta(microseconds=time_us), count, state.hex())
