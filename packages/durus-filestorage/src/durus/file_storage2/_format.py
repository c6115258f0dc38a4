r"""The DFS20 file: a journal of transactions, and how it is read.

::

    magic         6 bytes, "DFS20\0"
    index offset  u64, file offset of the index record
    base          transactions, as a rule one: what the last pack kept; none in a new file
    index record  where the base's entries are
    transaction   any number of them, to the end of the file

    transaction   entries     in a transaction of ours, the base too, the first is a commit record
                  terminator  u32, 0
    entry         length      u32, of the record
                  record      as in durus.serialize, so that it begins with the oid
    index record  length      u64, of what follows in it
                  items       a pickle, compressed by zlib, of a dictionary {oid: file offset}

A later entry of an oid takes the place of an earlier one, in a transaction too, and of the index's.
All integers are unsigned and big-endian. The commit record, which Durus 4.3 knows nothing of, is
drawn in `_commit_record`, and `_index_record` says what pickles of the dictionary there are.

Example: a new file, and in it a transaction of ours with the root, an empty PersistentDict::

    44 46 53 32 30 00  00 00 00 00 00 00 00 0e                            magic, index offset 14
    00 00 00 00 00 00 00 0d                                               index record: length 13
    78 9c 6b 60 a9 9d a2 07 00 05 62 01 c4                                {}, pickled, compressed
    00 00 00 4e  00 00 00 00 00 00 00 00  00 00 00 42                     commit record, for oid 0
    80 04 63 62 75 69 6c 74 69 6e 73 0a 6f 62 6a 65 63 74 0a 2e           class
    80 04 43 25                                                           state: 37 bytes follow
    01  9e 60 55 14  00 06 0a 24 18 1e 40 00                              format, crc, time
    00 00 00 00 00 00 00 01  00 00 00 00 00 00 00 00                      serial, previous
    00 00 00 00 00 00 00 5a                                               following: 90 bytes
    2e  7f c7 04 b8                                                       STOP, proof
    00 00 00 52                                                           entry: length 82
    00 00 00 00 00 00 00 00  00 00 00 46                                  record: oid 0, length 70
    80 02 63 64 75 72 75 73 2e 70 65 72 73 69 73 74 65 6e 74 5f 64 69 63  class
    74 0a 50 65 72 73 69 73 74 65 6e 74 44 69 63 74 0a 71 00 2e
    78 9c 6b 60 aa 2d 64 8c 60 61 60 60 48 49 2c 49 2c 04 f2 98 8b f5 00 39  state, compressed
    6a 05 6d
    00 00 00 00                                                           terminator

*What is whole.* A transaction with a commit record is whole if its entries and a terminator fill
exactly what the commit record covers, agree with its CRC, and follow the commit record before it,
and if each record is well-formed and the first is that of the commit record's oid. One without (as
Durus 4.3 writes it) is whole if its entries are well-formed and a terminator follows them. A run of
zeros is empty transactions if a whole one follows (Durus 4.3 can write an empty transaction), and
no transaction at all if none does.

*A torn tail.* What follows the last whole transaction was never acknowledged, unless there is
proof: see `durus.file_storage._recovery`. A block of a transaction that did not reach the disk may
be zeros, which read as a terminator: only the CRC tells. If it is the block with the commit record,
what follows the zeros looks like a transaction of Durus 4.3. It is not one if its first record is
of our form, for then it had a commit record; nor if it begins with what is left of one.

*A base of whom.* One that begins with a commit record is ours. If the mark of that (its class) is
damaged, it is still one as long as the rest proves itself, or nothing that Durus 4.3 writes begins
so. If both are damaged, and the class reads as another one's, the base cannot be told from one of
Durus 4.3, whose pack may write the root twice. Its records still carry the proof that is their own.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from struct import Struct

from durus.error import StorageError
from durus.file_storage._commit_record import BASE, COMMIT_MARK, Commit
from durus.file_storage._file import File
from durus.file_storage._format import (
    CHUNK_BYTES,
    DamageError,
    Format,
    Frame,
    Layout,
    Scanner,
    Tip,
)
from durus.file_storage._marks import Marks
from durus.file_storage2._commit_record import (
    BASE_ENTRY_BYTES,
    COMMIT_ENTRY_BYTES,
    COMMIT_MARK_OFFSET,
    pack_commit,
    parse_commit,
)
from durus.file_storage2._index_record import EMPTY_INDEX, IndexRecord, gen_index, index_end

__all__ = ["DFS20", "Dfs20"]

MAGIC = b"DFS20\0"
OFFSET = Struct(">Q")
LENGTH = Struct(">L")
ENTRY = Struct(">LQL")  # length, oid, length of the record's data
assert ENTRY.size == COMMIT_MARK_OFFSET == 16  # noqa: S101 - the picture above

TERMINATOR = LENGTH.pack(0)
BASE_START = len(MAGIC) + OFFSET.size

EMPTY_FILE = MAGIC + OFFSET.pack(BASE_START) + OFFSET.pack(len(EMPTY_INDEX)) + EMPTY_INDEX

_COMMIT_LENGTH = COMMIT_ENTRY_BYTES - LENGTH.size
_BASE_LENGTH = BASE_ENTRY_BYTES - LENGTH.size
_MARK_END = COMMIT_MARK_OFFSET + len(COMMIT_MARK)

_OUR_FORM = b"\x80\x04c"

# How the data of a record begins that somebody wrote who knew what a class is.
_CLASS = re.compile(rb"\x80[\x02-\x05]c[^\0-\x1f]+\n[^\0-\x1f]+\n")
_CLASS_MARK = re.compile(rb"\x80[\x02\x04]c")


class Dfs20(Format):
    """DFS20."""

    name = "DFS20"
    class_name = "FileStorage2"
    magic = MAGIC
    empty_file = EMPTY_FILE

    header = ENTRY
    length_bytes = LENGTH.size
    record_shift = LENGTH.size
    bare_bytes = 12

    commit_mark_offset = COMMIT_MARK_OFFSET
    before_entries = COMMIT_ENTRY_BYTES
    after_entries = LENGTH.size

    map_has_holes = False

    # Reading.

    def read_layout(self, file: File, file_length: int) -> Layout:
        head = file.read(len(MAGIC), OFFSET.size)
        if len(head) < OFFSET.size:
            raise DamageError(6, f"the end of the file after {file_length} bytes")
        (map_offset,) = OFFSET.unpack(head)
        if not BASE_START <= map_offset <= file_length - OFFSET.size:
            raise DamageError(6, f"an index record at {map_offset} in a file of {file_length}")
        (length,) = OFFSET.unpack(file.read(map_offset, OFFSET.size))
        map_end = map_offset + OFFSET.size + length
        if map_end > file_length:
            raise DamageError(map_offset, f"an index record of {length} bytes")
        commit = _read_base_commit(file, map_offset)
        return Layout(BASE_START, map_offset, map_offset, map_end, commit, BASE_START)

    def open_map(self, file: File, layout: Layout) -> IndexRecord:
        return IndexRecord(file, layout)

    def scanner(self, file: File, limit: int) -> Scanner:
        return _Dfs20Scanner(file, limit)

    def gen_entries(self, file: File, start: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield them, those of one transaction or of more; commit records are left out."""
        chunk = b""
        shift = start
        is_first = True
        while start < stop:
            if start + ENTRY.size > shift + len(chunk):
                chunk = file.read(start, min(CHUNK_BYTES, stop - start))
                shift = start
            if chunk[start - shift : start - shift + 4] == TERMINATOR:
                start += 4
                is_first = True
                continue
            if start + ENTRY.size > shift + len(chunk):
                raise DamageError(start, "the end of the file")
            length, oid_int, data_bytes = ENTRY.unpack_from(chunk, start - shift)
            spare = length - data_bytes - 12
            end = start + 4 + length
            if spare < 0 or spare & 7 or end > stop:
                raise DamageError(start, "something that is no object entry")
            if end > shift + len(chunk):
                chunk = file.read(start, max(CHUNK_BYTES, end - start))
                shift = start
            if end > shift + len(chunk):
                raise DamageError(start, "the end of the file")
            entry = chunk[start - shift : end - shift]
            if not (is_first and length <= _BASE_LENGTH and parse_commit(entry)):
                yield start, oid_int, entry[4:]
            start = end
            is_first = False

    def gen_objects(self, file: File, start: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
        return self.gen_entries(file, start, stop)

    def read_commit(self, file: File, offset: int) -> Commit | None:
        entry = file.read(offset, BASE_ENTRY_BYTES)
        return parse_commit(entry) or parse_commit(entry[:COMMIT_ENTRY_BYTES])

    def commit_bytes(self, commit: Commit) -> int:
        return BASE_ENTRY_BYTES if commit.format == BASE else COMMIT_ENTRY_BYTES

    def end_of(self, offset: int, commit: Commit) -> int:
        return offset + self.commit_bytes(commit) + commit.following

    def start_at_most(self, offset: int, commit: Commit) -> int:
        return offset

    # Transactions that we write.

    def frame(
        self, records: dict[int, bytes], tip: Tip, commit_format: int, time_us: int
    ) -> tuple[bytearray, dict[int, int], Tip]:
        position = tip.end + COMMIT_ENTRY_BYTES
        parts = []
        offsets: dict[int, int] = {}
        for oid_int, record in records.items():
            length = len(record)
            parts.append(_entry_start(length))
            parts.append(record)
            offsets[oid_int] = position
            position += length + 4
        parts.append(TERMINATOR)
        following = b"".join(parts)
        crc = zlib.crc32(following)
        serial = tip.serial + 1
        commit = Commit(
            commit_format, crc, time_us, serial, tip.commit_offset, following=len(following)
        )
        transaction = bytearray(pack_commit(parts[1][:8], commit))
        transaction += following
        new_tip = Tip(position + 4, serial, tip.end, time_us, tip.transactions + 1)
        return transaction, offsets, new_tip

    def entry_start(self, oid_int: int, record_bytes: int) -> bytes:
        return _entry_start(record_bytes)

    def read_frame(self, file: File, start: int) -> Frame:
        commit = self.read_commit(file, start)
        if commit is None:
            raise DamageError(start, "a transaction without the commit record that was there")
        first = start + COMMIT_ENTRY_BYTES
        end = first + commit.following
        return Frame(first, end - 4, end, commit)

    def close_frame(self, file: File, start: int, last: int) -> tuple[int, int]:
        file.write(last, TERMINATOR)
        return start + COMMIT_ENTRY_BYTES, last + 4

    def seal_frame(self, file: File, start: int, last: int, commit: Commit) -> Tip:
        first, end = start + COMMIT_ENTRY_BYTES, last + 4
        commit = commit._replace(following=end - first)
        file.write(start, pack_commit(file.read(first + 4, 8), commit))
        return Tip(end, commit.serial, start, commit.time_us)

    # A base that we write.

    def pack_head(self) -> bytes:
        return MAGIC + OFFSET.pack(0) + bytes(BASE_ENTRY_BYTES)

    def map_bytes(self, map_offset: int, next_oid_int: int) -> int:
        return 0

    def close_base(self, file: File, last: int) -> tuple[int, int, int]:
        file.write(last, TERMINATOR)
        map_offset = last + 4
        return BASE_START + BASE_ENTRY_BYTES, map_offset, map_offset + OFFSET.size

    def gen_map(self, offset: int, next_oid_int: int, marks: Marks) -> Iterator[bytes]:
        return gen_index(marks)

    def seal_base(
        self, file: File, last: int, map_end: int, next_oid_int: int, commit: Commit
    ) -> None:
        map_offset = last + 4
        file.write(map_offset, OFFSET.pack(map_end - map_offset - OFFSET.size))
        first = BASE_START + BASE_ENTRY_BYTES
        commit = commit._replace(following=map_offset - first, next_oid_int=next_oid_int)
        file.write(BASE_START, pack_commit(file.read(first + 4, 8), commit))
        file.write(len(MAGIC), OFFSET.pack(map_offset))

    # Recovery.

    def may_be_own(self, file: File, tip: Tip, offset: int, commit: Commit) -> bool:
        """Tell it by the place: a commit record begins its transaction."""
        return offset == _after_zeros(file, tip.end, offset)

    def gen_ends(self, file: File, start: int, limit: int) -> Iterator[int]:
        """Yield where its commit record says, or else where a terminator may have been.

        Without a commit record, what follows a terminator inside may be a part of the transaction,
        if records of our form are in it: that ends nowhere.
        """
        start = _after_zeros(file, start, limit)
        commit = self.read_commit(file, start)
        if commit is not None:
            yield self.end_of(start, commit)
            return
        while start < limit:
            chunk = file.read(start, min(CHUNK_BYTES, limit - start))
            for found in _CLASS_MARK.finditer(chunk):
                if found.group() == _OUR_FORM:
                    continue
                offset = start + found.start() - ENTRY.size
                if offset > start and self._begins_transaction(file, offset, limit):
                    yield offset
            start += max(len(chunk) - 2, 1)

    def _begins_transaction(self, file: File, offset: int, limit: int) -> bool:
        """Tell whether a terminator and an entry are there."""
        raw = file.read(offset - 4, 4 + ENTRY.size)
        if len(raw) < 4 + ENTRY.size or raw[:4] != TERMINATOR:
            return False
        length, _, data_bytes = ENTRY.unpack_from(raw, 4)
        spare = length - data_bytes - 12
        return spare >= 0 and not spare & 7 and offset + 4 + length <= limit

    def is_whole_but_for_length(
        self, file: File, start: int, offset: int, commit: Commit
    ) -> Frame | None:
        """There is none: a length that is damaged is covered by the CRC, or the record's proof."""
        return None

    def gen_visible_oids(self, file: File, start: int, limit: int) -> Iterator[int]:
        start = _after_zeros(file, start, limit)
        commit = self.read_commit(file, start)
        stop = limit
        if commit is not None:
            stop = min(self.end_of(start, commit), limit)
        try:
            for _, oid_int, _ in self.gen_entries(file, start, stop):
                yield oid_int
        except DamageError:
            return

    def gen_starts(self, file: File, limit: int) -> Iterator[int]:
        for offset, commit in self.gen_commits(file, 0, limit):
            if commit.format != BASE:
                yield offset
                yield self.end_of(offset, commit)

    def base_crc_range(self, layout: Layout) -> tuple[int, int]:
        return BASE_START + BASE_ENTRY_BYTES, layout.map_offset

    def find_base_end(self, file: File, limit: int) -> tuple[int, int] | None:
        """Give it: the header says it, or if that is damaged the commit record or the last entry.

        An index record begins with zeros, which look like a terminator, as it is not that long.
        """
        offsets = [OFFSET.unpack(file.read(len(MAGIC), OFFSET.size).ljust(8, b"\0"))[0]]
        commit = self.read_commit(file, BASE_START)
        if commit is not None and commit.format == BASE:
            offsets.append(BASE_START + BASE_ENTRY_BYTES + commit.following)
        try:
            for _ in self.gen_entries(file, BASE_START, limit):
                pass
        except DamageError as damage:
            offsets.append(damage.offset - 4)
        for offset in offsets:
            end = index_end(file, offset, limit) if BASE_START <= offset < limit else 0
            if end:
                return offset, end
        return None


DFS20 = Dfs20()


def _entry_start(record_bytes: int) -> bytes:
    if record_bytes >= 1 << 32:
        raise StorageError(
            f"tried to store a record of {record_bytes} bytes, but DFS20 has room for 2**32 - 1"
        )
    return LENGTH.pack(record_bytes)


def _read_base_commit(file: File, map_offset: int) -> Commit | None:
    """Read the base's commit record, where there is one.

    Raises:
        DamageError: there is one that does not prove itself, or is not about this base, or there
            is what is left of one.
    """
    if map_offset == BASE_START:
        return None
    entry = file.read(BASE_START, BASE_ENTRY_BYTES)
    if entry[COMMIT_MARK_OFFSET:_MARK_END] != COMMIT_MARK:
        if _is_left_of_base_commit(entry, file.read(BASE_START + BASE_ENTRY_BYTES, ENTRY.size)):
            raise DamageError(BASE_START, "what is left of a base's commit record")
        return None
    commit = parse_commit(entry)
    first = BASE_START + BASE_ENTRY_BYTES
    if commit is None or first + commit.following != map_offset:
        raise DamageError(BASE_START, "a commit record that does not prove itself")
    return commit


def _is_left_of_base_commit(entry: bytes, following: bytes) -> bool:
    """Tell whether a base began with a commit record, of which the mark is damaged.

    It had the length of one and the oid of the entry that follows. Durus 4.3 can write that too,
    by chance: a pack of it writes the root twice if that was changed just then. But what it writes
    has a class, and is no commit record that proves itself but for the mark.

    Args:
        entry: the first entry of the base, as long as a base's commit record.
        following: the beginning of the next one.
    """
    if len(following) < ENTRY.size:
        return False
    length, oid_int, _ = ENTRY.unpack_from(entry)
    if length != _BASE_LENGTH or oid_int != ENTRY.unpack(following)[1]:
        return False
    restored = entry[:COMMIT_MARK_OFFSET] + COMMIT_MARK + entry[_MARK_END:]
    return not _CLASS.match(entry[COMMIT_MARK_OFFSET:]) or parse_commit(restored) is not None


def _after_zeros(file: File, start: int, limit: int) -> int:
    """Give the offset of the first length that is not zero, or `limit`."""
    while start < limit:
        chunk = file.read(start, min(CHUNK_BYTES, limit - start))
        zeros = len(chunk) - len(chunk.lstrip(b"\0"))
        if zeros < len(chunk):
            return start + (zeros & -4)
        start += max(zeros & -4, 4)
    return limit


class _Dfs20Scanner(Scanner):
    _length = LENGTH

    def _read_at(self, start: int, tip: Tip, *, any_chain: bool) -> tuple[Tip, dict[int, int]]:
        commit = self._commit_at(start, had_zeros=start > tip.end)
        position = start
        stop = self._limit
        if commit is not None:
            position += COMMIT_ENTRY_BYTES
            stop = position + commit.following
            if stop > self._limit:
                raise DamageError(
                    start, f"a transaction of {stop - start} bytes that ends after the file"
                )
            if not any_chain:
                self._check_chain(start, commit, tip)
        self._crc = 0
        self._crc_end = position
        offsets = self._entries_at(start, position, stop, covers=commit is not None)
        count = tip.transactions + 1
        if commit is None:
            end = self._crc_end
            return tip._replace(end=end, transactions=count, unproven=start), offsets
        self._cover(stop)
        if commit.crc != self._crc:
            raise DamageError(
                start, "a transaction that does not agree with its commit record's CRC"
            )
        return Tip(stop, commit.serial, start, commit.time_us, count), offsets

    def _entries_at(self, start: int, position: int, stop: int, *, covers: bool) -> dict[int, int]:
        """Read entries up to a terminator; with a commit record that must be at `stop`."""
        offsets: dict[int, int] = {}
        chunk, shift = self._chunk, self._chunk_offset
        last_header = len(chunk) + shift - ENTRY.size
        while True:
            if not shift <= position <= last_header:
                if covers:
                    self._cover(position)
                if self._is_terminator(position):
                    break
                chunk, shift = self._load(position, ENTRY.size)
                last_header = len(chunk) + shift - ENTRY.size
            length, oid_int, data_bytes = ENTRY.unpack_from(chunk, position - shift)
            if not length:
                break
            spare = length - data_bytes - 12
            end = position + 4 + length
            if spare < 0 or spare & 7 or end > stop:
                raise DamageError(start, f"something that is no object entry at offset {position}")
            offsets[oid_int] = position
            position = end
        if covers and position + 4 != stop:
            raise DamageError(start, f"a terminator at offset {position}")
        if not covers:
            self._crc_end = position + 4
        return offsets

    def _is_terminator(self, position: int) -> bool:
        if position + 4 > self._limit:
            raise DamageError(position, "the end of the file")
        return self._length_at(position) == 0

    def _commit_at(self, start: int, *, had_zeros: bool) -> Commit | None:
        """Read the commit record that begins a transaction, or see that there was none."""
        shift = self._chunk_offset
        if not shift <= start <= shift + len(self._chunk) - COMMIT_ENTRY_BYTES - ENTRY.size:
            self._load(start, ENTRY.size)
            shift = start
        chunk, place = self._chunk, start - shift
        length, oid_int, _ = ENTRY.unpack_from(chunk, place)
        data = chunk[place + ENTRY.size : place + COMMIT_ENTRY_BYTES]
        if data.startswith(COMMIT_MARK):
            commit = parse_commit(chunk[place : place + COMMIT_ENTRY_BYTES])
            if commit is None or not self._begins_with(start + COMMIT_ENTRY_BYTES, oid_int):
                raise DamageError(start, "a commit record that does not prove itself")
            return commit
        if length == _COMMIT_LENGTH and (
            not _CLASS.match(data) or self._begins_with(start + COMMIT_ENTRY_BYTES, oid_int)
        ):
            raise DamageError(start, "what is left of a commit record")
        if had_zeros and data.startswith(_OUR_FORM):
            raise DamageError(start, "zeros in the place of a commit record")
        return None

    def _begins_with(self, position: int, oid_int: int) -> bool:
        """Tell whether an entry of this object is at `position`."""
        if position + ENTRY.size > self._limit:
            return False
        header = self._file.read(position, ENTRY.size)
        return len(header) == ENTRY.size and bool(ENTRY.unpack(header)[1] == oid_int)
