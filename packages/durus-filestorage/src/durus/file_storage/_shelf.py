r"""The SHELF-1 file: a journal of transactions, and how it is read.

::

    magic         8 bytes, "SHELF-1\n"
    base          a transaction: what the last pack kept; empty in a file that was never packed
    offset map    where the base's entries are
    transaction   any number of them, to the end of the file

    transaction   length   u64, of the entries
                  entries  object entries; in a transaction of ours the last is a commit record
    entry         length   u64, of oid and record
                  oid      8 bytes
                  record   as in durus.serialize, so that it begins with the oid once more
    offset map    length   u64, 16 + width * count
                  width    u64, bytes a word: as many as S + count + 1 takes
                  count    u64, the highest oid + 2, or 0
                  words    count words of width bytes

S is the file offset of the map. Word j, if it is less than S, is the file offset of the entry of
oid j. Any other word is a hole, an oid without an entry, and is S + the index of another hole: the
last word, which is never an oid's, leads to the highest hole, each hole to the next lower one, and
the lowest back to the last word. (Durus 4.3 hands out the holes again in this order. We do not.)
A later entry of an oid takes the place of an earlier one, and of the map's. All integers are
unsigned and big-endian. The commit record, which Durus 4.3 knows nothing of, is drawn in
`_commit_record`.

Example: a new file, and in it a transaction of Durus 4.3 with the root, an empty PersistentDict::

    53 48 45 4c 46 2d 31 0a                                               magic
    00 00 00 00 00 00 00 00                                               base: length 0
    00 00 00 00 00 00 00 10  00 00 00 00 00 00 00 01                      map: length 16, width 1,
    00 00 00 00 00 00 00 00                                                    count 0
    00 00 00 00 00 00 00 62                                               transaction: length 98
    00 00 00 00 00 00 00 5a  00 00 00 00 00 00 00 00                      entry: length 90, oid 0
    00 00 00 00 00 00 00 00  00 00 00 46                                  record: oid 0, length 70
    80 02 63 64 75 72 75 73 2e 70 65 72 73 69 73 74 65 6e 74 5f 64 69 63  class
    74 0a 50 65 72 73 69 73 74 65 6e 74 44 69 63 74 0a 71 00 2e
    78 9c 6b 60 aa 2d 64 8c 60 61 60 60 48 49 2c 49 2c 04 f2 98 8b f5 00  state, compressed
    39 6a 05 6d

*What is whole.* A transaction is whole if its length fits into the file, its entries fill it
exactly, each record is well-formed and repeats its entry's oid, and, if it ends with a commit
record that one proves itself, covers it, and follows the commit record before it. A run of zeros
is empty transactions if a whole one follows (Durus 4.3 can write an empty transaction), and no
transaction at all if none does (it writes a length of zero first and the true one last; a file
system that lost its power may leave zeros).

*A torn tail.* What follows the last whole transaction was never acknowledged, unless there is
proof: see `_recovery`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from durus.file_storage._commit_record import (
    BASE,
    BASE_ENTRY_BYTES,
    COMMIT_ENTRY_BYTES,
    COMMIT_MARK,
    COMMIT_MARK_OFFSET,
    RESERVED_OID,
    RESERVED_OID_INT,
    Commit,
    parse_commit,
)
from durus.file_storage._file import File

__all__ = [
    "CHUNK_BYTES",
    "EMPTY_FILE",
    "ENTRY",
    "LENGTH",
    "MAGIC",
    "MAP_HEADER",
    "DamageError",
    "Layout",
    "Scanner",
    "Tip",
    "copy_range",
    "crc_of_range",
    "gen_commits",
    "gen_entries",
    "read_commit",
    "read_layout",
]

MAGIC = b"SHELF-1\n"
LENGTH = Struct(">Q")
MAP_HEADER = Struct(">QQQ")
ENTRY = Struct(">QQQL")  # length, oid, the record's oid, length of the record's data

# An entry is at least this long: the record of an object without data.
_SMALLEST_ENTRY_BYTES = 28

EMPTY_FILE = MAGIC + LENGTH.pack(0) + MAP_HEADER.pack(16, 1, 0)

# How much of a file is held in memory while it is scanned.
CHUNK_BYTES = 1 << 20


class DamageError(Exception):
    """Something in the file is not what it should be. Never leaves the file storages.

    Attributes:
        offset: file offset of the smallest whole thing (transaction, entry, map) that is concerned.
        reason: what was found, to follow "found".
        oid_int: the object concerned, or None.
    """

    def __init__(self, offset: int, reason: str, oid_int: int | None = None) -> None:
        super().__init__(offset, reason, oid_int)
        self.offset = offset
        self.reason = reason
        self.oid_int = oid_int


class Tip(NamedTuple):
    """Where the next transaction goes, and what it continues.

    `end` is the file offset after the last whole transaction. The others are of the last commit
    record: its serial, the offset of its entry (0: there is none), its time in microseconds.
    `transactions` is the number of transactions since the last pack. `unproven` is the file offset
    of the last transaction if it has no commit record, else 0.
    """

    end: int
    serial: int = 0
    commit_offset: int = 0
    time_us: int = 0
    transactions: int = 0
    unproven: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts before the first transaction.

    `map_offset` is S, `map_end` the file offset after the map, `base_commit` the commit record at
    the end of the base, where there is one.
    """

    map_offset: int
    width: int
    count: int
    map_end: int
    base_commit: Commit | None

    @property
    def base_end(self) -> int:
        """Give the file offset after the last object of the base, its commit record left out."""
        return self.map_offset - (BASE_ENTRY_BYTES if self.base_commit else 0)

    @property
    def tip(self) -> Tip:
        """Give the tip of the file as it was when it was packed."""
        commit = self.base_commit
        if commit is None:
            return Tip(self.map_end)
        return Tip(self.map_end, commit.serial, self.base_end, commit.time_us)


def read_layout(file: File, file_length: int) -> Layout:
    """Read how base and map lie in a file that begins with MAGIC.

    Raises:
        DamageError: they do not fit together.
    """
    head = file.read(len(MAGIC), LENGTH.size)
    if len(head) < LENGTH.size:
        raise DamageError(8, f"the end of the file after {file_length} bytes")
    map_offset = 16 + LENGTH.unpack(head)[0]
    if map_offset + MAP_HEADER.size > file_length:
        raise DamageError(8, f"a base of {map_offset - 16} bytes in a file of {file_length}")
    length, width, count = MAP_HEADER.unpack(file.read(map_offset, MAP_HEADER.size))
    map_end = map_offset + 8 + length
    if not 1 <= width <= 8 or length != 16 + width * count or map_end > file_length:
        raise DamageError(
            map_offset, f"an offset map of {length} bytes with {count} words of {width} bytes"
        )
    return Layout(map_offset, width, count, map_end, _read_base_commit(file, map_offset))


def _read_base_commit(file: File, map_offset: int) -> Commit | None:
    offset = map_offset - BASE_ENTRY_BYTES
    if offset < 16:
        return None
    entry = file.read(offset, BASE_ENTRY_BYTES)
    if entry[8:24] != RESERVED_OID * 2:
        return None
    commit = parse_commit(entry)
    if commit is None or commit.format != BASE:
        raise DamageError(offset, "a commit record that does not prove itself")
    return commit


def read_commit(file: File, offset: int) -> Commit | None:
    """Read the commit record whose entry is at `offset`; None if there is none."""
    entry = file.read(offset, BASE_ENTRY_BYTES)
    return parse_commit(entry) or parse_commit(entry[:COMMIT_ENTRY_BYTES])


def crc_of_range(file: File, start: int, stop: int, crc: int = 0) -> int:
    """Give the CRC-32 of a part of the file, going on from `crc`.

    Raises:
        DamageError: the file ends before `stop`.
    """
    while start < stop:
        chunk = file.read(start, min(CHUNK_BYTES, stop - start))
        if not chunk:
            raise DamageError(start, "the end of the file")
        crc = zlib.crc32(chunk, crc)
        start += len(chunk)
    return crc


def copy_range(source: File, start: int, stop: int, target: File, offset: int) -> None:
    """Copy a part of one file into another, in bounded pieces.

    Raises:
        DamageError: the source ends before `stop`.
        OSError: the system refused.
    """
    while start < stop:
        chunk = source.read(start, min(CHUNK_BYTES, stop - start))
        if not chunk:
            raise DamageError(start, "the end of the file")
        target.write(offset, chunk)
        start += len(chunk)
        offset += len(chunk)


class Scanner:
    """Reads whole transactions one after the other, holding one chunk of the file in memory.

    Args:
        file: the journal.
        limit: file offset that stands for the end of the file.
    """

    def __init__(self, file: File, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._chunk = b""
        self._chunk_offset = 0
        self._crc = 0
        self._crc_end = 0

    def read(self, tip: Tip, *, any_chain: bool = False) -> tuple[Tip, dict[int, int]]:
        """Read the transaction that begins at `tip.end`.

        Args:
            tip: the end of what was read before, and what the transaction must follow.
            any_chain: do not ask that it follows the commit record of `tip`.

        Returns:
            The tip after it, and the file offset of each of its oids' entry.

        Raises:
            DamageError: it is not whole.
        """
        start = self._skip_zeros(tip.end)
        try:
            return self._read_at(start, tip, any_chain=any_chain)
        except DamageError as damage:
            damage.offset = tip.end
            raise

    def _read_at(self, start: int, tip: Tip, *, any_chain: bool) -> tuple[Tip, dict[int, int]]:
        position = start + 8
        stop = position + self._length_at(start)
        if stop > self._limit:
            raise DamageError(
                start, f"a transaction of {stop - start} bytes that ends after the file"
            )
        self._crc = 0
        self._crc_end = start
        offsets: dict[int, int] = {}
        chunk = self._chunk
        shift = self._chunk_offset
        last_header = len(chunk) + shift - _SMALLEST_ENTRY_BYTES
        while position < stop:
            if position > last_header:
                self._cover(position)
                chunk, shift = self._load(position, _SMALLEST_ENTRY_BYTES)
                last_header = len(chunk) + shift - _SMALLEST_ENTRY_BYTES
            length, oid_int, record_oid_int, data_bytes = ENTRY.unpack_from(chunk, position - shift)
            spare = length - data_bytes - 20
            end = position + 8 + length
            if oid_int != record_oid_int or spare < 0 or spare & 7 or end > stop:
                raise DamageError(start, f"something that is no object entry at offset {position}")
            if oid_int == RESERVED_OID_INT:
                commit = self._commit_at(start, position, end, stop)
                if not any_chain:
                    _check_chain(start, commit, tip)
                count = tip.transactions + 1
                return Tip(stop, commit.serial, position, commit.time_us, count), offsets
            offsets[oid_int] = position
            position = end
        return tip._replace(end=stop, transactions=tip.transactions + 1, unproven=start), offsets

    def _commit_at(self, start: int, position: int, end: int, stop: int) -> Commit:
        """Read the commit record at `position`, which must end the transaction and cover it."""
        commit = parse_commit(self._file.read(position, end - position)) if end == stop else None
        if commit is None or commit.format == BASE:
            raise DamageError(
                start, f"a commit record at offset {position} that does not prove itself"
            )
        self._cover(position)
        if commit.crc != self._crc:
            raise DamageError(
                start, "a transaction that does not agree with its commit record's CRC"
            )
        return commit

    def _skip_zeros(self, start: int) -> int:
        """Give the offset of the first length that is not zero."""
        while start + 8 <= self._limit and self._length_at(start) == 0:
            chunk = self._chunk[start - self._chunk_offset :]
            zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            start += max(zeros & ~7, 8)
        if start + 8 > self._limit:
            raise DamageError(start, "the end of the file, or zeros up to it")
        return start

    def _length_at(self, offset: int) -> int:
        if not self._chunk_offset <= offset <= self._chunk_offset + len(self._chunk) - 8:
            self._load(offset, 8)
        length: int = LENGTH.unpack_from(self._chunk, offset - self._chunk_offset)[0]
        return length

    def _load(self, offset: int, needed: int) -> tuple[bytes, int]:
        """Take the chunk at `offset` into memory; it has at least `needed` bytes."""
        self._chunk = self._file.read(offset, min(CHUNK_BYTES, self._limit - offset))
        self._chunk_offset = offset
        if len(self._chunk) < needed:
            raise DamageError(offset, "the end of the file")
        return self._chunk, offset

    def _cover(self, position: int) -> None:
        """Go on with the CRC up to `position`: what is in memory, then the rest from the file."""
        shift = self._chunk_offset
        stop = min(position, shift + len(self._chunk))
        if shift <= self._crc_end < stop:
            held = memoryview(self._chunk)[self._crc_end - shift : stop - shift]
            self._crc = zlib.crc32(held, self._crc)
            self._crc_end = stop
        self._crc = crc_of_range(self._file, self._crc_end, position, self._crc)
        self._crc_end = position


def _check_chain(start: int, commit: Commit, tip: Tip) -> None:
    """Refuse a commit record that is not the one that comes after `tip`."""
    is_next = not tip.commit_offset or commit.serial == tip.serial + 1
    if commit.previous != tip.commit_offset or not is_next:
        raise DamageError(
            start,
            f"commit {commit.serial} after commit {tip.serial}, which says that the one before is"
            f" at offset {commit.previous}, where {tip.commit_offset} was expected",
        )


def gen_commits(file: File, start: int, limit: int) -> Iterator[tuple[int, Commit]]:
    """Search for commit records that prove themselves, whatever lies between them.

    Yields:
        The file offset of the entry, and what it says.
    """
    while start < limit:
        chunk = file.read(start, min(CHUNK_BYTES, limit - start))
        found = chunk.find(COMMIT_MARK)
        while found >= 0:
            offset = start + found - COMMIT_MARK_OFFSET
            commit = read_commit(file, offset) if offset > 0 else None
            if commit is not None and offset + commit.entry_bytes <= limit:
                yield offset, commit
            found = chunk.find(COMMIT_MARK, found + 1)
        # A mark across the chunk's end is found in the next chunk.
        start += max(len(chunk) - len(COMMIT_MARK) + 1, 1)


def gen_entries(file: File, start: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield offset, oid and record of each object entry between two file offsets.

    Raises:
        DamageError: on reaching something that is no object entry.
    """
    chunk = b""
    shift = start
    while start < stop:
        if start + _SMALLEST_ENTRY_BYTES > shift + len(chunk):
            chunk = file.read(start, min(CHUNK_BYTES, stop - start))
            shift = start
            if len(chunk) < _SMALLEST_ENTRY_BYTES:
                raise DamageError(start, "the end of the file")
        length, oid_int, record_oid_int, data_bytes = ENTRY.unpack_from(chunk, start - shift)
        spare = length - data_bytes - 20
        end = start + 8 + length
        if oid_int != record_oid_int or spare < 0 or spare & 7 or end > stop:
            raise DamageError(start, "something that is no object entry")
        if end > shift + len(chunk):
            chunk = file.read(start, max(CHUNK_BYTES, end - start))
            shift = start
        if end > shift + len(chunk):
            raise DamageError(start, "the end of the file")
        if oid_int != RESERVED_OID_INT:
            yield start, oid_int, chunk[start + 16 - shift : end - shift]
        start = end
