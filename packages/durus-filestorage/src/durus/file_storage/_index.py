"""Where each object's entry is: the newest in a dictionary, the others in pages read when needed.

FILE.index keeps what is known about the journal up to some point of it. It is a cache: it may be
deleted at any time, and one that is missing, torn, damaged or of another journal is made again. ::

    header      what `_HEADER` says, in the byte order of the machine that wrote it
    pages       page_count of them: 512 words of 8 bytes, the file offsets of 512 neighbouring oids,
                0 for an oid without an entry
    directory   page_count words of 8 bytes, the page's number (oid // 512), ascending
                page_count words of 4 bytes, the CRC-32 of the page

Header and directory are checked when the file is opened, a page when it is first read. The header
says how much of the journal is covered and, to tell this journal from another, the CRC-32 of its
first bytes and of the last bytes covered, and where the last commit record is.

The pages are read, not mapped, and at most 64 MiB of them are kept: a mapped file that fails or is
cut short under us would end the process, and could change after it was checked.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from struct import Struct
from threading import Lock
from typing import NamedTuple, Protocol

from durus.file_storage._file import File
from durus.file_storage._format import DamageError, Format, Tip
from durus.file_storage._words import NO_PAGE, PAGE_BYTES, PAGE_WORDS, Words

__all__ = [
    "Covered",
    "Index",
    "IndexFile",
    "IndexWriter",
    "PageSource",
    "StaleIndexError",
    "are_scattered",
    "write_index",
]

_MAGIC = b"DURUSIX\n"
_VERSION = 1
_BYTE_ORDER_MARK = 0x01020304

# magic, version, byte order mark, end of what is covered, CRC-32 of the journal's first bytes,
# CRC-32 of the last bytes covered, serial, offset and time of the last commit record, transactions
# since the last pack, offset of the last transaction if it is unproven, next new oid, number of
# objects, number of pages, CRC-32 of the directory, CRC-32 of the header up to here
_HEADER = Struct("=8sLLQLLQQQQQQQQLL")

_IDENTITY_BYTES = 4096
_BUFFER_PAGES = 64

# 64 MiB: the pages of eight million objects.
_PAGES_HELD = 16384

# Oids may be so scattered that pages are mostly empty. Beyond this there is no index file, and a
# file that was never packed is scanned when it is opened.
_FREE_PAGES = 16384
_LEAST_OBJECTS_IN_PAGE = 16


class StaleIndexError(DamageError):
    """An index file is whole, and about something else than this journal."""


class Covered(NamedTuple):
    """What an index file says about the journal, next to the offsets."""

    tip: Tip
    next_oid_int: int
    object_count: int


class PageSource(Protocol):
    """Where the pages come from: an index file or the journal's offset map."""

    def page(self, number: int) -> Words[int] | None: ...

    def numbers(self) -> Iterator[int]: ...

    def object_count_at_most(self) -> int: ...


class Index:
    """From oid to file offset.

    Attributes:
        tail: what the source does not cover; the newest wins.
        older: what was in `tail` when a pack began, while it runs; else empty.
    """

    def __init__(self, source: PageSource | None) -> None:
        self.tail: dict[int, int] = {}
        self.older: dict[int, int] = {}
        self.source = source
        self._pages: dict[int, Words[int]] = {}
        # One thread may look for pages while another, which commits, writes them to an index file.
        self._lock = Lock()

    def find(self, oid_int: int) -> int:
        """Give the file offset of the newest entry, or 0 if there is none.

        Raises:
            DamageError: the source is damaged.
        """
        return self.tail.get(oid_int) or self.find_older(oid_int)

    def find_older(self, oid_int: int) -> int:
        """Give what `find` would have given when the running pack began."""
        if oid_int in self.older:
            return self.older[oid_int]
        page = self._pages.get(oid_int >> 9)
        if page is None:
            page = self.page(oid_int >> 9)
        return page[oid_int & 511]

    def page(self, number: int) -> Words[int]:
        """Give one page of the source, all zeros where it has none. Do not change it."""
        page = self._pages.get(number)
        if page is not None:
            return page
        page = (self.source.page(number) if self.source else None) or NO_PAGE
        if len(page) < PAGE_WORDS:
            page = page + NO_PAGE[len(page) :]
        with self._lock:
            if len(self._pages) >= _PAGES_HELD:
                del self._pages[next(iter(self._pages))]
            self._pages[number] = page
        return page

    def gen_oids(self) -> Iterator[int]:
        """Yield every oid that has an entry; some may come twice."""
        yield from self.tail
        yield from self.gen_older_oids()

    def gen_older_oids(self) -> Iterator[int]:
        """Yield every oid that had an entry when the running pack began; some may come twice."""
        older = self.older
        yield from older
        for number in self.source.numbers() if self.source else ():
            first = number * PAGE_WORDS
            for i, offset in enumerate(self.page(number)):
                if offset:
                    yield first + i

    def split(self) -> None:
        """Set the present state aside: what comes from now on is in `tail` alone."""
        self.older = self.tail
        self.tail = {}

    def join(self) -> None:
        """End what `split` began."""
        self.older.update(self.tail)
        self.tail = self.older
        self.older = {}


class IndexFile:
    """An index file that is open, as a source of pages."""

    def __init__(self, file: File, covered: Covered, numbers: Words[int], crcs: array[int]) -> None:
        self._file = file
        self.covered = covered
        self._numbers = numbers
        self._crcs = crcs
        first = numbers[0] if numbers else 0
        self._first = first
        self._is_dense = not numbers or numbers[-1] - first + 1 == len(numbers)

    @classmethod
    def read(cls, file: File, journal: File, format: Format) -> IndexFile:
        """Take what the file says, if it is about this journal.

        Raises:
            DamageError: it is not whole, or about something else.
        """
        header = file.read(0, _HEADER.size)
        if len(header) < _HEADER.size or header[:8] != _MAGIC:
            raise DamageError(0, "no index")
        fields = _HEADER.unpack(header)
        if fields[1:3] != (_VERSION, _BYTE_ORDER_MARK):
            raise DamageError(0, "an index of another version or byte order")
        if zlib.crc32(header[:-4]) != fields[15]:
            raise DamageError(0, "an index whose header does not agree with its CRC")
        end, serial, commit_offset, time_us, transactions, unproven = fields[3], *fields[6:11]
        next_oid_int, object_count, page_count, directory_crc = fields[11:15]
        tip = Tip(end, serial, commit_offset, time_us, transactions, unproven)
        directory_offset = _HEADER.size + page_count * PAGE_BYTES
        if file.length() != directory_offset + page_count * 12:
            raise DamageError(0, "an index of another length than it says")
        directory = file.read(directory_offset, page_count * 12)
        if zlib.crc32(directory) != directory_crc:
            raise DamageError(
                directory_offset, "an index whose directory does not agree with its CRC"
            )
        _check_identity(journal, format, tip, fields[4], fields[5])
        numbers, crcs = array("Q"), array("I")
        numbers.frombytes(directory[: page_count * 8])
        crcs.frombytes(directory[page_count * 8 :])
        return cls(file, Covered(tip, next_oid_int, object_count), numbers, crcs)

    def page(self, number: int) -> Words[int] | None:
        """Give one page, checked.

        Raises:
            DamageError: it does not agree with its CRC, or cannot be read.
        """
        raw = self.raw_page(number)
        if raw is None:
            return None
        if zlib.crc32(raw[0]) != raw[1]:
            raise DamageError(0, f"page {number} of the index, which does not agree with its CRC")
        words = array("Q")
        words.frombytes(raw[0])
        return words

    def raw_page(self, number: int) -> tuple[bytes, int] | None:
        """Give the bytes of one page, not checked, and the CRC-32 that they should have.

        Raises:
            DamageError: it cannot be read.
        """
        place = number - self._first if self._is_dense else bisect_left(self._numbers, number)
        if not 0 <= place < len(self._numbers) or self._numbers[place] != number:
            return None
        try:
            raw = self._file.read(_HEADER.size + place * PAGE_BYTES, PAGE_BYTES)
        except OSError as error:
            raise DamageError(0, f"page {number} of the index unreadable: {error}") from error
        if len(raw) != PAGE_BYTES:
            raise DamageError(0, f"page {number} of the index cut short")
        return raw, self._crcs[place]

    def numbers(self) -> Iterator[int]:
        """Give the numbers of all pages, ascending."""
        return iter(self._numbers)

    def object_count_at_most(self) -> int:
        """Give a number that the number of objects in the pages does not exceed."""
        return self.covered.object_count

    def highest_oid_int(self) -> int:
        """Give the last oid of the last page."""
        return (self._numbers[-1] + 1) * PAGE_WORDS - 1 if self._numbers else 0

    def close(self) -> None:
        self._file.close()


class IndexWriter:
    """Writes an index file: pages in ascending order, then what is covered."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._numbers = array("Q")
        self._crcs = array("I")
        self._buffer: list[bytes] = []
        self._end = _HEADER.size

    def add(self, number: int, raw: bytes, crc: int) -> None:
        """Add one page."""
        self._numbers.append(number)
        self._crcs.append(crc)
        self._buffer.append(raw)
        if len(self._buffer) >= _BUFFER_PAGES:
            self._flush()

    def add_words(self, number: int, words: Words[int]) -> None:
        """Add one page."""
        raw = words.tobytes()
        self.add(number, raw, zlib.crc32(raw))

    def finish(self, covered: Covered, journal: File) -> IndexFile:
        """Write directory and header; the file is then a whole index of `journal`."""
        self._flush()
        directory = self._numbers.tobytes() + self._crcs.tobytes()
        self._file.write(self._end, directory)
        tip = covered.tip
        first_crc, last_crc = _identity(journal, tip.end)
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            _BYTE_ORDER_MARK,
            tip.end,
            first_crc,
            last_crc,
            tip.serial,
            tip.commit_offset,
            tip.time_us,
            tip.transactions,
            tip.unproven,
            covered.next_oid_int,
            covered.object_count,
            len(self._numbers),
            zlib.crc32(directory),
            0,
        )
        header = header[:-4] + zlib.crc32(header[:-4]).to_bytes(4, sys.byteorder)
        self._file.write(0, header)
        return IndexFile(self._file, covered, self._numbers, self._crcs)

    def _flush(self) -> None:
        joined = b"".join(self._buffer)
        self._buffer.clear()
        self._file.write(self._end, joined)
        self._end += len(joined)


def write_index(
    file: File, index: Index, tip: Tip, next_oid_int: int, journal: File
) -> IndexFile | None:
    """Write all that `index` knows into the empty `file`.

    Pages that nothing in the tail touches are copied as they are, with the CRC that they should
    have.

    Returns:
        The index file, or None if the oids are too scattered for one.

    Raises:
        DamageError: a page of the present source is damaged.
        OSError: the system refused.
    """
    source, tail = index.source, index.tail
    known = source if isinstance(source, IndexFile) else None
    object_count = known.covered.object_count if known else 0
    numbers = sorted({*(source.numbers() if source else ()), *(oid_int >> 9 for oid_int in tail)})
    most = source.object_count_at_most() if source else 0
    if are_scattered(len(numbers), most + len(tail)):
        return None
    writer = IndexWriter(file)
    oid_ints = sorted(tail)
    start = 0
    for number in numbers:
        stop = bisect_left(oid_ints, (number + 1) << 9, start)
        raw = known.raw_page(number) if known and start == stop else None
        if raw is not None:
            writer.add(number, *raw)
            continue
        words = index.page(number)[:]
        if known:
            object_count += words.count(0)
        for oid_int in oid_ints[start:stop]:
            words[oid_int & 511] = tail[oid_int]
        object_count += (0 if known else PAGE_WORDS) - words.count(0)
        writer.add_words(number, words)
        start = stop
    return writer.finish(Covered(tip, next_oid_int, object_count), journal)


def are_scattered(page_count: int, object_count: int) -> bool:
    """Tell whether pages would be mostly empty, and many."""
    return page_count > _FREE_PAGES and page_count * _LEAST_OBJECTS_IN_PAGE > object_count


def _identity(journal: File, end: int) -> tuple[int, int]:
    """Give the CRC-32 of the journal's first bytes, and of the last before `end`."""
    first = journal.read(0, min(_IDENTITY_BYTES, end))
    last_offset = max(end - _IDENTITY_BYTES, 0)
    return zlib.crc32(first), zlib.crc32(journal.read(last_offset, end - last_offset))


def _check_identity(journal: File, format: Format, tip: Tip, first_crc: int, last_crc: int) -> None:
    if tip.end > journal.length():
        raise StaleIndexError(0, "an index of more than there is")
    if _identity(journal, tip.end) != (first_crc, last_crc):
        raise StaleIndexError(0, "an index of another file")
    if tip.commit_offset:
        commit = format.read_commit(journal, tip.commit_offset)
        if commit is None or commit.serial != tip.serial:
            raise StaleIndexError(0, "an index of another history")
