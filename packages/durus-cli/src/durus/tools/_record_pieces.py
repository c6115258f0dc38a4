"""Pieces of a storage that is no growing file: the records that differ from the piece before.

::

    entry    length   u32, of what follows: 8 for an object that is gone, else at least 12
             bytes    its oid, or a record as in durus.serialize

The data of a piece is entries, to its end; each oid is in it once. In memory are some 200 bytes
for each object: what it was in the piece before is known by a hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from struct import Struct
from typing import Any

from durus.error import CorruptionError, ReadConflictError, StorageError
from durus.storage import Storage, check_record
from durus.tools._backup_folder import CHUNK_BYTES, Break, Catalog, Piece, gen_data

__all__ = ["RecordSource", "check_restored", "restore_records"]

Progress = Callable[[int], object]

_LENGTH = Struct(">L")
_OID_BYTES = 8
_HASH_BYTES = 16

# To tell of every record takes longer than to read it.
_TELL_EVERY = 256

# A commit of what is restored.
_BATCH_BYTES = 8 << 20


class RecordSource:
    """The records that are backed up.

    Args:
        storage: the storage; its session sees one state.
        progress: is told how many records were read.
    """

    method = "records"

    def __init__(self, storage: Storage, progress: Progress) -> None:
        self._storage = storage
        self._progress = progress
        self._before: dict[bytes, bytes] = {}
        self._count = 0
        self._state = 0
        self._is_changed = False

    def follow(self, catalog: Catalog, chain: list[Piece]) -> Break | None:
        """Go on after the last piece of a chain; give why that is impossible, if it is."""
        try:
            for piece in chain:
                for entry in _gen_entries(catalog, piece):
                    if len(entry) == _OID_BYTES:
                        self._before.pop(entry, None)
                    else:
                        self._before[entry[:_OID_BYTES]] = _hash_of(entry)
        except CorruptionError as error:
            self._before = {}
            return Break(str(error))
        return None

    def gen_chunks(self) -> Iterator[bytes]:
        """Yield the data of the piece.

        Raises:
            StorageError: the session's state is not to be had any more.
        """
        gone = set(self._before)
        chunk = bytearray()
        for entry in self._gen_changed(gone):
            self._is_changed = True
            chunk += _LENGTH.pack(len(entry)) + entry
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
        for oid in sorted(gone):
            self._is_changed = True
            chunk += _LENGTH.pack(_OID_BYTES) + oid
        yield bytes(chunk)

    def facts(self, last: Piece | None) -> dict[str, Any] | None:
        """Give what the manifest says of the data, None if nothing has changed."""
        if last is not None and not self._is_changed:
            return None
        nothing = dict.fromkeys(("first_serial", "first_time", "last_serial", "last_time"))
        state = _state_text(self._state)
        return {"start": 0, "end": self._count, "state": state, **nothing}

    def _gen_changed(self, gone: set[bytes]) -> Iterator[bytes]:
        """Yield the records that differ; what is there is taken out of `gone`."""
        try:
            for oid, record in self._storage.gen_oid_record():
                check_record(oid, record)
                found = _hash_of(record)
                self._count += 1
                self._state += int.from_bytes(found)
                if self._count % _TELL_EVERY == 0:
                    self._progress(self._count)
                gone.discard(oid)
                if self._before.get(oid) != found:
                    yield record
        except ReadConflictError as error:
            raise StorageError(
                f"tried to back up {self._storage}, which gave up the state that was being read"
                f" because of commits meanwhile: {error.__class__.__name__} after"
                f" {self._count} records; try again while less is committed, or back up the file"
                " itself"
            ) from error


def restore_records(
    catalog: Catalog, chain: list[Piece], storage: Storage, progress: Progress
) -> None:
    """Store what the pieces of a chain hold into an empty storage.

    Args:
        catalog: where the pieces are.
        chain: a full piece, and those after it.
        storage: where to.
        progress: is told how many bytes of the pieces were read.

    Raises:
        CorruptionError: a piece is not what was written.
    """
    seen: set[bytes] = set()
    count = state = read_count = read_bytes = batch_bytes = 0
    storage.begin()
    # From the newest on: the first that is found of an object is what it was in the end.
    for piece in reversed(chain):
        for entry in _gen_entries(catalog, piece):
            oid = entry[:_OID_BYTES]
            read_count += 1
            read_bytes += _LENGTH.size + len(entry)
            if read_count % _TELL_EVERY == 0:
                progress(read_bytes)
            if oid in seen:
                continue
            seen.add(oid)
            if len(entry) == _OID_BYTES:
                continue
            storage.store(oid, entry)
            count += 1
            state += int.from_bytes(_hash_of(entry))
            batch_bytes += len(entry)
            if batch_bytes > _BATCH_BYTES:
                storage.end()
                storage.begin()
                batch_bytes = 0
    storage.end()
    _check_state(chain[-1], count, state)


def check_restored(piece: Piece, storage: Storage) -> None:
    """Read back what was restored, and compare it with what was backed up.

    Raises:
        CorruptionError: it is something else.
    """
    count = state = 0
    for _, record in storage.gen_oid_record():
        count += 1
        state += int.from_bytes(_hash_of(record))
    _check_state(piece, count, state)


def _check_state(piece: Piece, count: int, state: int) -> None:
    if (count, _state_text(state)) != (piece.end, piece.state):
        raise CorruptionError(
            f"piece {piece.name} and those before do not make the {piece.end:,} records that were"
            " backed up"
        )


def _state_text(state: int) -> str:
    """Give the sum of the hashes of all records, which does not hang on their order."""
    return f"{state % (1 << 8 * _HASH_BYTES):0{2 * _HASH_BYTES}x}"


def _hash_of(record: bytes) -> bytes:
    return blake2b(record, digest_size=_HASH_BYTES).digest()


def _gen_entries(catalog: Catalog, piece: Piece) -> Iterator[bytes]:
    """Yield the entries of a piece, and check at its end that it is what was written."""
    held = bytearray()
    for chunk in gen_data(catalog, piece):
        held += chunk
        start = 0
        while start + _LENGTH.size <= len(held):
            (length_bytes,) = _LENGTH.unpack_from(held, start)
            stop = start + _LENGTH.size + length_bytes
            if stop > len(held):
                break
            yield bytes(held[start + _LENGTH.size : stop])
            start = stop
        del held[:start]
    if held:
        raise CorruptionError(f"piece {piece.name} ends inside an entry")
