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
from struct import Struct

from durus.file_storage._commit_record import (
    BASE,
    BASE_ENTRY_BYTES,
    COMMIT_ENTRY_BYTES,
    COMMIT_MARK_OFFSET,
    RESERVED_OID,
    RESERVED_OID_INT,
    Commit,
    pack_commit,
    parse_commit,
)
from durus.file_storage._file import File
from durus.file_storage._format import (
    CHUNK_BYTES,
    DamageError,
    Format,
    Frame,
    Layout,
    Scanner,
    Tip,
    crc_of_range,
)
from durus.file_storage._marks import Marks
from durus.file_storage._offset_map import (
    MAP_HEADER,
    OffsetMap,
    ShelfLayout,
    gen_map,
    map_width,
)

__all__ = ["SHELF", "Shelf"]

MAGIC = b"SHELF-1\n"
LENGTH = Struct(">Q")
ENTRY = Struct(">QQQL")  # length, oid, the record's oid, length of the record's data
_ENTRY_START = Struct(">QQ")

# An entry is at least this long: the record of an object without data.
_SMALLEST_ENTRY_BYTES = 28
assert ENTRY.size == _SMALLEST_ENTRY_BYTES  # noqa: S101 - the picture above

EMPTY_FILE = MAGIC + LENGTH.pack(0) + MAP_HEADER.pack(16, 1, 0)


class Shelf(Format):
    """SHELF-1."""

    name = "SHELF-1"
    class_name = "FileStorage"
    magic = MAGIC
    empty_file = EMPTY_FILE

    header = ENTRY
    length_bytes = 8
    record_shift = 16
    bare_bytes = 20

    commit_mark_offset = COMMIT_MARK_OFFSET
    before_entries = LENGTH.size
    after_entries = COMMIT_ENTRY_BYTES

    map_has_holes = True

    # Reading.

    def read_layout(self, file: File, file_length: int) -> ShelfLayout:
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
        commit = _read_base_commit(file, map_offset)
        base_end = map_offset - (BASE_ENTRY_BYTES if commit else 0)
        return ShelfLayout(16, base_end, map_offset, map_end, commit, base_end, width, count)

    def open_map(self, file: File, layout: Layout) -> OffsetMap:
        if not isinstance(layout, ShelfLayout):
            raise TypeError(f"a layout of SHELF-1 is needed, got {layout!r}")
        return OffsetMap(file, layout)

    def scanner(self, file: File, limit: int) -> Scanner:
        return _ShelfScanner(file, limit)

    def gen_entries(self, file: File, start: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
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

    def gen_objects(self, file: File, start: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
        while start < stop:
            end = _claimed_end(file, start)
            if not start < end <= stop:
                raise DamageError(start, "something that is no transaction")
            yield from self.gen_entries(file, start + 8, end)
            start = end

    def read_commit(self, file: File, offset: int) -> Commit | None:
        entry = file.read(offset, BASE_ENTRY_BYTES)
        return parse_commit(entry) or parse_commit(entry[:COMMIT_ENTRY_BYTES])

    def commit_bytes(self, commit: Commit) -> int:
        return commit.entry_bytes

    def end_of(self, offset: int, commit: Commit) -> int:
        return offset + commit.entry_bytes

    def start_at_most(self, offset: int, commit: Commit) -> int:
        return commit.previous + COMMIT_ENTRY_BYTES if commit.previous else 0

    # Transactions that we write.

    def frame(
        self, records: dict[int, bytes], tip: Tip, commit_format: int, time_us: int
    ) -> tuple[bytearray, dict[int, int], Tip]:
        position = tip.end + 8
        parts = [b""]
        offsets: dict[int, int] = {}
        for oid_int, record in records.items():
            length = len(record) + 8
            parts.append(_ENTRY_START.pack(length, oid_int))
            parts.append(record)
            offsets[oid_int] = position
            position += length + 8
        end = position + COMMIT_ENTRY_BYTES
        parts[0] = LENGTH.pack(end - tip.end - 8)
        transaction = bytearray().join(parts)
        serial = tip.serial + 1
        crc = zlib.crc32(transaction)
        transaction += pack_commit(Commit(commit_format, crc, time_us, serial, tip.commit_offset))
        return transaction, offsets, Tip(end, serial, position, time_us, tip.transactions + 1)

    def entry_start(self, oid_int: int, record_bytes: int) -> bytes:
        return _ENTRY_START.pack(record_bytes + 8, oid_int)

    def read_frame(self, file: File, start: int) -> Frame:
        end = _claimed_end(file, start)
        last = end - COMMIT_ENTRY_BYTES
        commit = self.read_commit(file, last) if last >= start + 8 else None
        if commit is None:
            raise DamageError(start, "a transaction without the commit record that was there")
        return Frame(start + 8, last, end, commit)

    def close_frame(self, file: File, start: int, last: int) -> tuple[int, int]:
        file.write(start, LENGTH.pack(last + COMMIT_ENTRY_BYTES - start - 8))
        return start, last

    def seal_frame(self, file: File, start: int, last: int, commit: Commit) -> Tip:
        file.write(last, pack_commit(commit))
        return Tip(last + COMMIT_ENTRY_BYTES, commit.serial, last, commit.time_us)

    # A base that we write.

    def pack_head(self) -> bytes:
        return MAGIC + LENGTH.pack(0)

    def map_bytes(self, map_offset: int, next_oid_int: int) -> int:
        count = next_oid_int + 1
        return map_width(map_offset, count) * count

    def close_base(self, file: File, last: int) -> tuple[int, int, int]:
        map_offset = last + BASE_ENTRY_BYTES
        file.write(len(MAGIC), LENGTH.pack(map_offset - 16))
        return len(MAGIC), last, map_offset

    def gen_map(self, offset: int, next_oid_int: int, marks: Marks) -> Iterator[bytes]:
        return gen_map(offset, next_oid_int, marks)

    def seal_base(
        self, file: File, last: int, map_end: int, next_oid_int: int, commit: Commit
    ) -> None:
        file.write(last, pack_commit(commit))

    # Recovery.

    def may_be_own(self, file: File, tip: Tip, offset: int, commit: Commit) -> bool:
        return commit.serial == tip.serial + 1

    def gen_ends(self, file: File, start: int, limit: int) -> Iterator[int]:
        """Yield where its length says, and, if that is what is damaged, where its entries end."""
        yield _claimed_end(file, start)
        yield self._entries_end(file, start + 8, limit)

    def _entries_end(self, file: File, start: int, limit: int) -> int:
        """Give the offset of the first thing from `start` on that is no object entry."""
        try:
            for _ in self.gen_entries(file, start, limit):
                pass
        except DamageError as damage:
            return damage.offset
        return limit

    def is_whole_but_for_length(
        self, file: File, start: int, offset: int, commit: Commit
    ) -> Frame | None:
        if offset < start + 8 or commit.format == BASE:
            return None
        end = offset + commit.entry_bytes
        length = LENGTH.pack(end - start - 8)
        if crc_of_range(file, start + 8, offset, zlib.crc32(length)) != commit.crc:
            return None
        return Frame(start + 8, offset, end, commit)

    def gen_visible_oids(self, file: File, start: int, limit: int) -> Iterator[int]:
        end = _claimed_end(file, start)
        stop = end if start + 8 < end <= limit else limit
        try:
            for _, oid_int, _ in self.gen_entries(file, start + 8, stop):
                yield oid_int
        except DamageError:
            return

    def gen_starts(self, file: File, limit: int) -> Iterator[int]:
        for offset, commit in self.gen_commits(file, 0, limit):
            if commit.previous:
                yield commit.previous + COMMIT_ENTRY_BYTES
            if commit.format != BASE:
                yield offset + COMMIT_ENTRY_BYTES

    def base_crc_range(self, layout: Layout) -> tuple[int, int]:
        return 8, layout.base_end

    def find_base_end(self, file: File, limit: int) -> tuple[int, int] | None:
        """Give it: the base's length says it, or if that is damaged its commit or last entry."""
        ends = [16 + LENGTH.unpack(file.read(8, 8).ljust(8, b"\0"))[0]]
        for offset, commit in self.gen_commits(file, 0, limit):
            if commit.format == BASE:
                ends.append(offset + BASE_ENTRY_BYTES)
                break
        ends.append(self._entries_end(file, 16, limit))
        for end in ends:
            raw = file.read(end, MAP_HEADER.size) if end < limit else b""
            if len(raw) == MAP_HEADER.size:
                length, width, count = MAP_HEADER.unpack(raw)
                if 1 <= width <= 8 and length == 16 + width * count:
                    return end, min(end + 8 + length, limit)
        return None


SHELF = Shelf()


def _claimed_end(file: File, start: int) -> int:
    """Give the offset where the transaction at `start` ends, if its length is to be believed."""
    raw = file.read(start, 8)
    return start + 8 + LENGTH.unpack(raw)[0] if len(raw) == 8 else 0


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


class _ShelfScanner(Scanner):
    _length = LENGTH

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
                    self._check_chain(start, commit, tip)
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
