"""What the formats of the file storages have in common, and what each of them must say.

Both are journals: a *base*, which holds the objects that the last pack kept, a *map*, which says
where in the base each of them is, then transactions to the end of the file. The parts and their
framing differ; opening, recovery, reading, committing, packing, repair and copying are the same.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, NamedTuple, Protocol

from durus.file_storage._commit_record import COMMIT_MARK, Commit
from durus.file_storage._file import File
from durus.file_storage._marks import Marks
from durus.file_storage._words import Words

__all__ = [
    "CHUNK_BYTES",
    "BaseMap",
    "DamageError",
    "Format",
    "Frame",
    "Layout",
    "Scanner",
    "Tip",
    "copy_range",
    "crc_of_range",
]

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


class Frame(NamedTuple):
    """A whole transaction with a commit record: file offsets.

    Its objects' entries are between `first` and `last`; `end` is where the next transaction begins.
    """

    first: int
    last: int
    end: int
    commit: Commit


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts before the first transaction: file offsets.

    The base's entries are between `base_start` and `base_end`; the map is from `map_offset` to
    `map_end`. `base_commit` is the commit record of the base, where there is one, and
    `base_commit_offset` its place.
    """

    base_start: int
    base_end: int
    map_offset: int
    map_end: int
    base_commit: Commit | None
    base_commit_offset: int

    @property
    def tip(self) -> Tip:
        """Give the tip of the file as it was when it was packed."""
        commit = self.base_commit
        if commit is None:
            return Tip(self.map_end)
        return Tip(self.map_end, commit.serial, self.base_commit_offset, commit.time_us)


class BaseMap(Protocol):
    """Where the base's objects are, as a source of pages for an Index.

    Each method may raise DamageError, if the map is damaged.
    """

    @property
    def proves_itself(self) -> bool:
        """Damage to the map, or to the base's framing, does not go unnoticed."""

    def page(self, number: int) -> Words[int] | None:
        """Give the offsets of the oids from 512 * number on, 0 for none; None beyond the map."""

    def numbers(self) -> Iterator[int]:
        """Give the numbers of all pages, ascending."""

    def check_missing(self, oid_int: int) -> None:
        """Refuse to believe that an oid has no entry, if the map does not say so consistently."""

    def gen_check(self, entries: Iterator[tuple[int, int, bytes]]) -> Iterator[None]:
        """Check the map against the entries of the base, a little at a time."""

    def next_oid_int(self) -> int:
        """Give an oid that no object of the base has, nor any above it that is counted."""

    def object_count(self) -> int | None:
        """Give the number of objects, where it can be told without a walk."""

    def object_count_at_most(self) -> int:
        """Give a number that the number of objects does not exceed."""

    def opening_cost(self) -> int:
        """Give how many objects had to be looked at before the first could be found."""


class Scanner(ABC):
    """Reads whole transactions one after the other, holding one chunk of the file in memory.

    Args:
        file: the journal.
        limit: file offset that stands for the end of the file.

    Attributes:
        start: file offset of the transaction that was read last, zeros before it left out.
    """

    # How a transaction begins; zero in an empty one.
    _length: ClassVar[Struct]

    def __init__(self, file: File, limit: int) -> None:
        self.start = 0
        self._file = file
        self._limit = limit
        self._chunk = b""
        self._chunk_offset = 0
        self._crc = 0
        self._crc_end = 0

    def read(self, tip: Tip, *, any_chain: bool = False) -> tuple[Tip, dict[int, int]]:
        """Read the transaction that begins at `tip.end`, after zeros perhaps.

        Args:
            tip: the end of what was read before, and what the transaction must follow.
            any_chain: do not ask that it follows the commit record of `tip`.

        Returns:
            The tip after it, and the file offset of each of its oids' entry.

        Raises:
            DamageError: it is not whole.
        """
        start = self.start = self._skip_zeros(tip.end)
        try:
            return self._read_at(start, tip, any_chain=any_chain)
        except DamageError as damage:
            damage.offset = tip.end
            raise

    @abstractmethod
    def _read_at(self, start: int, tip: Tip, *, any_chain: bool) -> tuple[Tip, dict[int, int]]:
        """Read the transaction at `start`, which does not begin with zero."""

    def _skip_zeros(self, start: int) -> int:
        """Give the offset of the first length that is not zero."""
        size = self._length.size
        while start + size <= self._limit and self._length_at(start) == 0:
            chunk = self._chunk[start - self._chunk_offset :]
            zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            start += max(zeros & -size, size)
        if start + size > self._limit:
            raise DamageError(start, "the end of the file, or zeros up to it")
        return start

    def _length_at(self, offset: int) -> int:
        size = self._length.size
        if not self._chunk_offset <= offset <= self._chunk_offset + len(self._chunk) - size:
            self._load(offset, size)
        length: int = self._length.unpack_from(self._chunk, offset - self._chunk_offset)[0]
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

    @staticmethod
    def _check_chain(start: int, commit: Commit, tip: Tip) -> None:
        """Refuse a commit record that is not the one that comes after `tip`."""
        is_next = not tip.commit_offset or commit.serial == tip.serial + 1
        if commit.previous != tip.commit_offset or not is_next:
            raise DamageError(
                start,
                f"commit {commit.serial} after commit {tip.serial}, which says that the one before"
                f" is at offset {commit.previous}, where {tip.commit_offset} was expected",
            )


class Format(ABC):
    """One format of a file: constants, and methods without state.

    An entry is a length (`length_bytes`), perhaps the oid, and the record, which begins
    `record_shift` bytes after the entry's start. `header` unpacks the entry from its start to the
    data: the length, the oid as often as it is there, and the length of the data. The length counts
    `bare_bytes` more than data and references.
    """

    name: ClassVar[str]
    class_name: ClassVar[str]
    magic: ClassVar[bytes]
    empty_file: ClassVar[bytes]

    header: ClassVar[Struct]
    length_bytes: ClassVar[int]
    record_shift: ClassVar[int]
    bare_bytes: ClassVar[int]

    # How far into its entry a commit record has its COMMIT_MARK, and what a frame holds before the
    # first of its objects and after the last.
    commit_mark_offset: ClassVar[int]
    before_entries: ClassVar[int]
    after_entries: ClassVar[int]

    # A map takes room for oids that are not in use, between those that are.
    map_has_holes: ClassVar[bool]

    # Reading.

    @abstractmethod
    def read_layout(self, file: File, file_length: int) -> Layout:
        """Read how base and map lie in a file that begins with the magic.

        Raises:
            DamageError: they do not fit together.
        """

    @abstractmethod
    def open_map(self, file: File, layout: Layout) -> BaseMap:
        """Give the map of a file."""

    @abstractmethod
    def scanner(self, file: File, limit: int) -> Scanner:
        """Give a reader of whole transactions."""

    @abstractmethod
    def gen_entries(self, file: File, start: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield offset, oid and record of each object's entry between two file offsets.

        Raises:
            DamageError: on reaching something that is no entry.
        """

    @abstractmethod
    def gen_objects(self, file: File, start: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield the same for the transactions between two file offsets."""

    @abstractmethod
    def read_commit(self, file: File, offset: int) -> Commit | None:
        """Read the commit record whose entry is at `offset`; None if there is none."""

    @abstractmethod
    def commit_bytes(self, commit: Commit) -> int:
        """Give the length of a commit record's entry, its length field included."""

    @abstractmethod
    def end_of(self, offset: int, commit: Commit) -> int:
        """Give the file offset after the transaction of the commit record at `offset`.

        Of a base's: the offset after its entries.
        """

    @abstractmethod
    def start_at_most(self, offset: int, commit: Commit) -> int:
        """Give a file offset that the start of a commit record's transaction does not exceed.

        It is not before the end of the transaction of the previous commit record.

        Args:
            offset: where the commit record is.
            commit: what it says.
        """

    def gen_commits(self, file: File, start: int, limit: int) -> Iterator[tuple[int, Commit]]:
        """Search for commit records that prove themselves, whatever lies between them.

        Yields:
            The file offset of the entry, and what it says.
        """
        while start < limit:
            chunk = file.read(start, min(CHUNK_BYTES, limit - start))
            found = chunk.find(COMMIT_MARK)
            while found >= 0:
                offset = start + found - self.commit_mark_offset
                commit = self.read_commit(file, offset) if offset > 0 else None
                if commit is not None and offset + self.commit_bytes(commit) <= limit:
                    yield offset, commit
                found = chunk.find(COMMIT_MARK, found + 1)
            # A mark across the chunk's end is found in the next chunk.
            start += max(len(chunk) - len(COMMIT_MARK) + 1, 1)

    # Transactions that we write.

    @abstractmethod
    def frame(
        self, records: dict[int, bytes], tip: Tip, commit_format: int, time_us: int
    ) -> tuple[bytearray, dict[int, int], Tip]:
        """Make a transaction of records, by oid, that follows `tip`.

        Returns:
            Its bytes, the file offset of each entry, and the tip after it.
        """

    @abstractmethod
    def entry_start(self, oid_int: int, record_bytes: int) -> bytes:
        """Give what an entry has before its record."""

    @abstractmethod
    def read_frame(self, file: File, start: int) -> Frame:
        """Read where the parts of a transaction are that was found to be whole.

        Raises:
            DamageError: it has no commit record, or is not what it was.
        """

    @abstractmethod
    def close_frame(self, file: File, start: int, last: int) -> tuple[int, int]:
        """Write what a transaction has around its entries, but for its commit record.

        Args:
            file: where the entries are already, from `before_entries` after `start` on.
            start: where the transaction begins.
            last: where its last entry ends.

        Returns:
            The file offsets between which its commit record covers it.
        """

    @abstractmethod
    def seal_frame(self, file: File, start: int, last: int, commit: Commit) -> Tip:
        """Write the commit record of a transaction; give the tip after it, the count left out."""

    # A base that we write.

    @abstractmethod
    def pack_head(self) -> bytes:
        """Give what a packed file has before the first object of its base, or room for it."""

    @abstractmethod
    def map_bytes(self, map_offset: int, next_oid_int: int) -> int:
        """Give how long the map will be, if it has holes; else 0."""

    @abstractmethod
    def close_base(self, file: File, last: int) -> tuple[int, int, int]:
        """Write what a base has around its entries, but for its commit record.

        Args:
            file: the new file; it begins with `pack_head` and then has the base's entries.
            last: where the last of them ends.

        Returns:
            The file offsets between which the base's commit record covers it, and the offset at
            which what `gen_map` yields is to be written.
        """

    @abstractmethod
    def gen_map(self, offset: int, next_oid_int: int, marks: Marks) -> Iterator[bytes]:
        """Yield the map in pieces, to be written from `offset` on."""

    @abstractmethod
    def seal_base(
        self, file: File, last: int, map_end: int, next_oid_int: int, commit: Commit
    ) -> None:
        """Write the base's commit record, and all that could not be told before the map was."""

    # Recovery.

    @abstractmethod
    def may_be_own(self, file: File, tip: Tip, offset: int, commit: Commit) -> bool:
        """Tell whether a commit record may be that of the transaction at the tip.

        Args:
            file: the journal.
            tip: the end of what is whole.
            offset: where a commit record after it is.
            commit: what it says; its serial is greater than the tip's.
        """

    @abstractmethod
    def gen_ends(self, file: File, start: int, limit: int) -> Iterator[int]:
        """Yield where a transaction at `start`, which is not whole, may end; not that it does."""

    @abstractmethod
    def is_whole_but_for_length(
        self, file: File, start: int, offset: int, commit: Commit
    ) -> Frame | None:
        """Give the frame of a transaction at `start` of which only the length is damaged.

        Args:
            file: the journal.
            start: where the transaction begins.
            offset: where the next commit record is.
            commit: what it says.
        """

    @abstractmethod
    def gen_visible_oids(self, file: File, start: int, limit: int) -> Iterator[int]:
        """Yield the oids that show in a transaction at `start`, which is not whole."""

    @abstractmethod
    def gen_starts(self, file: File, limit: int) -> Iterator[int]:
        """Yield where a transaction begins, according to the commit records."""

    @abstractmethod
    def base_crc_range(self, layout: Layout) -> tuple[int, int]:
        """Give the file offsets between which the base's commit record covers it."""

    @abstractmethod
    def find_base_end(self, file: File, limit: int) -> tuple[int, int] | None:
        """Give where a damaged base ends and the transactions begin, by whatever tells."""


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
